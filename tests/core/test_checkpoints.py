"""A checkpoint is whole or absent; a damaged one gives way to the one before, and that is said."""

import errno
from pathlib import Path

import pytest

from recipes.core import checkpoints, files
from recipes.core.errors import RunFailed

FILES = ("model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json")


def save(folder: Path, step: int) -> Path:
    with checkpoints.staged(folder, step) as staging:
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
    with pytest.raises(ValueError, match="no"), checkpoints.staged(tmp_path, 20) as staging:
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
