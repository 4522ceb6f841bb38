"""What is printed can be lost; what is done goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.core.config.registry import ROOT

STEELYARD = f"{sys.executable} -m cli.app"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which a failing command fails the pipe; its output is UTF-8."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("{s} list >&-", 0, ""),
        ("{s} list | head -1", 0, ""),
        ("{s} nosuch 2>&- <&-", 2, ""),
        ("{s} list >/dev/full", 0, "warning: stdout cannot be written (No space left on device)\n"),
    ],
)
def test_streams_that_are_closed_or_gone(line: str, code: int, said: str) -> None:
    ended = shell(line.format(s=STEELYARD))
    assert (ended.returncode, ended.stderr) == (code, said)


def test_names_are_utf8_in_the_c_locale(tmp_path: Path) -> None:
    poor = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "TERM": "dumb"}
    outputs = tmp_path / "é"
    ended = shell(f"{STEELYARD} run prior --dry-run outputs={outputs}", **poor)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"run folder  {outputs}/prior/prior/")


def test_a_mode_without_utf8_that_was_asked_for_starts_once() -> None:
    poor = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "TERM": "dumb"}
    ended = shell(f"timeout 60 {sys.executable} -X utf8=0 -m cli.app --version", **poor)
    assert (ended.returncode, ended.stdout[:10]) == (0, "steelyard ")
