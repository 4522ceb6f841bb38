"""What a trained model is asked: held-out text by position, the same text in a cipher, and look-ups."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from recipes.core.evaluation.scores import Scores
from recipes.core.models.dropout import evaluation
from recipes.pretraining.lexinvariant import method
from recipes.pretraining.lexinvariant.config import CIPHER, FALL, HELD_OUT, LOSS, RISE, SEEN, LexinvariantConfig
from recipes.pretraining.lexinvariant.items import next_labels
from recipes.pretraining.lexinvariant.lexicon import Lexicon
from recipes.pretraining.lexinvariant.model import Heads, LexiconLM, token_losses

R = TypeVar("R")
SEED = 0  # of what is measured: the same for all seeds and arms


def batches(shape: tuple[int, ...], tokens: int) -> Iterator[slice]:
    """Slices of sequences [n, T], of about `tokens` tokens each."""
    count, length = shape
    size = max(tokens // length, 1)
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


def read(
    model: LexiconLM,
    tokens: np.ndarray,
    part: slice,
    stream: int,
    readout: Callable[[Tensor, Heads], R],
    sample: int = 0,
) -> R:
    """`readout` of some sequences of [n, T], whose vectors follow from their number and that of the sample."""
    ids = torch.from_numpy(np.ascontiguousarray(tokens[part])).to(model.marks.device)
    keys = torch.tensor([[stream, number, sample] for number in range(part.start, part.stop)])
    with torch.no_grad(), evaluation(model):
        return model(ids, torch.ones_like(ids), keys, readout)


def window_nlls(config: LexinvariantConfig, model: LexiconLM, lexicon: Lexicon, windows: np.ndarray) -> np.ndarray:
    """float64 [windows, T - 1] NLL of each token but the first; NaN where the token is a mark.

    Over several tables of vectors probabilities are averaged: -log mean_s p_s.
    """
    labels = next_labels(windows, windows < lexicon.count)
    nlls = np.full((config.samples, *labels[:, :-1].shape), np.nan)
    for sample in range(config.samples):
        for part in batches(windows.shape, config.evaluation.batch_tokens):
            wanted = torch.from_numpy(labels[part]).to(model.marks.device)

            def losses(hidden: Tensor, heads: Heads, wanted: Tensor = wanted) -> Tensor:
                return token_losses(hidden, heads, wanted)[1]

            values = read(model, windows, part, method.HELD_OUT, losses, sample)
            nlls[sample, part][labels[part][:, :-1] >= 0] = values.double().cpu().numpy()
    with np.errstate(invalid="ignore"):  # of marks
        return np.asarray(math.log(config.samples) - np.logaddexp.reduce(-nlls, axis=0))


def add_positions(scores: Scores, names: list[str], nlls: np.ndarray, buckets: int) -> list[tuple[float, float]]:
    """`loss`, `loss/<first>-<last position>` and `fall`, from the first bucket to the last, of each sequence.

    Args:
        scores: Where to add them.
        names: Of the sequences.
        nlls: [sequences, T - 1], NaN where nothing is predicted.
        buckets: Parts of a sequence.

    Returns:
        (first position, perplexity) of each bucket.
    """
    edges = np.linspace(1, nlls.shape[1] + 1, buckets + 1).astype(int)  # of positions, the first token's being 0
    scores.define(LOSS, "nats per token of held-out text", higher_is_better=False)
    scores.define(FALL, "nats per token that the last positions cost less than the first", higher_is_better=True)
    parts = [(f"{LOSS}/{first}-{end - 1}", nlls[:, first - 1 : end - 1]) for first, end in pairwise(edges)]
    for name, part in [(LOSS, nlls), *parts]:
        if name != LOSS:
            scores.define(name, f"nats per token at positions {name.removeprefix(LOSS + '/')}", False)
        for example, row in zip(names, part, strict=True):
            _add_mean(scores, name, example, row)
    for example, first, last in zip(names, parts[0][1], parts[-1][1], strict=True):
        if np.isfinite(first).any() and np.isfinite(last).any():
            scores.add(FALL, example, example, float(np.nanmean(first) - np.nanmean(last)))
    return [
        (float(first), math.exp(float(np.nanmean(part)))) for first, (_, part) in zip(edges[:-1], parts, strict=True)
    ]


def encipher(windows: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Sequences whose tokens of text are exchanged by a permutation `key` [tokens of text]."""
    return np.where(windows < len(key), key[np.minimum(windows, len(key) - 1)], windows)


def cipher_key(lexicon: Lexicon) -> np.ndarray:
    """int [tokens of text]: what each is exchanged for."""
    return np.random.default_rng([SEED, method.CIPHER]).permutation(len(lexicon.text))


def add_cipher(scores: Scores, names: list[str], plain: np.ndarray, enciphered: np.ndarray) -> None:
    """`cipher_loss`, and `cipher_rise` over plain text, from NLLs [sequences, T - 1] of both."""
    scores.define(CIPHER, "nats per token of enciphered text", higher_is_better=False)
    scores.define(RISE, "nats per token more on enciphered text than on plain text", higher_is_better=False)
    for name, row, difference in zip(names, enciphered, enciphered - plain, strict=True):
        _add_mean(scores, CIPHER, name, row)
        _add_mean(scores, RISE, name, difference)


def add_lookups(scores: Scores, config: LexinvariantConfig, model: LexiconLM, lexicon: Lexicon) -> list[dict[str, Any]]:
    """`lookup/seen` and `lookup/held_out`: share of questions answered, the answer the most likely of all tokens.

    Returns:
        Question, answer and what the model says, of each.
    """
    options, shown = config.lookups, []
    for number, (name, symbols) in enumerate(zip((SEEN, HELD_OUT), lexicon.halves, strict=True)):
        shows = "training never shows" if name == HELD_OUT else "training shows"
        scores.define(name, f"share of look-ups answered, in symbols that {shows}", True)
        lookups = [
            draw(symbols, lexicon, options.fewest_pairs, options.most_pairs, [SEED, method.LOOKUP, number, each])
            for each in range(config.evaluation.lookups)
        ]
        answers = lookup_answers(model, lookups, lexicon, config.evaluation.batch_tokens)
        for place, (lookup, answer) in enumerate(zip(lookups, answers, strict=True)):
            example, right = f"{name} {place}", int(lookup.tokens[-1])
            scores.add(name, example, example, float(answer == right))
            question = " ".join(map(lexicon.name, lookup.tokens[:-1]))
            shown.append({"example": example, "question": question, "answer": lexicon.name(right)})
            shown[-1]["model"] = lexicon.name(int(answer))
    return shown


def draw(symbols: np.ndarray, lexicon: Lexicon, fewest: int, most: int, key: list[int]) -> method.Lookup:
    """Pairs and one question."""
    return method.draw_lookup(symbols, lexicon.arrow, (fewest, most), None, key)


def lookup_answers(model: LexiconLM, lookups: list[method.Lookup], lexicon: Lexicon, tokens: int) -> np.ndarray:
    """int [look-ups]: the most likely last token of each."""
    last = np.array([len(lookup.tokens) - 2 for lookup in lookups])
    padded = np.full((len(lookups), last.max() + 1), lexicon.end, np.int64)  # behind, where no question sees it
    for row, lookup in zip(padded, lookups, strict=True):
        row[: len(lookup.tokens) - 1] = lookup.tokens[:-1]
    answers = []
    for part in batches(padded.shape, tokens):
        places = torch.from_numpy(last[part]).to(model.marks.device)

        def choose(hidden: Tensor, heads: Heads, places: Tensor = places) -> list[int]:
            states = hidden[torch.arange(len(places), device=places.device), places]
            each = heads if len(heads) > 1 else [heads[0]] * len(states)
            return [int(head.logits(state).argmax()) for head, state in zip(each, states, strict=True)]

        answers += read(model, padded, part, method.LOOKUP, choose)
    return np.array(answers)


def _add_mean(scores: Scores, metric: str, name: str, row: np.ndarray) -> None:
    if count := int(np.isfinite(row).sum()):
        scores.add(metric, name, name, float(np.nanmean(row)), count)
