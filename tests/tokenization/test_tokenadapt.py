"""TokenAdapt's weights: the sheet's worked numbers, limits, convexity, brute force."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.core.data.text.pieces import read_vocabulary
from recipes.core.models.rows import RowWeights, weighted_rows
from recipes.tokenization.config import TokenizerConfig
from recipes.tokenization.mapping import map_vocabularies
from recipes.tokenization.neighbours import neighbour_weights, sparsemax
from recipes.tokenization.strings import token_strings
from recipes.tokenization.tokenadapt.alignment import aligned_rows, overlaps
from recipes.tokenization.tokenadapt.compose import Composer
from recipes.tokenization.tokenadapt.config import INITS, InitConfig
from recipes.tokenization.tokenadapt.method import (
    local_weights,
    mix,
    segment_softmax,
)
from recipes.tokenization.tokenizers import train_tokenizer
from recipes.tokenization.vocabularies import Vocabularies
from tests.core import tokenizer_kinds

ALIKE, SHARES = torch.tensor([0.60, 0.80]), torch.tensor([4 / 7, 3 / 7])
ONE = torch.zeros(2, dtype=torch.long)  # both pieces are of one token
PIECES = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
NEAR, NEIGHBOURS = torch.tensor([[0.9, 0.7, 0.5]]), torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])


def close(one: Tensor, other: list[Any], tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(one, torch.tensor(other), atol=tolerance, rtol=0)


def test_worked_numbers() -> None:
    close(segment_softmax(ALIKE, ONE, 1), [0.450166, 0.549834])
    weights = local_weights(ALIKE, SHARES, ONE, 1, 0.3)
    close(weights, [0.517988, 0.482012])
    close(weights @ PIECES, [0.517988, 0.964025])
    near = neighbour_weights(NEAR, 0.3)
    close(near, [[0.562742, 0.288921, 0.148337]])
    close(near[0] @ NEIGHBOURS, [0.977146, 0.437258])
    close(neighbour_weights(NEAR, 0.3, 0.6), [[0.660756, 0.339244, 0.0]])
    rows = torch.cat([PIECES, NEIGHBOURS])
    local = weighted_rows(1, [0], [torch.tensor([0, 1])], [weights])
    neighbours = weighted_rows(1, [0], [torch.tensor([2, 3, 4])], [near[0]])
    close(mix(local, neighbours, 0.3).apply(rows), [[0.655736, 0.805995]])
    assert torch.equal(mix(local, neighbours, 0.0).apply(rows), local.apply(rows))
    assert torch.equal(mix(local, neighbours, 1.0).apply(rows), neighbours.apply(rows))


def test_factors_alone() -> None:
    likeness = (segment_softmax(ALIKE, ONE, 1) / 0.3).softmax(0)
    close(local_weights(ALIKE, SHARES, ONE, 1, 0.3, "similarity"), likeness.tolist())
    close(local_weights(ALIKE, SHARES, ONE, 1, 0.3, "length"), (SHARES / 0.3).softmax(0).tolist())


def test_a_high_temperature_gives_plain_means() -> None:
    owners = torch.tensor([0, 0, 1, 1, 1])
    weights = local_weights(torch.rand(5), torch.rand(5), owners, 2, 1e9)
    close(weights, [1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3])
    close(neighbour_weights(NEAR, 1e9), [[1 / 3] * 3])


def test_a_single_piece_weighs_one_and_no_neighbour_nothing() -> None:
    assert local_weights(torch.tensor([-0.3]), torch.tensor([0.7]), torch.zeros(1).long(), 1, 0.3).tolist() == [1.0]
    assert neighbour_weights(torch.tensor([[-0.1, -0.2]]), 0.3).tolist() == [[0.0, 0.0]]
    assert neighbour_weights(torch.tensor([[0.1, -0.2]]), 0.3).tolist() == [[1.0, 0.0]]


def test_where_only_one_estimate_is_there_it_is_taken() -> None:
    one = RowWeights(3, torch.tensor([0]), torch.tensor([1]), torch.tensor([1.0]))
    other = RowWeights(3, torch.tensor([1]), torch.tensor([0]), torch.tensor([1.0]))
    for share in (0.0, 0.3, 1.0):
        mixed = mix(one, other, share)
        assert mixed.targets.tolist() == [0, 1] and mixed.values.tolist() == [1.0, 1.0]
        assert mixed.missing.tolist() == [False, False, True]


def test_sparsemax_is_the_nearest_point_of_the_simplex() -> None:
    close(sparsemax(torch.tensor([0.9, 0.7, -0.5])), [0.6, 0.4, 0.0])
    close(sparsemax(torch.tensor([3.0, 0.0])), [1.0, 0.0])
    scores = torch.randn(50, 6, generator=torch.Generator().manual_seed(1)).double()
    weights = sparsemax(scores)
    torch.testing.assert_close(weights.sum(-1), torch.ones(50).double())
    # Bisection for the threshold at which what is above it sums to 1.
    low, high = scores.min(-1, keepdim=True).values - 1, scores.max(-1, keepdim=True).values
    for _ in range(100):
        middle = (low + high) / 2
        above = (scores - middle).clamp(min=0).sum(-1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    torch.testing.assert_close(weights, (scores - low).clamp(min=0))


def test_shared_bytes_of_two_cuts() -> None:
    old, new, shared = overlaps([4, 3, 1], [2, 4, 2])
    assert list(zip(old.tolist(), new.tolist(), shared.tolist(), strict=True)) == [
        (0, 0, 2), (0, 1, 2), (1, 1, 2), (1, 2, 1), (2, 2, 1),
    ]  # fmt: skip
    draw = np.random.default_rng(0)
    one = draw.integers(1, 5, 30)
    other = [1] * int(one.sum())
    old, new, shared = overlaps(one.tolist(), other)
    assert np.array_equal(np.bincount(old, shared), one) and (shared == 1).all()
    assert list(overlaps([2, 0, 1], [3])[0]) == [0, 2]  # a token of no byte shares none


class Letters:
    """Vectors of strings by their letters: enough to be alike by."""

    def of(self, strings: list[str]) -> Tensor:
        rows = [np.bincount([ord(letter) % 61 for letter in text] or [0], minlength=61) + 0.01 for text in strings]
        return torch.nn.functional.normalize(torch.from_numpy(np.array(rows)).float(), dim=-1)


@pytest.fixture(scope="module")
def both() -> Vocabularies:
    old = tokenizer_kinds.byte_level(bos=True)
    texts = [*tokenizer_kinds.texts(), "houses and housing, treehouse; redder: reddest 猫が座った 猫が座った"] * 2
    new = train_tokenizer(TokenizerConfig(vocabulary=440), texts, "tokenadapt", old, 0)
    tables = read_vocabulary(old, ""), read_vocabulary(new, "")
    return Vocabularies(*tables, (old, new), map_vocabularies(tables[0], old, tables[1], new), "")


def composer(both: Vocabularies) -> Composer:
    vectors: Callable[[], Any] = Letters
    return Composer(both, vectors, lambda: [*tokenizer_kinds.texts(), "treehouse houses redder reddest housing"])


@pytest.mark.parametrize("name", [name for name in INITS if name not in ("mean", "random", "base")])
def test_every_composed_row_lies_between_the_rows_it_is_made_of(name: str, both: Vocabularies) -> None:
    rows = composer(both).rows(InitConfig(name=name))
    sums = torch.zeros(rows.count).index_add(0, rows.targets, rows.values)
    torch.testing.assert_close(sums[~rows.missing], torch.ones(int((~rows.missing).sum())))
    assert (rows.values > 0).all() and (~rows.missing).sum() > len(both.mapped.shared)
    old = torch.randn(len(both.old), 5)
    new = rows.apply(old)
    for token in both.mapped.unique.tolist():
        sources = old[rows.sources[rows.targets == token]]
        if len(sources):
            assert (new[token] <= sources.max(0).values + 1e-5).all()
            assert (new[token] >= sources.min(0).values - 1e-5).all()
    shared = both.mapped.shared
    assert torch.equal(new[shared], old[torch.from_numpy(both.mapped.copied[shared])])


def test_the_mean_of_pieces_and_its_limit(both: Vocabularies) -> None:
    old = torch.randn(len(both.old), 5)
    plain = composer(both).rows(InitConfig(name="retok")).apply(old)
    for token, pieces in both.pieces.items():
        assert both.old.join(pieces) == both.new.table[token]
        torch.testing.assert_close(plain[token], old[pieces].mean(0))
    limit = composer(both).rows(InitConfig(name="local", tau=1e9)).apply(old)
    torch.testing.assert_close(limit, plain, atol=1e-5, rtol=1e-5)


def test_local_rows_by_a_loop(both: Vocabularies) -> None:
    rows = composer(both).rows(InitConfig(name="local"))
    strings, letters = token_strings(both.old.table), Letters()
    for token, pieces in list(both.pieces.items())[:20]:
        text = both.new.table[token].decode(errors="replace")
        alike = [float(letters.of([text])[0] @ letters.of([strings[piece]])[0]) for piece in pieces]
        soft = [math.exp(value) / sum(map(math.exp, alike)) for value in alike]
        scores = [(u + len(strings[piece]) / max(1, len(text))) / 2 for u, piece in zip(soft, pieces, strict=True)]
        powers = [math.exp(score / 0.3) for score in scores]
        close(rows.values[rows.targets == token], [power / sum(powers) for power in powers])


def test_half_characters_have_pieces_and_no_neighbours(both: Vocabularies) -> None:
    halves = [
        token for token in both.mapped.unique.tolist() if "\ufffd" in both.new.table[token].decode(errors="replace")
    ]
    assert halves  # the characters of the text are cut somewhere
    near = composer(both).rows(InitConfig(name="global"))
    hybrid, local = (composer(both).rows(InitConfig(name=name)) for name in ("hybrid", "local"))
    assert near.missing[halves].all() and not hybrid.missing[halves].any()
    old = torch.randn(len(both.old), 5)
    torch.testing.assert_close(hybrid.apply(old)[halves], local.apply(old)[halves])


def test_tokens_at_the_same_place_are_aligned(both: Vocabularies) -> None:
    text = "treehouse houses"
    sides = [(tokenizer, table) for tokenizer, table in zip(both.tokenizers, (both.old, both.new), strict=True)]
    rows = aligned_rows(sides[0], sides[1], [text], 1000)
    owners = [np.repeat(ids, [len(table.table[token]) for token in ids])
              for ids, table in ((tokenizer(text, add_special_tokens=False)["input_ids"], table)
                                 for tokenizer, table in sides)]  # fmt: skip
    for target in set(owners[1].tolist()):
        counts = np.bincount(owners[0][owners[1] == target], minlength=len(both.old))
        kept = rows.targets == target
        weights = torch.zeros(len(both.old)).index_add(0, rows.sources[kept], rows.values[kept])
        torch.testing.assert_close(weights.double(), torch.from_numpy(counts / counts.sum()), atol=1e-6, rtol=0)
    assert rows.missing.sum() == len(both.new) - len(set(owners[1].tolist()))
