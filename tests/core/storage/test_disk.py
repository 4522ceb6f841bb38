"""What a disk refuses is told by place, whichever library was writing."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli import app
from recipes.core.errors import UserError
from recipes.core.storage import assets, disk
from recipes.core.storage.disk import DiskFull, nothing_begun, raising_disk_full, writable
from recipes.core.storage.files import write_text
from recipes.core.storage.locks import hold

MEGABYTES = 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "none", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def plain(path: Path) -> None:
    path.write_bytes(bytes(3 * 2**20))


def safetensors(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2**20)}, path)


def torch_save(path: Path) -> None:
    import torch

    torch.save({"a": torch.zeros(2**20)}, path)


def distributed_checkpoint(path: Path) -> None:
    import torch
    import torch.distributed.checkpoint as dcp

    dcp.save({"a": torch.zeros(2**20)}, checkpoint_id=path, no_dist=True)


def numpy(path: Path) -> None:
    import numpy as np

    np.save(path, np.zeros(2**20, np.float32))


def parquet(path: Path) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = np.random.default_rng(0).random(2**19)
    pq.write_table(pa.table({"a": numbers}), path)


def tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = {f"word-{number:040d}": number for number in range(2**16)}
    Tokenizer(WordLevel(words, unk_token="word")).save(str(path))


WRITERS = [plain, safetensors, torch_save, distributed_checkpoint, numpy, parquet, tokenizer]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_told_whoever_writes(write: Callable[[Path], None], small_disk: Path) -> None:
    with pytest.raises(DiskFull, match="the disk is full") as caught, raising_disk_full(small_disk / "file"):
        write(small_disk / "file")
    assert caught.value.where == str(small_disk / "file") and "type the same command again" in str(caught.value)


def test_a_disk_that_is_full_before_anything_begins_is_wrong_input(small_disk: Path) -> None:
    with pytest.raises(OSError):
        plain(small_disk / "file")
    with pytest.raises(UserError, match="the disk is full"), hold(small_disk / "run" / "owner.lock", "x", wait=False):
        pass
    assert not list(small_disk.rglob("owner.lock"))
    with pytest.raises(UserError, match="the disk is full"), nothing_begun():
        write_text(small_disk / "entry", "x" * 10_000)


def file(path: Path) -> Path:
    path.write_text("")
    return path


def dangling(path: Path) -> Path:
    path.symlink_to(path.with_name("nowhere") / "deeper")
    return path


def circle(path: Path) -> Path:
    path.symlink_to(path)
    return path


def no_disk(path: Path) -> Path:
    return Path("/proc")


def long_name(path: Path) -> Path:
    return path.with_name("x" * 300)


@pytest.mark.parametrize("odd", [file, dangling, circle, no_disk, long_name])
def test_a_place_that_takes_no_folder_is_named(odd: Callable[[Path], Path], tmp_path: Path) -> None:
    place = odd(tmp_path / "place")
    for write in (
        lambda: write_text(place / "run" / "status.json", ""),
        lambda: hold(place / "run" / "owner.lock", "x", wait=False).__enter__(),
    ):
        with pytest.raises(UserError) as caught:
            write()
        assert caught.value.where == str(place) or odd in (no_disk, long_name)
        assert caught.value.where.startswith(str(place)) and "outputs=FOLDER" in caught.value.hint
        assert "\n" not in caught.value.what


@pytest.mark.parametrize("number", list(disk.REASONS))
def test_every_refusal_is_one_line(number: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{tmp_path}"), writable(tmp_path):
        raise OSError(number, "library's words")


OTHERS = [OSError(errno.EINVAL, "bad"), RuntimeError("PytorchStreamWriter failed"), KeyError()]


@pytest.mark.parametrize("error", OTHERS)
def test_what_is_no_refusal_of_the_disk_passes(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, writable(tmp_path):
        raise error
    assert caught.value is error


def test_a_refusal_that_nobody_foresaw_is_no_internal_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EROFS, "library's words", str(tmp_path / "a"))

    monkeypatch.setattr("cli.doctor._python", refuse)
    assert app.main(["doctor"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'a'}: the disk is read-only\n  look at the path")


@pytest.mark.parametrize("odd", [file, dangling, circle, no_disk])
def test_a_home_that_is_no_folder_is_named(
    odd: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = odd(tmp_path / "place")
    monkeypatch.setenv("STEELYARD_HOME", str(place / "home"))
    monkeypatch.setattr(assets, "_install", lambda *arguments: pytest.fail("nothing can be installed"))
    assert app.main(["assets", "fetch", "easy-vqa"]) == 2
    assert str(place) in capsys.readouterr().err
