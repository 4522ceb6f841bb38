"""The tokenizers that are compared, each trained once: algorithms, sizes, texts, and words that are cut before."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recipes.core.data.config import DomainsConfig
from recipes.core.data.text.pieces import token_rows
from recipes.core.data.text.windows import Texts
from recipes.core.errors import UserError
from recipes.core.models.config import SmolLM2TextConfig
from recipes.core.models.sentences import ASSET as MINILM
from recipes.core.models.smollm2 import load_tokenizer as load_smollm2
from recipes.core.models.sources import load_tokenizer
from recipes.core.models.tokenizer import train_on_words
from recipes.core.storage.assets import asset_path
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json
from recipes.tokenization.config import TokenizerConfig
from recipes.tokenization.tokenizers import load_new_tokenizer, train_tokenizer, train_unigram
from recipes.tokenization.turkish_tokenization.config import MEMBER, TurkishTokenizationConfig
from recipes.tokenization.turkish_tokenization.method import WORD, Chains, normalise, random_cut

VERSION = 1
END = "<|endoftext|>"
MARK = "\ufdd1"  # where a word is cut: a noncharacter of Unicode, which no text may contain
ENGLISH = "wordnet-glosses"
SAMPLE = 200_000  # characters whose tokens give the lengths of random parts
Cut = Callable[[str], tuple[str, ...]]


@dataclass(frozen=True)
class Member:
    """A tokenizer of the panel.

    Attributes:
        name: Of it.
        tokenizer: As `transformers` has it.
        key: What stands for it in the key of a cache entry, beside the tokenizer's own fingerprint.
    """

    name: str
    tokenizer: Any
    key: str


class CutTokenizer(PreTrainedTokenizerFast):  # type: ignore[misc]
    """A tokenizer whose words are cut before it reads them; no token reaches over a cut."""

    cut_words: Callable[[str], str] = str

    def _encode_plus(self, text: Any, *arguments: Any, **options: Any) -> Any:
        marked = self.cut_words(text) if isinstance(text, str) else [self.cut_words(one) for one in text]
        return super()._encode_plus(marked, *arguments, **options)


class Panel:
    """Makes the tokenizers of a run.

    Args:
        config: Of the run.
        texts: Its documents.
        chains: Parses of words.
    """

    def __init__(self, config: TurkishTokenizationConfig, texts: Texts, chains: Chains) -> None:
        self._config, self._chains = config, chains
        self.training, self.fingerprint = texts.training(config.panel.share, config.seed)

    def members(self) -> list[Member]:
        """All of them.

        Raises:
            UserError: one of the user's cannot be loaded, or an asset cannot be had.
        """
        mine = [Member(name, _load(path), "") for name, path in self._config.panel.sources]
        return [*map(self._member, self._config.panel.members), *mine]

    def _member(self, name: str) -> Member:
        match = MEMBER.fullmatch(name)
        assert match  # the config was checked
        kind, size = match["kind"] or name, int(match["size"] or 0)
        if kind == "smollm2":
            return Member(name, load_smollm2(SmolLM2TextConfig()), "")
        if kind == "minilm":
            return Member(name, load_tokenizer(str(asset_path(MINILM)), "panel.members"), "")
        if kind == "bpe":
            return Member(name, self._bpe(size), "")
        if kind == "unigram":
            return Member(name, train_unigram(size, self.training, self.fingerprint, _plain()), "")
        if kind == "english":
            return Member(name, self._english(size), "")
        if kind in ("morphemes", "greedy", "random"):
            return self._cut(name, kind, size)
        return Member(name, self._trained(kind, size, lambda: self.training, []), "")

    def _bpe(self, size: int, texts: Sequence[str] | None = None, fingerprint: str = "") -> Any:
        config = TokenizerConfig(vocabulary=size, min_frequency=self._config.panel.min_frequency)
        return train_tokenizer(config, texts or self.training, fingerprint or self.fingerprint, _plain(), 0)

    def _english(self, size: int) -> Any:
        data = replace(DomainsConfig(), domains=(ENGLISH,), characters=self._config.data.characters)
        return self._bpe(size, *Texts(data).training(self._config.panel.share, self._config.seed))

    def _cut(self, name: str, kind: str, size: int) -> Member:
        cuts: dict[str, Cut] = {"morphemes": self._chains.parse_cut, "greedy": self._chains.greedy_cut}
        mark = WordMarks(cuts.get(kind) or self._random(size), self._config.lexicon.turkish_case)
        chains, options = self._chains, asdict(self._config.lexicon) | {"roots": "", "affixes": ""}
        key = sha256_json([kind, options, sorted(chains.roots), sorted(chains.affixes), self._config.seed])
        loaded = self._trained("bpe", size, lambda: map(mark, self.training), [key])
        tokenizer = CutTokenizer(tokenizer_object=loaded.backend_tokenizer, clean_up_tokenization_spaces=False, **ROLES)
        tokenizer.cut_words = mark
        return Member(name, tokenizer, key)

    def _random(self, size: int) -> Cut:
        """Cuts each word at random, always in the same way; lengths are those of a BPE of the same size."""
        backend, text = self._bpe(size).backend_tokenizer, " ".join(self.training)[:SAMPLE]
        words = backend.encode_batch([f" {word}" for word in WORD.findall(text)])
        places = [place for encoding in words for place in encoding.offsets]
        lengths = [length for start, end in places if (length := end - max(start, 1)) > 0]  # without the space

        def cut(word: str) -> tuple[str, ...]:
            seed = [self._config.seed, int.from_bytes(sha256(word.encode()).digest()[:8], "big")]
            return random_cut(word, lengths or [1], np.random.default_rng(seed))

        return cut

    def _trained(self, kind: str, size: int, texts: Callable[[], Iterable[str]], key: list[str]) -> Any:
        """A tokenizer of another algorithm, or with cut words, trained once."""
        frequency = self._config.panel.min_frequency

        def build(folder: Path) -> None:
            backend = _train(kind, size, texts(), frequency)
            PreTrainedTokenizerFast(
                tokenizer_object=backend, clean_up_tokenization_spaces=False, **ROLES
            ).save_pretrained(folder)

        whole = [VERSION, WORD.pattern, kind, size, frequency, self.fingerprint, *key]
        folder = build_once("panel-tokenizers", sha256_json(whole)[:32], build)
        return load_tokenizer(str(folder), "panel.members")


class WordMarks:
    """Puts a mark where words of a text are cut.

    Args:
        cut: Parts of a word in lower case.
        turkish: See `normalise`.
    """

    def __init__(self, cut: Cut, turkish: bool) -> None:
        self._cut, self._turkish = cut, turkish
        self._word = lru_cache(maxsize=None)(self._mark)

    def __call__(self, text: str) -> str:
        """The text with marks."""
        return WORD.sub(lambda match: self._word(match[0]), text)

    def _mark(self, word: str) -> str:
        lower = normalise(word, self._turkish)
        if len(lower) != len(word):  # letters of several characters: places would be others
            return word
        places = np.cumsum([0, *map(len, self._cut(lower))]).tolist()
        return MARK.join(word[start:end] for start, end in zip(places, places[1:], strict=False))


ROLES = {"eos_token": END, "bos_token": END, "pad_token": END}


def _plain() -> Any:
    """A tokenizer that says how texts end, and nothing else."""
    backend = Tokenizer(models.BPE())
    backend.add_special_tokens([END])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **ROLES)


def _load(path: str) -> Any:
    """A tokenizer of the user's, for a model that has a row for each of its tokens."""
    where = f"panel.paths={path}"
    try:
        tokenizer = load_new_tokenizer(path, _plain())
    except UserError as error:  # it names the key of other recipes
        raise UserError(error.what, where, error.hint) from error
    if token_rows(tokenizer) > len(tokenizer):
        what = f"the tokenizer numbers {len(tokenizer):,} tokens up to {token_rows(tokenizer):,}, with gaps"
        raise UserError(what, where, "give one whose ids have none")
    return tokenizer


def _train(kind: str, size: int, texts: Iterable[str], frequency: int) -> Tokenizer:
    """A byte-level tokenizer of an algorithm: every text comes back to the byte."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    usual: dict[str, Any] = {"special_tokens": [END], "initial_alphabet": alphabet, "show_progress": False}
    rows = len(alphabet) + 1
    makers: dict[str, Callable[[], tuple[Any, Any]]] = {
        "bytes": lambda: (models.BPE(), trainers.BpeTrainer(vocab_size=rows, **usual)),
        "bpe": lambda: (models.BPE(), trainers.BpeTrainer(vocab_size=size, min_frequency=frequency, **usual)),
        "wordpiece": partial(_word_pieces, size, frequency, usual),
    }
    model, trainer = makers[kind]()
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.ByteLevel()
    parts = [pre_tokenizers.Split(MARK, "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    train_on_words(tokenizer, texts, trainer)
    return tokenizer


def _word_pieces(size: int, frequency: int, usual: dict[str, Any]) -> tuple[Any, Any]:
    """The longest piece first. A space, not "##", tells the beginning of a word, so that every text comes back."""
    options: dict[str, Any] = {"vocab_size": size, "min_frequency": frequency, "continuing_subword_prefix": ""}
    model = models.WordPiece(unk_token=END, max_input_chars_per_word=10**6, continuing_subword_prefix="")
    return model, trainers.WordPieceTrainer(**options, **usual)
