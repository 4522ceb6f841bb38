"""Config and card of the recipe `dynamic-tokenization`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import EQUIVALENCE, EXAMPLE_UNIT, Card, Claim, UntrainedConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.data.config import DomainsConfig, WindowsConfig
from recipes.core.data.tasks.labelled_config import LabelledTextsConfig, ReviewSentimentConfig, WikiTopicsConfig
from recipes.core.models.adapter_config import float32_problems
from recipes.core.models.config import CausalLMConfig, MiniLMConfig, SmolLM2TextConfig
from recipes.core.training.toys.config import ToyLMConfig
from recipes.tokenization.config import HypernetworkConfig

DYNAMIC, RANDOM, NONE, STATIC, DROPPED = "dynamic", "random", "none", "static", "dropped"
RIDGE, FVT, HYPERNETWORK = "ridge", "fvt", "hypernetwork"
ORIGINAL, PREDICTED = "original", "predicted"
BOUNDARIES = ("pretokens", "word", "word_hyphen", "sentence")
ACCURACY, LOSS, BITS, ABSOLUTE, RELATIVE = "accuracy", "log_loss", "bits_per_byte", "abs", "rel"
ENCODER, DECODERS = "model=minilm", "model=toy-lm or model=smollm2-135m or model=causal-lm"


@dataclass(frozen=True)
class MergesConfig:
    """Which tokens are merged."""

    name: str = setting(
        DYNAMIC,
        help="dynamic: the most frequent pairs of the batch; random: drawn pairs, as far; static: a larger vocabulary "
        "learnt on training texts, longest prefixes; none: the base tokenizer; dropped: the same, but the first tokens "
        "of a text are left out, until it is as short as dynamic makes it; arms choose it",
        choices=(DYNAMIC, RANDOM, STATIC, DROPPED, NONE),
    )
    boundary: str = setting(
        "pretokens",
        help="what merges stay within: one pre-token; a word between white space; a word, of whose punctuation only a "
        "hyphen is joined; sentence: no limit but that of white space",
        choices=BOUNDARIES,
        origin="paper",
    )
    allow_spaces: bool = setting(False, help="boundary=sentence: merge across white space, too")
    batch: int = setting(32, help="texts that are merged together", unit="texts", ge=1, origin="paper")
    counts: tuple[int, ...] = setting(
        (2, 5, 10, 20, 50, 100), help="merges of a batch after which its length is reported as well", ge=1
    )
    most: int = setting(20_000, help="static: merges that are learnt at most", unit="merges", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.allow_spaces and self.boundary != "sentence":
            return [("allow_spaces", f"is of no use within {self.boundary}; type merges.boundary=sentence")]
        return []


@dataclass(frozen=True)
class RowsConfig:
    """The input rows of merged tokens."""

    name: str = setting(
        RIDGE,
        help="ridge: predicted from the first piece, the last one and the mean of all, by a regression fitted on the "
        "vocabulary; fvt: the mean of the pieces; hypernetwork: by a network that is trained in the run (decoders)",
        choices=(RIDGE, FVT, HYPERNETWORK),
    )
    known: str = setting(
        ORIGINAL,
        help="rows of tokens that the base vocabulary has: its own, or predicted as well",
        choices=(ORIGINAL, PREDICTED),
    )
    penalty: float = setting(0.1, help="ridge: over the mean square of the features", gt=0)
    fitted: int = setting(8192, help="ridge: tokens of the vocabulary that it is fitted on", unit="tokens", ge=2)
    checked: int = setting(500, help="tokens that were not fitted whose rows are compared", unit="tokens", ge=1)
    cache: int = setting(5000, help="rows that are kept, those used last", unit="rows", ge=0, origin="code")


@dataclass(frozen=True)
class HeadConfig:
    """The classifier on an encoder's states, trained on plain texts."""

    share: float = setting(
        0.8, help="share of the training texts, drawn by the seed, that it is trained on", gt=0, le=1
    )
    strengths: tuple[float, ...] = setting((0.01, 0.1, 1.0), help="inverse strengths of the L2 penalty", gt=0)
    folds: int = setting(3, help="folds that choose among them", ge=2)
    max_tokens: int = setting(128, help="longer texts are cut before merging", unit="tokens", ge=3, origin="paper")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if not self.strengths or len(set(self.strengths)) < len(self.strengths):
            return [("strengths", "names none, or one twice; type [0.1], or others")]
        return []


@dataclass(frozen=True)
class ReductionsConfig(WindowsConfig):
    """What is measured, and on what."""

    reductions: tuple[float, ...] = setting(
        (0.0, 25.0, 50.0, 75.0, 100.0), help="percent of the way from base tokens to words", ge=0, le=100
    )
    prompt: int = setting(256, help="decoders: base tokens of a prompt", unit="tokens", ge=1)
    target: int = setting(64, help="decoders: base tokens behind it that are predicted", unit="tokens", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if not self.reductions or len(set(self.reductions)) < len(self.reductions):
            return [("reductions", "names none, or one twice; type [0, 50, 100], or others")]
        return []


@dataclass(frozen=True)
class LargeConfig:
    """Decoders: text generated with a larger vocabulary, whose new tokens have predicted rows in the head as well."""

    tokens: int = setting(0, help="new tokens, learnt on training texts; 0: nothing is generated", unit="tokens", ge=0)
    prompts: int = setting(8, help="that text is generated behind", unit="prompts", ge=1)
    steps: int = setting(24, help="new tokens a prompt", unit="tokens", ge=1)
    candidates: int = setting(20, help="that a search proposes at each step", unit="tokens", ge=1, origin="code")


@dataclass(frozen=True, kw_only=True)
class DynamicTokenizationConfig(UntrainedConfig):
    """Config of one `dynamic-tokenization` run."""

    data: ReviewSentimentConfig | WikiTopicsConfig | LabelledTextsConfig | DomainsConfig = setting(
        help="texts with a label each for an encoder; documents for a decoder"
    )
    model: MiniLMConfig | ToyLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model")
    merges: MergesConfig = setting(MergesConfig(), help="merges")
    rows: RowsConfig = setting(RowsConfig(), help="rows of merged tokens")
    hypernetwork: HypernetworkConfig = setting(HypernetworkConfig(), help="network that predicts rows")
    head: HeadConfig = setting(HeadConfig(), help="classifier")
    evaluation: ReductionsConfig = setting(ReductionsConfig(), help="what is measured")
    large: LargeConfig = setting(LargeConfig(), help="generation with a larger vocabulary")

    @property
    def is_encoder(self) -> bool:
        """Whether the model is an encoder, and classifies texts."""
        return isinstance(self.model, MiniLMConfig)

    @property
    def is_predicting(self) -> bool:
        """Whether any row is predicted."""
        return self.merges.name not in (NONE, DROPPED) or self.rows.known == PREDICTED

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems = []
        if self.is_encoder == isinstance(self.data, DomainsConfig):
            right = "review-sentiment, wiki-topics or labelled-texts" if self.is_encoder else "domains"
            problems.append(("data", f"{self.data.name} is not for model={self.model.name}; type data={right}"))
        problems += float32_problems(self.model, "rows are predicted in float32")
        if self.rows.name == HYPERNETWORK and self.is_encoder:
            problems.append(("rows.name", "a hypernetwork is trained by a decoder's loss; type model=toy-lm, or ridge"))
        if self.large.tokens and (self.is_encoder or self.merges.name != STATIC):
            problems.append(("large.tokens", "is about a decoder and arm=large; leave it out, or type both"))
        if self.large.tokens and self.rows.name == HYPERNETWORK:
            problems.append(("large.tokens", "rows of a head are predicted by ridge or fvt; type one of them"))
        return problems

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        data = str(getattr(self.data, "description", getattr(self.data, "described", self.data.name)))
        model = str(getattr(self.model, "description", getattr(self.model, "path", None) or "all-MiniLM-L6-v2"))
        reductions = ", ".join(f"{each:g}" for each in self.evaluation.reductions)
        return [
            ("data", data),
            ("model", model),
            ("merges", f"{self.merges.name}, {self.merges.batch} texts a batch, within {self.merges.boundary}"),
            ("rows", f"{self.rows.name}, of known tokens {self.rows.known}"),
            ("reductions", f"{reductions} percent of the way to words"),
        ]

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run, though they may in other arms, and why."""
        evaluation = " ".join(f"evaluation.{key}" for key in ("windows", "characters", "shortest", "prompt", "target"))
        is_predicting = self.is_predicting
        ridge = is_predicting and self.rows.name == RIDGE
        return unread_keys(
            ("rows.name rows.checked rows.cache", is_predicting, "all rows are the model's own"),
            ("rows.penalty rows.fitted", ridge, "nothing is fitted"),
            ("hypernetwork", is_predicting and self.rows.name == HYPERNETWORK, "no network predicts rows"),
            ("merges.most", self.merges.name == STATIC, f"merges.name={self.merges.name} learns no vocabulary"),
            ("head", self.is_encoder, "a decoder has no classifier"),
            (evaluation, not self.is_encoder, "an encoder reads whole texts"),
            ("large", self.large.tokens > 0, "nothing is generated"),
        )


CONFIG = DynamicTokenizationConfig

CARD = Card(
    title="Dynamic tokenization: merges made for the batch, rows predicted for them",
    paper="arXiv 2411.18553 (Feher, Vulic, Minixhofer; ACL 2025)",
    weights="tokens, by how often they stand beside each other in the batch: frequent neighbours become one",
    summary="Frequent adjacent tokens of a batch are merged into longer ones, BPE-style; their rows are predicted from "
    "those of their pieces, and a model that was trained with its old tokenizer reads shorter texts.",
    claim=Claim(
        statement="Halfway from its tokens to words, an encoder classifies texts as well as with its own tokens",
        metric=f"{ACCURACY}@50",
        arm="dynamic",
        baseline="plain",
        direction=1,
        published="XLM-R with LoRA, English XNLI: .8414 at 48% of the way, .8430 at none; less than 2% lost over 14 "
        "languages at the level of words",
        minimal_effect=0.02,
        only=ENCODER,
        unit=EXAMPLE_UNIT,
        kind=EQUIVALENCE,
    ),
    claims=(
        Claim(
            statement="Halfway to words, a prompt tells a decoder as much of what follows as its own tokens do",
            metric=f"{BITS}@50",
            arm="dynamic",
            baseline="plain",
            direction=-1,
            published="Mistral-7B: nearly lossless up to 40% of the way",
            minimal_effect=0.02,
            only=DECODERS,
            unit=EXAMPLE_UNIT,
            kind=EQUIVALENCE,
        ),
        Claim(
            statement="Words are a fifth fewer than tokens",
            metric=f"{ABSOLUTE}@100",
            arm="dynamic",
            baseline="plain",
            direction=1,
            published="over 20% on average over 14 languages; 14.7% for English",
            minimal_effect=20.0,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="At the level of words, rows of a hypernetwork lose less than mean rows",
            metric=f"{BITS}@100",
            arm="hypernetwork",
            baseline="fvt",
            direction=-1,
            published="no number for decoders at hand",
            minimal_effect=0.005,
            only=DECODERS,
            unit=EXAMPLE_UNIT,
        ),
        *(
            Claim(
                statement=statement,
                metric=f"{metric}@{level}",
                arm="dynamic",
                baseline=baseline,
                direction=-1,
                published=published,
                minimal_effect=0.005,
                only=only,
                unit=EXAMPLE_UNIT,
            )
            for metric, only in ((LOSS, ENCODER), (BITS, DECODERS))
            for statement, level, baseline, published in (
                ("At the level of words, ridge rows lose less than mean rows", 100, "fvt", "none for ridge rows"),
                ("Merging what is frequent loses less than merging drawn pairs as far", 50, "random", "none"),
            )
        ),
    ),
    cost="one forward of the test texts at each reduction; encoders also one of the training texts, cached",
    pair_keys=("arm", "merges", "rows", "large"),
    version=1,
    control="fvt",
    headlines=(f"{ACCURACY}@", f"{LOSS}@", f"{BITS}@", f"{ABSOLUTE}@", "rows/", "large/"),
    price=(f"{ABSOLUTE}@50",),
    frontiers=((ABSOLUTE, ACCURACY), (ABSOLUTE, LOSS), (ABSOLUTE, BITS)),
    trains=False,
    metrics=("*@*", "rows/*", "large/*"),
)
