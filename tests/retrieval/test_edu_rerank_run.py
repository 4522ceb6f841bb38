"""EDU plans from the shell: a user's documents, every arm, a user's writer, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.data.text.splits import TEST, TRAIN
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics
from recipes.core.scoring.sampling import generate
from recipes.core.training.needs import needs, training_estimate
from recipes.retrieval.edu_rerank.config import DocstringSummariesConfig, SummariesConfig
from recipes.retrieval.edu_rerank.documents import RANK, Documents, load_documents
from tests.retrieval.conftest import model_folder
from tests.retrieval.test_crag_run import encoder_folder

ARMS = ("sentence_plans", "random_plans", "sampling", "diverse_beam", "oracle_plan", "oracle_sentences", "no_salience",
        "rerank_none", "rerank_loglik", "rerank_random", "rerank_oracle")  # fmt: skip
WRITERS = ("no_unlikelihood", "mle_only", "abstract_random_plans", "abstract_oracle_plan", "abstract_beam",
           "abstract_sampling")  # fmt: skip
WORDS = ["root", "matrix", "field", "ring", "order", "number", "series", "limit", "domain", "graph", "value", "set"]


def write_documents(folder: Path, count: int = 28) -> Path:
    """Documents of four sentences, whose summary is half of one of them."""
    rng, rows = np.random.default_rng(0), []
    for _ in range(count):
        halves = [" ".join(rng.choice(WORDS, 5)) for _ in range(8)]
        text = " ".join(
            f"{first.capitalize()}, {second}." for first, second in zip(halves[::2], halves[1::2], strict=True)
        )
        rows.append({"document": text, "summary": halves[2]})
    path = folder / "documents.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def final(outputs: Path, *words: str) -> tuple[dict[str, float], list[dict[str, Any]]]:
    quick = (
        "budget=smoke",
        "tracker=none",
        "trainer.threads=1",
        "trainer.max_steps=2",
        "encoder.max_tokens=64",
        "evaluation.watch_every=2",
    )
    config = compose.compose("edu-rerank", [*quick, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run edu-rerank", page=False).folder
    lines = (folder / "candidates.jsonl").read_text(encoding="utf-8").splitlines()
    return final_metrics(folder), [json.loads(line) for line in lines]


@pytest.fixture
def words(tmp_path: Path, steelyard_home: Path) -> tuple[str, ...]:
    """What a user types for documents and encoder."""
    return f"data.path={write_documents(tmp_path)}", f"encoder.path={encoder_folder(tmp_path / 'encoder')}"


def test_every_arm_of_a_users_documents(tmp_path: Path, words: tuple[str, ...]) -> None:
    metrics, lines = final(tmp_path, *words)
    for line in lines:
        texts = [each["text"] for each in line["candidates"]]
        assert len(set(texts)) == len(texts) <= 16 and sum(each["taken"] for each in line["candidates"]) == 1
        for each in line["candidates"]:
            assert each["plan"] == sorted(set(each["plan"]))
            assert each["text"] == " ".join(line["edus"][number] for number in each["plan"])
    assert metrics["distinct_texts"] == metrics["candidates"] > 8 and metrics["plan_nll"] > 0
    results = {arm: final(tmp_path, *words, f"arm={arm}")[0] for arm in ARMS}
    for name in ("best_rouge1", "mean_rouge1", "distinct_plans", "plan_nll"):  # the same generator, for the same seed
        assert len({metrics[name], *(results[arm][name] for arm in ARMS if arm.startswith("rerank"))}) == 1
    assert results["oracle_plan"]["best_rouge1"] >= results["oracle_sentences"]["best_rouge1"]
    assert (
        results["oracle_plan"]["best_rouge1"]
        >= metrics["best_rouge1"] - 1e-9
        > results["sentence_plans"]["mean_rouge1"]
    )
    tops = {arm: results[arm]["top_rouge1"] for arm in ARMS if arm.startswith("rerank")}
    assert max(tops, key=lambda arm: tops[arm]) == "rerank_oracle"
    assert tops["rerank_oracle"] == metrics["best_rouge1"] and results["rerank_oracle"]["gap_closed"] == pytest.approx(
        1
    )
    assert "plan_nll" not in results["random_plans"] and results["sampling"]["distinct_plans"] <= 16


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_users_model_learns_to_write_for_plans(tmp_path: Path, words: tuple[str, ...], kind: str) -> None:
    model = model_folder(tmp_path / kind, kind, 512)
    few = ("data.documents=8", "plans.count=3", "writer.summary_tokens=6", "reranker.name=none", "label=few")
    written = (*words, f"model={model}", *few)
    metrics, lines = final(tmp_path, *written, "arm=abstract")
    assert {"writer_nll", "plan_nll", "adherence_f1"} <= metrics.keys()
    assert all(len(line["candidates"]) <= 3 for line in lines)
    adapted, _ = final(tmp_path, *written[:-1], "label=adapted", "arm=abstract", "lora.rank=2")
    assert adapted.keys() == metrics.keys() and adapted["writer_nll"] != metrics["writer_nll"]
    for arm in WRITERS if kind == "llama" else WRITERS[:1]:
        metrics, lines = final(tmp_path, *written[:-1], f"label=few_{arm}", f"arm={arm}")
        if arm in ("abstract_beam", "abstract_sampling"):
            assert metrics["candidates"] == 3 and "adherence_f1" not in metrics and "plan_nll" not in metrics


def test_a_writer_that_says_nothing(tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its texts are empty: they have a vector even of an encoder without a token for them, and are not taken."""
    monkeypatch.setattr(
        "recipes.retrieval.edu_rerank.writing.generate",
        lambda *arguments: [ids[: ids[0] % 2] for ids in generate(*arguments)],
    )
    model = model_folder(tmp_path / "llama", "llama", 512)
    few = ("data.documents=8", "plans.count=4", "writer.summary_tokens=6", "label=few")
    metrics, lines = final(tmp_path, *words, f"model={model}", *few, "arm=abstract")
    texts = [[bool(each["text"]) for each in line["candidates"]] for line in lines]
    taken = [next(each["text"] for each in line["candidates"] if each["taken"]) for line in lines]
    assert any(not all(each) for each in texts) and metrics["words"] < 1
    assert all(bool(text) == any(each) for text, each in zip(taken, texts, strict=True))


def test_what_cannot_be(tmp_path: Path, words: tuple[str, ...]) -> None:
    for row, message in (
        ({"document": 3, "summary": "a"}, "its document is 3, no text"),
        ({"document": "a b.", "summary": "..."}, "its summary is missing or has no word"),
        ({"document": "a b."}, "its summary is missing or has no word"),
    ):
        path = tmp_path / "bad.jsonl"
        path.write_text(json.dumps({"document": "A b c.", "summary": "a"}) + "\n" + json.dumps(row) + "\n")
        with pytest.raises(UserError) as refused:
            final(tmp_path, f"data.path={path}", *words[1:])
        assert message in str(refused.value)
    for typed, message in (
        (["data.sentences=9"], "no document is left for test"),
        (["trainer.batch_size=64"], "are fewer than one batch"),
    ):
        with pytest.raises(UserError) as refused:
            final(tmp_path, *words, *typed)
        assert message in str(refused.value)
    model = model_folder(tmp_path / "short", "llama", 128)
    with pytest.raises(UserError, match="more than the model's context of 128"):
        final(tmp_path, *words, f"model={model}", "arm=abstract")
    with pytest.raises(UserError, match="has no room for the first EDU"):
        final(tmp_path, *words, f"model={model}", "arm=abstract", "writer.prompt_tokens=16")


def load(path: Path, rows: list[dict[str, str]], longest: int = 96) -> Documents:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    config = SummariesConfig(path=str(path), sentences=1, train_sentences=1, on_error="skip")
    return load_documents(config, longest)


def test_a_sentence_of_more_edus_than_are_kept(tmp_path: Path, words: tuple[str, ...]) -> None:
    path = write_documents(tmp_path)
    rows = path.read_text(encoding="utf-8").replace(". ", ", ")  # one sentence a document, of eight EDUs
    path.write_text(rows, encoding="utf-8")
    _, lines = final(tmp_path, *words, "plans.longest_document=3", "data.sentences=1", "data.train_sentences=1")
    assert all(len(line["edus"]) == 3 for line in lines)


def test_copies_are_counted_and_rows_have_their_part_wherever_they_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in write_documents(tmp_path).read_text(encoding="utf-8").splitlines()]
    parts = load(tmp_path / "a.jsonl", rows)
    capsys.readouterr()
    turned = load(tmp_path / "b.jsonl", [*rows[::-1], *rows])
    assert "28 with a text or summary of another one" in capsys.readouterr().err
    for part, documents in parts.items():
        assert {document.reference for document in documents} == {document.reference for document in turned[part]}
    with pytest.raises(UserError, match="27 with a text or summary of another one"):
        load(tmp_path / "c.jsonl", [{**row, "summary": "the same"} for row in rows])


def test_other_scripts_are_refused_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in write_documents(tmp_path).read_text(encoding="utf-8").splitlines()]
    foreign = {"document": "Кошка спит дома. Собака бежит.", "summary": "Кошка и собака."}
    french = {"document": "L'été dernier, nous avons été près de là.", "summary": "Été près de là."}
    every = load(tmp_path / "a.jsonl", [*rows, foreign, french])
    references = {document.reference for documents in every.values() for document in documents}
    assert french["summary"] in references and foreign["summary"] not in references
    assert "not in Latin letters" in capsys.readouterr().err


def test_configs_that_cannot_be() -> None:
    for typed, message in (
        (["plans.shortest=5", "plans.longest=4"], "5 is more than longest=4"),
        (["planner.width=30"], "30 does not divide by heads=4"),
        (["data=summaries"], "type data.path=FILE"),
        (["plans.name=none", "label=x"], "without plans nothing is extracted"),
        (["arm=abstract", "budget=full", "plans.unit=sentence"], "tags stand around EDUs"),
        (["arm=mle_only", "budget=full", "writer.plain_weight=0"], "makes no text likely"),
        (["lora.rank=2"], "no language model is trained; type writer.name=abstract, or lora.rank=0"),
        (["arm=abstract"], "needs budget=full or budget=smoke or data=summaries"),
    ):
        with pytest.raises(UserError) as refused:
            compose.compose("edu-rerank", typed)
        assert message in str(refused.value)


@pytest.mark.asset
def test_the_docstrings_that_ship() -> None:
    documents = load_documents(DocstringSummariesConfig(), 96)
    assert {part: len(those) for part, those in documents.items()} == {TRAIN: 1015, RANK: 330, TEST: 257}
    files = {part: {document.id.rpartition(":")[0] for document in those} for part, those in documents.items()}
    assert not files[TEST] & (files[TRAIN] | files[RANK])
    assert all(len(document.units.sentences) >= 6 or document.sentences >= 6 for document in documents[TEST])
    references = {document.reference.lower() for document in documents[TEST]}
    assert references.isdisjoint(document.reference.lower() for part in (TRAIN, RANK) for document in documents[part])


def test_memory_is_that_of_what_is_trained() -> None:
    model = "model=smollm2-135m"
    plans, abstract = (
        compose.compose("edu-rerank", [f"arm={arm}", model, "budget=full"]) for arm in ("edu_plans", "abstract")
    )
    assert training_estimate(plans, "cpu") is None and training_estimate(abstract, "cpu") is not None
    assert dict(needs(plans, "cpu"))["parameters"] != dict(needs(abstract, "cpu"))["parameters"]
