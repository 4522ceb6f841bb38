"""Config and card of the recipe `byte-level`. Imports no torch."""

from dataclasses import dataclass, replace

from recipes.core.config.settings import (
    EQUIVALENCE,
    EXACT,
    EXAMPLE_UNIT,
    MODEL_CONTENT,
    Card,
    Claim,
    System,
    UntrainedConfig,
    setting,
)
from recipes.core.data.tasks.prompts_config import OpeningsConfig, PromptsConfig
from recipes.core.models.config import CausalLMConfig, SmolLM2TextConfig
from recipes.core.training.toys.config import ToyLMConfig

MODES = ("exact", "exact_fast", "all_segmentations", "healing", "token")
BY_TOKENS = ("healing", "token")
FIRST, SECOND, MEAN, PRODUCT, APART = "first", "second", "mean", "product", "apart"


@dataclass(frozen=True)
class BytesConfig:
    """How the next byte is read off a model of tokens."""

    mode: str = setting("exact", help="how; arms choose it", choices=MODES)
    models: str = setting(
        FIRST,
        help="which of the two models; mean: the mean of their probabilities of a byte, product: their geometric mean; "
        "apart: each on its own, their code lengths averaged",
        choices=(FIRST, SECOND, MEAN, PRODUCT, APART),
    )
    unchecked: float = setting(
        1e-4, help="share of the next byte's probability whose tokens count as valid without being encoded; 0: none",
        ge=0, lt=1,
    )  # fmt: skip
    beam: int = setting(5, help="all_segmentations: token lists that are kept", ge=1, origin="code")
    threshold: float = setting(
        0.05, help="all_segmentations: least weight of a list, relative to the best", ge=0, lt=1, origin="code"
    )

    @property
    def both(self) -> bool:
        """Whether two models are asked."""
        return self.models in (MEAN, PRODUCT, APART)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.models in (MEAN, PRODUCT) and self.mode in BY_TOKENS:
            return [("models", f"{self.models} needs bytes, and mode={self.mode} goes on by tokens; type mode=exact")]
        return []


@dataclass(frozen=True)
class CutsConfig:
    """Where texts are cut to ask for the next byte."""

    inside: int = setting(6, help="cuts of a text inside of words", unit="cuts", ge=1)
    word_ends: int = setting(2, help="cuts of a text behind words, the control", unit="cuts", ge=0)
    after: int = setting(16, help="characters of a text that stand before every cut", unit="characters", ge=1)


@dataclass(frozen=True)
class ContinuationConfig:
    """How far prompts are continued, and how bytes are chosen."""

    max_new_bytes: int = setting(20, help="longest continuation of a prompt; 0: none", unit="bytes", ge=0)
    temperature: float = setting(0.0, help="of the probabilities; 0: the likeliest byte, or token, each time", ge=0)
    top_p: float = setting(1.0, help="what is drawn is one of the likeliest that make up this probability", gt=0, le=1)
    heatmap: int = setting(6, help="continuations that the report shows", unit="prompts", ge=0)


@dataclass(frozen=True)
class SecondConfig:
    """The second model of an ensemble; its vocabulary may be another."""

    path: str | None = setting(
        None, help="folder or hub name of a causal language model; null: a toy-lm, trained in the run",
        content=MODEL_CONTENT,
    )  # fmt: skip
    vocabulary: int = setting(4096, help="largest vocabulary of the toy-lm", unit="tokens", ge=300)


@dataclass(frozen=True, kw_only=True)
class ByteLevelConfig(UntrainedConfig):
    """Config of one `byte-level` run."""

    data: PromptsConfig | OpeningsConfig = setting(help="prompts")
    model: ToyLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model")
    second: SecondConfig = setting(SecondConfig(), help="second model, of ensembles")
    bytes: BytesConfig = setting(BytesConfig(), help="next byte")
    cuts: CutsConfig = setting(CutsConfig(), help="cuts")
    generation: ContinuationConfig = setting(ContinuationConfig(), help="continuations")

    @property
    def second_model(self) -> ToyLMConfig | CausalLMConfig:
        """The second model: the one that is typed, or a toy as the first one is, with its own vocabulary."""
        if self.second.path:
            return CausalLMConfig(path=self.second.path)
        toy = self.model if isinstance(self.model, ToyLMConfig) else ToyLMConfig()
        return replace(toy, vocabulary=self.second.vocabulary)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems = []
        if isinstance(self.model, ToyLMConfig) and self.model.tokenizer == "characters":
            problems.append(("model.tokenizer", "a character says nothing of its bytes; type model.tokenizer=bpe"))
        if isinstance(self.data, OpeningsConfig) and self.data.tokens < 24:
            problems.append(("data.tokens", f"{self.data.tokens} tokens leave no room for cuts; type 24 or more"))
        return problems

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        models, options = [], self.bytes
        if options.models != SECOND:
            models.append(("model", self.model.description))
        if options.models != FIRST:
            models.append(("second model", self.second_model.description))
        which = "" if options.models == FIRST else f", of {'both models' if options.both else 'the second model'}"
        return [("data", self.data.description), *models, ("next byte", f"{options.mode}{which}")]


CONFIG = ByteLevelConfig

TOYS = "model=toy-lm"
BITS, AT_ENDS, BROKEN = "bits", "bits_at_word_ends", "jensen_broken"

CARD = Card(
    title="Exact byte-level probabilities of models of tokens",
    paper="arXiv 2410.09303 (Phan, Amos, Gat, Havasi, Muckley, Ullrich; ICLR 2025)",
    weights="token lists that a text may be the beginning of, by their probability",
    summary="A prompt that ends inside a word is the beginning of many token lists. The probability of the next byte "
    "is summed over all of them, those whose last token runs past the end of the prompt included. Nothing is trained; "
    "models of different vocabularies can be averaged byte by byte.",
    claim=Claim(
        statement="Behind a cut inside a word the next byte costs fewer bits than with the tokens of the cut text",
        metric=BITS,
        arm="exact",
        baseline="token",
        direction=-1,
        published="about 18% better code infilling with cuts at random places",
        minimal_effect=0.1,
        unit=EXAMPLE_UNIT,
    ),
    claims=(
        Claim(
            statement="It costs fewer bits than with token healing, which takes back one token",
            metric=BITS,
            arm="exact",
            baseline="healing",
            direction=-1,
            published="consistently above token healing in code infilling, by little in pass@10 (84.1 against 84.0)",
            minimal_effect=0.05,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="Behind whole words there is no bias to remove: bits differ by less than 0.1",
            metric=AT_ENDS,
            arm="exact",
            baseline="token",
            direction=-1,
            published="follows from the method; no number known to us",
            minimal_effect=0.1,
            unit=EXAMPLE_UNIT,
            kind=EQUIVALENCE,
        ),
        Claim(
            statement="Tokens behind the prompt need not be checked: bits differ by less than 0.01",
            metric=BITS,
            arm="exact_fast",
            baseline="exact",
            direction=-1,
            published="the fast mode of the official code; no number known to us",
            minimal_effect=0.01,
            unit=EXAMPLE_UNIT,
            kind=EQUIVALENCE,
        ),
        Claim(
            statement="The mean of two models costs at no cut more bits than they do on average (Jensen)",
            metric=BROKEN,
            arm="ensemble",
            baseline="apart",
            direction=-1,
            published="a theorem",
            minimal_effect=0.0,
            unit=EXAMPLE_UNIT,
            kind=EXACT,
        ),
        Claim(
            statement="The mean of two models with vocabularies of 1,024 and 4,096 tokens beats the first of them",
            metric=BITS,
            arm="ensemble",
            baseline="exact",
            direction=-1,
            published="up to 3.7% above the single models on reasoning, knowledge and code",
            minimal_effect=0.02,
            only=TOYS,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="The mean of two models with vocabularies of 1,024 and 4,096 tokens beats the second of them",
            metric=BITS,
            arm="ensemble",
            baseline="second",
            direction=-1,
            published="up to 3.7% above the single models on reasoning, knowledge and code",
            minimal_effect=0.02,
            only=TOYS,
            unit=EXAMPLE_UNIT,
        ),
    ),
    cost="forwards of a frozen model, one prompt at a time; about one for each byte",
    pair_keys=("arm", "bytes"),
    version=1,
    control="healing",
    headlines=(BITS, AT_ENDS, "leaked", "continuation"),
    price=("ms_per_cut", "forwards_per_byte"),
    trains=False,
    metrics=(
        *(BITS, AT_ENDS, BROKEN, "leaked", "covers", "forwards_per_cut", "encodings_per_cut", "ms_per_cut"),
        *("continuation", "continuation_bytes", "forwards_per_byte", "ms_per_byte"),
    ),
    systems=(System("Exact byte-level probabilities", "arXiv 2410.09303", ("exact", "exact_fast", "ensemble")),),
)
