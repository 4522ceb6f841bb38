"""The config files: in which folders they lie, which options the groups have, and the tree that Hydra makes of them.

Ours lie in `conf/`, those of a recipe outside the checkout in its own folder, and those of --config-dir where it says.
"""

import os
import pickle
import re
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from recipes.core.config import registry
from recipes.core.config.overrides import quote
from recipes.core.config.schema import raise_problems
from recipes.core.config.yaml_file import LARGEST, YamlFile, read_yaml_file
from recipes.core.errors import UserError
from recipes.core.spelling import did_you_mean, nearest
from recipes.core.storage.files import home_path

CONF = registry.ROOT / "conf"
LIBYAML: Any = getattr(yaml, "CSafeLoader", None)  # ten times as fast, where PyYAML has it
MOST_NESTED = 1000
SEED = re.compile(r"^seed: (0|[1-9][0-9]{0,17})$", re.MULTILINE)
CONFIG_DIR = "STEELYARD_CONFIG_DIR"  # folders of --config-dir, for workers


def config_folders() -> list[Path]:
    """The folders of --config-dir, absolute, in which further options of groups lie.

    Raises:
        UserError: there is no such folder, it has no option, or files that would not be read.
    """
    folders = [
        Path(os.path.abspath(home_path(text))) for text in os.environ.get(CONFIG_DIR, "").split(os.pathsep) if text
    ]
    for folder in folders:
        check_config_folder(folder)
    return folders


def check_config_folder(folder: Path, typed: str = f"{CONFIG_DIR}=") -> None:
    """Refuse a folder that holds no options, or what looks like one and would not be read.

    Args:
        folder: The folder.
        typed: What it was typed behind, for messages.

    Raises:
        UserError: as said.
    """
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    if not any((folder / group).is_dir() for group in groups):
        what = "has no folder of options" if folder.is_dir() else "there is no such folder"
        raise UserError(what, f"{typed}{folder}", "options lie in it as data/NAME.yaml, model/NAME.yaml")
    for file in sorted(folder.glob("*/*.y*ml")):
        group = file.parent.name
        if group not in groups and (near := nearest(group, groups)):
            raise UserError("is in the folder of no group", str(file), f"did you mean {folder / near / file.name}?")
        if group in groups and file.suffix == ".yml":
            raise UserError("would not be read", str(file), f"call it {file.stem}.yaml")
        if group == "recipe" and file.stem in registry.recipe_names():
            what = f"{file.stem} is the name of a recipe, which it would not change"
            raise UserError(what, str(file), "give the file another name; with recipe: NAME in it, it is typed as one")


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
    values = {entry.key: entry.value for entry in config_file(files[option]).entries}
    bases = _bases(values)
    if unknown := [name for name in bases if name not in files]:
        raise UserError(f"begins with {unknown[0]}, which is no option", str(files[option]), _near(unknown[0], files))
    if "name" in values or not bases or option in above:
        return values.get("name")
    return _name_in(bases[0], files, (*above, option))


def _bases(values: Mapping[str, Any]) -> list[str]:
    """The options of its own group that a file's list of defaults names."""
    return [name for name in values.get("defaults") or () if isinstance(name, str) and name != "_self_"]


def _near(name: str, options: Iterable[str]) -> str:
    return did_you_mean(name, sorted(options))


def option_keys(group: str, option: str, files: Mapping[str, Path]) -> dict[str, str]:
    """Every key that an option's file or those that it begins with set, dotted from the config's root: file and line.

    Files of the checkout are left out, which are right.
    """
    keys: dict[str, str] = {}
    entries = config_file(files[option]).entries
    for base in _bases({entry.key: entry.value for entry in entries}):
        keys |= option_keys(group, base, files)
    ours = files[option].is_relative_to(CONF)
    return keys if ours else keys | {f"{group}.{entry.key}": entry.where for entry in entries}


@cache
def config_file(path: Path) -> YamlFile:
    """The keys of a config file.

    Raises:
        UserError: it cannot be read, or sets keys twice.
    """
    file = read_yaml_file(path, of_hydra=True)
    raise_problems(file.problems)
    return file


def recipe_file(recipe: str) -> Path:
    """The config file of a recipe."""
    return registry.conf_folder(recipe) / "recipe" / f"{recipe}.yaml"


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

    file = recipe_file(recipe)
    config_file(file)
    where = registry.short_path(file)
    more = ",".join(quote(f"file://{folder}") for folder in path[1:])
    words = [f"recipe={recipe}", *choices, *([f"hydra.searchpath=[{more}]"] if more else [])]
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            tree = OmegaConf.to_container(hydra_compose("config", overrides=words), resolve=False)
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


def _is_simple(text: str) -> bool:
    """Whether a YAML text can have no aliases, and is nested so little that libyaml may read it."""
    brackets = sum(map(text.count, "[{"))
    return not set("&*") & set(text) and brackets < MOST_NESTED and max(map(len, text.split("\n"))) < MOST_NESTED


def read_yaml(path: Path) -> dict[str, Any]:
    """A run folder's `config.yaml` as a tree.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than any config, not UTF-8, or names a node twice (`&a`, `*a`) as ours never do.
        yaml.YAMLError: it is no YAML, or one with tags.
    """
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} is no config: it has {path.stat().st_size:,} bytes")

    text = path.read_bytes().decode("utf-8")
    if LIBYAML is not None and _is_simple(text):
        with suppress(yaml.YAMLError):  # which may be one of libyaml's alone
            return _read_simple(text)

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError(f"{path} is no config of ours: it has aliases")
            return super().compose_node(parent, index)

    return typing.cast(dict[str, Any], yaml.load(text, Loader))  # noqa: S506


def _read_simple(text: str) -> dict[str, Any]:
    """The tree of a text for libyaml; runs of one config have the same but for the seed, which is set in its place."""
    seeds = SEED.findall(text)
    if len(seeds) == 1:
        tree = pickle.loads(_pickled(SEED.sub("seed: 0", text)))
        if isinstance(tree, dict) and tree.get("seed") == 0:
            return tree | {"seed": int(seeds[0])}
    return typing.cast(dict[str, Any], yaml.load(text, LIBYAML))  # noqa: S506


@lru_cache(maxsize=64)
def _pickled(text: str) -> bytes:
    """What libyaml reads, so that each who asks has a tree of his own."""
    return pickle.dumps(yaml.load(text, LIBYAML))  # noqa: S506
