"""The cache builds once, verifies what it finds and heals what is damaged."""

import errno
import random
import shutil
from pathlib import Path

import pytest

from recipes.core.errors import UserError
from recipes.core.storage import cache, fingerprints
from recipes.core.storage.disk import DiskFull
from recipes.core.storage.files import sha256_file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    return tmp_path


class Builder:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "part").mkdir()
        (folder / "part" / "data.bin").write_bytes(b"abc" * 100)


def test_an_entry_is_built_once() -> None:
    build = Builder()
    first, second = cache.build_once("kind", "key", build), cache.build_once("kind", "key", build)
    assert first == second
    assert build.calls == 1
    assert (first / "part" / "data.bin").read_bytes() == b"abc" * 100


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed", "folder", "whole", "[]", '{"part/data.bin": 3}'])
def test_a_damaged_entry_is_built_again_and_said(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    build = Builder()
    folder = cache.build_once("kind", "key", build)
    data = folder / "part" / "data.bin"
    if damage == "missing":
        data.unlink()
    elif damage == "truncated":
        data.write_bytes(b"abc")
    elif damage == "changed":
        data.write_bytes(b"abd" * 100)
    elif damage == "folder":
        data.unlink()
        data.mkdir()
    elif damage == "whole":  # a file where the entry stood
        shutil.rmtree(folder)
        folder.write_text("")
    else:
        (folder / cache.MANIFEST).write_text(damage)
    again = cache.build_once("kind", "key", build)
    assert build.calls == 2
    assert (again / "part" / "data.bin").read_bytes() == b"abc" * 100
    assert "is damaged" in capsys.readouterr().err


def test_no_random_damage_of_an_entry_is_ever_read() -> None:
    draw, build = random.Random(20), Builder()
    folder = cache.build_once("kind", "key", build)
    for number in range(100):
        path = draw.choice([folder / "part" / "data.bin", folder / cache.MANIFEST])
        content = path.read_bytes()
        place = draw.randrange(len(content))
        flipped = bytes([*content[:place], content[place] ^ 1 << draw.randrange(8), *content[place + 1 :]])
        path.write_bytes(draw.choice([flipped, content[:place], b"\x00" * 9, b"[" * 20_000, b'{"part/data.bin": {}}']))
        cache.build_once("kind", "key", build)
        assert (folder / "part" / "data.bin").read_bytes() == b"abc" * 100, number
        assert cache.problems(folder) == [], number


def test_a_failed_build_leaves_nothing(home: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.build_once("kind", "key", fail)
    assert not (home / "cache" / "kind").exists()


def test_a_build_that_was_stopped_goes_on_and_one_that_failed_does_not(home: Path) -> None:
    seen: list[list[str]] = []

    def build(folder: Path) -> None:
        seen.append(sorted(path.name for path in folder.iterdir()))
        (folder / f"part{len(seen)}").write_text("")
        for error in errors[len(seen) - 1 :][:1]:
            raise error

    errors: list[BaseException] = [KeyboardInterrupt(), OSError(errno.ENOSPC, "full"), ValueError()]
    for kind in (KeyboardInterrupt, DiskFull, ValueError):
        with pytest.raises(kind):
            cache.build_once("kind", "key", build, resumable=True)
    folder = cache.build_once("kind", "key", build, resumable=True)
    assert seen == [[], ["part1"], ["part1", "part2"], []]
    assert cache.problems(folder) == [] and len(list(folder.parent.iterdir())) == 1


def test_a_large_entry_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(folder: Path) -> None:
        (folder / "data.bin").write_bytes(b"x" * (1 << 20))

    folder = cache.build_once("kind", "key", build)
    data, hashed = folder / "data.bin", []
    monkeypatch.setattr(fingerprints, "SETTLED_SECONDS", 0.0)
    monkeypatch.setattr(fingerprints, "sha256_file", lambda path: hashed.append(path) or sha256_file(path))
    for _ in range(3):
        cache.build_once("kind", "key", build)
    assert hashed == [data]
    assert cache.problems(folder, hashed=True) == []
    with data.open("r+b") as file:
        file.write(b"y")
    assert cache.problems(folder) == ["data.bin has changed"]
    cache.build_once("kind", "key", build)
    assert data.read_bytes()[:1] == b"x"


@pytest.mark.parametrize(
    ("named", "expected"), [("~/there", "home/there"), ("here", "here"), ("", "home/.cache/steelyard")]
)
def test_the_home_is_where_it_is_said_to_be(
    named: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STEELYARD_HOME", named)
    assert cache.home() == tmp_path / expected


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_HOME", "~no-such-user/there")
    with pytest.raises(UserError, match="no home folder") as caught:
        cache.home()
    assert "set STEELYARD_HOME" in caught.value.hint
