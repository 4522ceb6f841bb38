"""The encoder of tokens that a recipe trains, its training pairs, and the loss over a whole step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recipes.core.errors import RunFailed, UserError
from recipes.core.models.config import MiniLMConfig
from recipes.core.search.beir import read_collection
from recipes.core.search.collection import Collection
from recipes.core.search.config import CollectionConfig, PairsConfig
from recipes.core.search.pairs import InBatchLoss, merge, pair_collate, targets, training_pairs, training_queries
from recipes.retrieval.encoders import encode, encode_once, load_encoder, text_rows
from tests.retrieval.conftest import PASSAGES, QUERIES, encoder_folder, training_collection, write_collection


class States(nn.Module):
    """A BERT whose output is the states of its tokens."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body, self.config = body, body.config

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        return states


class PooledLoss(InBatchLoss):
    """Softmax over the cosines of mean states."""

    def encode_batch(self, model: Any, batch: Any) -> Any:
        return {
            name: model(batch[f"{name}_ids"], batch[f"{name}_mask"]) * batch[f"{name}_mask"][..., None]
            for name in ("query", "passage")
        }

    def scores(self, encoded: Any) -> Any:
        return encoded["query"].sum(1) @ encoded["passage"].sum(1).T / 100


@pytest.fixture
def encoder(tmp_path: Path) -> tuple[Any, Any]:
    return load_encoder(MiniLMConfig(path=str(encoder_folder(tmp_path / "bert"))), 1)


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    folder = training_collection(tmp_path / "collection")
    return read_collection(CollectionConfig(path=str(folder), train_split="train"))


def test_only_the_top_layers_are_trained(tmp_path: Path) -> None:
    config = MiniLMConfig(path=str(encoder_folder(tmp_path)))
    trained = {name.split(".")[2] for name, p in load_encoder(config, 1)[0].named_parameters() if p.requires_grad}
    assert trained == {"2"}
    assert not any(p.requires_grad for p in load_encoder(config, 0)[0].parameters())
    body = load_encoder(config, None)[0]
    assert all(p.requires_grad for name, p in body.named_parameters() if not name.startswith("pooler"))
    assert all(m.p == 0 for m in body.modules() if isinstance(m, nn.Dropout))
    with pytest.raises(UserError, match="has 3 layers"):
        load_encoder(config, 4)


def test_vectors_do_not_depend_on_the_other_texts_and_are_cached(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    body, tokenizer = encoder
    texts = [" ".join(passage).strip() for passage in PASSAGES.values()]
    rows = text_rows(body, tokenizer, texts, 12, "passages")
    assert max(map(len, rows)) == 12
    vectors = encode(States(body), rows, device="cpu", batch_tokens=30)
    assert len(vectors) == len(rows) and vectors.owners().tolist() == np.repeat(range(5), list(map(len, rows))).tolist()
    for number, row in enumerate(rows):
        alone = States(body)(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long))[0]
        np.testing.assert_allclose(vectors.of(number), alone.detach().numpy(), atol=1e-5)
    kept = encode_once(States(body), rows, device="cpu", what="test-vectors")
    np.testing.assert_allclose(kept.values, vectors.values, atol=1e-5)
    monkeypatch.setattr("recipes.retrieval.encoders.encode", None)  # nothing is encoded again
    again = encode_once(States(body), rows, device="cpu", what="test-vectors")
    assert np.array_equal(again.values, kept.values) and again.ends.tolist() == kept.ends.tolist()
    with pytest.raises(UserError, match="has 64 positions") as refused:
        text_rows(body, tokenizer, texts, 65, "queries")
    assert refused.value.where == "encoder.query_tokens=65"


def test_long_texts_are_cut_and_the_others_are_as_they_were(encoder: Any, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [" ".join(passage).strip() for passage in PASSAGES.values()]
    whole = text_rows(*encoder, texts, 64, "passages")
    longest = max(map(len, whole)) - 1
    cut = text_rows(*encoder, texts, longest, "passages")
    assert f"{sum(len(row) > longest for row in whole)} of 5 passages are cut" in capsys.readouterr().err
    for row, before in zip(cut, whole, strict=True):
        assert row == (before if len(before) <= longest else [*before[: longest - 1], before[-1]])  # SEP stays


def test_a_loss_says_how_it_encodes_and_scores() -> None:
    with pytest.raises(TypeError, match="abstract methods? encode_batch, scores"):
        InBatchLoss()  # type: ignore[abstract]


def rows_of(encoder: Any, collection: Collection) -> tuple[Any, Any]:
    body, tokenizer = encoder
    whole = [collection.passages.whole(number) for number in range(len(collection.passages))]
    return text_rows(body, tokenizer, [f"{text} too" for text in QUERIES.values()], 12, "queries"), text_rows(
        body, tokenizer, whole, 12, "passages"
    )


def test_pairs_hold_a_relevant_passage_and_negatives_of_bm25(encoder: Any, collection: Collection) -> None:
    config = PairsConfig(negatives=2, depth=3)
    queries = training_queries(config, collection, 0)
    pairs = training_pairs(config, collection, queries, *rows_of(encoder, collection), seed=0)
    ids = collection.passages.ids
    for number, shown in enumerate(pairs.shown.tolist()):
        assert shown[0] in queries.relevant(number) and len(set(shown)) == 3
        assert not set(shown[1:]) & set(queries.relevant(number))
    # "animal that barks": cat and dog are the animals, so that BM25 ranks cat next to the right one
    assert ids.index("cat") in pairs.shown[0]
    assert np.array_equal(
        pairs.shown, training_pairs(config, collection, queries, *rows_of(encoder, collection), seed=0).shown
    )
    # Of five passages one is right; what is judged and not relevant is a negative like others.
    every = training_pairs(PairsConfig(negatives=4), collection, queries, *rows_of(encoder, collection), seed=0)
    assert [sorted(shown) for shown in every.shown.tolist()] == [list(range(5))] * 4
    with pytest.raises(UserError, match="too few for 5 negatives"):
        training_pairs(PairsConfig(negatives=5), collection, queries, *rows_of(encoder, collection), seed=0)


def test_an_encoder_that_has_diverged_stops_the_run(encoder: Any) -> None:
    body, tokenizer = encoder
    with torch.no_grad():
        body.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(RunFailed, match="not finite\n.*lower trainer.learning_rate"):
        encode(States(body), text_rows(body, tokenizer, ["animal"], 12, "queries"), device="cpu")


def test_queries_that_ask_what_is_tested_on_are_not_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = training_collection(tmp_path)
    file = folder / "queries.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("tree with needles too", " Tree  with NEEDLES"))
    collection = read_collection(CollectionConfig(path=str(folder)))
    assert list(collection.train.ids) == ["t1", "t3", "t4"]
    assert "1 of 4 queries to train on ask what is tested on, and are left out" in capsys.readouterr().err


def test_without_queries_to_train_on(tmp_path: Path) -> None:
    collection = read_collection(CollectionConfig(path=str(write_collection(tmp_path))))
    with pytest.raises(UserError, match="no judged query to train on"):
        training_queries(PairsConfig(), collection, 0)


def test_other_copies_of_what_is_relevant_are_no_negatives() -> None:
    batch = {"passages": torch.tensor([3, 5, 7, 3]), "relevant": torch.tensor([[4, 8], [8, 0]])}
    columns, left_out = targets(batch)
    assert columns.tolist() == [0, 2]
    assert left_out.tolist() == [[False, False, True, True], [False, False, False, False]]


@pytest.mark.parametrize("size", [1, 2])
def test_micro_batches_are_the_whole_batch(size: int, encoder: Any, collection: Collection) -> None:
    config = PairsConfig(negatives=1)
    queries = training_queries(config, collection, 0)
    pairs = training_pairs(config, collection, queries, *rows_of(encoder, collection), seed=0)
    items, model = [pairs[number] for number in range(4)], States(encoder[0])

    def gradient(batches: list[Any]) -> tuple[float, float, torch.Tensor]:
        model.zero_grad()
        loss = PooledLoss()
        loss.before_step(0, model, batches)
        normalizer = torch.stack([loss.normalizer(batch) for batch in batches]).sum()
        total, right = 0.0, 0.0
        for batch in batches:
            part, metrics = loss(model, batch, normalizer)
            part.backward()
            total, right = total + float(part.detach()), right + float(metrics["accuracy"][0])
        return total, right, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = gradient([pair_collate(items)])
    parts = gradient([pair_collate(items[at : at + size]) for at in range(0, 4, size)])
    assert whole[0] == pytest.approx(parts[0], rel=1e-5) and whole[1] == parts[1]
    assert whole[2].abs().max() > 0
    torch.testing.assert_close(whole[2], parts[2], rtol=1e-4, atol=1e-6)


def test_micro_batches_of_different_lengths_are_padded_with_zeros() -> None:
    short, long = torch.ones(1, 2, 3), torch.ones(2, 4, 3)
    merged = merge([{"x": short, "n": torch.ones(1)}, {"x": long, "n": torch.ones(2)}])
    assert merged["x"].shape == (3, 4, 3) and merged["x"][0, 2:].sum() == 0 and merged["n"].tolist() == [1, 1, 1]
