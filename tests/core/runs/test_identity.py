"""What names a run: content, not paths. The same data elsewhere is the same run, one changed line another."""

import dataclasses
import json
import os
import shutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from recipes.core.config import compose, registry
from recipes.core.config.identity_keys import EARLIER_KEYS, LATER_KEYS, NOT_IDENTITY
from recipes.core.errors import RunFailed, UserError
from recipes.core.models.config import CausalLMConfig, SmallLMConfig
from recipes.core.runs import identity
from recipes.core.runs.folder import RunFolder, run_folder
from recipes.core.runs.identity import check_unchanged, content_of, content_tree, identify
from recipes.core.runs.records import ABSENT, RunRecord, config_differences
from recipes.core.storage import fingerprints, hub
from recipes.core.storage.files import sha256_json
from recipes.core.trial.cells import sweep_cells


def of(recipe: str, *words: str) -> str:
    return identify(compose.compose(recipe, list(words))).hash


def write_pairs(path: Path, answer: str = "yes") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"prompt": "a", "chosen": answer, "rejected": "no"}) + "\n", encoding="utf-8")
    return path


def write_model(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def pairs(path: Path | str) -> str:
    return of("sparsepo", "data=preferences", f"data.path={path}")


def test_data_under_another_name_is_the_same_run_and_a_changed_line_another(tmp_path: Path) -> None:
    first = pairs(write_pairs(tmp_path / "a.jsonl"))
    assert pairs(write_pairs(tmp_path / "elsewhere" / "b.jsonl")) == first
    os.symlink(tmp_path / "a.jsonl", tmp_path / "link.jsonl")
    assert pairs(tmp_path / "link.jsonl") == first
    assert pairs(write_pairs(tmp_path / "a.jsonl", answer="yes!")) != first
    assert pairs(write_pairs(tmp_path / "a.jsonl")) == first


def test_one_relative_path_in_two_working_directories_is_two_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = []
    for name, answer in (("one", "yes"), ("two", "Yes"), ("three", "yes")):
        write_pairs(tmp_path / name / "pairs.jsonl", answer)
        monkeypatch.chdir(tmp_path / name)
        hashes.append(pairs("pairs.jsonl"))
    assert hashes[0] == hashes[2] != hashes[1]


@pytest.mark.parametrize(
    ("recipe", "key", "words"),
    [
        ("sparsepo", "model.path", ["model=causal-lm"]),
        ("sparsepo", "reference.model", []),
        ("sample-reweighting", "model.path", ["model=causal-lm"]),
        ("dsir", "model.path", ["model=causal-lm"]),
        ("prior", "model.path", ["model=llava"]),
        ("prior", "reference.path", ["reference.source=path"]),
        ("token-pruning", "model.path", ["model=minilm", "data=passages"]),
    ],
)
def test_every_key_of_a_model_stands_for_what_the_folder_holds(
    recipe: str, key: str, words: list[str], tmp_path: Path
) -> None:
    data = ["data=preferences", f"data.path={write_pairs(tmp_path / 'a.jsonl')}"] if recipe == "sparsepo" else []

    def hashed(folder: Path) -> str:
        config = compose.compose(recipe, [*words, *data, f"{key}={folder}"])
        assert key in content_of(config)
        return identify(config).hash

    one = hashed(write_model(tmp_path / "one"))
    assert hashed(write_model(tmp_path / "two")) == one
    assert hashed(write_model(tmp_path / "three", b"Weights")) != one
    (tmp_path / "one" / "README.md").write_text("not read")
    (tmp_path / "one" / ".cache").mkdir()
    (tmp_path / "one" / ".cache" / "x.json").write_text("not read")
    write_model(tmp_path / "one" / "checkpoint-5", b"another model")
    assert hashed(tmp_path / "one") == one
    (tmp_path / "one" / "tokenizer.json").write_text("{}")
    assert hashed(tmp_path / "one") != one


def leaves(kind: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(key, metadata) of every setting below a config class, of all kinds of data and model."""
    for field in dataclasses.fields(kind):
        hint = typing.get_type_hints(kind)[field.name]
        nested = [one for one in (typing.get_args(hint) or (hint,)) if dataclasses.is_dataclass(one)]
        for one in nested:
            yield from leaves(one, f"{path}{field.name}.")
        if not nested:
            yield f"{path}{field.name}", field.metadata


def test_every_key_that_may_name_files_says_so() -> None:
    """A key that names files and has no `content` would reuse results of other data."""
    words = ("hub name", "datasets name", "folder of a", "folder that", "JSONL", "file, folder")
    for recipe in registry.recipe_names():
        for key, metadata in leaves(registry.config_class(recipe)):
            named = key.rpartition(".")[2] == "path" or any(word in metadata["help"] for word in words)
            assert metadata["content"] or not named, f"{recipe}: {key}"


def test_the_images_that_records_name_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: Path, value: int) -> Path:
        (folder / "images").mkdir(parents=True)
        Image.new("L", (4, 4), value).save(folder / "images" / "a.png")
        (folder / "captions.jsonl").write_text(json.dumps({"image": "images/a.png", "caption": "grey"}) + "\n")
        return folder / "captions.jsonl"

    def hashed(path: Path) -> str:
        return of("prior", "data=image-text", f"data.path={path}")

    one = hashed(write(tmp_path / "one", 7))
    assert hashed(write(tmp_path / "two", 7)) == one != hashed(write(tmp_path / "three", 8))
    shutil.copy(tmp_path / "three" / "images" / "a.png", tmp_path / "one" / "images" / "a.png")
    assert hashed(tmp_path / "one" / "captions.jsonl") == hashed(tmp_path / "three" / "captions.jsonl")
    # What names no file, or a home's, beside them changes nothing of that.
    for folder in ("one", "two"):
        with (tmp_path / folder / "captions.jsonl").open("a") as file:
            file.write(json.dumps({"image": "A" * 5000, "caption": "x"}) + '\n{"image": "~/b.png"}\n')
    assert hashed(tmp_path / "one" / "captions.jsonl") != hashed(tmp_path / "two" / "captions.jsonl")
    monkeypatch.setenv("HOME", str(tmp_path))
    before = hashed(tmp_path / "one" / "captions.jsonl")
    Image.new("L", (4, 4), 1).save(tmp_path / "b.png")
    assert hashed(tmp_path / "one" / "captions.jsonl") != before


def image_column(kind: str) -> dict[str, Any]:
    """Columns of a table that names the image a.png: beside bytes, beside a struct, as `datasets` stores it."""
    import pyarrow as pa

    pair = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = {"image": pa.array(["a.png"]), "caption": pa.array(["grey"])}
    return {
        "texts": texts,
        "bytes beside": texts | {"embedding": pa.array([b"x"])},
        "struct beside": texts | {"about": pa.array([{"licence": "none"}])},
        "pairs": texts | {"image": pa.array([{"bytes": None, "path": "a.png"}], pair)},
    }[kind]


@pytest.mark.parametrize("kind", ["texts", "bytes beside", "struct beside", "pairs"])
def test_images_that_a_parquet_file_names_count_whatever_its_other_columns(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    hashes = []
    pq.write_table(pa.table(image_column(kind)), tmp_path / "captions.parquet")
    for value in (7, 8, 7):
        Image.new("L", (4, 4), value).save(tmp_path / "a.png")
        hashes.append(of("prior", "data=image-text", f"data.path={tmp_path / 'captions.parquet'}"))
    assert hashes[0] == hashes[2] != hashes[1]


def test_one_bad_file_hides_no_image_that_others_name(tmp_path: Path) -> None:
    hashes = []
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text('{"no": "image"}\n')
    (tmp_path / "data" / "b.jsonl").write_text('{"image": "../a.png", "caption": "grey"}\n{bad\n')
    for value in (7, 8):
        Image.new("L", (4, 4), value).save(tmp_path / "a.png")
        hashes.append(of("prior", "data=image-text", f"data.path={tmp_path / 'data'}"))
    assert hashes[0] != hashes[1]


def test_one_path_that_is_read_in_two_ways_within_a_plan_is_looked_at_twice(tmp_path: Path) -> None:
    for name, value in (("one", 7), ("two", 8)):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4), value).save(tmp_path / name / "a.png")
    (tmp_path / "vqa.jsonl").write_text(json.dumps({"image": "a.png", "question": "?", "answer": "!"}) + "\n")
    folders = ",".join(str(tmp_path / name) for name in ("one", "two"))
    words = ["data=vqa", f"data.path={tmp_path / 'vqa.jsonl'}", f"data.images={folders}"]
    cells = sweep_cells("token-pruning", [*words, "model=llava", f"model.path={write_model(tmp_path / 'model')}"])
    assert len({cell.folder for cell in cells}) == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["data=preferences", "data.path=nowhere.jsonl"], "data.path=nowhere.jsonl: no such file or folder"),
        (["data=preferences", "data.path=/dev/null"], "data.path=/dev/null|/dev/null: is no regular file"),
        (["data=preferences", "data.path=A", "model=causal-lm", "model.path=./no"], "model.path=./no: there is no"),
    ],
)
def test_what_is_not_there_is_told_by_its_key(words: list[str], text: str, tmp_path: Path) -> None:
    there = str(write_pairs(tmp_path / "a.jsonl"))
    config = compose.compose("sparsepo", [word.replace("=A", f"={there}") for word in words])
    with pytest.raises(UserError) as refused:
        identify(config)
    assert any(part in str(refused.value) for part in text.split("|"))


def test_hub_names_stand_for_their_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = {"owner/data": "1" * 40, "owner/model": "2" * 40}
    monkeypatch.setattr(hub, "commit", lambda name, key, kind=hub.MODEL: hub.Commit(commits[name], True))
    config = compose.compose(
        "sparsepo", ["data=preferences", "data.path=owner/data", "model=causal-lm", "model.path=owner/model"]
    )
    before = identify(config)
    assert before.content["data.path"] == f"commit {'1' * 40}" and before.content["model.path"] == f"commit {'2' * 40}"
    commits["owner/model"] = "3" * 40
    assert identify(config).hash != before.hash


def test_a_run_folder_stands_for_its_seal_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "0123456789-s0")
    (run.path / "checkpoints").mkdir(parents=True)
    run.log(1, "final", {"loss": 1.0}, 0.1)
    run.finish()
    words = ["model=prior-vlm", f"model.path={run.path}", "data=prior-captions"]
    config = compose.compose("token-pruning", words)
    assert content_of(config)["model.path"].startswith("run ")
    run.log(2, "final", {"loss": 2.0}, 0.1)
    with pytest.raises(UserError, match=r"model.path=.*the run is damaged: metrics.jsonl has"):
        content_of(config)


def test_data_that_changes_while_a_run_reads_it_stops_the_run(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "a.jsonl")
    config = compose.compose("sparsepo", ["data=preferences", f"data.path={path}"])
    content = content_of(config)
    check_unchanged(config, content)
    write_pairs(path, "changed")
    with pytest.raises(RunFailed, match=r"data.path: has changed since the run began"):
        check_unchanged(config, content)
    path.unlink()
    with pytest.raises(RunFailed, match="it was there when the run began"):
        check_unchanged(config, content)


def test_a_key_of_the_cache_stands_for_content_as_well(tmp_path: Path) -> None:
    folders = [write_model(tmp_path / "one"), write_model(tmp_path / "two"), write_model(tmp_path / "three", b"W")]
    first, same, other = (content_tree(CausalLMConfig(path=str(folder)), "model") for folder in folders)
    assert first == same != other and first["path"] == {"content": content_of_model(folders[0])}
    assert content_tree(SmallLMConfig(), "model") == dataclasses.asdict(SmallLMConfig())


def content_of_model(folder: Path) -> str:
    words = ["model=causal-lm", f"model.path={folder}"]
    return content_of(compose.compose("sample-reweighting", words))["model.path"]


def test_runs_that_read_no_files_are_named_as_before() -> None:
    config = compose.compose("prior", [])
    assert content_of(config) == {} and run_folder(config).path.parts[:3] == ("outputs", "prior", config.arm)
    assert identity.hash_of(compose.to_tree(config), {}, identify(config).version) == identify(config).hash


@pytest.mark.parametrize("words", [["data=domains"], ["model=small-lm"]])
def test_a_key_that_came_later_changes_no_identity_until_it_is_set(words: list[str], tmp_path: Path) -> None:
    tree = compose.to_tree(compose.compose("sample-reweighting", words))
    before = {**tree, "data": {key: value for key, value in tree["data"].items() if key != "near_duplicates"}}
    assert tree["data"]["near_duplicates"] is None
    assert identity.hash_of(tree, {}, 1) == identity.hash_of(before, {}, 1)
    later = compose.to_tree(compose.compose("sample-reweighting", [*words, "data.near_duplicates=0.8"]))
    assert identity.hash_of(later, {}, 1) != identity.hash_of(tree, {}, 1)
    old, new, other = (RunRecord(tmp_path, "", "", 0, "done", "", each) for each in (before, tree, later))
    assert old.identity == new.identity
    assert config_differences(other, old) == [("data.near_duplicates", "0.8", "(not set)")]


def without(tree: dict[str, Any], key: str) -> dict[str, Any]:
    """A tree without what stands at a dotted key."""
    head, _, rest = key.partition(".")
    kept = {name: value for name, value in tree.items() if name != head}
    return kept | {head: without(tree[head], rest)} if rest else kept


OTHER = {
    "trainer.adam_epsilon": "1e-6",
    "trainer.decay_ratio": "0.5",
    "trainer.attention": "eager",
    "trainer.compile": "true",
    "trainer.dtype": "bfloat16",
    "trainer.group_by_length": "true",
    "trainer.nodes": "2",
    "trainer.early_stopping.metric": "log_loss",
    "trainer.early_stopping.patience": "9",
    "trainer.early_stopping.min_delta": "0.5",
}
TRAINER_KEYS = [key for key in LATER_KEYS if key.startswith("trainer.")]


def test_runs_of_before_a_setting_came_keep_their_names() -> None:
    tree = compose.to_tree(compose.compose("rho-1", []))
    before = tree
    for key in (*TRAINER_KEYS, "lora.rank", "lora.alpha", "lora.targets"):
        before = without(before, key)
    assert not before["trainer"].pop("early_stopping") and not before.pop("lora")
    assert identity.hash_of(tree, {}, 1) == identity.hash_of(before, {}, 1)


def test_a_recipe_that_had_a_key_from_the_start_keeps_it_in_its_names() -> None:
    tree = compose.to_tree(compose.compose("sparsepo", []))
    del tree["lora"]
    assert identity.hash_of(tree, {}, 1) != identity.hash_of(compose.to_tree(compose.compose("sparsepo", [])), {}, 1)


def test_keys_of_the_cache_are_those_of_before_a_setting_came() -> None:
    config = compose.compose("rho-1", [])
    assert "lora" not in content_tree(config, "") and "early_stopping" not in content_tree(config, "")["trainer"]
    assert content_tree(config.trainer, "trainer").keys() == content_tree(config, "")["trainer"].keys()


# Most recipes refuse FLOPs: tests/core/config/test_flops.py.
@pytest.mark.parametrize("key", [key for key in TRAINER_KEYS if key != "trainer.max_flops"])
def test_a_later_trainer_setting_that_is_typed_makes_another_run(key: str) -> None:
    assert of("rho-1", f"{key}={OTHER[key]}") != of("rho-1")


@pytest.mark.parametrize("key", ["trainer.gradient_checkpointing=true", "trainer.workers=2"])
def test_what_changes_no_bit_of_a_result_is_the_same_run(key: str) -> None:
    assert of("rho-1", key) == of("rho-1")


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Path]]:
    """A file whose fingerprint is kept, and the files that were hashed."""
    path, hashed = tmp_path / "large.bin", []
    path.write_bytes(b"x" * fingerprints.KEPT_FROM)
    os.utime(path, (0, 0))
    monkeypatch.setattr(fingerprints, "SETTLED_SECONDS", -3600.0)
    plain = fingerprints.sha256_file
    monkeypatch.setattr(fingerprints, "sha256_file", lambda one: (hashed.append(one), plain(one))[1])
    return path, hashed


def test_large_files_are_hashed_once_until_stat_tells_of_a_change(large, tmp_path: Path) -> None:
    path, hashed = large
    first = fingerprints.fingerprint({"": path}, tmp_path)
    assert fingerprints.fingerprint({"": path}, tmp_path) == first and hashed == [path]
    path.write_bytes(b"y" * fingerprints.KEPT_FROM)
    os.utime(path, (0, 0))  # the time of change of the inode gives it away
    assert fingerprints.fingerprint({"": path}, tmp_path) != first


@pytest.mark.parametrize("damage", [b"", b"\xff", b"0" * 64, b"0" * 64 + b" 0123456789abcdef"])
def test_a_kept_fingerprint_that_is_damaged_is_made_again(large, tmp_path: Path, damage: bytes) -> None:
    path, hashed = large
    first = fingerprints.fingerprint({"": path}, tmp_path)
    (kept,) = (tmp_path / "cache" / "fingerprints").iterdir()
    kept.write_bytes(damage)
    assert fingerprints.fingerprint({"": path}, tmp_path) == first and len(hashed) == 2


def test_a_home_that_cannot_be_written_costs_time_only(large, tmp_path: Path) -> None:
    path, hashed = large
    (tmp_path / "file").touch()
    for _ in range(2):
        assert fingerprints.fingerprint({"": path}, tmp_path / "file")
    assert hashed == [path, path]


def test_each_path_of_a_mixture_counts_by_its_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}), encoding="utf-8")
    words = [f"data.paths=[one:{tmp_path}/a.jsonl,two:{tmp_path}/b.jsonl]"]

    def now() -> identity.Identity:
        return identify(compose.compose("rho-1", words))

    before = now()
    assert set(before.content) == {"data.paths"}
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "c"}), encoding="utf-8")
    assert now().hash != before.hash
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(UserError, match="no such file or folder") as caught:
        now()
    assert caught.value.where == f"data.paths={tmp_path}/b.jsonl"


def removed(tree: dict[str, Any], key: str) -> bool:
    """Remove what stands at a dotted key; whether its node holds nothing else."""
    head, _, rest = key.partition(".")
    if not isinstance(tree, dict) or head not in tree:
        return False
    if not rest or removed(tree[head], rest):
        del tree[head]
        return not tree
    return False


def written_out(config: Any) -> str:
    """The hash of a config step by step: what is left out, what came later, what files stand for."""
    tree, content = compose.to_tree(config), content_of(config)
    for key in (*NOT_IDENTITY, "seed"):
        head, _, last = key.rpartition(".")
        (tree[head] if head else tree).pop(last, None)
    for key, value in LATER_KEYS.items():
        node: Any = tree
        for name in key.split("."):
            node = node.get(name, ABSENT) if isinstance(node, dict) else ABSENT
        if node == value and key not in EARLIER_KEYS.get(config.recipe, ()):
            removed(tree, key)
    for key, value in content.items():
        *parents, last = key.split(".")
        node = tree
        for name in parents:
            node = node[name]
        node[last] = {"content": value} if value else None
    return sha256_json({"config": tree, "version": registry.card(config.recipe).version})[:10]


@pytest.mark.parametrize("recipe", registry.recipe_names(outside=False))
def test_the_hash_of_every_arm_is_the_one_written_out_alone_and_among_cells(recipe: str) -> None:
    configs = [compose.compose(recipe, [f"arm={arm}"]) for arm in compose.arms(recipe)]
    hashes = [written_out(config) for config in configs]
    assert [identify(config).hash for config in configs] == hashes
    with fingerprints.look_once():
        assert [identify(config).hash for config in [*configs, *configs]] == [*hashes, *hashes]
        seeds = [dataclasses.replace(config, seed=7, outputs="elsewhere") for config in configs]
        assert [identify(config).hash for config in seeds] == hashes


def test_cells_share_what_is_known_of_a_node_only_where_it_is_the_same() -> None:
    cells = sweep_cells("rag-importance", ["weights.rate=0.5,1,2", "weights.steps=1,2", "seed=0,1"])
    assert [cell.folder for cell in cells] == [
        f"rag-importance/prune/{written_out(cell.config)}-s{cell.seed}" for cell in cells
    ]
    assert len({cell.folder for cell in cells}) == 12
