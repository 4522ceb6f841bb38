"""Shell completion through the protocol that the shells use: environment variables in, lines out."""

import os
from pathlib import Path

import pytest

from cli.new import write_skeleton
from tests.cli.conftest import in_process


def offered(line: str, shell: str = "bash") -> list[str]:
    words = line.split(" ")
    environment = dict(os.environ) | {
        "_STEELYARD_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
    }
    ended = in_process("-c", "from cli.app import main; main()", environment=environment)
    assert ended.stderr == ""
    return ended.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("steelyard ru", ["run", "runs"]),
        ("steelyard run pr", ["prior"]),
        ("steelyard run sample-reweighting data = l", ["licences", "linear-regression"]),
        ("steelyard run prior arm=pr", ["arm=prior", "arm=prior_floor"]),
        ("steelyard run prior arm = pr", ["prior", "prior_floor"]),  # Bash breaks words at =
        ("steelyard run prior data =", ["digit-captions", "easy-vqa", "image-text"]),
        ("steelyard run prior trainer.l", ["trainer.learning_rate=", "trainer.log_steps="]),
        ("steelyard run prior arm = ntp trainer.learn", ["trainer.learning_rate=0.002"]),
        ("steelyard run prior trainer.schedule=c", ["trainer.schedule=constant", "trainer.schedule=cosine"]),
        ("steelyard run prior budget=smoke trainer.max_s", ["trainer.max_steps=40"]),
        ("steelyard run nothing arm=", []),
        ("steelyard compare prior --arm ra", ["random"]),
        ("steelyard assets fetch ea", ["easy-vqa"]),
        ("steelyard trial prior --arms pr", ["prior", "prior_floor"]),
        ("steelyard trial prior --arms prior,n", ["prior,ntp"]),
        ("steelyard trial prior --launcher s", ["slurm", "submitit"]),
        ("steelyard sweep prior data =", ["digit-captions", "easy-vqa", "image-text"]),
    ],
)
def test_bash(line, expected) -> None:
    assert offered(line) == expected


def test_zsh_gets_descriptions() -> None:
    assert '("arm=ntp":"baseline' in " ".join(offered("steelyard run prior arm=n", "zsh"))


def test_recipes_outside_and_options_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_skeleton(tmp_path / "recipes", "quite-far", "", outside=True)
    monkeypatch.setenv("STEELYARD_RECIPES", str(tmp_path / "recipes"))
    assert offered("steelyard run qui") == ["quite-far"]
    assert offered("steelyard run quite-far arm = ra") == ["random"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lamps.yaml").write_text("defaults: [licences, _self_]\n")
    assert offered(f"steelyard run quite-far --config-dir {tmp_path} data = la") == ["lamps"]
