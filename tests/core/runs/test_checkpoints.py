"""A checkpoint is whole or absent; a damaged one gives way to the one before, and that is said."""

import errno
from pathlib import Path

import pytest

from recipes.core.errors import RunFailed, UserError
from recipes.core.runs import checkpoints
from recipes.core.storage import files

FILES = ("model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json")


def save(folder: Path, step: int) -> Path:
    with checkpoints.publish(folder, step) as staging:
        for name in FILES:
            (staging / f"checkpoint-{step}" / name).write_text(f"{name} after {step}")
    return folder / f"checkpoint-{step}"


def test_a_published_checkpoint_verifies_and_leaves_no_staging(tmp_path: Path) -> None:
    assert checkpoints.verify(save(tmp_path, 10)) == []
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


@pytest.mark.parametrize("name", [*FILES, checkpoints.MANIFEST])
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_any_damaged_file_gives_way_to_the_checkpoint_before(name: str, damage: str, tmp_path: Path) -> None:
    before, newest = save(tmp_path, 10), save(tmp_path, 20)
    path = newest / name
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.write_bytes(b"{" + path.read_bytes()[1:-1] + b"!")
    said: list[str] = []
    assert checkpoints.newest_valid(tmp_path, said.append) == before
    assert len(said) == 1 and "checkpoint-20 cannot be used" in said[0] and name in said[0]


def test_no_valid_checkpoint_means_none(tmp_path: Path) -> None:
    (save(tmp_path, 10) / "optimizer.pt").unlink()
    said: list[str] = []
    assert checkpoints.newest_valid(tmp_path, said.append) is None
    assert "optimizer.pt is missing" in said[0]
    assert checkpoints.newest_valid(tmp_path / "nowhere", said.append) is None


def test_the_newest_is_by_number_not_by_name(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        save(tmp_path, step)
    assert checkpoints.newest_valid(tmp_path, print) == tmp_path / "checkpoint-100"
    checkpoints.prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-20"]


def test_a_failed_save_leaves_the_old_checkpoints_alone(tmp_path: Path) -> None:
    save(tmp_path, 10)
    with pytest.raises(ValueError, match="no"), checkpoints.publish(tmp_path, 20) as staging:
        (staging / "checkpoint-20" / "half").write_text("half")
        raise ValueError("no")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


def test_a_full_disk_is_told_and_leaves_the_old_checkpoints_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 10)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunFailed, match="the disk is full"):
        save(tmp_path, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
    assert checkpoints.verify(tmp_path / "checkpoint-10") == []


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A run with a checkpoint after step 4, that went on to measure and was cut off while it wrote."""
    (tmp_path / "curve").mkdir()
    (tmp_path / "curve" / "step-4.parquet").write_bytes(b"four")
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n{"step": 4}\n')
    with checkpoints.publish(tmp_path / "checkpoints", 4) as staging:
        checkpoints.note_measured(tmp_path, staging / "checkpoint-4")
    (tmp_path / "curve" / "step-6.parquet").write_bytes(b"six")
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n{"st\x00\x00')
    return tmp_path


def test_the_metric_stream_is_cut_back_to_the_checkpoint(measured: Path) -> None:
    checkpoints.cut_back(measured, 4)
    checkpoints.cut_back(measured, 4)
    assert (measured / "metrics.jsonl").read_text() == '{"step": 2}\n{"step": 4}\n'
    checkpoints.cut_back(measured, 0)  # no checkpoint: from the start
    assert (measured / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("metrics.jsonl", b'{"step": 3}\n{"step": 4}\n', "metrics.jsonl has changed"),
        ("metrics.jsonl", b'{"step": 2}\n', "metrics.jsonl has changed"),
        ("curve/step-4.parquet", b"five", "curve/step-4.parquet has changed"),
    ],
)
def test_what_a_run_measured_before_its_checkpoint_must_not_change(
    measured: Path, name: str, content: bytes, text: str
) -> None:
    (measured / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{text} since checkpoint-4 was saved") as refused:
        checkpoints.cut_back(measured, 4)
    assert "--fresh" in refused.value.hint
