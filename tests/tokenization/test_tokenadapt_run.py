"""`tokenadapt` on a user's model, text and tokenizer: what it leaves, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.evaluation.cuts import read_cuts
from recipes.core.export.folder import check_trains, export_to
from recipes.core.runs.folder import run_folder
from recipes.core.runs.records import final_metrics, load_run
from tests.core import tokenizer_kinds
from tests.tokenization.test_ground import tiny

WORDS = ("budget=smoke", "tracker=none", "trainer.threads=1", "evaluation.windows=3", "evaluation.shortest=20",
         "evaluation.characters=120", "data.test_fraction=0.4", "tokenizer.vocabulary=360")  # fmt: skip


def run(outputs: Path, *words: str) -> tuple[Path, dict[str, float]]:
    config = compose.compose("tokenadapt", [*WORDS, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run tokenadapt", page=False).folder
    return folder, final_metrics(folder)


@pytest.fixture
def mine(tmp_path: Path) -> tuple[str, ...]:
    """What a user types for a model and for text."""
    tokenizer = tokenizer_kinds.byte_level(bos=True)
    folder = tmp_path / "model"
    tiny("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rows = [
        {"text": f"{text} houses, treehouse redder {number}. 猫が座った"}
        for number, text in enumerate(tokenizer_kinds.texts())
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps(row) for row in rows[:40]), encoding="utf-8")
    return f"model={folder}", f"data.path={tmp_path / 'texts.jsonl'}"


def test_a_users_tokenizer_leaves_a_model_that_transformers_loads(tmp_path: Path, mine: tuple[str, ...]) -> None:
    file = tmp_path / "new.json"
    tokenizer_kinds.byte_level(eos="</s>").backend_tokenizer.save(str(file))
    folder, metrics = run(tmp_path / "out", *mine, f"tokenizer.path={file}", "arm=retok")
    assert metrics["perplexity_ratio"] == pytest.approx(1) and metrics["exact"] == 1  # the same tokens
    assert metrics["vocabulary/unique"] == 0 and metrics["boundaries"] == 1
    loaded, tokenizer = (kind.from_pretrained(folder / "hf") for kind in (AutoModelForCausalLM, AutoTokenizer))
    old = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = tokenizer("the cat sat", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits[..., : len(tokenizer)], old(ids).logits)
    target = export_to(load_run(folder), tmp_path / "exported", None)
    assert (target / "README.md").exists() and (target / "model.safetensors").exists()
    with pytest.raises(UserError, match="supertokens"):
        compose.compose("tokenadapt", [*WORDS, "label=x", f"tokenizer.path={file}", "tokenizer.supertokens=true"])


@pytest.mark.parametrize("arm", ["hybrid", "focus", "transtokenizer", "base", "random", "supertokens"])
def test_arms_on_a_users_model_and_text(arm: str, tmp_path: Path, mine: tuple[str, ...]) -> None:
    folder, metrics = run(tmp_path / "out", *mine, f"arm={arm}")
    assert metrics["exact"] == 1 and 0 < metrics["bits_per_byte"] < 100 and not (folder / "hf").exists()
    with pytest.raises(UserError, match="type its command with save_model=true"):
        check_trains(load_run(folder))
    cuts = [json.loads(line) for line in (folder / "cuts.jsonl").read_text().splitlines()]
    assert len(cuts) == 3 and all("".join(cut["old"]).replace("\ufffd", "")[:20] for cut in cuts)
    picture = read_cuts(folder)
    labels = {cut.label.partition(",")[0] for cut in picture.texts[0].cuts} if picture else set()
    assert labels == {"old tokenizer", "new tokenizer"}
    bits = sum(cut["bits_per_byte"]["new"] for cut in cuts)
    assert bits == pytest.approx(sum(cut["bits_per_byte"]["old"] for cut in cuts)) if arm == "base" else bits > 0
    if arm == "base":
        assert metrics["perplexity_ratio"] == pytest.approx(1) and not (folder / "composed.jsonl").exists()
        return
    composed = [json.loads(line) for line in (folder / "composed.jsonl").read_text().splitlines()]
    assert len(composed) == metrics["vocabulary/unique"] > 0
    assert (arm == "random") == all(not line["row"] for line in composed)
    if arm == "supertokens":
        assert metrics["vocabulary/supertokens"] > 0


def test_mean_rows_have_no_other_fallback(tmp_path: Path, mine: tuple[str, ...]) -> None:
    plain, other = (run(tmp_path / name, *mine, "arm=mean", f"init.fallback={name}")[1] for name in ("mean", "random"))
    assert plain == other


def test_seeds_draw_other_texts_and_tokenizers(tmp_path: Path, mine: tuple[str, ...]) -> None:
    folders = [run(tmp_path / "out", *mine, "arm=retok", f"seed={seed}")[0] for seed in (0, 1)]
    one, other = (
        [json.loads(line)["id"] for line in (folder / "cuts.jsonl").read_text().splitlines()] for folder in folders
    )
    assert one != other


def test_a_tokenizer_file_counts_by_what_it_holds(tmp_path: Path, mine: tuple[str, ...]) -> None:
    files = [tmp_path / name for name in ("new.json", "moved.json", "other.json")]
    for file, begins in zip(files, (False, False, True), strict=True):
        tokenizer_kinds.byte_level(bos=True, adds_bos=begins).backend_tokenizer.save(str(file))
    words = [[*WORDS, *mine, f"tokenizer.path={file}", f"outputs={tmp_path}"] for file in files]
    one, moved, other = (run_folder(compose.compose("tokenadapt", each)).path for each in words)
    assert one == moved != other


@pytest.mark.parametrize(("old", "new"), [("word-mark", None), ("plain", "unigram")])
def test_tokenizers_of_other_kinds(
    old: str, new: str | None, tmp_path: Path, mine: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tokenizer_kinds.KINDS[old]()
    tiny("gpt2", len(tokenizer) + 5).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    typed = []
    if new:
        tokenizer_kinds.KINDS[new]().save_pretrained(tmp_path / "new")
        typed = [f"tokenizer.path={tmp_path / 'new'}"]
    _, metrics = run(tmp_path / "out", *mine, *typed, "arm=local")
    assert metrics["vocabulary/shared"] > 0.1
    # One of the two has no token for a byte: what it loses is said, and what it cannot compose is counted.
    lost = "do not come back from the " + ("new" if new else "old")
    assert lost in capsys.readouterr().err and metrics["exact"] == (0 if new else 1)
    assert (metrics["vocabulary/uncomposed"] > 0) == (new is None)


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("evaluation.shortest=100000", "no held-out document has 100,000 characters"),
        ("tokenizer.path=/nowhere", "/nowhere"),
        ("evaluation.characters=5000", "does not fit the context of the model"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    word: str, problem: str, tmp_path: Path, mine: tuple[str, ...]
) -> None:
    long = tmp_path / "long.jsonl"
    long.write_text("\n".join(json.dumps({"text": "the cat sat on a tree. " * 300 + str(n)}) for n in range(8)))
    data = f"data.path={long}" if "characters" in word else mine[1]
    with pytest.raises(UserError, match=problem):
        run(tmp_path / "out", mine[0], data, word, "arm=retok")
    assert not list((tmp_path / "out").glob("*/*/*/metrics.jsonl"))


def test_a_model_whose_tokens_have_no_bytes_is_refused(tmp_path: Path, mine: tuple[str, ...]) -> None:
    tokenizer = tokenizer_kinds.KINDS["word-pieces"]()
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="does not say which bytes its tokens are|ids that the model has no embedding"):
        run(tmp_path / "out", *mine, "arm=retok")
    with pytest.raises(UserError, match="4 or 8 bits"):
        compose.compose("tokenadapt", [*WORDS, mine[0], "model.load_in=4bit"])
