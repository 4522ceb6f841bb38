"""Assets in source packages: fetched by pip's finder from a folder, and their build code never runs."""

import dataclasses
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from recipes.core.errors import UserError
from recipes.core.storage import assets, packages
from recipes.core.storage.assets import Asset
from recipes.core.storage.files import sha256_file

TOP = "toy_pack-1.0"
DATA = {
    f"{TOP}/data/train/a.txt": b"first",
    f"{TOP}/data/b.json": b"[1]",
    f"{TOP}/data/code.py": b"raise SystemExit",
    f"{TOP}/LICENSE": b"do as you like",
    f"{TOP}/vendored/LICENSE": b"another's",
    f"{TOP}/PKG-INFO": b"Metadata-Version: 2.1\nName: toy-pack\nVersion: 1.0\n",
}


def tar_bytes(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


def zip_file(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of one source package whose setup.py leaves a trace, a store of one asset, no other index."""
    folder = tmp_path / "index"
    folder.mkdir()
    trace = f"open({str(tmp_path / 'trace')!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='toy-pack')\n"
    package = folder / f"{TOP}.tar.gz"
    package.write_bytes(tar_bytes(DATA | {f"{TOP}/setup.py": trace.encode()}))
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("STEELYARD_OFFLINE", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    entry = Asset(
        "toy", "toy-pack", "1.0", sha256_file(package), "data", "a toy", "MIT", "nowhere", 1, f"{TOP}/data",
        ("*/*.txt", "b.json"), form="source package",
    )  # fmt: skip
    monkeypatch.setattr(assets, "ASSETS", {"toy": entry})
    return folder


def pin(monkeypatch: pytest.MonkeyPatch, package: Path, **changes: object) -> None:
    entry = dataclasses.replace(assets.ASSETS["toy"], sha256=sha256_file(package), **changes)  # type: ignore[arg-type]
    monkeypatch.setattr(assets, "ASSETS", {"toy": entry})


def refused() -> str:
    with pytest.raises(UserError) as raised:
        assets.fetch("toy")
    assert assets.status("toy").state == "missing"
    return str(raised.value)


def test_a_source_package_is_fetched_and_its_build_code_does_not_run(index: Path) -> None:
    folder = assets.asset_path("toy")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"train/a.txt", "b.json", "LICENSE", "manifest.json"}
    assert (folder / "train/a.txt").read_bytes() == b"first"
    assert (folder / "LICENSE").read_bytes() == b"do as you like"
    assert assets.verify("toy") == []
    assert not (index.parent / "trace").exists()


def test_the_wheel_beside_it_is_not_taken(index: Path) -> None:
    wheel = index / "toy_pack-1.0-py3-none-any.whl"
    zip_file(wheel, {"toy_pack-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toy-pack\nVersion: 1.0\n"})
    assert (assets.asset_path("toy") / "b.json").read_bytes() == b"[1]"


def test_a_zip_holding_an_archive_of_the_data(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (index / f"{TOP}.tar.gz").unlink()
    inner = tar_bytes({"study/b.json": b"[2]", "study/x/a.txt": b"second"})
    package = zip_file(index / f"{TOP}.zip", DATA | {f"{TOP}/extra/study.tar.gz": inner})
    pin(monkeypatch, package, root="study", inner=f"{TOP}/extra/study.tar.gz")
    folder = assets.fetch("toy")
    assert (folder / "b.json").read_bytes() == b"[2]" and (folder / "x/a.txt").read_bytes() == b"second"
    assert sorted(path.name for path in folder.iterdir()) == ["LICENSE", "b.json", "manifest.json", "x"]
    pin(monkeypatch, package, root="study", inner=f"{TOP}/extra/gone.tar.gz", version="1.0")
    with pytest.raises(UserError, match=r"the source package has no \*/\*\.txt, b\.json"):
        assets.fetch("toy", force=True)


def test_a_wrong_hash_is_refused(index: Path) -> None:
    pinned = assets.ASSETS["toy"].sha256
    (index / f"{TOP}.tar.gz").write_bytes(tar_bytes(DATA | {f"{TOP}/data/b.json": b"[666]"}))
    text = refused()
    assert f"{TOP}.tar.gz: asset toy: the download is not the file that was pinned" in text
    assert pinned in text and sha256_file(index / f"{TOP}.tar.gz") in text


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", f"{TOP}/data/../../../evil.txt", "C:\\evil.txt"])
def test_a_member_that_points_outside_is_refused(index: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    package = index / f"{TOP}.tar.gz"
    package.write_bytes(tar_bytes(DATA | {name: b"boo"}))
    pin(monkeypatch, package, files=("*",), root=".")
    assert "the source package names a file outside its folder, so it was refused" in refused()
    assert not list(index.parent.rglob("evil.txt"))


def test_links_are_not_followed(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (index.parent / "secret").write_text("mine")
    package = index / f"{TOP}.tar.gz"
    links = {f"{TOP}/data/link.txt": str(index.parent / "secret"), f"{TOP}/data/out": str(index.parent)}
    package.write_bytes(tar_bytes(DATA, links))
    pin(monkeypatch, package, files=("*.json", "link.txt"))
    assert "the source package has no link.txt" in refused()


def test_a_package_that_is_not_there_is_told(index: Path) -> None:
    (index / f"{TOP}.tar.gz").unlink()
    text = refused()
    assert "asset toy is not on this machine: pip could not download it" in text
    assert "pip said: ERROR: No matching source distribution found for toy-pack==1.0" in text


def test_an_error_on_the_way_is_told_in_one_line(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setattr(packages, "_OPTIONS", ["--quiet", "--retries", "0"])
    assert "pip said: ERROR: " in refused()


def test_a_pip_whose_inside_moved_says_what_to_type(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = packages._FETCH_SOURCE.replace("_build_package_finder", "_moved_in_pip_99")
    monkeypatch.setattr(packages, "_FETCH_SOURCE", script)
    text = refused()
    assert "this pip has no known way to fetch a source package without running its build code" in text
    assert "-m pip install 'pip" in text and "steelyard assets fetch toy" in text
    assert "AttributeError" in text and "_moved_in_pip_99" in text


def test_no_pip_is_told(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_FETCH_SOURCE", "raise ModuleNotFoundError(\"No module named 'pip'\")")
    assert "which this Python does not have" in refused()
