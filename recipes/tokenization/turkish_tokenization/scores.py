"""How a tokenizer scores: what its tokens are, how it cuts words, what a model says that is trained with it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.core.data.text.text_ids import TextIds, control_ids
from recipes.core.scoring.bits import TextBits
from recipes.tokenization.measures import fertility
from recipes.tokenization.turkish_tokenization import method
from recipes.tokenization.turkish_tokenization.config import (
    ALPHABETIC,
    BITS,
    BOUNDARIES,
    BYTES_PER_TOKEN,
    CHANCE,
    FERTILITY,
    PURE,
    SINGLE,
    VALID,
    VOCABULARY,
    MeasureConfig,
)
from recipes.tokenization.turkish_tokenization.method import BROKEN, WORD, Chains, normalise

TITLES: dict[str, tuple[str, bool]] = {
    BITS: ("bits per byte of held-out text under the tokenizer's model", False),
    VALID: ("percent of tokens that are valid words (%TR)", True),
    PURE: ("percent of tokens that are one morpheme (%Pure)", True),
    FERTILITY: ("tokens per word", False),
    BOUNDARIES: ("F1 of morpheme boundaries inside words, percent", True),
    SINGLE: ("percent of word types that are one token", True),
    VOCABULARY: ("tokens of the vocabulary", True),
    BYTES_PER_TOKEN: ("bytes per token", True),
    CHANCE: ("a random number", True),
    "single_letters": ("percent of the distinct tokens that are single letters", False),
    "text_tokens": ("percent of tokens that are whole characters of text", True),
    "longer/valid": ("%TR without single letters", True),
    "longer/pure": ("%Pure without single letters", True),
}
NAMED = (BITS, VALID, PURE, FERTILITY)  # what is also a metric of each tokenizer


@dataclass(frozen=True)
class TokenCounts:
    """The tokens of a text.

    Attributes:
        words: How often each token that is text occurs, by its normalised form.
        tokens: All tokens of the text.
        dropped: How often tokens occur that are white space, or a part of a character.
    """

    words: Mapping[str, int]
    tokens: int
    dropped: int


@dataclass(frozen=True)
class Row:
    """A tokenizer beside the others.

    Attributes:
        name: Its name.
        tokenizer: It.
        values: Its scores, without bits per byte.
        bits: What its model says of the texts; None if it cannot give texts back, so that no model was trained.
    """

    name: str
    tokenizer: Any
    values: Mapping[str, float]
    bits: Sequence[TextBits] | None

    @property
    def bits_per_byte(self) -> float:
        """All bits of the texts over their bytes."""
        assert self.bits is not None
        return float(sum(one.bits.sum() for one in self.bits) / sum(one.size for one in self.bits))


def count_tokens(tokenizer: Any, texts: Sequence[str], turkish: bool) -> TokenCounts:
    """Tokens of texts by their normalised form; control tokens do not count.

    Source:
        arXiv 2502.07057, `test_tokenizer.ipynb`: a token is decoded alone.
    """
    ids = Counter(token for row in TextIds(tokenizer).batch(texts) for token in row)
    control, words, dropped = control_ids(tokenizer), Counter[str](), 0
    for token, count in ids.items():
        if token not in control:
            text = normalise(tokenizer.decode([token]), turkish)
            if not text or BROKEN in text:
                dropped += count
            else:
                words[text] += count
    return TokenCounts(words, ids.total(), dropped)


def shares(counts: TokenCounts, chains: Chains, config: MeasureConfig, shortest: int) -> dict[str, float]:
    """%TR and %Pure.

    Args:
        counts: From `count_tokens`.
        chains: Parses.
        config: What counts, and as what.
        shortest: Letters of a token at least.
    """
    alone = config.denominator == ALPHABETIC
    kept = {
        token: count
        for token, count in counts.words.items()
        if len(token) >= shortest and (not alone or WORD.fullmatch(token))
    }
    holds: dict[str, Callable[[str], bool]] = {
        VALID: lambda token: chains.is_valid(token, config.validity),
        PURE: lambda token: chains.is_pure(token, config.validity),
    }
    return {name: method.share(kept, check, config.weighting) for name, check in holds.items()}


def word_scores(tokenizer: Any, words: Sequence[str], chains: Chains) -> dict[str, float]:
    """F1 of the boundaries of morphemes over words that have a parse, and the percent of words that are one token."""
    totals, single = np.zeros(3), 0
    for word, ids in zip(words, TextIds(tokenizer).batch([f" {word}" for word in words]), strict=True):
        ids = [token for token in ids if tokenizer.decode([token]).strip()]  # a space may be a token of its own
        single += len(ids) == 1
        if parses := chains.parses(word):
            totals += method.boundary_hits(_places(tokenizer, ids, len(word)), parses)
    both, mine, theirs = (int(number) for number in totals)
    return {BOUNDARIES: 100 * method.f1(both, mine, theirs), SINGLE: 100 * single / max(len(words), 1)}


def _places(tokenizer: Any, ids: Sequence[int], letters: int) -> set[int]:
    """Where tokens cut a word, in letters; cuts inside a letter are none."""
    heads = (tokenizer.decode(ids[:end]).strip() for end in range(1, len(ids)))
    return {len(head) for head in heads if BROKEN not in head and 0 < len(head) < letters}


def score(
    tokenizer: Any, texts: Sequence[str], words: Sequence[str], chains: Chains, config: MeasureConfig, turkish: bool
) -> dict[str, float]:
    """All scores of a tokenizer but a random one; shares are percents.

    Args:
        tokenizer: It.
        texts: What is scored.
        words: Word types, normalised, whose cuts are compared.
        chains: Parses.
        config: What counts.
        turkish: See `normalise`.
    """
    counts = count_tokens(tokenizer, texts, turkish)
    single = sum(len(word) == 1 and word.isalpha() for word in counts.words)
    whole = "\n".join(texts)
    longer = shares(counts, chains, config, max(config.shortest, 2))
    return {
        **shares(counts, chains, config, config.shortest),
        **{f"longer/{name}": value for name, value in longer.items()},
        **word_scores(tokenizer, words, chains),
        FERTILITY: fertility(counts.tokens, whole),
        BYTES_PER_TOKEN: len(whole.encode()) / max(counts.tokens, 1),
        VOCABULARY: float(len(tokenizer)),
        "single_letters": 100 * single / max(len(counts.words), 1),
        "text_tokens": 100 * (1 - counts.dropped / max(counts.tokens, 1)),
    }


def chance(names: Sequence[str], seed: int) -> dict[str, float]:
    """A random number for each tokenizer: what a score without meaning predicts."""
    return dict(zip(names, np.random.default_rng([seed, len(CHANCE)]).random(len(names)).tolist(), strict=True))
