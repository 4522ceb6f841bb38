"""Manifests of checksums: whatever happens to a file or to the manifest is one plain text, never an exception."""

import json
import os
from pathlib import Path

import pytest

from recipes.core.storage.checksums import checksums, files_below, mismatches, read_checksums

HASH_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a.bin").write_bytes(b"abc")
    return tmp_path


def test_worked_checksum_and_no_mismatch(folder: Path) -> None:
    entries = checksums(folder, files_below(folder))
    assert entries == {"part/a.bin": {"size": 3, "sha256": HASH_OF_ABC}}
    assert mismatches(folder, entries) == []


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: path.write_bytes(b"abd"), "part/a.bin has changed"),
        (lambda path: path.write_bytes(b"ab"), "part/a.bin has 2 bytes instead of 3"),
        (lambda path: path.unlink(), "part/a.bin is missing"),
        (lambda path: (path.unlink(), path.mkdir()), "part/a.bin is no file"),
        (lambda path: (path.unlink(), os.symlink(path, path)), "part/a.bin is missing"),
    ],
)
def test_every_damage_is_named(folder: Path, damage, text: str) -> None:
    entries = checksums(folder, files_below(folder))
    damage(folder / "part" / "a.bin")
    assert mismatches(folder, entries) == [text]


def test_large_files_are_compared_by_size_alone_where_asked(folder: Path) -> None:
    entries = checksums(folder, files_below(folder))
    (folder / "part" / "a.bin").write_bytes(b"abd")
    assert mismatches(folder, entries, hash_below=3) == []
    assert mismatches(folder, entries, hash_below=4) == ["part/a.bin has changed"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"3",
        b"\x00\xff",
        b"[" * 100_000,
        b'{"a": 3}',
        b'{"a": {"size": "3", "sha256": "x"}}',
        b'{"a": {"size": 3}}',
        b'{"../a": {"size": 3, "sha256": "x"}}',
        b'{"/etc/passwd": {"size": 3, "sha256": "x"}}',
        b'{"a": {"size": 3, "sha256": "x"',
    ],
)
def test_what_is_no_manifest_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    assert read_checksums(tmp_path / "manifest.json") is None


def test_a_manifest_is_read_back(folder: Path) -> None:
    entries = checksums(folder, files_below(folder))
    (folder / "manifest.json").write_text(json.dumps(entries))
    assert read_checksums(folder / "manifest.json") == entries
    assert read_checksums(folder / "part") is None
