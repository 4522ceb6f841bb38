"""Config and card of the recipe `learn-your-tokens`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import Card, Claim, setting
from recipes.core.config.unread import unread_keys
from recipes.tokenization.words.config import FLAT, PADDING_COUNTED, PADDING_SEEN, WordRunConfig
from recipes.tokenization.words.names import METRICS, WATCHED


@dataclass(frozen=True, kw_only=True)
class LearnYourTokensConfig(WordRunConfig):
    """Config of one `learn-your-tokens` run."""

    faithful: tuple[str, ...] = setting(
        (), help="faults of the release that a hierarchy repeats: padding that encoders see, padding that counts in "
        "the loss", choices=(PADDING_SEEN, PADDING_COUNTED),
    )  # fmt: skip

    @property
    def faults(self) -> tuple[str, ...]:
        """Faults of the release that the run repeats."""
        return self.faithful

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run, and why."""
        return super().unread() + unread_keys(("faithful", self.model.kind != FLAT, "a flat model pads no words"))


CONFIG = LearnYourTokensConfig
THRICE = "over 300% better than subword and character models"

CARD = Card(
    title="Learn your tokens: words pooled to a few vectors, spelt in parallel",
    paper="arXiv 2310.11628 (Thawani, Ghanekar, Zhu, Pujara; Findings of EMNLP 2023)",
    weights="text, by its words: each has so many vectors, whatever its length",
    summary="Characters, bytes or pieces of a word are pooled into a few vectors, a GPT runs over the words, and a "
    "small decoder spells all words in parallel. It replaces the subword vocabulary.",
    claim=Claim(
        statement="At equal compute and equal visible words it predicts more words wholly than a subword model",
        metric="word_accuracy",
        arm="e2e",
        baseline="sub",
        direction=1,
        published=THRICE,
        minimal_effect=0.02,
    ),
    claims=(
        Claim(
            statement="It predicts more words wholly than a character model",
            metric="word_accuracy",
            arm="e2e",
            baseline="char",
            direction=1,
            published=THRICE,
            minimal_effect=0.02,
        ),
        Claim(
            statement="It needs fewer bits per character than a character model",
            metric="bits_per_character",
            arm="e2e",
            baseline="char",
            direction=-1,
            published="not known to us",
            minimal_effect=0.02,
        ),
        Claim(
            statement="It needs fewer bits for rare words than a subword model",
            metric="rare/bits_per_byte",
            arm="e2e",
            baseline="sub",
            direction=-1,
            published="30 times the accuracy on rare words",
            minimal_effect=0.02,
        ),
        Claim(
            statement="Four vectors of a word predict more words wholly than one",
            metric="word_accuracy",
            arm="e2e_4",
            baseline="e2e",
            direction=1,
            published="four are the released default; no number known to us",
            minimal_effect=0.01,
        ),
        Claim(
            statement="Padding that is seen and counted, as in the release, predicts fewer words wholly",
            metric="word_accuracy",
            arm="e2e_4",
            baseline="released",
            direction=1,
            published="the release's fault; not in the paper",
            minimal_effect=0.01,
        ),
        Claim(
            statement="A subword model predicts more words wholly where it sees as many words as the hierarchy, in "
            "place of as many units as that sees words",
            metric="word_accuracy",
            arm="sub",
            baseline="sub_units",
            direction=1,
            published="the released comparison counts 192 words for the one, 192 units for the other",
            minimal_effect=0.01,
        ),
    ),
    cost="two small stacks over all units of words, as wide as the backbone",
    pair_keys=("arm", "model", "words", "faithful"),
    version=2,
    control="char",
    headlines=("word_accuracy", "bits_per_", "rare/", "context_gain"),
    price=("bits_per_character", "rare/bits_per_byte"),
    metrics=METRICS,
    watched=WATCHED,
)
