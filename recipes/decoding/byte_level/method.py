"""Probabilities of the next byte from those of tokens: sums over all token lists that a text may be the beginning of.

A *cover* of a text is a valid list of tokens whose bytes begin with it and whose last token reaches or passes its end.
The probability that a text begins with given bytes is the sum over their covers. Pure arrays; no model here.

Source:
    arXiv 2410.09303, the byte-token representation lemma.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recipes.core.data.text.vocabulary_bytes import SYMBOLS, VocabularyBytes

Tail = tuple[int, ...]
Valid = Callable[[Tail], bool]
LEAST = 1e-12  # probabilities below count as this in code lengths: 39.9 bits


@dataclass(frozen=True)
class Cover:
    """Tokens that a text may begin with.

    Attributes:
        tail: Tokens behind the stable part of the text.
        rest: Bytes of the last one that lie behind the end of the text.
        weight: Log probability of the tail.
    """

    tail: Tail
    rest: bytes
    weight: float


def valid_tails(text: bytes, vocabulary: VocabularyBytes, valid: Valid) -> list[list[Tail]]:
    """Valid token lists of the beginnings of a text.

    Args:
        text: n bytes that begin with a word.
        vocabulary: Bytes of tokens.
        valid: Whether some text has tokens that begin with these.

    Returns:
        Of each position 0..n, those that end exactly there; of 0 the empty one.
    """
    tails: list[list[Tail]] = [[] for _ in range(len(text) + 1)]
    tails[0].append(())
    for start in range(len(text)):
        for tail in tails[start]:
            for end in range(start + 1, min(start + vocabulary.longest, len(text)) + 1):
                longer = ((*tail, token) for token in vocabulary.spelling(text[start:end]))
                tails[end] += filter(valid, longer)
    return tails


def tail_weights(tails: Iterable[Tail], ahead: Mapping[Tail, np.ndarray]) -> dict[Tail, float]:
    """Log probability of each tail.

    Args:
        tails: With each, all its beginnings.
        ahead: Of each tail [vocabulary] log probabilities of the token behind it.
    """
    weights: dict[Tail, float] = {(): 0.0}
    for tail in sorted(tails, key=len):
        if tail:
            weights[tail] = weights[tail[:-1]] + float(ahead[tail[:-1]][tail[-1]])
    return weights


def accepted(weights: np.ndarray, accept: Callable[[int], bool], unchecked: float) -> np.ndarray:
    """bool [n]: which of n candidates are accepted; the least likely ones, of no account together, unasked.

    Args:
        weights: [n] of the candidates, not negative.
        accept: Asked for their numbers, those of large weight first.
        unchecked: Sum of the weights of those that may be left unasked.
    """
    order = np.argsort(-weights, kind="stable")
    left = weights.sum() - np.concatenate([[0.0], np.cumsum(weights[order])[:-1]]) if len(order) else weights
    asked = len(order) if unchecked <= 0 else int(np.searchsorted(-left, -unchecked))
    mask = np.ones(len(weights), bool)
    mask[order[:asked]] = [accept(number) for number in order[:asked].tolist()]
    return mask


def covers_of(
    text: bytes,
    tails: Sequence[Sequence[Tail]],
    ahead: Mapping[Tail, np.ndarray],
    vocabulary: VocabularyBytes,
    valid: Valid,
    unchecked: float = 0.0,
) -> list[Cover]:
    """The covers of a text.

    Args:
        text: n bytes behind the stable part.
        tails: From `valid_tails`.
        ahead: Of each tail [vocabulary] log probabilities of the token behind it.
        vocabulary: Bytes of tokens.
        valid: As in `valid_tails`.
        unchecked: Share of the probability of all candidates that may be taken for covers without being asked for.
    """
    if not text:
        return [Cover((), b"", 0.0)]
    weights = tail_weights((tail for each in tails for tail in each), ahead)
    candidates = []
    for start in range(len(text)):
        ids, left = vocabulary.starting_with(text[start:]).tolist(), len(text) - start
        for tail in tails[start]:
            logprobs = weights[tail] + ahead[tail][ids]
            rows = zip(ids, logprobs.tolist(), strict=True)
            candidates += [Cover((*tail, token), vocabulary.table[token][left:], weight) for token, weight in rows]
    if not candidates:
        return []
    logs = np.array([cover.weight for cover in candidates])
    shares = np.exp(logs - logs.max())
    mask = accepted(shares, lambda number: valid(candidates[number].tail), unchecked * float(shares.sum()))
    return [one for one, good in zip(candidates, mask, strict=True) if good and (one.rest or valid(one.tail))]


def next_symbols(
    covers: Sequence[Cover],
    ahead: Mapping[Tail, np.ndarray],
    vocabulary: VocabularyBytes,
    allowed: Callable[[Cover], np.ndarray | None] = lambda cover: None,
) -> tuple[np.ndarray, float]:
    """Probabilities of what stands behind a text.

        S[b] = sum of P(cover) over covers whose rest begins with b
             + sum of P(cover) P(v | cover) over covers without a rest and valid tokens v that begin with b

    Args:
        covers: Of the text.
        ahead: Of those without a rest [vocabulary] log probabilities of the token behind them.
        vocabulary: Bytes of tokens.
        allowed: bool [vocabulary] of the tokens that may stand behind a cover; None: all.

    Returns:
        [257] of each byte and of the end; they sum to 1. And the share of the covers' probability that the model gives
        to what they cannot go on with, which is left out.

    Source:
        arXiv 2410.09303, the next-byte sampling algorithm.
    """
    top = max(cover.weight for cover in covers)
    sums, leaked = np.zeros(SYMBOLS + 1), 0.0
    for cover in covers:
        weight = float(np.exp(cover.weight - top))
        if cover.rest:
            sums[cover.rest[0]] += weight
            continue
        shares = weight * np.exp(ahead[cover.tail])
        mask = allowed(cover)
        if mask is not None:
            leaked += float(shares[~mask & (vocabulary.symbols < SYMBOLS)].sum())
            shares = np.where(mask, shares, 0.0)
        sums += np.bincount(vocabulary.symbols, shares, SYMBOLS + 1)
    total = sums.sum() + leaked
    return sums[:SYMBOLS] / sums[:SYMBOLS].sum(), (leaked + sums[SYMBOLS]) / total


def extend(
    covers: Sequence[Cover],
    byte: int,
    ahead: Mapping[Tail, np.ndarray],
    vocabulary: VocabularyBytes,
    valid: Valid,
    allowed: Callable[[Cover], np.ndarray | None] = lambda cover: None,
) -> list[Cover]:
    """The covers of a text with a byte more.

    Args:
        covers: Of the text.
        byte: What stands behind it.
        ahead, vocabulary, allowed: As in `next_symbols`.
        valid: Asked of each cover that ends where the text does.
    """
    longer = [Cover(one.tail, one.rest[1:], one.weight) for one in covers if one.rest and one.rest[0] == byte]
    ids = vocabulary.starting_with(bytes([byte]))
    for cover in covers:
        if not cover.rest:
            row, mask = ahead[cover.tail], allowed(cover)
            for token in (ids if mask is None else ids[mask[ids]]).tolist():
                longer.append(
                    Cover((*cover.tail, token), vocabulary.table[token][1:], cover.weight + float(row[token]))
                )
    return [cover for cover in longer if cover.rest or valid(cover.tail)]


def reweighted(probabilities: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """Probabilities to draw from: p^(1/T), then the likeliest that make up `top_p`; both sum to 1.

    Args:
        probabilities: [symbols]
        temperature: Above 0.
        top_p: In (0, 1].
    """
    logs = np.log(np.maximum(probabilities, 1e-300))
    warm = np.where(probabilities > 0, np.exp((logs - logs.max()) / temperature), 0.0)
    warm /= warm.sum()
    order = np.argsort(-warm, kind="stable")
    before = np.cumsum(warm[order]) - warm[order]
    warm[order[before >= top_p]] = 0.0
    return warm / warm.sum()


def combine(rows: Sequence[np.ndarray], how: str) -> np.ndarray:
    """Several models' probabilities of the next byte as one.

    Args:
        rows: [symbols] each, sum 1.
        how: "mean": of the probabilities; "product": their geometric mean, normalised.
    """
    stacked = np.stack(rows)
    if how == "mean":
        return stacked.mean(0)
    logs = np.log(np.maximum(stacked, 1e-300)).mean(0)
    product = np.exp(logs - logs.max())
    return product / product.sum()


def bits(probabilities: np.ndarray, symbol: int) -> float:
    """Code length of a symbol in bits, at most that of `LEAST`."""
    return float(-np.log2(max(float(probabilities[symbol]), LEAST)))
