"""The outputs folder, which every command takes as `outputs=FOLDER` and as an option, and the keys of a command."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.exceptions import TyperException

from cli.completion import recipes
from recipes.core.config import registry
from recipes.core.config.sources import CONFIG_DIR, check_config_folder, config_folders
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.storage.disk import REASONS
from recipes.core.storage.files import home_path

if TYPE_CHECKING:
    from recipes.core.config.config_file import ConfigFile

RECIPE: Any = typer.Argument(
    None, metavar="RECIPE", help="Name of the recipe; may stand in the file of --config.", autocompletion=recipes
)
CONFIG: Any = typer.Option(
    "", "--config", metavar="FILE", help="YAML file of keys and own arms, or a run's config.yaml; typed keys win."
)


def _use_config_dir(folder: str) -> str:
    """Let the config be composed with the options of a folder, in this process and in those that it starts.

    Raises:
        UserError: no options lie there, or what lies there would not be read.
    """
    if folder:
        path = Path(os.path.abspath(home_path(folder)))
        check_config_folder(path, "--config-dir ")
        os.environ[CONFIG_DIR] = str(path)
    elif CONFIG_DIR in os.environ:
        config_folders()
    return folder


CONFIG_FOLDER: Any = typer.Option(
    "",
    "--config-dir",
    metavar="DIR",
    is_eager=True,
    callback=_use_config_dir,
    help="Folder of further options: data/NAME.yaml, model/NAME.yaml, and recipe/NAME.yaml that is typed as a recipe.",
)
OUTPUTS_KEY: Any = typer.Option("", "--outputs", metavar="FOLDER", help="Folder of runs; the same as outputs=FOLDER.")


def typed_keys(overrides: Sequence[str] | None, outputs: str) -> list[str]:
    """The typed `KEY=VALUE` words, with that of the outputs folder if it was typed as an option."""
    from recipes.core.config.overrides import quote

    return [*(overrides or []), *([f"outputs={quote(outputs)}"] if outputs else [])]


def note_idle(idle: Sequence[tuple[str, str]]) -> None:
    """Say which typed keys change nothing, from `of_no_use`."""
    for key, why in idle:
        note(f"warning: {key} is of no use: {why}")


def recipe_and_file(
    recipe: str | None, overrides: Sequence[str] | None, config: str
) -> "tuple[str, list[str], ConfigFile | None]":
    """The recipe, the typed `KEY=VALUE` words and the file of --config, in which the recipe may stand.

    Raises:
        UserError: the file cannot be read, or nothing names a recipe.
    """
    words = list(overrides or [])
    for folder in registry.outside_folders():
        if not folder.is_dir():
            note(f"warning: {registry.RECIPES}={folder}: there is no such folder, so no recipe comes from it")
    if not config and recipe is not None and (preset := _preset(recipe)):
        recipe, config = None, str(preset)
    if not config:
        if recipe is None:
            raise TyperException("Missing argument 'RECIPE'.")
        return recipe, words, None
    if recipe is not None and "=" in recipe:
        words, recipe = [recipe, *words], None
    from recipes.core.config.config_file import read_config_file

    file = read_config_file(home_path(config), recipe or "")
    return file.recipe, words, file


def file_words(file: "ConfigFile | None", config_dir: str) -> list[str]:
    """The files of a command, to be typed again; a preset of --config-dir as the file that it is."""
    folder = [f"--config-dir={config_dir}"] if config_dir else []
    return [*(["--config", str(file.path)] if file else []), *folder]


def _preset(recipe: str) -> Path | None:
    """The file of --config-dir that was typed in place of a recipe."""
    if CONFIG_DIR not in os.environ or recipe in registry.recipe_names():
        return None
    files = [folder / "recipe" / f"{recipe}.yaml" for folder in config_folders()]
    return next((file for file in files if file.is_file()), None)


def outputs_option(word: str) -> list[str]:
    """`outputs=FOLDER` of a command without keys, read as `run` reads it, as the words of its option.

    Raises:
        UserError: it holds several values, or none.
    """
    from recipes.core.config.overrides import Override, read_overrides
    from recipes.core.config.schema import raise_problems

    (read,) = read_overrides([word], {"outputs": False}, ())
    if not isinstance(read, Override):
        raise_problems([read])
        raise AssertionError("unreachable")
    return ["--outputs", "" if read.value is None else str(read.value)]


def outputs_place(typed: str | Path) -> Path:
    """The outputs folder that was typed, its `~` written out, whatever stands there. Raises UserError: no name."""
    from recipes.core.config.schema import text_problem

    text = str(typed)
    if problem := text_problem(text, lines=False):
        raise UserError(problem, where=f"outputs={text}", hint="type outputs=FOLDER")
    return home_path(text)


def outputs_folder(typed: str | Path) -> Path:
    """The outputs folder that was typed; it need not be there yet.

    Raises:
        UserError: it is no name of a folder, or something else stands there.
    """
    folder = outputs_place(typed)
    if os.path.lexists(folder) and not folder.is_dir():
        what = "is a link to nothing" if folder.is_symlink() and not folder.exists() else "is a file"
        raise UserError(f"{what}, not a folder of runs", where=f"outputs={typed}", hint="type outputs=FOLDER")
    return folder


def target_folder(typed: str | Path, beside: bool = False) -> Path:
    """The folder of `--to`, its `~` written out; it need not be there yet.

    Args:
        typed: The folder, or with `beside` what will lie in one.
        beside: Only look at the folder that it will lie in.

    Raises:
        UserError: nothing can be written there.
    """
    path = home_path(typed)
    folder = path.absolute().parent if beside else path.absolute()
    nearest = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
    try:
        with tempfile.TemporaryDirectory(dir=nearest):
            pass
    except OSError as error:
        why = REASONS.get(error.errno or 0, "nothing can be written there")
        raise UserError(why, where=f"--to {typed} ({nearest})", hint="type --to with a folder of yours") from error
    return path


def _outputs_option(parser: Callable[[str | Path], Path]) -> Any:
    text = "Folder of runs; the same as outputs=FOLDER."
    return typer.Option("outputs", "--outputs", parser=parser, envvar="STEELYARD_OUTPUTS", help=text, metavar="FOLDER")


OUTPUTS, OUTPUTS_PLACE = _outputs_option(outputs_folder), _outputs_option(outputs_place)
