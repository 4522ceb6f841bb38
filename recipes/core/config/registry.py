"""Recipes are found by their folder: `recipes/<family>/<slug>/recipe.py`. There is no list to keep.

A recipe's folder holds `config.py` (CONFIG, the dataclass, and CARD; imports no torch) and `recipe.py` (RECIPE, the
class). The folder name is the recipe's name with underscores for hyphens.

Recipes may also lie outside the checkout: in folders that STEELYARD_RECIPES names (`FOLDER/<slug>/` or
`FOLDER/<family>/<slug>/`), or in installed packages that name them as entry points of the group `steelyard.recipes`
(`my-method = "my_package.my_method"`). Such a folder holds its config file too, `conf/recipe/<name>.yaml`.
"""

import importlib
import os
import sys
import traceback
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

import recipes
from recipes.core.config.settings import Card, RunConfig
from recipes.core.errors import UserError
from recipes.core.spelling import did_you_mean, nearest
from recipes.core.storage.files import home_path
from recipes.core.storage.fingerprints import memo

ROOT = Path(recipes.__file__).resolve().parents[1]
RECIPES = "STEELYARD_RECIPES"  # folders of recipes outside, joined as those of PATH are
ENTRY_POINTS = "steelyard.recipes"
METHODS = ("prepare", "build", "watch", "evaluate")  # of a recipe, see `recipes.core.recipe.Recipe`


@dataclass(frozen=True)
class Location:
    """Where a recipe lies.

    Attributes:
        name: Of the recipe.
        folder: Its folder.
        module: What its folder is imported as.
        source: The folder or package that brought it; None of those of the checkout.
    """

    name: str
    folder: Path
    module: str
    source: Path | None = None


def recipe_names(outside: bool = True) -> list[str]:
    """Names of all recipes, sorted; those of the checkout only if asked."""
    return sorted(location.name for location in (_locations() if outside else _shipped()).values())


def family(name: str) -> str:
    """The family a recipe belongs to: the folder its folder stands in."""
    return _location(name).folder.parent.name


def source(name: str) -> Path | None:
    """The folder or package outside the checkout that brought a recipe; None of those of the checkout."""
    return _location(name).source


def conf_folder(name: str) -> Path:
    """The folder that holds `recipe/<name>.yaml` of a recipe."""
    location = _location(name)
    return ROOT / "conf" if location.source is None else location.folder / "conf"


def page(name: str) -> Path:
    """The page of a recipe; of one outside, the README.md of its folder."""
    location = _location(name)
    return ROOT / "docs" / "recipes" / f"{name}.md" if location.source is None else location.folder / "README.md"


def card(name: str) -> Card:
    """What the recipe is: title, paper, claim, cost. Imports no torch."""
    return _part(name, "config", "CARD", Card)


def config_class(name: str) -> type[RunConfig]:
    """The recipe's config dataclass. Imports no torch."""
    kind: type[RunConfig] = _part(name, "config", "CONFIG", type)
    if not issubclass(kind, RunConfig):
        where = f"recipe {name}, {short_path(_location(name).folder / 'config.py')}"
        raise UserError(
            f"CONFIG is {kind.__name__}, which does not extend RunConfig", where, "docs/tutorial.md shows one"
        )
    return kind


def recipe_class(name: str) -> Any:
    """The recipe itself (see `recipes.core.recipe.Recipe`). Imports torch. Raises UserError if it lacks a method."""
    kind = _part(name, "recipe", "RECIPE", type)
    methods = (*METHODS, *(["answering"] if _takes_questions(name) else []))
    missing = [method for method in methods if not callable(getattr(kind, method, None))]
    if missing := [*missing, *sorted(getattr(kind, "__abstractmethods__", ()))]:
        where = f"recipe {name}, {short_path(_location(name).folder / 'recipe.py')}"
        raise UserError(f"{kind.__name__} has no {', no '.join(missing)}", where, "docs/tutorial.md shows one")
    return kind


def outside_problems() -> list[UserError]:
    """What is wrong with the recipes outside as far as their folders show: none of these stops another recipe."""
    return [*_scan()[1], *(_clash(locations) for locations in _by_name().values() if len(locations) > 1)]


def outside_folders() -> list[Path]:
    """The folders that STEELYARD_RECIPES names, absolute; each once, whatever links lead to it."""
    names = [text for text in os.environ.get(RECIPES, "").split(os.pathsep) if text]
    folders: dict[Path, Path] = {}
    for folder in (Path(os.path.abspath(home_path(name))) for name in names):
        folders.setdefault(folder.resolve(), folder)
    return list(folders.values())


def _part(name: str, module: str, attribute: str, kind: type) -> Any:
    """What a module of a recipe has to hold. Raises UserError with file and line for one that cannot be read."""
    location = _location(name)
    _make_importable(location)
    file = location.folder / f"{module}.py"
    try:
        part = getattr(importlib.import_module(f"{location.module}.{module}"), attribute, None)
    except UserError:
        raise
    except Exception as error:  # whatever stands in a recipe that is being written
        what, line = _what_failed(error, location.folder)
        raise UserError(what, f"recipe {name}, {line or f'{short_path(file)}, line 1'}") from error
    if not isinstance(part, kind):
        raise UserError(f"has no {attribute}", f"recipe {name}, {short_path(file)}", "docs/tutorial.md shows one")
    return part


def _takes_questions(name: str) -> bool:
    kinds = get_type_hints(config_class(name)).get("evaluation")
    return any(kind.name == "extra" for kind in fields(kinds)) if is_dataclass(kinds) else False


def _what_failed(error: Exception, folder: Path) -> tuple[str, str]:
    """An error in words, and the last line of the recipe's own folder that led to it."""
    plain = isinstance(error, TypeError | ValueError) and not isinstance(error, UnicodeError)
    what = str(error).replace("Claim.__init__()", "a claim is") if plain else f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"SyntaxError: {error.msg}", f"{short_path(Path(error.filename))}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [
        f"{short_path(Path(one.filename))}, line {one.lineno}"
        for one in frames
        if Path(one.filename).is_relative_to(folder)
    ]
    return " ".join(what.split()), lines[-1] if lines else ""


def short_path(file: Path) -> str:
    """A file as messages name it: from the checkout if it lies in it, else whole."""
    return str(file.relative_to(ROOT) if file.is_relative_to(ROOT) else file)


@cache
def _make_importable(location: Location) -> None:
    """Let Python find a recipe of a folder outside, behind all that it finds without.

    Raises:
        UserError: it finds something else of that name.
    """
    if location.source not in outside_folders():
        return
    if str(location.source) not in sys.path:
        sys.path.append(str(location.source))
        importlib.invalidate_caches()
    try:
        spec = find_spec(location.module)
    except (ImportError, ValueError):
        spec = None
    if location.folder not in [Path(path) for path in (spec and spec.submodule_search_locations) or ()]:
        other = f" ({spec.origin})" if spec and spec.origin else ""
        what = f"Python has another module {location.module}{other}"
        raise UserError(what, f"recipe {location.name}, {location.folder}", "give the folder another name")


def _location(name: str) -> Location:
    locations = _by_name().get(name, [])
    if len(locations) > 1:
        raise _clash(locations)
    if not locations:
        lines = [did_you_mean(name, recipe_names()), *(f"{one.where}: {one.what}" for one in _scan()[1])]
        if nearest(name, recipe_names()) is None:
            lines.append(f"a recipe outside the checkout needs {RECIPES}=FOLDER")
        hint = "\n".join(lines)
        raise UserError(f"unknown recipe {name!r}", hint=hint)
    return locations[0]


def _clash(locations: list[Location]) -> UserError:
    name, folders = locations[0].name, " and ".join(str(location.folder) for location in locations)
    return UserError(f"two recipes have this name: {folders}", f"recipe {name}", "give the folder of one another name")


def _locations() -> dict[str, Location]:
    return {name: locations[0] for name, locations in _by_name().items() if len(locations) == 1}


def _by_name() -> dict[str, list[Location]]:
    """The recipes of each name, as their folders are now; within `look_once`, as they were when first asked for."""
    known = memo()
    if known is None:
        return _find_by_name()
    asked = ("recipes", os.environ.get(RECIPES))
    if asked not in known:
        known[asked] = _find_by_name()
    return typing.cast(dict[str, list[Location]], known[asked])


def _find_by_name() -> dict[str, list[Location]]:
    by_name: dict[str, list[Location]] = {}
    for location in (*_shipped().values(), *_scan()[0]):
        by_name.setdefault(location.name, []).append(location)
    return by_name


def _shipped() -> Mapping[str, Location]:
    return _shipped_in(tuple(_folders_of_recipes()))


def _folders_of_recipes() -> Iterator[str]:
    """`recipes/<family>/<slug>` of the checkout, as they are now; asked for at every turn, and a glob takes long."""
    for family in _folders_in(ROOT / "recipes"):
        yield from (folder for folder in _folders_in(family) if os.path.exists(f"{folder}/recipe.py"))


def _folders_in(folder: str | Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir())


@cache
def _shipped_in(folders: tuple[str, ...]) -> Mapping[str, Location]:
    paths = [Path(folder) for folder in folders]
    locations = (Location(_name(path), path, f"recipes.{path.parent.name}.{path.name}") for path in paths)
    return MappingProxyType({location.name: location for location in locations})


def _name(folder: Path) -> str:
    return folder.name.replace("_", "-")


def _scan() -> tuple[list[Location], list[UserError]]:
    """The recipes outside the checkout, and what is wrong with where they are looked for."""
    locations: list[Location] = []
    problems: list[UserError] = []
    for folder in outside_folders():
        if not folder.is_dir():
            problems.append(
                UserError("there is no such folder", f"{RECIPES}={folder}", f"set {RECIPES} to folders of recipes")
            )
        elif (folder / "recipe.py").exists():
            problems.append(UserError("is a recipe's folder", f"{RECIPES}={folder}", f"type {RECIPES}={folder.parent}"))
        for path in sorted({*folder.glob("*/recipe.py"), *folder.glob("*/*/recipe.py")}):
            parts = path.parent.relative_to(folder).parts
            if all(part.isidentifier() for part in parts):
                locations.append(Location(_name(path.parent), path.parent, ".".join(parts), folder))
            else:
                what = "is no name that Python imports"
                problems.append(UserError(what, str(path.parent), "use letters, digits and underscores"))
    for point in _entry_points():
        try:
            locations.append(_installed(point))
        except UserError as error:
            problems.append(error)
    return locations, problems


@cache
def _entry_points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINTS))


@cache
def _installed(point: EntryPoint) -> Location:
    """The recipe of an entry point, whose value is the package that is its folder. Raises UserError if it is none."""
    where = f"entry point {point.name} = {point.value}"
    try:
        spec = find_spec(point.value)
    except Exception as error:
        raise UserError(f"cannot be imported: {type(error).__name__}: {error}", where) from error
    locations = list(spec.submodule_search_locations or ()) if spec else []
    if not locations or not (Path(locations[0]) / "recipe.py").exists():
        raise UserError("is no package with recipe.py", where, "name the package that holds config.py and recipe.py")
    folder = Path(locations[0]).absolute()
    return Location(point.name, folder, point.value, folder.parent)
