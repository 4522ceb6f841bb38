"""The key of a cipher, read off the states of a model: a probe tells which plain letter each symbol stands for.

After x_n is read, the state h_n of the last layer is given to a classifier that was fitted on plain training text to
name x_n. On enciphered text it names the letter that stands in such a place; each symbol is taken for the letter that
is named most often.

Source:
    Lexinvariant Language Models (arXiv 2305.16349), Section 3.3. A linear classifier at its optimum stands in for a
    network of two layers.
"""

import numpy as np
from torch import Tensor

from recipes.core.evaluation.probe import Probe, fit_probe
from recipes.core.evaluation.scores import Scores
from recipes.pretraining.lexinvariant import method
from recipes.pretraining.lexinvariant.config import KEY_ALL, KEY_WINDOW
from recipes.pretraining.lexinvariant.lexicon import Lexicon
from recipes.pretraining.lexinvariant.measures import batches, read
from recipes.pretraining.lexinvariant.model import Heads, LexiconLM

STRENGTH = 0.01  # inverse strength of the probe's penalty


def fit_key_probe(model: LexiconLM, windows: np.ndarray, lexicon: Lexicon, tokens: int) -> Probe:
    """A classifier of states by the token of text last read, of plain sequences [n, T]."""
    features, labels = _states(model, windows, tokens, method.SEQUENCE)
    text = labels < len(lexicon.text)
    return fit_probe(features[text], labels[text], len(lexicon.text), STRENGTH)


def add_key(
    scores: Scores, model: LexiconLM, probe: Probe, names: list[str], ciphers: np.ndarray, key: np.ndarray, tokens: int
) -> None:
    """`key/window`, share of a sequence's symbols read right, and `key/all`, of those of all sequences together.

    Args:
        scores: Where to add them.
        model: What reads.
        probe: From `fit_key_probe`.
        names: Of the sequences.
        ciphers: [sequences, T] text enciphered by `key`.
        key: int [tokens of text], what each was exchanged for.
        tokens: Of a forward.
    """
    scores.define(KEY_WINDOW, "share of the symbols of a sequence whose plain letter is read", True)
    scores.define(KEY_ALL, "share of the symbols whose plain letter is read, over all sequences", True)
    features, symbols = _states(model, ciphers, tokens, method.CIPHER)
    readings, plain = probe.predict(features), np.argsort(key)
    text = symbols < len(key)
    for name, mine, texts, theirs in zip(
        names, *(x.reshape(len(names), -1) for x in (symbols, text, readings)), strict=True
    ):
        if texts.any():
            votes = method.vote(mine[texts], theirs[texts], len(key))
            scores.add(KEY_WINDOW, name, name, float((votes == plain)[votes >= 0].mean()))
    votes = method.vote(symbols[text], readings[text], len(key))
    for symbol in np.flatnonzero(votes >= 0):
        scores.add(KEY_ALL, f"symbol {symbol}", f"symbol {symbol}", float(votes[symbol] == plain[symbol]))


def _states(model: LexiconLM, windows: np.ndarray, tokens: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """States [n T/2, d] and tokens [n T/2] of the second half of each sequence, which has something before it."""
    half = windows.shape[1] // 2

    def keep(hidden: Tensor, _: Heads) -> np.ndarray:
        states: np.ndarray = hidden[:, half:].flatten(0, 1).float().cpu().numpy()
        return states

    states = [read(model, windows, part, stream, keep) for part in batches(windows.shape, tokens)]
    return np.concatenate(states), windows[:, half:].reshape(-1)
