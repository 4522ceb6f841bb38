"""Names on the hub: by commit, from the hub's local cache where there is no network."""

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub.utils import filter_repo_objects
from transformers import GPT2Config, GPT2LMHeadModel

from recipes.core.errors import UserError
from recipes.core.models.causal import load_causal_lm
from recipes.core.storage import hub

NEW, OLD, KEY = "a" * 40, "b" * 40, "model.path"


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub, without network, that holds two commits of owner/name."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    hub._commit.cache_clear()
    repo = tmp_path / "models--owner--name"
    for width, commit, revision in ((8, NEW, "main"), (4, OLD, "v1.0")):
        config = GPT2Config(vocab_size=30, n_embd=width, n_layer=1, n_head=2, n_positions=16)
        GPT2LMHeadModel(config).save_pretrained(repo / "snapshots" / commit)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / revision).write_text(commit)
    return repo


def test_a_name_stands_for_a_commit_and_its_files(offline: Path) -> None:
    for name, commit, width in (
        ("owner/name", NEW, 8),
        ("owner/name@main", NEW, 8),
        ("owner/name@v1.0", OLD, 4),
        (f"owner/name@{OLD}", OLD, 4),
    ):
        assert hub.commit(name, KEY) == (commit, False)
        assert load_causal_lm(name, KEY).config.n_embd == width


def test_what_was_never_downloaded_is_refused_at_once(offline: Path) -> None:
    for name in ("owner/other", "owner/name@v2", f"owner/name@{'c' * 40}", "gpt2"):
        with pytest.raises(UserError, match="without network only a model that was downloaded before") as caught:
            load_causal_lm(name, KEY)
        assert caught.value.where == f"{KEY}={name}"


def test_a_data_set_is_named_by_what_was_downloaded_last(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    with pytest.raises(UserError, match="without network only a data set that was downloaded before") as caught:
        hub.commit("owner/data", "data.path", hub.DATA)
    assert (caught.value.where, caught.value.hint) == ("data.path=owner/data", hub._WORDS[hub.DATA][1])
    hub._commit.cache_clear()
    (tmp_path / "datasets" / "owner___data" / "default" / "0.0.0" / NEW).mkdir(parents=True)
    assert hub.commit("owner/data", "data.path", hub.DATA) == (NEW, False)
    (tmp_path / "datasets--owner--data" / "refs").mkdir(parents=True)
    (tmp_path / "datasets--owner--data" / "refs" / "main").write_text(OLD)
    hub._commit.cache_clear()
    assert hub.commit("owner/data", "data.path", hub.DATA) == (OLD, False)
    assert hub.commit(f"owner/data:subset@{NEW}", "data.path", hub.DATA) == (NEW, False)
    with pytest.raises(UserError, match="without network only a data set that was downloaded before"):
        hub.commit("owner/data@v2", "data.path", hub.DATA)


def test_a_download_without_its_weights_is_refused_by_name(offline: Path) -> None:
    (offline / "snapshots" / NEW / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no \*\.safetensors"):
        load_causal_lm("owner/name", KEY)


def test_a_folder_here_goes_before_a_name(offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(offline / "snapshots" / OLD, tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert not hub.is_name("owner/name") and hub.is_name("owner/other")
    assert load_causal_lm("owner/name", KEY).config.n_embd == 4


@pytest.mark.parametrize("text", ["/a/b", "./a", "~/a", "a/b/c", "a b/c", "", "a/", "../a"])
def test_paths_are_no_names(text: str) -> None:
    assert not hub.is_name(text)


def test_files_in_folders_are_fetched_only_of_a_sentence_encoder() -> None:
    files = [
        "config.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "onnx/config.json",
        "original/params.json",
        "model.safetensors",
    ]
    fetched = filter_repo_objects(files, allow_patterns=[*hub._SMALL, *hub._WEIGHTS], ignore_patterns=[hub._BELOW])
    assert list(fetched) == ["config.json", "1_Pooling/config.json", "2_Dense/config.json", "model.safetensors"]
