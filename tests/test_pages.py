"""What pages show as code is code that runs."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


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
