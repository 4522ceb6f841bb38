"""DupMAE from the shell: a user's collection, arms with and without pre-training, what is refused and exported."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertForMaskedLM

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.models.run_models import run_model
from recipes.pretraining.dupmae.model import build_masked_lm
from tests.retrieval.conftest import training_collection, write_collection

QUICK = ("budget=smoke", "tracker=none", "trainer.threads=1", "trainer.max_steps=3", "trainer.batch_size=4",
         "evaluation.watch_every=3", "model.vocabulary=200", "fine_tuning.steps=2", "fine_tuning.batch_size=4",
         "pairs.queries=null")  # fmt: skip


def run(tmp_path: Path, *words: str) -> Any:
    config = compose.compose("dupmae", [*QUICK, *words, f"outputs={tmp_path / 'out'}"])
    return runner.run(config, False, "steelyard run dupmae", page=False)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return f"data.path={training_collection(tmp_path / 'collection')}"


def test_a_users_collection_and_text_from_pre_training_to_a_model_that_others_read(tmp_path: Path, data: str) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("Cats hunt mice where trees grow. " * 20, encoding="utf-8")
    outcome = run(tmp_path, data, f"pretraining.path={text}", "fine_tuning.others=[cls768]", "pairs.negatives=1")
    metrics = outcome.metrics
    names = {"RR@10", "after/cls384_ot384/RR@10", "after/cls768/RR@10", "bm25/RR@10", "bag_nll", "bag_recall"}
    before = {f"before/{name}/RR@10" for name in ("cls768", "ot768", "cls384_ot384", "cls384_ot260", "mean")}
    assert names | before | {"before/ot_ahead_of_cls"} <= metrics.keys()
    assert metrics["RR@10"] == metrics["after/cls384_ot384/RR@10"] and metrics["bm25/RR@10"] > 0.5
    ahead = metrics["before/ot768/RR@10"] - metrics["before/cls768/RR@10"]
    assert metrics["before/ot_ahead_of_cls"] == pytest.approx(ahead)
    lines = [json.loads(line) for line in (outcome.folder / "retrieved.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["query"] for line in lines] == ["q1", "q2", "q3", "q4"] and len(lines[0]["terms"]) == 12
    folder = run_model(outcome.folder, "model.path", "model.path=run")
    model, tokenizer = BertForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert "[MASK]" not in tokenizer.tokenize("trees grow")
    stored = load_file(next((outcome.folder / "checkpoints").glob("*/model.safetensors")))
    lm = build_masked_lm(compose.compose("dupmae", [*QUICK, data]).model, tokenizer, 0).eval()
    lm.load_state_dict({name[3:]: weight for name, weight in stored.items() if name.startswith("lm.")})
    ids = tokenizer("cats hunt mice", return_tensors="pt")["input_ids"]
    theirs = model(ids).logits
    torch.testing.assert_close(lm.output.logits(lm.head(lm.encoder(ids).last_hidden_state)), theirs)


@pytest.mark.parametrize("arm", ["none", "mlm", "plain"])
def test_arms_on_a_users_collection(arm: str, tmp_path: Path, data: str) -> None:
    metrics = run(tmp_path, data, f"arm={arm}").metrics
    assert 0 <= metrics["RR@10"] <= 1 and metrics["bag_nll"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pretraining.length=200",), "type model.positions=200"),
        (("model.embedding=8",), "leave it out"),
        (("trainer.nproc=2",), "type trainer.nproc=1"),
        (("fine_tuning.others=[cls384_ot384]",), "type others"),
        (("data.measures=[RR@10,R@1000,R@5]", "evaluation.depth=100"), "cut of R@1000; type evaluation.depth=1000"),
        (("fine_tuning.representation=cls",), "fine_tuning.representation"),
        (("pretraining.path=/nowhere.txt",), "nowhere"),
        (("trainer.batch_size=64", "trainer.max_steps=1", "pairs.negatives=9"), "too few for 9 negatives"),
    ],
)
def test_refused(words: tuple[str, ...], message: str, tmp_path: Path, data: str) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, data, *words)


def test_texts_to_pre_train_on_that_cannot_be_read_name_keys_that_there_are(tmp_path: Path, data: str) -> None:
    """`pretraining` has a path, and no key for columns or for what becomes of bad rows."""
    text = tmp_path / "mine.jsonl"
    for line, what, hint in (
        ('{"text": " "}', "empty text", "mend it, or take it out of the file"),
        ('{"body": "x"}', "no column 'text'", "name the column of texts 'text'"),
        ('{"text": "船船船船船船船船"}', "knows no token of the passages: all", "type model.tokenizer=FOLDER"),
    ):
        text.write_text(f"{line}\n" * 3, encoding="utf-8")
        with pytest.raises(UserError, match=what) as caught:
            run(tmp_path, data, f"pretraining.path={text}")
        assert hint in caught.value.hint
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_collection_without_pairs_to_choose_from_is_refused(tmp_path: Path, data: str) -> None:
    with pytest.raises(UserError, match="no judged query to train on"):
        run(tmp_path, f"data.path={write_collection(tmp_path / 'plain')}")
    with pytest.raises(UserError, match="one query to train on"):
        run(tmp_path, data, "pairs.queries=1")
