"""CRAG from the shell: a user's reviews, every context, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import BertConfig, BertModel

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics
from recipes.retrieval.crag.config import ProductReviewsConfig, ReviewsConfig
from recipes.retrieval.crag.reviews import load_reviews
from tests.core import tokenizer_kinds
from tests.retrieval.conftest import model_folder

ARMS = ("random_k", "all", "random_clusters", "global_top", "first_k", "rag_top", "crag_sentences", "agglomerative",
        "silhouette", "square_root", "no_context")  # fmt: skip
WORDS = ["good", "bad", "screen", "sound", "price", "battery", "cheap", "broken", "fast", "slow"]


def write_reviews(folder: Path, counts: dict[str, int], rated: bool = True) -> Path:
    rng, rows = np.random.default_rng(0), []
    for product, count in counts.items():
        for _ in range(count):
            text = " ".join(rng.choice(WORDS, int(rng.integers(4, 12)))).capitalize() + ". It works."
            rows.append({"product": product, "text": text} | ({"rating": int(rng.integers(1, 6))} if rated else {}))
    path = folder / "reviews.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def encoder_folder(folder: Path) -> Path:
    """A BERT with random weights, as a user has it on disk."""
    tokenizer = tokenizer_kinds.byte_level(False, False)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def final(outputs: Path, *words: str) -> tuple[dict[str, float], list[dict[str, object]]]:
    quick = ("budget=smoke", "tracker=none", "trainer.threads=1", "encoder.max_tokens=40", "context.cap=12")
    config = compose.compose("crag", [*quick, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run crag", page=False).folder
    lines = (folder / "contexts.jsonl").read_text(encoding="utf-8").splitlines()
    return final_metrics(folder), [json.loads(line) for line in lines]


@pytest.fixture
def words(tmp_path: Path, steelyard_home: Path) -> tuple[str, ...]:
    """What a user types for reviews, model and encoder."""
    reviews = write_reviews(tmp_path, {"radio": 9, "phone": 7, "clock": 4})
    model, encoder = model_folder(tmp_path / "model"), encoder_folder(tmp_path / "encoder")
    return f"data.path={reviews}", f"model={model}", f"encoder.path={encoder}"


def test_every_context_of_a_users_reviews(
    tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    medoid, lines = final(tmp_path, *words)
    assert "left out, as reviews are too few or no more than clusters.k=4: 1 (clock (4))" in capsys.readouterr().err
    assert [line["id"] for line in lines] == ["radio/9/0", "phone/7/0"] and medoid["clusters"] == 4
    assert [sum(text["stands_for"] for text in line["texts"]) for line in lines] == [9, 7]
    results = {arm: final(tmp_path, *words, f"arm={arm}")[0] for arm in ARMS}
    assert results["all"]["saved"] == 0 and results["all"]["coverage"] == pytest.approx(1, abs=1e-5)
    assert results["all"]["rating_error"] == 0 and results["no_context"]["coverage"] == 0
    assert (
        results["no_context"]["tokens"] < results["random_k"]["tokens"] <= medoid["tokens"] < results["all"]["tokens"]
    )
    assert results["random_clusters"]["tokens"] > results["random_k"]["tokens"]  # it says how many each stands for
    assert medoid["tokens"] - results["no_context"]["tokens"] <= 4 * (12 + len("\n\n9 reviews:\n"))  # whatever n
    bare, _ = final(tmp_path, *words, "context.show_counts=false", "label=bare")
    assert results["global_top"]["tokens"] == pytest.approx(bare["tokens"], abs=12)


def test_reviews_without_ratings(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "other").mkdir()
    path = write_reviews(tmp_path / "other", {"radio": 9}, rated=False)
    metrics, _ = final(tmp_path, f"data.path={path}", *words[1:], "draws.sizes=[6,9]", "draws.each=3")
    assert "rating_error" not in metrics and {"coverage@6", "coverage@9"} <= metrics.keys()


def test_of_reviews_partly_rated_those_with_a_rating_count(tmp_path: Path, words: tuple[str, ...]) -> None:
    rows = [json.loads(line) for line in (tmp_path / "reviews.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["product"] == "radio"]
    sparse = [row | {"rating": row["rating"] if number % 2 else None} for number, row in enumerate(rows)]
    (tmp_path / "sparse.jsonl").write_text("\n".join(map(json.dumps, sparse)) + "\n")
    whole = ("draws.sizes=null", "draws.each=1", "arm=all")
    metrics, _ = final(tmp_path, f"data.path={tmp_path / 'sparse.jsonl'}", *words[1:], *whole)
    assert metrics["rating_error"] == 0
    first = [row | {"rating": row["rating"] if number < 1 else None} for number, row in enumerate(rows)]
    (tmp_path / "sparse.jsonl").write_text("\n".join(map(json.dumps, first)) + "\n")
    metrics, (line,) = final(tmp_path, f"data.path={tmp_path / 'sparse.jsonl'}", *words[1:], *whole[:2], "arm=first_k")
    assert metrics["rating_error"] == 0  # the only rated one is kept


def test_what_cannot_be(tmp_path: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="no product has more reviews than clusters"):
        final(tmp_path, *words, "clusters.k=20")
    for row, message in (
        ({"product": 1.5, "text": "a"}, "its product is 1.5, no word and no whole number"),
        ({"product": "a", "text": " "}, "its text is missing or blank"),
        ({"product": "a", "text": "b", "rating": "five"}, "its rating is 'five', no number"),
    ):
        path = tmp_path / "bad.jsonl"
        path.write_text(json.dumps({"product": "a", "text": "b", "rating": 1}) + "\n" + json.dumps(row) + "\n")
        with pytest.raises(UserError) as refused:
            final(tmp_path, f"data.path={path}", *words[1:])
        assert message in str(refused.value)
    for typed, message in (
        (["clusters.rule=silhouette", "clusters.name=agglomerative"], "silhouette is for kmeans"),
        (["data=reviews"], "type data.path=FILE"),
        (["arm=crag"], "needs budget=full or data=reviews"),
    ):
        with pytest.raises(UserError) as refused:
            compose.compose("crag", typed)
        assert message in str(refused.value)


def test_ratings_of_csv_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("product,text,rating\na,It works.,5\na,It broke.,\n", encoding="utf-8")
    assert [review.rating for review in load_reviews(ReviewsConfig(path=str(path)))["a"]] == [5.0, None]
    path.write_text("product,text,rating\na,It works.,inf\n", encoding="utf-8")
    with pytest.raises(UserError) as refused:
        load_reviews(ReviewsConfig(path=str(path)))
    assert "no number" in refused.value.hint


@pytest.mark.asset
def test_the_reviews_that_ship() -> None:
    products = load_reviews(ProductReviewsConfig())
    assert {name: len(those) for name, those in products.items()} == {
        "DVD player": 98, "Canon camera": 40, "Nikon camera": 32, "Nokia phone": 40, "music player": 90,
    }  # fmt: skip
    assert sum(len(review.sentences) for those in products.values() for review in those) == 3708
    assert all(-4 <= (review.rating or 0) <= 4 for those in products.values() for review in those)


def written(outputs: Path, words: tuple[str, ...], *more: str) -> tuple[dict[str, float], list[dict[str, object]]]:
    """Summaries and answers of a few tokens."""
    short = ("context.summary_tokens=10", "answers.write=true", "answers.max_tokens=6", "answers.batch_size=3")
    return final(outputs, *words, *short, *more)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_users_model_writes_summaries_and_answers(tmp_path: Path, words: tuple[str, ...], kind: str) -> None:
    words = (words[0], f"model={model_folder(tmp_path / kind, kind, 2048)}", words[2])
    metrics, lines = written(tmp_path, words, "arm=crag")
    assert [sum(text["stands_for"] for text in line["texts"]) for line in lines] == [9, 7]
    assert metrics["tokens_in_all"] > metrics["tokens"] and metrics["clusters"] == 4 and "rating_error" not in metrics
    assert -1 <= metrics["answer_floor"] <= 1 and metrics["answer_seconds"] > 0
    later, _ = written(tmp_path, words, "arm=crag", "context.amortise_over=10", "label=often")
    assert later["tokens_in_all"] - later["tokens"] == pytest.approx(
        (metrics["tokens_in_all"] - metrics["tokens"]) / 10
    )
    one, lines = written(tmp_path, words, "arm=summary_all")
    assert all(len(line["texts"]) == 1 for line in lines)
    same, _ = written(tmp_path, words, "arm=all")
    assert same["answer_cosine"] == pytest.approx(1, abs=1e-5)


def test_reviews_that_do_not_fit_are_summarised_in_rounds(tmp_path: Path, words: tuple[str, ...]) -> None:
    small = (words[0], f"model={model_folder(tmp_path / 'small', 'llama', 220)}", words[2])
    metrics, _ = final(tmp_path, *small, "arm=summary_all", "context.summary_tokens=10")
    assert metrics["tokens_in_all"] > 300
    with pytest.raises(UserError, match="are more than its context of 220"):
        written(tmp_path, small, "arm=all")
    with pytest.raises(UserError, match="has no room for 2 summaries of 96"):
        final(tmp_path, *small, "arm=crag")
