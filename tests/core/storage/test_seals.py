"""Seals: any change of a file that a finished run left is one text that names it; nothing else is."""

import json
import os
from pathlib import Path

import pytest

from recipes.core.runs.folder import RunFolder
from recipes.core.storage import seals
from recipes.core.storage.seals import MISSING, SEAL, seal_digest


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "curve").mkdir()
    (tmp_path / "curve" / "step-1.parquet").write_bytes(b"one")
    checkpoint = tmp_path / "checkpoints" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    (checkpoint / "complete.json").write_text("{}")
    run.log(1, "final", {"loss": 1.0}, 0.1)
    run.finish(step=1, max_steps=1)
    return run


def test_a_finished_run_is_whole_and_says_what_it_sealed(run: RunFolder) -> None:
    assert run.damage() == "" and run.status()["state"] == "done"
    sealed = json.loads((run.path / SEAL).read_text())["files"]
    assert sorted(sealed) == [
        "checkpoints/checkpoint-1/complete.json",
        "config.yaml",
        "curve/step-1.parquet",
        "metrics.jsonl",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "config.yaml has changed"),
        ("metrics.jsonl", "metrics.jsonl has changed"),
        ("curve/step-1.parquet", "curve/step-1.parquet has changed"),
        ("checkpoints/checkpoint-1/complete.json", "checkpoints/checkpoint-1/complete.json has changed"),
        ("seal.json", "seal.json is damaged"),
        ("status.json", "status.json "),
    ],
)
def test_one_flipped_bit_is_named(run: RunFolder, name: str, text: str) -> None:
    assert run.damage() == ""  # remembered, until `stat` tells of the change
    content = bytearray((run.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run.path / name).write_bytes(content)
    assert run.damage().startswith(text)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "curve/step-1.parquet", "status.json", "seal.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "folder", "loop"])
def test_what_is_gone_or_something_else_is_named(run: RunFolder, name: str, damage: str) -> None:
    path = run.path / name
    path.unlink()
    if damage == "empty":
        path.touch()
    elif damage == "folder":
        path.mkdir()
    elif damage == "loop":
        os.symlink(path, path)
    assert name in run.damage()


def test_a_result_that_was_added_is_named_and_other_files_are_not(run: RunFolder) -> None:
    (run.path / "notes.txt").write_text("good run")
    (run.path / "report.html").write_text("<html>")
    assert run.damage() == ""
    (run.path / "heatmap.json").write_text("{}")
    assert run.damage() == "heatmap.json was added"


def test_a_run_that_is_done_without_a_seal_is_told_apart(run: RunFolder) -> None:
    (run.path / SEAL).unlink()
    assert run.damage() == MISSING


def test_a_run_that_is_not_finished_has_no_seal_to_break(run: RunFolder) -> None:
    run.update_status(state="running")  # as when the same folder is worked on again
    assert run.damage() == ""


def test_a_seal_is_as_the_results_are(run: RunFolder, tmp_path: Path) -> None:
    before = seal_digest(run.path)
    assert before is not None and seal_digest(tmp_path / "elsewhere") is None
    (run.path / "metrics.jsonl").write_text("")
    run.finish(finished=run.status()["finished"])
    assert seal_digest(run.path) != before


@pytest.mark.parametrize("content", [b'{"sha256": "x", "a": "\\ud800"}', b"[" * 10_000, b'{"files": 3}'])
def test_a_seal_that_is_none_is_damage(run: RunFolder, content: bytes) -> None:
    (run.path / SEAL).write_bytes(content)
    assert run.damage() == "seal.json is damaged"


def test_what_is_looked_at_again_is_not_read_again(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.damage() == ""
    monkeypatch.setattr(seals, "_read_seal", lambda folder: pytest.fail("the seal was read"))
    assert run.damage() == ""
    (run.path / "curve" / "step-1.parquet").write_bytes(b"two")
    with pytest.raises(pytest.fail.Exception):
        run.damage()
