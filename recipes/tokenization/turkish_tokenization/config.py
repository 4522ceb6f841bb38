"""Config and card of the recipe `turkish-tokenization`. Imports no torch."""

import re
from dataclasses import dataclass

from recipes.core.config.settings import (
    CORRELATION,
    DATA_CONTENT,
    EXAMPLE_UNIT,
    FEWEST_ARMS,
    TOKENIZER_CONTENT,
    Card,
    Claim,
    UntrainedConfig,
    setting,
)
from recipes.core.config.unread import unread_keys
from recipes.core.data.config import DomainsConfig, WindowsConfig
from recipes.tokenization.config import FEWEST, SmallModelConfig

BITS, PREDICTION, PEARSON, CHANCE = "bits_per_byte", "prediction", "prediction/pearson", "chance"
VALID, PURE, FERTILITY, BOUNDARIES, SINGLE = "valid", "pure", "fertility", "boundaries", "single_words"
VOCABULARY, BYTES_PER_TOKEN = "vocabulary", "bytes_per_token"
# What each score promises: +1 where more of it should mean more bits per byte, -1 where it should mean fewer.
PROMISES = {VALID: -1, PURE: -1, FERTILITY: 1, BOUNDARIES: -1, SINGLE: -1, VOCABULARY: -1, CHANCE: -1}
UNIQUE, FREQUENCY = "unique", "frequency"
LEXICON, ANALYSER, EITHER = "lexicon", "analyser", "either"
ALL, ALPHABETIC = "all", "alphabetic"
# Kinds of tokenizers: trained ones have a size, others have their own.
TRAINED = ("bpe", "unigram", "wordpiece", "morphemes", "greedy", "random", "english")
FIXED = ("bytes", "smollm2", "minilm")
MEMBER = re.compile(rf"(?P<kind>{'|'.join(TRAINED)})-(?P<size>\d+)|{'|'.join(FIXED)}")


@dataclass(frozen=True)
class PanelConfig:
    """The tokenizers that are compared: algorithm, vocabulary and training text of each."""

    members: tuple[str, ...] = setting(
        (),
        help=f"tokenizers, KIND-TOKENS ({', '.join(TRAINED)}) or {', '.join(FIXED)}; english is a BPE of English text; "
        "morphemes, greedy and random are a BPE of words that are cut before",
    )
    paths: tuple[str, ...] | None = setting(
        None,
        help="tokenizers of yours besides, NAME:PATH each: tokenizer.json, folder or hub name",
        content=TOKENIZER_CONTENT,
    )
    share: float = setting(
        0.8, help="share of the training documents, drawn by the seed, for tokenizers and models", gt=0, le=1
    )
    min_frequency: int = setting(2, help="pairs that are rarer are not merged", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        for name in self.members:
            match = MEMBER.fullmatch(name)
            if not match:
                shown = f"{', '.join(f'{kind}-8192' for kind in TRAINED)}, {', '.join(FIXED)}"
                problems.append(("members", f"there is no tokenizer {name!r}; type names like {shown}"))
            elif match["size"] and int(match["size"]) < FEWEST:
                problems.append(("members", f"{name}: a vocabulary has at least {FEWEST} tokens"))
        names = [*self.members, *(name for name, _ in self.sources)]
        if len(set(names)) < len(names):
            problems.append(("members", "names a tokenizer twice"))
        problems += [
            ("paths", f"a name and a path belong in NAME:PATH, not {n}:{p}") for n, p in self.sources if not (n and p)
        ]
        if len(names) < FEWEST_ARMS:
            problems.append(("members", f"a correlation needs at least {FEWEST_ARMS} tokenizers, not {len(names)}"))
        return problems

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """Name and path of each of `paths`."""
        return tuple((name, path) for name, _, path in (each.partition(":") for each in self.paths or ()))


@dataclass(frozen=True)
class LexiconConfig:
    """Roots and affixes of the language."""

    roots: str | None = setting(
        None, help="file of words and roots, one a line; null: those of turkish-tokenizer", content=DATA_CONTENT
    )
    affixes: str | None = setting(
        None, help="file of affixes, one a line; null: those of turkish-tokenizer", content=DATA_CONTENT
    )
    turkish_case: bool = setting(True, help="lower case maps I to dotless i, and dotted I to i")
    most_affixes: int = setting(5, help="affixes that a chain may have", ge=1)
    shortest_root: int = setting(2, help="letters that a root of a chain has at least", unit="letters", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if (self.roots is None) != (self.affixes is None):
            return [("roots", "and lexicon.affixes belong together: type both, or neither")]
        return []


@dataclass(frozen=True)
class MeasureConfig:
    """How tokenizers are scored."""

    by: str = setting(
        VALID,
        help="score that should predict bits per byte: share of valid words (%TR), of morphemes (%Pure), tokens a "
        "word, F1 of morpheme boundaries, words of one token, size of the vocabulary, a random number; arms choose it",
        choices=tuple(PROMISES),
    )
    weighting: str = setting(
        UNIQUE, help="a token counts once, or as often as it occurs", choices=(UNIQUE, FREQUENCY), origin="code"
    )
    validity: str = setting(
        EITHER,
        help="what makes a token a word, and one morpheme: that it is listed, its parses, or either",
        choices=(EITHER, LEXICON, ANALYSER),
        origin="code",
    )
    denominator: str = setting(
        ALL,
        help="shares are of all tokens that are text, or of those of letters",
        choices=(ALL, ALPHABETIC),
        origin="code",
    )
    shortest: int = setting(1, help="tokens of fewer letters are left out", unit="letters", ge=1, origin="code")
    characters: int = setting(400_000, help="held-out text that is scored", unit="characters", ge=100)


@dataclass(frozen=True, kw_only=True)
class TurkishTokenizationConfig(UntrainedConfig):
    """Config of one `turkish-tokenization` run."""

    data: DomainsConfig = setting(
        help="texts: training documents for tokenizers and models, held-out ones to measure on"
    )
    panel: PanelConfig = setting(PanelConfig(), help="tokenizers")
    lexicon: LexiconConfig = setting(LexiconConfig(), help="roots and affixes")
    measure: MeasureConfig = setting(MeasureConfig(), help="scores of tokenizers")
    lm: SmallModelConfig = setting(SmallModelConfig(), help="small language model trained with each tokenizer")
    evaluation: WindowsConfig = setting(WindowsConfig(), help="text that the models read")

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        names = [*self.panel.members, *(name for name, _ in self.panel.sources)]
        return [
            ("data", self.data.description),
            ("tokenizers", ", ".join(names)),
            ("model of each", self.lm.description),
            ("lexicon", str(self.lexicon.roots or "turkish-tokenizer")),
        ]

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run, though they may in other arms, and why."""
        merged = any(name.partition("-")[0] not in ("unigram", *FIXED) for name in self.panel.members)
        return unread_keys(("panel.min_frequency", merged, "no tokenizer of the panel learns merges"))


CONFIG = TurkishTokenizationConfig


def _predicts(score: str, premise: str, published: str) -> Claim:
    return Claim(
        statement=f"{premise}, the fewer bits per byte a model needs that is trained with it",
        metric=score,
        beside=BITS,
        arm=score,
        baseline=FERTILITY if score != FERTILITY else VALID,
        direction=PROMISES[score],
        published=published,
        minimal_effect=0.5,
        unit=EXAMPLE_UNIT,
        kind=CORRELATION,
    )


def _better(arm: str, baseline: str, statement: str, published: str) -> Claim:
    return Claim(
        statement=statement,
        metric=PREDICTION,
        arm=arm,
        baseline=baseline,
        direction=1,
        published=published,
        minimal_effect=0.1,
        unit=EXAMPLE_UNIT,
    )


CARD = Card(
    title="Turkish tokenization standards: which score of a tokenizer predicts a model",
    paper="arXiv 2502.07057 (Bayram, Fincan, Gumus, Karakas, Diri, Yildirim; 2025)",
    weights="tokens of a vocabulary, by whether they are words or morphemes of the language",
    summary="Tokenizers of the same text are scored by the share of their tokens that are valid words and that are "
    "morphemes. Small models, one for each tokenizer, are trained on the same bytes; the scores are correlated with "
    "their bits per byte.",
    claim=_better(
        VALID,
        PURE,
        "The share of valid words (%TR) predicts how well a model does better than that of pure morphemes (%Pure)",
        "r = .90 against .68 with Turkish MMLU over four models; over the eight of its first version .10 and -.51",
    ),
    claims=(
        _better(
            VALID,
            FERTILITY,
            "The share of valid words predicts it better than the number of tokens",
            "r = .90 against -.80 over four models; over eight .10 against -.79",
        ),
        _predicts(VALID, "The more of a tokenizer's tokens are valid words", "r = .90 with accuracy, over four models"),
        _predicts(
            PURE, "The more of a tokenizer's tokens are pure morphemes", "r = .68 with accuracy, over four models"
        ),
        _predicts(
            FERTILITY,
            "The fewer tokens a tokenizer makes of a word",
            "r = -.80 of tokens and accuracy, over four models",
        ),
    ),
    cost="one tokenizer and one small model of each, once for all arms of a seed; then seconds an arm",
    pair_keys=("arm", "measure"),
    version=1,
    control=FERTILITY,
    headlines=(PREDICTION, "tokenizers"),
    trains=False,
    price=("prediction/pearson",),
    metrics=(
        *(f"{name}/*" for name in (BITS, VALID, PURE, FERTILITY)),
        *(PREDICTION, "prediction/*", "tokenizers", BITS, VALID, PURE, FERTILITY, BOUNDARIES, SINGLE, VOCABULARY),
        *(BYTES_PER_TOKEN, CHANCE, "exact", "text_tokens", "single_letters", "longer/*", "coverage"),
    ),
)
