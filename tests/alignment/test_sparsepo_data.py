"""Pairs and batches of the alignment recipes."""

import numpy as np
import pytest
import torch

from recipes.alignment.pairs import IGNORE, Pair, PairItems, PairSet, by_row, pair_collate, valid_tokens
from recipes.alignment.sentiment import _judge_couples
from recipes.core.data.tasks.judges import Judges, LexiconJudge
from recipes.core.data.tasks.prompts import Prompt

JUDGE = LexiconJudge({"good": 2.0, "dull": -1.5, "well-made": 1.0})


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def pair(name: str = "a", prompt: int = 2, chosen: int = 3, rejected: int = 1) -> Pair:
    first, second = np.arange(10, 10 + chosen, dtype=np.int32), np.arange(20, 20 + rejected, dtype=np.int32)
    marks = (first % 2 == 0, second % 2 == 0)
    return Pair(name, np.arange(1, 1 + prompt, dtype=np.int32), first, second, (0.5, 0.2), marks)


def test_couples_become_pairs_and_the_rest_is_counted() -> None:
    class Human:
        correlation = 0.0

    judges = Judges(JUDGE, Human(), ["", " good", " dull", " film"])  # type: ignore[arg-type]
    prompts = [Prompt(name, "So", ids(3)) for name in "abcde"]
    couples = [
        [ids(*answer) for answer in couple]
        for couple in ([[1, 0], [2]], [[3], [3]], [[3], [3, 0]], [[2], [3]], [[1], [2]])
    ]
    pairs, counts = _judge_couples(prompts, couples, judges, 0.1, most=2)
    assert [made.id for made in pairs.pairs] == ["a", "d"]
    assert pairs.pairs[1].chosen.tolist() == [3] and pairs.pairs[1].rejected.tolist() == [2]
    assert (counts.kept, counts.ties, counts.equal, counts.unused) == (2, 1, 1, 1)
    assert pairs.pairs[0].important is not None and pairs.pairs[0].important[0].tolist() == [True, False]


def test_values_of_tokens_stay_with_their_tokens() -> None:
    pairs = PairSet([pair("a", 2, 3, 1), pair("b", 1, 2, 4)])
    tokens = np.concatenate([pairs.answer(number) for number in range(4)])
    items = PairItems(pairs, {"ids": tokens.astype(np.float32), "wide": np.stack([tokens, -tokens], 1)})
    batch = pair_collate(0)([items[1], items[0]])
    flat = batch["labels"][batch["labels"] != IGNORE]
    assert batch["tokens/ids"].tolist() == flat.tolist() == batch["tokens/wide"][:, 0].tolist()
    assert batch["ids"] == ["b", "a"] and batch["score_gap"].tolist() == pytest.approx([0.3, 0.3])
    lengths = (batch["labels"] != IGNORE).sum(1)
    assert by_row(flat, lengths)[0].tolist() == [10, 11, 0, 0]
    assert valid_tokens(lengths).sum(1).tolist() == [2, 3, 4, 1]
    marks = pairs.important()
    assert marks is not None and marks.tolist() == (tokens % 2 == 0).tolist()


def test_gradients_come_back_through_rows() -> None:
    values = torch.arange(3.0, requires_grad=True)
    (by_row(values, torch.tensor([1, 2])) * torch.tensor([[1.0, 9], [2, 3]])).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [1, 2, 3]


def test_the_fingerprint_follows_the_ids() -> None:
    assert PairSet([pair()]).fingerprint == PairSet([pair("b")]).fingerprint != PairSet([pair(chosen=4)]).fingerprint
