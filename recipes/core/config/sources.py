"""The config files: in which folders they lie, which options the groups have, and the tree that Hydra makes of them.

Ours lie in `conf/`, those of a recipe outside the checkout in its own folder, and those of --config-dir where it says.
"""

import os
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recipes.core.config import registry
from recipes.core.config.overrides import quote
from recipes.core.errors import UserError
from recipes.core.storage.files import home_path

CONF = registry.ROOT / "conf"
CONFIG_DIR = "STEELYARD_CONFIG_DIR"  # folders of --config-dir, for workers
LARGEST_CONFIG = 2**20  # bytes


def config_folders() -> list[Path]:
    """The folders of --config-dir, absolute, in which further options of groups lie.

    Raises:
        UserError: there is no such folder, or it has no option.
    """
    folders = [
        Path(os.path.abspath(home_path(text))) for text in os.environ.get(CONFIG_DIR, "").split(os.pathsep) if text
    ]
    for folder in folders:
        if not any((folder / group.name).is_dir() for group in CONF.iterdir()):
            what = "has no folder of options" if folder.is_dir() else "there is no such folder"
            raise UserError(what, f"--config-dir {folder}", "options lie in it as data/NAME.yaml, model/NAME.yaml")
    return folders


def search_path(recipe: str) -> tuple[Path, ...]:
    """The folders of config files of a recipe (empty: of any), ours first."""
    outside = [registry.conf_folder(recipe)] if recipe and registry.source(recipe) else []
    return (CONF, *outside, *config_folders())


@cache
def option_files(path: tuple[Path, ...]) -> dict[str, dict[str, Path]]:
    """Group -> option -> its file. Raises UserError if a folder has an option that one before it has."""
    files: dict[str, dict[str, Path]] = {
        folder.name: {file.stem: file for file in folder.glob("*.yaml")}
        for folder in sorted(CONF.iterdir())
        if folder.is_dir() and folder.name not in ("recipe", "launcher")
    }
    for folder in path[1:]:
        for group, options in files.items():
            for file in sorted((folder / group).glob("*.yaml")):
                if file.stem in options:
                    raise UserError(f"there is a {group}={file.stem} already", str(file), "give the file another name")
                options[file.stem] = file
    return files


@cache
def names_in_files(path: tuple[Path, ...]) -> dict[str, dict[str, Any]]:
    """Group -> option -> the `name` that stands in its file: that of its kind of config."""
    return {
        group: {option: _name_in(option, files) for option in sorted(files)}
        for group, files in option_files(path).items()
    }


def _name_in(option: str, files: Mapping[str, Path], above: tuple[str, ...] = ()) -> Any:
    """The `name` in an option's file, or in that of the option that it begins with."""
    try:
        tree = read_yaml(files[option])
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            _unreadable(error), f"{files[option]}{_line(error)}", "mend the file or move it away"
        ) from error
    if not isinstance(tree, dict):
        raise UserError("holds no keys with values", str(files[option]), "copy a file of conf/ and change it")
    bases = [name for name in tree.get("defaults") or () if isinstance(name, str) and name in files]
    if "name" in tree or not bases or option in above:
        return tree.get("name")
    return _name_in(bases[0], files, (*above, option))


def _unreadable(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        return f"is not valid YAML: {error.problem}"
    return "cannot be read: " + " ".join(str(error).split())


def _line(error: Exception) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return f", line {mark.line + 1}" if mark else ""


@cache
def composed(recipe: str, choices: tuple[str, ...], path: tuple[Path, ...]) -> dict[str, Any]:
    """The tree that Hydra makes of the config files in some folders.

    Raises:
        UserError: they do not compose, or the recipe's file has not what every recipe's has.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    file = registry.conf_folder(recipe) / "recipe" / f"{recipe}.yaml"
    where = registry.short_path(file)
    more = ",".join(quote(f"file://{folder}") for folder in path[1:])
    words = [f"recipe={recipe}", *choices, *([f"hydra.searchpath=[{more}]"] if more else [])]
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            tree = OmegaConf.to_container(hydra_compose("config", overrides=words), resolve=False)
    except yaml.MarkedYAMLError as error:
        raise UserError(_unreadable(error), f"{where}{_line(error)}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"the config files do not compose: {error}", where) from error
    tree = typing.cast(dict[str, Any], tree)
    if problem := _arms_problem(tree):
        raise UserError(problem, where, "write arms: {NAME: {description: TEXT, set: {KEY: VALUE}}}")
    named = tree.get("recipe", recipe)
    if named != recipe and recipe in registry.recipe_names():
        raise UserError(f"its key recipe is {named}", where, f"write recipe: {recipe}")
    return tree


def _arms_problem(tree: dict[str, Any]) -> str:
    """What is wrong with the arms of a recipe's file; empty if nothing is."""
    arms = tree.get("arms")
    if not isinstance(arms, dict) or not arms:
        return "has no arms"
    for name, arm in arms.items():
        if not isinstance(arm, dict) or not isinstance(arm.get("description"), str):
            return f"arm {name} has no description"
        if not isinstance(arm.get("set") or {}, dict):
            return f"what arm {name} sets is no group of keys"
    return "" if tree.get("arm") in arms else f"its default arm is none of its arms: {tree.get('arm')}"


def read_yaml(path: Path) -> dict[str, Any]:
    """A run folder's `config.yaml` as a tree.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than any config, not UTF-8, or names a node twice (`&a`, `*a`) as ours never do.
        yaml.YAMLError: it is no YAML, or one with tags.
    """
    if path.stat().st_size > LARGEST_CONFIG:
        raise ValueError(f"{path} is no config: it has {path.stat().st_size:,} bytes")

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError(f"{path} is no config of ours: it has aliases")
            return super().compose_node(parent, index)

    return typing.cast(dict[str, Any], yaml.load(path.read_bytes().decode("utf-8"), Loader))  # noqa: S506
