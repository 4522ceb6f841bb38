"""`budgetlongformer` end to end: what is refused, and what a run on a user's own texts leaves."""

import json
from pathlib import Path

import pytest
from transformers import AutoModel, AutoTokenizer

from recipes.core import runner
from recipes.core.config import compose, registry
from recipes.core.errors import UserError

SMALL = ("budget=smoke", "tracker=none", "trainer.threads=1")
KINDS = {"permit": "may freely copy use and sell it", "forbid": "must never copy use or sell it"}


@pytest.fixture
def mine(tmp_path: Path) -> str:
    rows = [
        {"text": " ".join(f"word{(i * j) % 17} {words}" for j in range(1, 9)), "label": label}
        for i in range(16)
        for label, words in KINDS.items()
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return f"data.path={path}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("attention.window=15",), "15 is odd.*type 16"),
        (("attention.window=80",), "wider than a row of 64 tokens.*attention.kind=full"),
        (("probe.max_tokens=65",), "type 64 or less"),
        (("arm=mixed", "pretraining.general=[]", "label=x"), "is empty; type domains"),
    ],
)
def test_refused(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        runner.run(compose.compose("budgetlongformer", [*SMALL, *overrides, f"outputs={tmp_path}"]), False, "run")
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_window_wider_than_all_texts_is_refused(mine: str, tmp_path: Path) -> None:
    words = [*SMALL, mine, "data.near_duplicates=null", "model.positions=512", "attention.window=512"]
    with pytest.raises(UserError, match="wider than the longest text"):
        runner.run(compose.compose("budgetlongformer", [*words, f"outputs={tmp_path}/out"]), False, "run")


def test_texts_without_a_row_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    rows = [{"text": f"{'no' if i % 2 else 'yes'} {i}", "label": str(i % 2)} for i in range(20)]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    words = [*SMALL, f"data.path={path}", "data.near_duplicates=null", "attention.kind=full", "model.vocabulary=400"]
    with pytest.raises(UserError, match="has no text of 3 tokens to train on"):
        registry.recipe_class("budgetlongformer")().prepare(compose.compose("budgetlongformer", words), "cpu")


@pytest.mark.parametrize("arm", ["rtd", "mlm", "untrained"])
def test_your_texts_and_the_folder_that_is_left(arm: str, mine: str, tmp_path: Path) -> None:
    words = [*SMALL, mine, f"arm={arm}", "data.near_duplicates=null", "trainer.max_flops=5e8", f"outputs={tmp_path}"]
    outcome = runner.run(compose.compose("budgetlongformer", words), False, "run")
    metrics = outcome.metrics
    assert metrics["bag_of_words_macro_f1"] == 1 and 0 <= metrics["probe_macro_f1"] <= 1
    assert {"rtd": "rtd/auc" in metrics, "mlm": "mlm/nll" in metrics, "untrained": "cut" in metrics}[arm]
    lines = [json.loads(line) for line in (outcome.folder / "predictions.jsonl").read_text("utf-8").splitlines()]
    right = sum(line["label"] == line["predicted"] for line in lines) / len(lines)
    assert right == pytest.approx(metrics["probe_accuracy"])
    tuned = sum(line["label"] == line["fine_tuned"] for line in lines) / len(lines)
    assert tuned == pytest.approx(metrics["tuned_accuracy"]) and 0 <= metrics["tuned_macro_f1"] <= 1
    if arm == "rtd":
        tokens = json.loads((outcome.folder / "heatmap.json").read_text("utf-8"))["examples"][0]["tokens"]
        assert all(0 < token["weight"] < 1 for token in tokens)
    [folder] = outcome.folder.rglob("tokenizer.json")
    model, tokenizer = (kind.from_pretrained(folder.parent) for kind in (AutoModel, AutoTokenizer))
    assert model.config.model_type == "longformer"
    assert model(**tokenizer("you may copy it", return_tensors="pt")).last_hidden_state.isfinite().all()


def test_other_texts_change_the_rows_and_not_the_pieces(mine: str, tmp_path: Path) -> None:
    recipe = registry.recipe_class("budgetlongformer")()
    words = [*SMALL, mine, "data.near_duplicates=null", "pretraining.general=[news]"]
    prepared = {
        corpus: recipe.prepare(compose.compose("budgetlongformer", [*words, f"pretraining.corpus={corpus}"]), "cpu")
        for corpus in ("in_domain", "general", "mixed")
    }
    assert len({prepared[corpus].tokenizer.name_or_path for corpus in prepared}) == 1
    assert prepared["general"].rows.domains == ("general",) and prepared["mixed"].rows.weights == (0.5, 0.5)
    held_out = [prepared[corpus].rows.test("in_domain") for corpus in prepared]
    assert all((rows.ids == held_out[0].ids).all() for rows in held_out)
