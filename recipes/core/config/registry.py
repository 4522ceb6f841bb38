"""Recipes are found by their folder: `recipes/<family>/<slug>/recipe.py`. There is no list to keep.

A recipe's folder holds `config.py` (CONFIG, the dataclass, and CARD; imports no torch) and `recipe.py` (RECIPE, the
class). The folder name is the recipe's name with underscores for hyphens.
"""

import importlib
import traceback
from pathlib import Path
from typing import Any

import recipes
from recipes.core.config.settings import Card, RunConfig
from recipes.core.errors import UserError
from recipes.core.spelling import did_you_mean

ROOT = Path(recipes.__file__).resolve().parents[1]


def recipe_names() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(_folders())


def family(name: str) -> str:
    """The family a recipe belongs to: the folder its folder stands in."""
    return _folder(name).parent.name


def card(name: str) -> Card:
    """What the recipe is: title, paper, claim, cost. Imports no torch."""
    recipe_card: Card = _config_module(name).CARD
    return recipe_card


def config_class(name: str) -> type[RunConfig]:
    """The recipe's config dataclass. Imports no torch."""
    kind: type[RunConfig] = _config_module(name).CONFIG
    return kind


def recipe_class(name: str) -> Any:
    """The recipe itself (see `recipes.core.recipe.Recipe`). Imports torch."""
    folder = _folder(name)
    return importlib.import_module(f"recipes.{folder.parent.name}.{folder.name}.recipe").RECIPE


def _config_module(name: str) -> Any:
    folder = _folder(name)
    try:
        return importlib.import_module(f"recipes.{folder.parent.name}.{folder.name}.config")
    except (TypeError, ValueError) as error:  # a card or setting that cannot be what it says
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(_file(name))
        ]
        where = f"recipe {name}, {_file(name).relative_to(ROOT)}, line {lines[-1] if lines else 1}"
        raise UserError(str(error).replace("Claim.__init__()", "a claim is"), where) from error


def _file(name: str) -> Path:
    return _folder(name) / "config.py"


def _folders() -> dict[str, Path]:
    return {path.parent.name.replace("_", "-"): path.parent for path in (ROOT / "recipes").glob("*/*/recipe.py")}


def _folder(name: str) -> Path:
    folders = _folders()
    if name not in folders:
        raise UserError(f"unknown recipe {name!r}", hint=did_you_mean(name, sorted(folders)))
    return folders[name]
