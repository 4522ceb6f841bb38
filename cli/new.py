"""`steelyard new`: the skeleton of a method that weights tokens or samples of text, whose tests pass and which runs."""

import keyword
import os
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
import yaml

from cli.console import say
from cli.keys import target_folder
from cli.trial_all import ALL
from recipes.core.config import registry
from recipes.core.config.registry import ROOT
from recipes.core.errors import UserError
from recipes.core.storage.files import home_path, write_text

SKELETON = Path(__file__).parent / "skeleton"
LONGEST = 20  # characters of a name, so that no line of the skeleton is too long
OUTSIDE_FOLDERS = ("tests", "conftest", "conf")  # of a folder of recipes outside, that are no recipe's
RESERVED = ("cli", "core")  # folders of tests/ that are no family's
ARMS = ("uniform", "random")  # of the skeleton, besides that of the method
FILES = {
    "init.py.j2": "recipes/{family}/{slug}/__init__.py",
    "config.py.j2": "recipes/{family}/{slug}/config.py",
    "method.py.j2": "recipes/{family}/{slug}/method.py",
    "recipe.py.j2": "recipes/{family}/{slug}/recipe.py",
    "recipe.yaml.j2": "conf/recipe/{name}.yaml",
    "page.md.j2": "docs/recipes/{name}.md",
    "test.py.j2": "tests/{family}/test_{slug}.py",
}
# Of one outside the checkout: all in a folder of its own, but for the tests.
OUTSIDE = {
    "init.py.j2": "{folder}/__init__.py",
    "config.py.j2": "{folder}/config.py",
    "method.py.j2": "{folder}/method.py",
    "recipe.py.j2": "{folder}/recipe.py",
    "recipe.yaml.j2": "{folder}/conf/recipe/{name}.yaml",
    "page.md.j2": "{folder}/README.md",
    "test.py.j2": "tests/test_{slug}.py",
    "contract.py.j2": "tests/test_{slug}_contract.py",
}
OUTSIDE_ONCE = {"conftest.py.j2": "conftest.py"}
# Written only where the family is new.
FAMILY_FILES = {"family.py.j2": "recipes/{family}/__init__.py", "tests.py.j2": "tests/{family}/__init__.py"}


def new(
    name: str = typer.Argument(..., metavar="NAME", help="Name of the recipe: lower-case words joined by hyphens."),
    family: str = typer.Option(
        "", "--family", help="Family it belongs to, pretraining if none; a new name makes a new family."
    ),
    to: str = typer.Option("", "--to", metavar="FOLDER", help="Folder outside the checkout; made if it is not there."),
) -> None:
    """Write the skeleton of a recipe that weights text.

    It runs, and its tests pass; docs/tutorial.md goes from it to a published method.
    """
    check_name(name)
    if family:
        check_family(family)
    if to:
        root = outside_place(to)
        check_module(family or name.replace("-", "_"), "--family" if family else "NAME", root)
        _new_outside(root, name, family)
    else:
        _new_here(name, family or "pretraining")


def _new_here(name: str, family: str) -> None:
    for path in write_skeleton(ROOT, name, family):
        say(f"written: {path.relative_to(ROOT)}")
    slug = name.replace("-", "_")
    say()
    say(f"to run it, type:          steelyard run {name} budget=smoke")
    tests = f"tests/{family}/test_{slug}.py tests/cli/test_recipes.py"
    say(f"to test it:               python -m pytest {tests} -k '{slug} or {name}'")
    say("to list it on the pages:  make docs")
    say("what to write where:      docs/tutorial.md")


def _new_outside(root: Path, name: str, family: str) -> None:
    for path in write_skeleton(root, name, family, outside=True):
        say(f"written: {path}")
    say()
    if root not in registry.outside_folders():
        say(f"to let it be found, type:  export {registry.RECIPES}={shlex.quote(str(root))}")
    say(f"to run it:                 steelyard run {name} budget=smoke")
    say(f"to test it:                python -m pytest {shlex.quote(str(root))}")
    say("what to write where:       docs/tutorial.md")


def outside_place(to: str) -> Path:
    """The folder that recipes outside are to lie in, absolute.

    Raises:
        UserError: it is a file, lies in the checkout, or cannot be written.
    """
    root = Path(os.path.abspath(home_path(to)))
    if root.exists() and not root.is_dir():
        raise UserError("is a file", f"--to {to}", "type a folder")
    if root.is_relative_to(ROOT):
        raise UserError("is a folder of the checkout", f"--to {to}", "leave --to out, or type a folder outside it")
    target_folder(to)
    return root


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a new recipe.

    Raises:
        UserError: it is taken, too long, or not written as names are.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UserError(f"{name!r} is no name for a recipe", "NAME", "type lower-case words and hyphens: my-method")
    if len(name) > LONGEST:
        raise UserError(f"{name!r} has over {LONGEST} characters", "NAME", "type a shorter name")
    if keyword.iskeyword(name) or not isinstance(yaml.safe_load(name), str):
        raise UserError(f"{name!r} means something else in Python or YAML", "NAME", "type another name")
    if name in ARMS:
        raise UserError(f"{name} is an arm that the skeleton has besides the method", "NAME", "type another name")
    if name == ALL:
        raise UserError(f"`steelyard trial {ALL}` means every recipe", "NAME", "type another name")
    if name in registry.recipe_names():
        raise UserError(f"there is a recipe {name} already, in {registry.family(name)}", "NAME", "type another name")


def check_module(module: str, where: str, root: Path) -> None:
    """Refuse a name whose folder in a folder of recipes would hide a module or be hidden by one.

    Args:
        module: The first name of what the recipe is imported as: its family, if it has one.
        where: What it was typed as.
        root: The folder of recipes; a family that lies in it may have further members.

    Raises:
        UserError: it is the name of one.
    """
    spec = None if module in OUTSIDE_FOLDERS else find_spec(module)
    is_there = spec and str(root / module) in (spec.submodule_search_locations or ())
    if module in OUTSIDE_FOLDERS or (spec and not is_there):
        raise UserError(f"{module} is the name of another module of Python", where, "type another name")


def check_family(family: str) -> None:
    """Refuse what cannot be the name of a family.

    Raises:
        UserError: it is a folder of something else, too long, or not written as names of families are.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", family) or keyword.iskeyword(family):
        hint = "type lower-case words and underscores: my_family"
        raise UserError(f"{family!r} is no name for a family", "--family", hint)
    if len(family) > LONGEST:
        raise UserError(f"{family!r} has over {LONGEST} characters", "--family", "type a shorter name")
    if family in RESERVED:
        raise UserError(f"{family!r} is no family", "--family", "type another name")


def write_skeleton(root: Path, name: str, family: str, outside: bool = False) -> list[Path]:
    """Write the files of a new recipe into a checkout, or into a folder of recipes outside it: all of them or none.

    Args:
        root: The checkout, or the folder.
        name: Of the recipe, with hyphens.
        family: Its family, with underscores; of a recipe outside it may be empty.
        outside: Whether `root` is a folder of recipes.

    Returns:
        What was written, in order.

    Raises:
        UserError: one of the files is there already.
    """
    texts = _texts(root, name, family, outside)
    for path in texts:
        if path.exists():
            raise UserError("is there already", str(path), "type another name, or move it away")
    written: list[Path] = []
    folders: list[Path] = []
    try:
        for path, text in texts.items():
            for folder in [above for above in path.parents if not above.exists()][::-1]:
                folder.mkdir()
                folders.append(folder)
            write_text(path, text)
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink()
        for folder in reversed(folders):
            folder.rmdir()
        raise
    return written


def _texts(root: Path, name: str, family: str, outside: bool) -> dict[Path, str]:
    """What goes into each file of a new recipe."""
    slug = name.replace("-", "_")
    folder = "/".join(filter(None, (family, slug)))
    words: dict[str, Any] = {"name": name, "slug": slug, "family": family, "folder": folder, "outside": outside}
    words["module"] = folder.replace("/", ".") if outside else f"recipes.{family}.{slug}"
    words["page"] = "README.md" if outside else f"docs/recipes/{name}.md"
    words["class_name"] = "".join(part.capitalize() for part in name.split("-"))
    templates = {root / file.format(**words): template for template, file in (OUTSIDE if outside else FILES).items()}
    for template, file in (OUTSIDE_ONCE if outside else FAMILY_FILES).items():
        target = root / file.format(**words)
        if not target.exists():
            templates[target] = template
    return {path: _render(template, words) for path, template in templates.items()}


def _render(template: str, words: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(SKELETON), undefined=StrictUndefined, keep_trailing_newline=True)
    return sorted_imports(environment.get_template(template).render(words))


def sorted_imports(text: str) -> str:
    """The text with each block of `from recipes.` lines in order: where a family stands in it depends on its name."""
    return re.sub(r"(?:^from recipes\.\S+ import .*\n)+", lambda block: "".join(_in_order(block[0])), text, flags=re.M)


def _in_order(block: str) -> list[str]:
    return sorted(block.splitlines(keepends=True), key=lambda line: line.split()[1])
