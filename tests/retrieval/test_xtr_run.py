"""XTR from the shell: a user's collection and encoder, every kind of arm, and what is refused."""

import json
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import BertModel

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics
from recipes.retrieval.encoders import text_rows
from recipes.retrieval.xtr.recipe import XTRRecipe
from tests.retrieval.conftest import encoder_folder, training_collection, write_collection

QUICK = ("budget=smoke", "tracker=none", "trainer.threads=1", "trainer.max_steps=2", "trainer.batch_size=4",
         "encoder.passage_tokens=16", "search.k_prime=6", "search.sweep=[3]", "objective.k_train=8",
         "objective.projection=8", "encoder.trainable_layers=1", "watch.every=1", "watch.queries=3", "watch.passages=4",
         "pairs.queries=null", "trainer.learning_rate=1e-2")  # fmt: skip


def run(outputs: Path, *words: str) -> tuple[Path, dict[str, float]]:
    config = compose.compose("xtr", [*QUICK, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run xtr", page=False).folder
    return folder, final_metrics(folder)


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, str]:
    """What a user types for collection and encoder."""
    collection, encoder = training_collection(tmp_path / "collection"), encoder_folder(tmp_path / "encoder")
    return f"data.path={collection}", f"model={encoder}"


def test_a_users_collection_from_training_to_a_run_that_others_read(tmp_path: Path, words: tuple[str, ...]) -> None:
    folder, metrics = run(tmp_path / "out", *words)
    # Nothing else scores: the run's own order gives the metric that it says.
    run_file, qrels = list(ir_measures.read_trec_run(str(folder / "run.trec"))), []
    for line in (tmp_path / "collection" / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, passage, grade = line.split("\t")
        qrels.append(ir_measures.Qrel(query, passage, int(grade)))
    aggregated = ir_measures.calc_aggregate([ir_measures.RR @ 10], qrels, run_file)
    assert aggregated[ir_measures.RR @ 10] == pytest.approx(metrics["RR@10"])
    assert {"k3/RR@10", "full/RR@10", "zero/RR@10", "const/RR@10", "none/RR@10", "k3/candidate_recall"} <= set(metrics)
    assert metrics["k3/candidate_recall"] <= metrics["candidate_recall"] <= 1
    lines = [json.loads(line) for line in (folder / "retrieved.jsonl").read_text().splitlines()]
    assert [line["query"] for line in lines] == ["q1", "q2", "q3", "q4"]
    shown = lines[0]["passages"]
    assert sum(passage["tokens"] for passage in shown) == 6 * len(lines[0]["lowest"])
    assert [passage["score"] for passage in shown] == sorted((passage["score"] for passage in shown), reverse=True)
    weight = load_file(folder / "projection.safetensors")["weight"]
    assert weight.shape == (8, 16)
    np.testing.assert_array_equal(load_file(folder / "hf" / "projection.safetensors")["weight"], weight)
    tuned, start = (BertModel.from_pretrained(path) for path in (folder / "hf", tmp_path / "encoder"))
    pairs = zip(tuned.encoder.layer, start.encoder.layer, strict=True)
    assert [one.output.dense.weight.equal(other.output.dense.weight) for one, other in pairs] == [True, True, False]
    heatmap = json.loads((folder / "heatmap.json").read_text())
    assert any(token["weight"] > 1 for token in heatmap["examples"][0]["tokens"])
    assert len(list((folder / "curve").iterdir())) == 2


@pytest.mark.parametrize(
    "arm", ["colbert_full", "pooled", "untrained_none", "untrained_full", "untrained_pooled", "bm25"]
)
def test_arms_on_a_users_collection(arm: str, tmp_path: Path, words: tuple[str, ...]) -> None:
    folder, metrics = run(tmp_path / "out", f"arm={arm}", *words)
    assert 0 <= metrics["RR@10"] <= 1 and (folder / "run.trec").exists()
    assert ("candidates" in metrics) == (arm in ("colbert_full", "untrained_none", "untrained_full"))
    ranks = [line.split() for line in (folder / "run.trec").read_text().splitlines()]
    if arm in ("untrained_full", "untrained_pooled"):
        assert len(ranks) == 4 * 5  # every passage


def test_the_card_of_an_exported_encoder_says_how_the_map_behind_it_is_read(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    folder, _ = run(tmp_path / "out", *words)
    card = (folder / "hf" / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(folder / "hf"))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["vectors"].shape[-1] == 8
    assert names["vectors"].norm(dim=-1).tolist()[0] == pytest.approx([1.0] * names["vectors"].shape[1])
    plain, _ = run(tmp_path / "out", *words, "objective.projection=null")
    assert not (plain / "hf" / "projection.safetensors").exists()
    assert "projection.safetensors" not in (plain / "hf" / "README.md").read_text(encoding="utf-8")


def test_micro_batches_train_the_same_weights(tmp_path: Path, words: tuple[str, ...]) -> None:
    whole = load_file(run(tmp_path / "a", *words)[0] / "projection.safetensors")["weight"]
    parts = load_file(run(tmp_path / "b", *words, "trainer.micro_batch_size=1")[0] / "projection.safetensors")["weight"]
    np.testing.assert_allclose(whole, parts, atol=2e-4)


def test_more_tokens_than_there_are_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="that are searched have 63 tokens"):
        run(tmp_path / "out", *words, "search.k_prime=64")
    assert not list((tmp_path / "out").glob("*/*/*/metrics.jsonl"))


def test_other_k_that_are_too_large_are_left_out(
    tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    _, metrics = run(tmp_path / "out", *words, "arm=untrained", "search.sweep=[3,1000]")
    assert "k3/RR@10" in metrics and "k1000/RR@10" not in metrics
    assert "search.sweep=1000: left out" in capsys.readouterr().err


def test_a_search_that_returns_the_whole_batch_is_announced(
    tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "out", *words)
    assert "all are returned" not in capsys.readouterr().err
    run(tmp_path / "out", *words, "objective.k_train=500")
    assert "objective.k_train=500: a batch has about" in capsys.readouterr().err


def test_the_texts_of_a_collection_are_cut_to_tokens_once(
    tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = list[str]()

    def counted(*arguments: Any) -> Any:
        texts.extend(arguments[2])
        return text_rows(*arguments)

    monkeypatch.setattr("recipes.retrieval.xtr.recipe.text_rows", counted)
    config = compose.compose("xtr", [*QUICK, *words, "search.passages=4", f"outputs={tmp_path / 'out'}"])
    prepared = XTRRecipe().prepare(config, "cpu")
    assert len(texts) == len(set(texts)) and prepared.pairs is not None
    assert len(prepared.passage_rows) == 4 < len(prepared.pairs.passages)
    for number, row in enumerate(prepared.passage_rows):
        (again,) = text_rows(
            prepared.model.encoder, prepared.tokenizer, [prepared.passages.whole(number)], 16, "passages"
        )
        assert row == again


def test_a_try_is_small_whatever_the_data() -> None:
    config = compose.compose("xtr", ["budget=smoke", "data.path=/collection"])
    assert config.trainer.max_steps == 4 and config.watch.passages == 16 and config.search.passages is None
    assert compose.compose("xtr", ["budget=smoke"]).search.sweep == (5, 50)


def test_without_training_queries(tmp_path: Path, words: tuple[str, ...]) -> None:
    folder = write_collection(tmp_path / "untrained")
    with pytest.raises(UserError, match="no judged query to train on"):
        run(tmp_path / "out", f"data.path={folder}", words[1])
    assert run(tmp_path / "out", f"data.path={folder}", words[1], "arm=untrained")[1]["candidate_recall"] <= 1


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("trainer.nproc=2", "negatives are those of one process"),
        ("search.sweep=[6]", "has k_prime=6"),
        ("search.infer_score=pooled", "does not fit"),
        ("search.infer_score=bm25", "reads no encoder"),
        ("search.index=approximate", "faiss is not installed"),
        ("data.measures=[RR@10,R@2000]", "ends above the cut of R@2000; type search.depth=2000"),
    ],
)
def test_settings_that_do_not_fit(typed: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.retrieval.xtr.config.find_spec", lambda name: None)
    with pytest.raises(UserError, match=problem):
        compose.compose("xtr", [*QUICK, "label=mine", typed])


def test_more_layers_than_the_encoder_has(tmp_path: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="has 3 layers"):
        run(tmp_path / "out", *words, "encoder.trainable_layers=4")
    with pytest.raises(UserError, match="has 64 positions"):
        run(tmp_path / "out", *words, "encoder.query_tokens=65")
