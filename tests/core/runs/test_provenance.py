"""What `env.json` says of machine, packages and code, and the file with what differs from the commit."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from recipes.core.report.page import environment_rows
from recipes.core.runs import provenance
from recipes.core.runs.provenance import checkout, machine, package_versions, short_diff, write_changes


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A checkout of one commit with one file."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "a.py").write_text("x = 1\n")
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"],
    ):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder


def test_every_package_is_listed_and_few_are_shown() -> None:
    described = machine(checkout())
    assert described["all_packages"]["torch"] == torch.__version__
    assert {"pyyaml", "pytest"} <= set(described["all_packages"])
    assert list(package_versions()) == sorted(package_versions())
    shown = dict(environment_rows(described))
    assert "all_packages" not in shown and "torch" in shown["packages"] and "pytest" not in shown["packages"]
    json.dumps(described)


def test_a_clean_checkout_is_its_commit(repository: Path, tmp_path: Path) -> None:
    state = checkout(repository)
    assert state.commit and state.name == state.commit and state.diff == ""
    write_changes(tmp_path, state)
    assert not (tmp_path / provenance.DIFF).exists()


def test_what_differs_from_the_commit_is_kept(repository: Path, tmp_path: Path) -> None:
    (repository / "a.py").write_text("x = 2\n")
    (repository / "new.py").write_text("y = 3\n")
    state = checkout(repository)
    assert state.name == f"{state.commit}+changes"
    write_changes(tmp_path, state)
    text = (tmp_path / provenance.DIFF).read_text()
    assert text.startswith(f"commit {state.commit}\n M a.py\n?? new.py\n")
    assert "-x = 1\n+x = 2\n" in text


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path) -> None:
    assert checkout(tmp_path).name is None


def test_a_long_diff_is_cut_by_whole_files() -> None:
    small, large = "diff --git a/s b/s\n+1\n", "diff --git a/l b/l\n" + "+2\n" * 100
    assert short_diff(large + small, 100) == small + f"left out, {len(large)} characters: a/l b/l\n"
    assert short_diff(small, 100) == small
    assert short_diff("", 100) == ""
