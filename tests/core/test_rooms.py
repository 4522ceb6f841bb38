"""Imports point one way: command line, families, core; in the core from room to room downwards."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import recipes.core

ROOT = Path(__file__).parents[2]
FAMILIES = sorted(path.parents[1].name for path in ROOT.glob("recipes/*/*/recipe.py"))
# The docstring of `recipes.core` lists the rooms, the highest first.
LIST = re.findall(r"^ *([a-z_]+)  +\S", recipes.core.__doc__ or "", flags=re.MULTILINE)
LEVELS = {name: -level for level, name in enumerate(LIST)}


def modules(*parts: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.joinpath(*parts).rglob("*.py")):
        words = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(words[:-1] if words[-1] == "__init__" else words), path


def imports(path: Path) -> set[str]:
    """Full names that a module imports, wherever in it; `from a import b` is a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(name: str) -> str:
    """Room of core that a module lies in, or its name if it stands by itself."""
    return name.split(".")[2] if name.count(".") >= 2 else ""


def upward(name: str, path: Path) -> list[str]:
    here = LEVELS[room(name)]
    others = {other for other in imports(path) if other.startswith("recipes.core.") and room(other) != room(name)}
    return sorted(other for other in others if LEVELS[room(other)] >= here)


def test_every_room_is_in_the_list_and_says_what_lives_there():
    core = ROOT / "recipes" / "core"
    rooms = {path.parent.name: path for path in core.glob("*/__init__.py")}
    assert {room(name) for name, _ in modules("recipes", "core")} - {""} == set(LEVELS)
    for name, path in rooms.items():
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert "May import" in text, f"{name}/__init__.py says neither what lives there nor what it may import"


@pytest.mark.parametrize(("name", "path"), [pytest.param(*pair, id=pair[0]) for pair in modules("recipes", "core")])
def test_core_imports_downwards_only(name, path):
    if room(name):
        assert upward(name, path) == []


def test_core_knows_neither_command_line_nor_family():
    outside = ("cli", *(f"recipes.{family}" for family in FAMILIES))
    for name, path in modules("recipes", "core"):
        assert not [other for other in imports(path) if other.startswith(outside)], name


@pytest.mark.parametrize("family", sorted(set(FAMILIES)))
def test_families_know_only_the_core(family):
    for name, path in modules("recipes", family):
        others = [other for other in imports(path) if other.split(".")[0] in ("cli", "recipes")]
        assert not [other for other in others if not other.startswith(("recipes.core.", f"recipes.{family}."))], name


def test_the_command_line_reaches_recipes_through_the_core():
    for name, path in modules("cli"):
        others = [other for other in imports(path) if other.startswith("recipes.")]
        assert not [other for other in others if not other.startswith("recipes.core.")], name
