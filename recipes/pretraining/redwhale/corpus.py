"""Filters of training documents: repeated lines, near-duplicates, perplexity; and planted documents that test them.

Source: arXiv 2408.11294 filters 121.6 GB to 43.9 GB by n-grams and perplexity, without details; these are ours.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase

import numpy as np
from numpy.typing import NDArray

from recipes.core.data.text.near_duplicates import NearDuplicates, character_runs
from recipes.core.data.text.shards import Document
from recipes.core.errors import UserError
from recipes.pretraining.redwhale.config import CorpusConfig

LINES, COPY, NOISE, REPEATED = "lines", "copy", "noise", "repeated"
PLANTED = (LINES, COPY, NOISE, REPEATED)
REAL, TRUSTED = "real", "trusted"
PRIOR = 5.0  # how often a shorter n-gram's probability counts as seen
CHARACTERS = 21  # bits of a code point


@dataclass(frozen=True)
class Piece:
    """A training document, and what it is.

    Attributes:
        document: The document; its text is what filters have left of it.
        kind: "real", "trusted", or what was planted: "lines", "copy", "noise", "repeated".
        size: Characters before any filter.
    """

    document: Document
    kind: str
    size: int


def plant(documents: Sequence[Document], config: CorpusConfig) -> list[Piece]:
    """Documents, some of them trusted, and planted ones behind them, drawn by the config's seed.

    Planted are, in turn: lines of other documents; a copy in which each line has one letter changed; the letters of a
    document in random order; one word again and again.
    """
    draw = np.random.default_rng(config.seed)
    trusted = {*draw.choice(len(documents), max(1, round(config.trusted * len(documents))), replace=False).tolist()}
    pieces = [
        Piece(document, TRUSTED if number in trusted else REAL, len(document.text))
        for number, document in enumerate(documents)
    ]
    others = [documents[number] for number in range(len(documents)) if number not in trusted] or list(documents)
    for number in range(round((config.planted or 0) * len(documents))):
        kind, source = PLANTED[number % len(PLANTED)], others[int(draw.integers(len(others)))]
        text = _planted(kind, source.text, others, draw)
        document = replace(source, id=f"planted/{kind}/{number}", text=text)
        pieces.append(Piece(document, kind, len(text)))
    return pieces


def _planted(kind: str, text: str, others: Sequence[Document], draw: np.random.Generator) -> str:
    if kind == LINES:
        lines = [line for _ in range(8) for line in others[int(draw.integers(len(others)))].text.splitlines()[:2]]
        return "\n".join(lines)
    if kind == COPY:
        return "\n".join(_misspelt(line, draw) for line in text.splitlines())
    if kind == NOISE:
        return "".join(draw.permutation([*text]).tolist()).replace("\n", " ")
    word = max(text.split(), key=len)
    return " ".join([word] * (len(text) // (len(word) + 1)))


def _misspelt(line: str, draw: np.random.Generator) -> str:
    if not line:
        return line
    place = int(draw.integers(len(line)))
    letter = str(draw.choice([each for each in ascii_lowercase if each != line[place]]))
    return line[:place] + letter + line[place + 1 :]


def filtered(pieces: Sequence[Piece], config: CorpusConfig) -> list[Piece]:
    """What three filters leave, in their order: each line once, no near-duplicate of an earlier document, and
    perplexity between two percentiles; both tails go, repeated words and noise.

    Raises:
        UserError: the first two leave no trusted document.
    """
    kept = [piece for piece in (each_line_once(pieces) if config.lines else pieces) if piece.document.text.strip()]
    search = NearDuplicates(config.similarity, lambda text: character_runs(text, config.ngram))
    kept = [piece for piece in kept if not search.repeats(piece.document)]
    trusted = [piece.document.text for piece in kept if piece.kind == TRUSTED]
    if not trusted:
        what = "the filters of lines and of near-duplicates leave no document whose n-grams could be counted"
        hint = "type a larger one, another corpus.seed, or corpus.use=raw for no filters"
        raise UserError(what, f"corpus.trusted={config.trusted:g}", hint)
    values = np.array(perplexities(trusted, [piece.document.text for piece in kept], config.order))
    asked = np.array([piece.kind != TRUSTED for piece in kept])
    if not asked.any():
        return kept
    low, high = np.percentile(values[asked], (config.low, config.high))
    inside = ~asked | ((values >= low) & (values <= high))
    return [piece for piece, stays in zip(kept, inside, strict=True) if stays]


def each_line_once(pieces: Sequence[Piece]) -> list[Piece]:
    """Documents without the lines that came before, in them or in an earlier one."""
    seen, kept = set[str](), []
    for piece in pieces:
        lines = []
        for line in piece.document.text.splitlines():
            if line not in seen or not line:
                lines.append(line)
                seen.add(line)
        kept.append(replace(piece, document=replace(piece.document, text="\n".join(lines))))
    return kept


def perplexities(trusted: Sequence[str], texts: Sequence[str], order: int) -> list[float]:
    """Perplexity per character of texts under n-grams of characters counted in trusted texts.

    P_n(c | h) = (N(hc) + k P_{n-1}(c | h')) / (N(h) + k), k = 5; P_0 is 1 over the characters that occur, and one more.

    Args:
        trusted: Where n-grams are counted.
        texts: Not empty.
        order: Longest n-gram, at most 3: it fits one number.
    """
    counted, read = _codes(trusted, order), _codes(texts, order)
    chance = np.full(len(read), 1 / (len(np.unique(counted)) + 1))
    for n in range(1, order + 1):
        whole, history = _counts(counted, read, n), _counts(counted[:-1] if n > 1 else counted, read, n - 1, skip=1)
        chance = (whole + PRIOR * chance) / (history + PRIOR)
    lengths = [len(text) for text in texts]
    starts = np.cumsum([0, *(length + order - 1 for length in lengths)])
    bits = -np.log2(chance)
    parts = (bits[start + order - 1 : start + order - 1 + size] for start, size in zip(starts, lengths, strict=False))
    return [float(2 ** part.mean()) for part in parts]


def _codes(texts: Sequence[str], order: int) -> NDArray[np.int64]:
    """Code points of texts, each behind `order - 1` zeros, which stand for what comes before."""
    joined = "".join("\0" * (order - 1) + text for text in texts)
    return np.frombuffer(joined.encode("utf-32-le", errors="surrogatepass"), np.uint32).astype(np.int64)


def _counts(counted: NDArray[np.int64], read: NDArray[np.int64], n: int, skip: int = 0) -> NDArray[np.float64]:
    """How often the n characters that end `skip` before each place of `read` occur in `counted`."""
    if n == 0:
        return np.full(len(read), float(len(counted)))
    keys, numbers = np.unique(_keys(counted, n), return_counts=True)
    asked = np.concatenate([np.full(skip, -1, np.int64), _keys(read, n)[: len(read) - skip]])
    places = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[places] == asked, numbers[places], 0).astype(np.float64)


def _keys(codes: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """One number for the n characters that end at each place."""
    keys = np.zeros(len(codes), np.int64)
    for back in range(n):
        keys[back:] |= codes[: len(codes) - back] << (CHARACTERS * back)
    return keys


def removed(before: Sequence[Piece], after: Sequence[Piece]) -> dict[str, float]:
    """Share of the characters of each kind of document that filters took."""
    sizes: dict[str, float] = defaultdict(float)
    left: dict[str, float] = defaultdict(float)
    for piece in before:
        sizes[piece.kind] += piece.size
    for piece in after:
        left[piece.kind] += len(piece.document.text)
    return {kind: 1 - left[kind] / size for kind, size in sizes.items() if size}
