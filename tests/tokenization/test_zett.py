"""Rows of the recipe `zett` without a network, and its config: the sheet's numbers and limits, brute force."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.core.config import compose
from recipes.core.data.text.pieces import read_vocabulary
from recipes.core.errors import UserError
from recipes.core.models.rows import normal_rows
from recipes.tokenization.config import TokenizerConfig
from recipes.tokenization.mapping import map_vocabularies
from recipes.tokenization.neighbours import neighbour_weights, sparsemax
from recipes.tokenization.old_rows import OldRows
from recipes.tokenization.tokenizers import train_tokenizer, train_unigram
from recipes.tokenization.vocabularies import Vocabularies
from recipes.tokenization.zett.config import INITS, RowsConfig
from recipes.tokenization.zett.method import cosines, token_vectors
from recipes.tokenization.zett.rows import RowMaker
from recipes.tokenization.zett.targets import Target
from tests.core import tokenizer_kinds
from tests.tokenization.test_ground import tiny
from tests.tokenization.test_hypernetwork import source

WEIGHTED = [name for name in INITS if name not in ("hypernetwork", "base")]
TEXTS = [*tokenizer_kinds.texts(), "houses and housing, treehouse; redder: reddest 猫が座った 猫が座った"] * 2


class Letters:
    """Vectors of strings by their letters: enough to be alike by."""

    def of(self, strings: list[str]) -> Tensor:
        rows = [np.bincount([ord(letter) % 61 for letter in text] or [0], minlength=61) + 0.01 for text in strings]
        return torch.nn.functional.normalize(torch.from_numpy(np.array(rows).reshape(-1, 61)).float(), dim=-1)


@pytest.fixture(scope="module")
def old() -> OldRows:
    return source()


@pytest.fixture(scope="module")
def target(old: OldRows) -> Target:
    return as_target(old, train_tokenizer(TokenizerConfig(vocabulary=440), TEXTS, "zett", old.tokenizer, 0))


def as_target(old: OldRows, tokenizer: Any) -> Target:
    new = read_vocabulary(tokenizer, "")
    mapped = map_vocabularies(old.vocabulary, old.tokenizer, new, tokenizer)
    return Target("test", tokenizer, Vocabularies(old.vocabulary, new, (old.tokenizer, tokenizer), mapped, ""))


def rows(old: OldRows, target: Target, name: str, **options: Any) -> tuple[Tensor, int]:
    vectors: Callable[[], Any] = Letters
    return RowMaker(RowsConfig(name=name, **options), old, vectors, lambda: TEXTS, 0)(target)


def test_worked_numbers() -> None:
    scores = torch.tensor([0.9, 0.7, 0.1])
    assert sparsemax(scores).tolist() == pytest.approx([0.6, 0.4, 0.0])
    expected = [0.880537, 0.119168, 0.000295]
    assert neighbour_weights(scores[None], 0.1, -1.0)[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert cosines(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])).tolist() == pytest.approx([0.6])


@pytest.mark.parametrize("name", ["fvt", "bfvt", "lexical", "focus", "ofa"])
def test_the_old_tokenizer_gets_its_rows_back(name: str, old: OldRows) -> None:
    made, missing = rows(old, as_target(old, old.tokenizer), name)
    assert torch.equal(made, old.rows) and missing == 0


@pytest.mark.parametrize("name", WEIGHTED)
def test_control_tokens_keep_their_rows_and_shared_ones_unless_all_are_random(
    name: str, old: OldRows, target: Target
) -> None:
    made, missing = rows(old, target, name)
    mapped = target.both.mapped
    control = np.flatnonzero(mapped.control & (mapped.copied >= 0))
    assert len(control) and torch.equal(made[control], old.rows[mapped.copied[control]])
    shared = torch.equal(made[mapped.shared], old.rows[mapped.copied[mapped.shared]])
    assert shared == (name != "random")
    whole = {"random": len(target.tokens), "lexical": len(mapped.unique), "fvt": 0, "bfvt": 0}
    assert missing == whole.get(name, missing) and missing <= len(target.tokens)


def test_the_mean_of_pieces_and_what_replaces_missing_rows(old: OldRows, target: Target) -> None:
    made, _ = rows(old, target, "fvt")
    for token, pieces in target.both.pieces.items():
        torch.testing.assert_close(made[token], old.rows[pieces].mean(0))
    unique = target.both.mapped.unique
    plain, drawn = (rows(old, target, "lexical", fallback=name)[0][unique] for name in ("unk", "random"))
    unknown = old.tokenizer.unk_token_id
    expected = old.rows.mean(0) if unknown is None else old.rows[unknown]
    assert torch.equal(plain, expected.expand(len(unique), -1)) and not torch.equal(drawn, plain)
    many = normal_rows(old.rows, 20000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(many.mean(0), old.rows.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(many.std(0), old.rows.std(0), atol=0.02, rtol=0)


def test_where_pieces_miss_a_byte_the_plain_mean_gives_way() -> None:
    """Word marks without bytes cannot spell an accent: `fvt` falls back, `bfvt` takes what is there."""
    tokenizer = tokenizer_kinds.word_mark()
    model: Any = source().model
    other = copy.copy(model)
    other.language_model = tiny("gpt2", len(tokenizer))
    old = OldRows(other, tokenizer, "")
    target = as_target(old, train_tokenizer(TokenizerConfig(vocabulary=420), ["thé hé " * 9] * 9, "é", tokenizer, 0))
    partly = [token for token in target.both.unspelled if target.both.pieces[token]]
    assert partly
    (plain, lost), (bytewise, left) = rows(old, target, "fvt"), rows(old, target, "bfvt")
    assert lost > left and not torch.equal(plain[partly], bytewise[partly])


def test_vectors_of_tokens_by_a_loop() -> None:
    draw = torch.Generator().manual_seed(0)
    vectors, counts = torch.rand(4, 3, generator=draw), torch.tensor([5.0, 1.0, 2.0, 7.0])
    words = [[0, 1], [1, 1], [2], []]
    made, known = token_vectors(vectors, counts, words, 5)
    for token, inside in enumerate(([0], [0, 1], [2], [], [])):
        mean = sum((counts[word] * vectors[word] for word in inside), torch.zeros(3))
        expected = mean / mean.norm() if inside else mean
        torch.testing.assert_close(made[token], expected)
        assert bool(known[token]) == bool(inside)


def test_unigram_targets_know_all_bytes(old: OldRows) -> None:
    tokenizer = train_unigram(330, TEXTS, "zett-unigram", old.tokenizer)
    table = read_vocabulary(tokenizer, "").table
    assert {bytes([byte]) for byte in range(256)} <= set(table)
    for text in (TEXTS[0], "ünï\x00\n 🙂"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(table[token] for token in ids) == text.encode()


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("tokenizer.targets=[bpe-100]", "bpe-100 is not bpe-TOKENS"),
        ("tokenizer.targets=[bpe-400,bpe-400]", "names none, or one twice"),
        ("tokenizer.domains=[nowhere]", "there is no nowhere"),
        ("hypernetwork.sampled.runs=100", "more than vocabulary"),
    ],
)
def test_what_cannot_be_is_refused(word: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        compose.compose("zett", [word])
