"""Files appear whole or not at all; a full disk is told in plain words."""

import errno
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.core.errors import RunFailed
from recipes.core.storage import files


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"
    files.write_text(target, "old")
    files.write_text(target, "new")
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["file.txt"]


def test_a_full_disk_keeps_the_old_content_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file.txt"
    files.write_text(target, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunFailed, match="the disk is full") as caught:
        files.write_text(target, "new")
    assert "type the same command again" in str(caught.value)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_published_folder_replaces_the_old_one(tmp_path: Path) -> None:
    for content in ("one", "two"):
        staging = tmp_path / "staging"
        staging.mkdir()
        (staging / "file").write_text(content)
        files.publish_folder(staging, tmp_path / "final")
    assert (tmp_path / "final" / "file").read_text() == "two"
    assert os.listdir(tmp_path) == ["final"]


def test_json_hashes_do_not_depend_on_the_order_of_keys() -> None:
    assert files.sha256_json({"a": 1, "b": [2, None]}) == files.sha256_json({"b": [2, None], "a": 1})
    assert files.sha256_text("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_json_stays_json_where_a_number_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    files.write_json(path, {"d_z": math.inf, "rows": [(math.nan, 1.5)], "none": None})
    assert path.read_text().split() == [
        "{",
        '"d_z":',
        "null,",
        '"rows":',
        "[",
        "[",
        "null,",
        "1.5",
        "]",
        "],",
        '"none":',
        "null",
        "}",
    ]


def test_a_shared_file_has_the_content_and_replaces_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_text("new")
    (tmp_path / "target").write_text("old")
    files.share_file(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_text() == "new" and os.path.samefile(tmp_path / "source", tmp_path / "target")

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    files.share_file(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "new" and not os.path.samefile(tmp_path / "source", tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "source", "target"]


def test_a_tilde_that_names_nobody_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/there")
    assert [str(files.home_path(text)) for text in ("~/a", "~no one/a", "b/~c")] == ["/there/a", "~no one/a", "b/~c"]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda below: (
        st.lists(below, max_size=4)
        | st.lists(below, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), below, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_json_for_people_is_what_the_library_writes(value: object, ascii_only: bool) -> None:
    expected = json.dumps(files.finite(value), indent=2, ensure_ascii=ascii_only)
    assert files.json_text(value, ascii_only) == expected


@pytest.mark.parametrize("size", [0, 1, files.SMALL - 1, files.SMALL, files.SMALL + 1])
def test_the_hash_of_a_file_is_that_of_its_bytes_at_every_size(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(data := os.urandom(size))
    assert files.sha256_file(tmp_path / "file") == files.sha256_bytes(data)
