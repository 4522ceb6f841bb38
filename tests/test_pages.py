"""What pages show as code is code that runs."""

import re
from pathlib import Path

import pytest

from cli.new import write_skeleton

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def blocks(page: str) -> list[str]:
    """Code of a page's Python blocks."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_page_on_python_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks("python.md"):
        exec(compile(code, "docs/python.md", "exec"), names)
    assert "done" in capsys.readouterr().out and len(list(Path("runs").glob("prior/*/*/report.html"))) == 2


FILE = re.compile(r"`((?:recipes|conf|tests)/[\w/.-]+)`(?:(?!\n#).)*?\n\n```\w+\n(.*?)```", re.DOTALL)


def theirs(text: str) -> str:
    """What the tutorial's reader writes for `my-rho`, as it stands in the checkout for `rho-1`."""
    return text.replace("my-rho", "rho-1").replace("my_rho", "rho_1").replace("MyRho", "Rho1")


def tutorial() -> str:
    return theirs((DOCS / "tutorial.md").read_text(encoding="utf-8"))


def test_the_tutorial_shows_the_files_of_rho_1():
    whole = {path: code for path, code in FILE.findall(tutorial()) if f"`{path}`, whole:" in tutorial()}
    assert [path.rpartition("/")[2] for path in whole] == ["method.py", "config.py", "recipe.py"]
    for path, code in whole.items():
        assert code == (ROOT / path).read_text(encoding="utf-8"), path
    [tests] = [code for path, code in FILE.findall(tutorial()) if path.startswith("tests/")]
    assert tests in (ROOT / "tests/pretraining/test_rho_1.py").read_text(encoding="utf-8")


def test_the_tutorials_changes_make_the_config_of_rho_1_of_the_skeleton(tmp_path):
    write_skeleton(tmp_path, "rho-1", "pretraining")
    skeleton = (tmp_path / "conf/recipe/rho-1.yaml").read_text(encoding="utf-8")
    select, arms, when = (code.rstrip() for code in re.findall(r"```yaml\n(.*?)```", tutorial(), re.DOTALL))
    built = skeleton.replace("arm: rho-1\n", "arm: rho1\n").replace("\nwhen:\n", f"\n{when}\n")
    for old, new in (("weighting", select), ("arms", arms)):
        built = re.sub(rf"^{old}:\n(?:  .*\n)+", f"{new}\n", built, flags=re.MULTILINE)
    real = (ROOT / "conf/recipe/rho-1.yaml").read_text(encoding="utf-8")
    assert [line for line in built.splitlines() if "# Say in one line" not in line] == [
        line for line in real.splitlines() if not line.startswith("# Loss on the tokens")
    ]
