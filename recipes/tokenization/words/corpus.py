"""Training documents as words spelt in units, kept on disk; and the windows of them that each step reads."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recipes.core.data.text.splits import TRAIN
from recipes.core.data.text.text_ids import tokenizer_fingerprint
from recipes.core.data.text.windows import Texts
from recipes.core.errors import UserError
from recipes.core.losses.objectives import IGNORE
from recipes.core.models.padded import distinct_rows, pad_rows
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import read_json, sha256_json, write_json
from recipes.core.storage.ragged import Ragged, RaggedFile
from recipes.core.training.passes import WholePasses
from recipes.tokenization.words.config import FLAT, IN_BYTES, IN_WORDS, WordRunConfig, WordsConfig
from recipes.tokenization.words.method import items_until
from recipes.tokenization.words.splitting import normalise, split
from recipes.tokenization.words.units import Units, make_units

VERSION = 1
AROUND = 10  # bytes that a message shows before and behind what is lost
BASE, ADAPTED = "base", "adapted"


def words_of(text: str, config: WordsConfig) -> list[bytes]:
    """The words of a text as a model reads it."""
    return split(as_read(text, config), config)


def as_read(text: str, config: WordsConfig) -> str:
    """A text as a model reads it."""
    return normalise(text, config.longest) if config.normalise else text


def check_spelling(config: WordRunConfig, units: Units, texts: Sequence[str]) -> None:
    """Refuse a user's tokenizer that does not say what it reads: bits of another text are no bits of this one.

    Raises:
        UserError: a text does not come back, to the byte.
    """
    if units.tokenizer is None or config.tokenizer.path is None:
        return
    lost = [pair for text in texts if (pair := _first_loss(config, units, text))]
    if lost:
        given, back = (data.decode(errors="replace") for data in lost[0])
        what = f"{len(lost)} of {len(texts)} held-out texts do not come back from the tokenizer: {given!r} is {back!r}"
        raise UserError(
            what, f"tokenizer.path={config.tokenizer.path}", "give one that keeps all bytes, such as GPT-2's"
        )


def _first_loss(config: WordRunConfig, units: Units, text: str) -> tuple[bytes, bytes] | None:
    """What a text says where its units first say something else, and what they say; None where they say it."""
    words = words_of(text, config.words)
    rows = units.spell(words)
    if config.model.kind == FLAT:
        words, rows = [b"".join(words).rstrip(b" ")], [[unit for row in rows for unit in row]]
    elif config.words.ends_are_spaces:
        words = [word.rstrip(b" ") for word in words]
    for word, row in zip(words, rows, strict=True):
        back = units.bytes_of(row)
        if back not in (word, b" " + word):  # some put a space before all that they read
            back = back[1:] if back[:1] == b" " != word[:1] else back
            pairs = zip(word, back, strict=False)
            place = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(word), len(back)))
            shown = slice(max(place - AROUND, 0), place + AROUND)
            return word[shown], back[shown]
    return None


@dataclass(frozen=True)
class Corpus:
    """Words of documents, each document ended by a word that is no text.

    Attributes:
        units: Ids of each word.
        sizes: int64 [words] bytes that each stands for; 0: the end of a document.
        config: How long a window is.
        flat: Whether a flat model reads it.
    """

    units: Ragged
    sizes: np.ndarray
    config: WordsConfig
    flat: bool

    @cached_property
    def _bytes(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @cached_property
    def _context(self) -> np.ndarray:
        """[words + 1] of what a context is counted in before each word."""
        counted = self.sizes
        if self.config.context != IN_BYTES:
            by_words = self.config.context == IN_WORDS or not self.flat
            counted = np.ones_like(self.sizes) if by_words else self.units.lengths()
        return np.concatenate([[0], np.cumsum(counted)])

    @property
    def bytes(self) -> int:
        """Bytes of all words."""
        return int(self._bytes[-1])

    @property
    def mean_units(self) -> float:
        """Units of a word."""
        return float(self.units.lengths().mean())

    @property
    def mean_size(self) -> float:
        """Bytes of a word."""
        return self.bytes / len(self.sizes)

    @property
    def window_bytes(self) -> float:
        """Bytes of a window."""
        return min(self.config.size * self.bytes / float(self._context[-1]), float(self.bytes))

    @property
    def longest_window(self) -> int:
        """Most units in a window of a flat model, most words in one of a hierarchy."""
        counted = self.units.lengths() if self.flat else np.ones_like(self.sizes)
        ends = np.concatenate([[0], np.cumsum(counted)])
        stops = np.searchsorted(self._context, self._context[:-1] + self.config.size, side="right") - 1
        return int((ends[stops] - ends[:-1]).max()) + 1

    def window(self, draw: np.random.Generator, share: float = 1.0) -> list[np.ndarray]:
        """Units of the words from a place on, at most a share of a context; models that cut text otherwise get the
        same places.
        """
        longest = max(int(share * self.config.size), 1)
        start = int(np.searchsorted(self._bytes, draw.random() * self.bytes, side="right")) - 1
        start = min(start, max(int(np.searchsorted(self._context, self._context[-1] - longest)), 0))
        stop = int(np.searchsorted(self._context, self._context[start] + longest, side="right")) - 1
        return [self.units[number] for number in range(start, max(stop, start + 1))]


class TrainingText:
    """The training documents of a run, as words.

    Args:
        config: The run's.
        texts: Its documents.

    Raises:
        UserError: there is none, or none of the language that is adapted to.
    """

    def __init__(self, config: WordRunConfig, texts: Texts) -> None:
        self.config, self._texts = config, texts
        adapted, domains = config.adaptation.domain, {domain for _, domain, _ in texts.documents(TRAIN)}
        if adapted is not None and not {adapted} < domains:
            what = f"there is no training document of {adapted}" if adapted not in domains else "all text is of it"
            raise UserError(what, f"adaptation.domain={adapted}", f"there are {', '.join(sorted(domains))}")
        self.key = sha256_json([VERSION, texts.training(1.0, 0)[1], adapted, _cutting(config.words)])

    def documents(self, part: str = BASE) -> Iterator[str]:
        """Documents as the model reads them, of a part."""
        for _, domain, text in self._texts.documents(TRAIN):
            if (domain == self.config.adaptation.domain) == (part == ADAPTED):
                yield as_read(text, self.config.words)

    @cached_property
    def counts(self) -> Counter[bytes]:
        """How often each word comes in the text that is trained on before any adaptation."""

        def build(folder: Path) -> None:
            counts = Counter(word for text in self.documents() for word in split(text, self.config.words))
            write_json(folder / "counts.json", {word.decode("latin-1"): times for word, times in counts.items()})

        read = read_json(build_once("word-counts", self.key[:32], build) / "counts.json")
        return Counter({word.encode("latin-1"): times for word, times in read.items()})

    def units(self) -> Units:
        """What its words are spelt in."""
        return make_units(self.config, lambda: self.counts, self.documents(), self.key)

    def corpus(self, units: Units, part: str = BASE) -> Corpus:
        """A part in units, read once.

        Raises:
            UserError: it has fewer words than two.
        """
        model, words = self.config.model, self.config.words
        spelt = None if units.tokenizer is None else tokenizer_fingerprint(units.tokenizer)
        key = [self.key, part, model.units, model.kind == FLAT, words.known, units.size, spelt]

        def build(folder: Path) -> None:
            sizes = list[int]()
            with RaggedFile(folder / "units", np.int32) as file:
                for text in self.documents(part):
                    parts = split(text, words)
                    file.extend([*units.spell(parts), [units.stop]])
                    sizes += [*map(len, parts), 0]
            np.save(folder / "sizes.npy", np.array(sizes, np.int64))

        folder = build_once("word-units", sha256_json(key)[:32], build)
        sizes = np.load(folder / "sizes.npy", mmap_mode="r")
        if len(sizes) < 3:
            raise UserError("the training text has no two words", self._texts.where, "give more text")
        return Corpus(Ragged(folder / "units", np.int32), sizes, words, model.kind == FLAT)


def _cutting(words: WordsConfig) -> dict[str, Any]:
    """The settings that decide what the words of a text are."""
    return {name: asdict(words)[name] for name in ("rule", "group", "longest", "normalise")}


class WordStream(torch.utils.data.Dataset[dict[str, Any]]):
    """What each step reads: windows of one text up to a step, then of another. An item depends on its index only.

    Args:
        corpora: One of them, or two.
        rates: Windows of an item, of each; below 1: one window, so much shorter.
        config: Steps, batch and seed.
    """

    def __init__(self, corpora: Sequence[Corpus], rates: Sequence[float], config: WordRunConfig) -> None:
        self.corpora, self.rates, self.seed = corpora, rates, config.seed
        batch, size = config.trainer.batch_size, config.trainer.max_steps * config.trainer.batch_size
        self.switch = config.base_steps * batch
        # The trainer shuffles: the n-th item that it asks for is that of place n.
        order = np.array(list(WholePasses(size, batch, config.seed, lambda: 0)))
        self.places = np.argsort(order)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = int(self.places[index])
        second = int(place >= self.switch and len(self.corpora) > 1)
        behind, rate = place - second * self.switch, self.rates[second]
        count = max(items_until(behind + 1, rate) - items_until(behind, rate), 1)
        draws = (np.random.default_rng([self.seed, place, number]) for number in range(count))
        windows = [self.corpora[second].window(draw, min(rate, 1.0)) for draw in draws]
        return {"id": f"windows {place}", "windows": windows}


def hierarchy_batch(windows: Sequence[Sequence[Any]], units: Units) -> dict[str, Tensor]:
    """Windows of words for a `WordModel`: each distinct word once.

    Returns:
        `words` int64 [n, longest] padded with the end of words, `lengths` [n], `sequence` [B, T] the number of each
        running word, -1 behind the last, `symbols`: how many are predicted, ends of words too.
    """
    rows, numbers = distinct_rows([word for window in windows for word in window])
    lengths = torch.tensor([len(row) for row in rows])
    padded = pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], True, units.end)
    sequences = torch.tensor(numbers).split([len(window) for window in windows])
    stops = torch.tensor([row == (units.stop,) for row in rows])[torch.tensor(numbers)].sum()
    symbols = (lengths[torch.tensor(numbers)] + 1).sum() - stops
    return {
        "words": padded, "lengths": lengths, "sequence": pad_sequence(sequences, True, -1), "symbols": symbols.float()
    }  # fmt: skip


def flat_batch(windows: Sequence[Sequence[Any]], units: Units) -> dict[str, Tensor]:
    """Windows of words for a flat model: units behind one that begins a text, as `WeightedCrossEntropy` reads them."""
    ids, mask = pad_rows([[units.stop, *(int(unit) for word in window for unit in word)] for window in windows])
    labels = torch.full_like(ids, IGNORE)
    labels[:, :-1] = ids[:, 1:].masked_fill(mask[:, 1:] == 0, IGNORE)
    weights = (labels != IGNORE).float()
    return {
        "input_ids": ids, "attention_mask": mask, "labels": labels, "weights": weights, "normalizer": weights.sum()
    }  # fmt: skip
