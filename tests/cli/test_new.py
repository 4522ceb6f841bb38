"""`steelyard new`: four new places and no edit elsewhere give a recipe that runs and whose tests pass."""

import subprocess
import sys
from pathlib import Path

import pytest

from cli.new import LONGEST, sorted_imports, write_skeleton
from recipes.core.config.registry import ROOT
from recipes.core.errors import UserError

RUFF = Path(sys.executable).parent / "ruff"
TREE = ("benchmarks", "cli", "recipes", "conf", "tests", "docs")
NEW = {
    "conf/recipe/odd-method.yaml",
    "docs/recipes/odd-method.md",
    "recipes/odd_family/__init__.py",
    "recipes/odd_family/odd_method/__init__.py",
    "recipes/odd_family/odd_method/config.py",
    "recipes/odd_family/odd_method/method.py",
    "recipes/odd_family/odd_method/recipe.py",
    "tests/odd_family/__init__.py",
    "tests/odd_family/test_odd_method.py",
}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A copy of the checkout, without what running left in it."""
    from shutil import copy, copytree, ignore_patterns

    for name in TREE:
        copytree(ROOT / name, tmp_path / name, ignore=ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        copy(ROOT / name, tmp_path)
    return tmp_path


def files(tree: Path) -> dict[str, bytes]:
    paths = (path for name in TREE for path in (tree / name).rglob("*") if path.is_file())
    return {str(path.relative_to(tree)): path.read_bytes() for path in paths if "__pycache__" not in path.parts}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prior"], "NAME: there is a recipe prior already, in pretraining\n  type another name"),
        (["all"], "NAME: `steelyard trial all` means every recipe\n  type another name"),
        (["My_Method"], "NAME: 'My_Method' is no name for a recipe\n  type lower-case words and hyphens: my-method"),
        (["../x"], "NAME: '../x' is no name for a recipe"),
        (["1-bit"], "NAME: '1-bit' is no name for a recipe"),
        (["x" * (LONGEST + 1)], f"has over {LONGEST} characters\n  type a shorter name"),
        (["import"], "NAME: 'import' means something else in Python or YAML"),
        (["on"], "NAME: 'on' means something else in Python or YAML"),
        (["uniform"], "NAME: uniform is an arm that the skeleton has besides the method"),
        (["ours", "--family", "my-family"], "--family: 'my-family' is no name for a family\n  type lower-case words"),
        (["ours", "--family", "core"], "--family: 'core' is no family"),
        (["ours", "--family", "x" * (LONGEST + 1)], f"has over {LONGEST} characters"),
    ],
)
def test_names_that_cannot_be_are_refused(steelyard, words, message):
    before = {path.name for path in ROOT.glob("recipes/*/*")}
    ended = steelyard("new", *words)
    assert ended.code == 2 and message in ended.err
    assert {path.name for path in ROOT.glob("recipes/*/*")} == before


@pytest.mark.parametrize("name", ["json", "tests", "torch"])
def test_a_name_that_another_module_has_is_refused_outside(steelyard, tmp_path, name):
    ended = steelyard("new", name, "--to", tmp_path / "mine")
    assert ended.code == 2 and "is the name of another module of Python" in ended.err
    assert not (tmp_path / "mine").exists()


def test_of_one_in_a_family_outside_it_is_the_family_that_python_imports(steelyard, tmp_path, monkeypatch):
    for family in ("json", "cli", "tests"):
        ended = steelyard("new", "far-off-one", "--to", tmp_path / "mine", "--family", family)
        assert ended.code == 2 and not (tmp_path / "mine").exists()
    monkeypatch.syspath_prepend(tmp_path / "mine")
    for name in ("json", "far-off-two"):
        ended = steelyard("new", name, "--to", tmp_path / "mine", "--family", "far_off_family")
        assert ended.code == 0, ended.err


def test_outside_the_checkout(steelyard, tmp_path, monkeypatch):
    ended = steelyard("new", "far-away", "--to", tmp_path / "mine", "--family", "ours")
    assert ended.code == 0 and f"export STEELYARD_RECIPES={tmp_path}/mine" in ended.out
    ended = steelyard("list", "far-away")
    assert ended.code == 2 and "unknown recipe 'far-away'" in ended.err
    monkeypatch.setenv("STEELYARD_RECIPES", str(tmp_path / "mine"))
    assert f"ours (outside, from {tmp_path}/mine)\nrecipe    title\nfar-away  FarAway" in steelyard("list").out
    assert f"outside: {tmp_path}/mine" in steelyard("list", "far-away").out
    ended = steelyard("run", "far-away", "budget=smoke", "--dry-run")
    assert ended.code == 0 and "outputs/far-away/far-away/" in ended.out
    ended = steelyard("new", "far-away", "--to", tmp_path / "mine")
    assert ended.code == 2 and "there is a recipe far-away already, in ours" in ended.err


def test_one_that_is_broken_does_not_hide_the_others(steelyard, tmp_path, monkeypatch):
    steelyard("new", "half-done", "--to", tmp_path)
    (tmp_path / "half_done" / "config.py").write_text("import nothing_such\n")
    (tmp_path / "prior").mkdir()
    (tmp_path / "prior" / "recipe.py").touch()
    monkeypatch.setenv("STEELYARD_RECIPES", str(tmp_path))
    ended = steelyard("list")
    assert ended.code == 0 and "half-done  cannot be used" in ended.out and "rho-1 " in ended.out
    assert f"warning: recipe half-done, {tmp_path}/half_done/config.py, line 1: ModuleNotFoundError" in ended.err
    assert "warning: recipe prior: two recipes have this name" in ended.err
    for words in (["half-done"], ["prior"]):
        ended = steelyard("run", *words, "--dry-run")
        assert ended.code == 2 and ended.err.startswith(f"error: recipe {words[0]}"), ended.err


@pytest.mark.parametrize(
    ("to", "message"),
    [(ROOT / "docs", "is a folder of the checkout"), (ROOT / "README.md", "is a file\n  type a folder")],
)
def test_where_no_recipe_outside_can_lie(steelyard, to, message):
    ended = steelyard("new", "ours", "--to", to)
    assert ended.code == 2 and f"--to {to}: {message}" in ended.err


@pytest.mark.slow
def test_one_outside_passes_its_tests_and_runs_in_the_workers_of_a_trial(tmp_path, steelyard_home, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write_skeleton(tmp_path, "far-off", "", outside=True)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    monkeypatch.setenv("STEELYARD_RECIPES", ".")  # its workers may start elsewhere
    keys = ["budget=smoke", "tracker=none", "trainer.max_steps=2", "outputs=out", "--seeds", "1", "--jobs", "2"]
    words = [sys.executable, "-m", "cli.app", "trial", "far-off", *keys, "--launcher", "joblib"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(list(tmp_path.glob("out/far-off/*/*-s0/report.html"))) == 0
    assert len(list(tmp_path.glob("out/far-off/*/*-s0/status.json"))) == 2


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    page = tmp_path / "docs" / "recipes" / "ours.md"
    page.parent.mkdir(parents=True)
    page.write_text("mine")
    with pytest.raises(UserError, match=r"docs/recipes/ours\.md: is there already\n  type another name"):
        write_skeleton(tmp_path, "ours", "pretraining")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [page] and page.read_text() == "mine"


def test_all_files_are_written_or_none(tmp_path):
    (tmp_path / "tests").write_text("no folder")
    with pytest.raises(OSError):
        write_skeleton(tmp_path, "ours", "pretraining")
    assert [path.name for path in tmp_path.rglob("*")] == ["tests"]  # no empty folder either


def test_imports_stand_in_the_order_of_their_names():
    block = "from recipes.core.x import A\nfrom recipes.alignment.y import B\n"
    assert sorted_imports(f"import torch\n\n{block}\n") == (
        "import torch\n\nfrom recipes.alignment.y import B\nfrom recipes.core.x import A\n\n"
    )


@pytest.mark.slow
def test_four_new_places_and_no_edit_elsewhere(scratch: Path, steelyard_home: Path, monkeypatch) -> None:
    """The contract of every recipe, a run included, for one in a new family of a fresh checkout."""
    monkeypatch.setenv("PYTHONPATH", str(scratch))
    monkeypatch.setenv("STEELYARD_TEST_HOME", str(steelyard_home))

    def go(*words: object) -> str:
        ended = subprocess.run([str(word) for word in words], cwd=scratch, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    before = files(scratch)
    said = go(sys.executable, "-m", "cli.app", "new", "odd-method", "--family", "odd_family")
    assert "steelyard run odd-method budget=smoke" in said and "make docs" in said
    after = files(scratch)
    assert after.keys() - before.keys() == NEW and {name: after[name] for name in before} == before
    # Lines as long as they get, and families on either side of core.
    write_skeleton(scratch, "abcdefghij-lmnopqrst", "z" * LONGEST)
    write_skeleton(scratch, "a", "alignment")
    go(RUFF, "check", ".")
    go(RUFF, "format", "--check", ".")
    tests = ("tests/odd_family", "tests/cli/test_recipes.py", "tests/core/test_rooms.py")
    passed = go(sys.executable, "-m", "pytest", "-q", *tests, "-k", "odd or neither", "-p", "no:cacheprovider")
    assert "passed" in passed or "100%" in passed
    go(sys.executable, "-m", "recipes.core.pages")
    assert "[odd-method](odd-method.md)" in (scratch / "docs" / "recipes" / "README.md").read_text()
