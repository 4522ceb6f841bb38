"""Tokenizers drawn at random: byte substrings of some texts with noisy scores, as a hypernetwork is trained on.

Source:
    ZeTT (arXiv 2405.07883), Section 3.2; rust_utils/src/lib.rs, zett/collator.py. Reimplemented.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from recipes.core.data.text.vocabulary_bytes import unicode_bytes
from recipes.tokenization.config import SampledConfig
from recipes.tokenization.hypernetwork import Forms

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
IMPOSSIBLE = -1e5  # logarithm of a score that noise has made negative
BYTES = unicode_bytes()  # character -> byte
CHARACTERS = {byte: character for character, byte in BYTES.items()}
BLANKS = (" ", "\n", "\t")


@dataclass(frozen=True)
class SampledTokenizer:
    """A tokenizer and how the old vocabulary spells its tokens.

    Attributes:
        tokens: Bytes of each.
        forms: The old tokens that spell them.
        backend: Cuts texts into them; a space is put before each text.
    """

    tokens: list[bytes]
    forms: Forms
    backend: Tokenizer

    @cached_property
    def single(self) -> Tensor:
        """bool [n] tokens that the old vocabulary has."""
        return self.forms.single

    def rows(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """Ids of the first tokens of texts, `length` at most."""
        return [encoding.ids[:length] for encoding in self.backend.encode_batch_fast(list(texts))]


class TextWindows:
    """Stretches of text, drawn by their documents' lengths. An item depends on its index only.

    Args:
        texts: The documents.
        size: How many items.
        characters: Of a stretch at most.
        seed: Decides what is drawn.
    """

    def __init__(self, texts: Sequence[str], size: int, characters: int, seed: int | list[int]) -> None:
        lengths, draw = np.array([len(text) for text in texts], np.float64), np.random.default_rng(seed)
        self._texts, self._characters = texts, characters
        self._documents = draw.choice(len(texts), size, p=lengths / lengths.sum())
        self._places = draw.random(size)

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> dict[str, str]:
        text = self._texts[self._documents[index]]
        start = int(self._places[index] * (max(len(text) - self._characters, 0) + 1))
        return {"id": f"document {self._documents[index]} at {start}", "text": text[start : start + self._characters]}


class TokenizerSampler:
    """Draws a tokenizer for each step of a training; that of a step depends on seed and step alone.

    Args:
        config: Size and noise.
        texts: Documents that substrings are counted in.
        spell: Old tokens that spell some bytes.
        longest: Old tokens that are read of a new one.
        seed: Decides what is drawn.
    """

    def __init__(
        self,
        config: SampledConfig,
        texts: Sequence[str],
        spell: Callable[[bytes], list[int]],
        longest: int,
        seed: int,
    ) -> None:
        self._config, self._texts, self._spell, self._longest, self._seed = config, texts, spell, longest, seed
        self._words = word_splitter()
        self._parts: dict[str, list[str]] = {}
        self._always = [*CHARACTERS.values(), *blank_runs(config.runs)]

    def __call__(self, step: int) -> SampledTokenizer:
        """The tokenizer of a step."""
        config, draw = self._config, np.random.default_rng([self._seed, step, 1])
        texts = TextWindows(self._texts, config.texts, config.characters, [self._seed, step, 0])
        scores = self._scores(texts[index]["text"] for index in range(len(texts)))
        kept = draw_vocabulary(scores, self._always, config, draw)
        tokens = [bytes(BYTES[character] for character in piece) for piece in kept]
        forms = Forms.of([self._spell(data) for data in tokens], self._longest)
        return SampledTokenizer(tokens, forms, unigram_tokenizer(kept, self._words))

    def _scores(self, texts: Iterable[str]) -> Counter[str]:
        """Frequency times bytes of each substring of the words of texts."""
        words: Counter[str] = Counter()
        for text in texts:
            words.update(word for word, _ in self._words.pre_tokenize_str(" " + text))
        scores: Counter[str] = Counter()
        for word, count in words.items():
            if word not in self._parts:
                self._parts[word] = substrings(word, self._config.longest, self._config.stride)
            for part in self._parts[word]:
                scores[part] += count * len(part)
        return scores


def substrings(word: str, longest: int, stride: int) -> list[str]:
    """All parts of a word of at most `longest` bytes that begin at every `stride`-th of them."""
    starts = range(0, len(word), stride)
    return [word[at:end] for at in starts for end in range(at + 1, min(at + longest, len(word)) + 1)]


def draw_vocabulary(
    scores: dict[str, int], always: Sequence[str], config: SampledConfig, draw: np.random.Generator
) -> dict[str, float]:
    """Pieces and their log-scores: bytes and runs of blanks, then the best of the others by their noisy scores.

        p = score / sum + Normal(0, sigma), ln sigma ~ Normal(ln `noise_scale`, `noise_deviation`); score = ln p

    Args:
        scores: Frequency times bytes of each substring, in the characters of a byte-level tokenizer.
        always: Pieces that are kept; single bytes get the smallest score there is, runs of blanks 0, so that they win.
        config: Size and noise.
        draw: Where noise comes from.
    """
    names, shares = list(scores), np.array(list(scores.values()), np.float64)
    shares /= max(shares.sum(), 1)
    if config.noise:
        sigma = np.exp(draw.normal(np.log(config.noise_scale), config.noise_deviation))
        shares = shares + draw.normal(0, sigma, len(shares))
    logs = np.where(shares > 0, np.log(np.maximum(shares, 1e-300)), IMPOSSIBLE)
    least = float(logs[logs > IMPOSSIBLE].min(initial=0.0))
    kept = {piece: least if len(piece) == 1 else 0.0 for piece in always}
    for at in np.argsort(-logs, kind="stable").tolist():
        if len(kept) >= config.vocabulary:
            break
        if names[at] not in kept:
            kept[names[at]] = float(logs[at])
    return kept


def blank_runs(longest: int) -> list[str]:
    """Pieces of white space: a blank, then 1 to `longest` equal ones, in the characters of a byte-level tokenizer."""
    runs = [first + other * times for first in BLANKS for other in BLANKS for times in range(1, longest + 1)]
    return ["".join(CHARACTERS[byte] for byte in run.encode()) for run in runs]


def word_splitter() -> pre_tokenizers.PreTokenizer:
    """Cuts text into words and writes them in the characters of a byte-level tokenizer."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), byte_level])


def unigram_tokenizer(pieces: dict[str, float], words: pre_tokenizers.PreTokenizer) -> Tokenizer:
    """A tokenizer that cuts words into the pieces with the largest sum of log-scores, behind a space."""
    backend = Tokenizer(models.Unigram(list(pieces.items()), unk_id=None, byte_fallback=False))
    backend.normalizer, backend.pre_tokenizer, backend.decoder = normalizers.Prepend(" "), words, decoders.ByteLevel()
    return backend
