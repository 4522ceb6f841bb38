"""The command line as a function: words in, exit code and both streams out."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cli import app
from recipes.core.config.registry import ROOT
from tests.core.conftest import make_run

__all__ = ["make_run"]


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def steelyard(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Ended]:
    """`steelyard(*words)` runs a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))

    def run(*words: object) -> Ended:
        code = app.main([str(word) for word in words])
        streams = capsys.readouterr()
        return Ended(code, streams.out, streams.err)

    return run


def in_process(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python on its own in the checkout, with pipes for streams."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600
    )
