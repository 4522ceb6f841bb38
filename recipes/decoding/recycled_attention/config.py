"""Config and card of the recipe `recycled-attention`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import EXACT, EXAMPLE_UNIT, Card, Claim, UntrainedConfig, setting
from recipes.core.data.config import domain_problems
from recipes.core.data.tasks.prompts_config import PromptsConfig
from recipes.core.models.adapter_config import LoraConfig, lora_problems
from recipes.core.models.config import CausalLMConfig, CharacterLMConfig, SmolLM2TextConfig
from recipes.core.training.toys.config import ToyLMConfig
from recipes.decoding.config import GenerationConfig

FULL, RECYCLED, STREAMING, H2O, SNAPKV = "full", "recycled", "streaming", "h2o", "snapkv"
ORACLE, RANDOM = "oracle", "random"
CACHES = (RECYCLED, FULL, STREAMING, H2O, SNAPKV, ORACLE, RANDOM)
UNREFRESHED = (STREAMING, H2O, SNAPKV, ORACLE, RANDOM)
SYMBOLS = 126  # that texts of `recall` are made of
FIXED, DYNAMIC, GLOBAL = "fixed", "dynamic", "global"
EMULATED = "emulated"


@dataclass(frozen=True)
class CacheConfig:
    """Which keys a decoding step attends to."""

    name: str = setting(RECYCLED, help="cache; arms choose it", choices=CACHES)
    k: int = setting(128, help="keys besides its own that a step attends to", unit="keys", ge=1)
    equal_cost: bool = setting(
        True, help="caches without full steps keep as many keys more as full steps every `stride` read in all"
    )
    stride: int = setting(10, help="every so many steps attend to all keys", unit="steps", ge=1, origin="paper")
    long_stride: bool = setting(False, help="allow a stride of more than half of k")
    schedule: str = setting(
        FIXED,
        help="when a step is full; dynamic: for each layer alone, where its query has moved; global: for all layers, "
        "where the query of one has",
        choices=(FIXED, DYNAMIC, GLOBAL),
    )
    check_every: int = setting(5, help="dynamic, global: steps between checks", unit="steps", ge=1, origin="paper")
    similarity: float = setting(
        0.8, help="dynamic, global: a check is a full step unless the cosine is above it", ge=-1, le=1, origin="paper"
    )
    heads: str = setting("max", help="score of a key among heads that share it", choices=("max", "mean"))
    pool: int = setting(1, help="neighbours among which a key has the largest score, itself included; odd", ge=1)
    evict: str = setting("score", help="what recycled steps drop first", choices=("score", "oldest"))
    sinks: int = setting(4, help="streaming: first tokens that are kept", unit="tokens", ge=0, origin="paper")
    refresh: bool = setting(False, help="streaming: every `stride` steps attend to all keys")
    window: int = setting(32, help="snapkv: last tokens that score and are kept", unit="tokens", ge=1, origin="paper")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if self.pool % 2 == 0:
            problems.append(("pool", f"{self.pool} neighbours have no middle; type an odd number"))
        for name, key, kept in ((STREAMING, "sinks", self.sinks), (SNAPKV, "window", self.window)):
            if self.name == name and kept >= self.k and not self.equal_cost:  # which adds keys to k
                problems.append((key, f"{kept} tokens that always stay leave none of k={self.k}; type fewer"))
        if self.name == RECYCLED and self.schedule == FIXED and 1 < self.stride > self.k / 2 and not self.long_stride:
            message = (
                f"{self.stride} is more than half of k={self.k}: most of the queue would be gone before the next full "
                "step, and recycled steps see the last tokens only (a pilot kept .31 of the attention at stride 50, "
                "k=32); type a smaller stride, a larger k, or cache.long_stride=true"
            )
            problems.append(("stride", message))
        return problems

    @property
    def description(self) -> str:
        """What a dry run announces."""
        if self.name == FULL:
            return "all keys at every step"
        how = f"{self.k} keys a step"
        if self.name == RECYCLED:
            when = f"every {self.stride} steps" if self.schedule == FIXED else f"{self.schedule}, checked every "
            return f"recycled, {how}, all keys {when}" + ("" if self.schedule == FIXED else f"{self.check_every} steps")
        if self.name == STREAMING and self.refresh:
            return f"streaming, {how}, all keys every {self.stride} steps"
        return f"{self.name}, {how}" + (f" and as many more as stride {self.stride} reads" if self.equal_cost else "")


@dataclass(frozen=True)
class LongDocumentsConfig:
    """Documents that ship, of at least so many tokens, cut there."""

    name: str = setting("long-documents", help="data set", choices=("long-documents",))
    domains: tuple[str, ...] = setting(
        ("sotu-modern", "licences", "python-reference"), help="domains that ship; their documents take turns"
    )
    tokens: int = setting(1024, help="tokens of a document", unit="tokens", ge=4)
    prompt: int = setting(512, help="first tokens, which are read with full attention", unit="tokens", ge=2)
    limit: int = setting(12, help="documents; another seed draws others", unit="documents", ge=1)

    @property
    def description(self) -> str:
        """What a dry run announces."""
        where = ", ".join(self.domains)
        return f"tokens {self.prompt:,} to {self.tokens:,} of {self.limit:,} documents of {where}"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = domain_problems(self.domains)
        if self.prompt >= self.tokens:
            problems.append(("prompt", f"{self.prompt} leaves nothing of tokens={self.tokens} to be predicted"))
        return problems


@dataclass(frozen=True)
class RecallConfig:
    """Texts whose answers stand in them: pairs of a key and a value, asked for in another order; symbols to copy."""

    name: str = setting("recall", help="data set", choices=("recall",))
    pairs: int = setting(16, help="pairs of a text", unit="pairs", ge=2)
    value: int = setting(3, help="symbols of a value", unit="tokens", ge=1)
    copied: int = setting(64, help="symbols to copy", unit="tokens", ge=2, le=SYMBOLS)
    train: int = setting(20_000, help="texts that the model learns from", unit="texts", ge=8)
    limit: int = setting(40, help="texts to measure on, half of each task", unit="texts", ge=2)

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"{self.limit:,} texts: {self.pairs} keys and values, {self.copied} symbols to copy"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.pairs * (self.value + 1) > SYMBOLS:
            what = f"{self.pairs} pairs with values of {self.value} need more than the {SYMBOLS} symbols that there are"
            return [("pairs", f"{what}; type fewer, or a smaller data.value")]
        return []


@dataclass(frozen=True, kw_only=True)
class RecallerConfig(CharacterLMConfig):
    """A small causal language model of characters, trained in the run on texts of `recall`."""

    name: str = setting("recaller", help="model", choices=("recaller",))
    layers: int = setting(2, help="decoder layers", ge=1)
    width: int = setting(64, help="hidden width", ge=4)
    heads: int = setting(2, help="attention heads", ge=1)
    steps: int = setting(1200, help="steps of its training", unit="steps", ge=1)
    batch_size: int = setting(32, help="texts per step", unit="texts", ge=1)
    learning_rate: float = setting(4e-3, help="peak learning rate", gt=0)


@dataclass(frozen=True)
class ContinuedConfig:
    """Training of the model before it is evaluated, on training documents of the domains of `data`."""

    attention: str = setting(
        "none",
        help="none: no training; emulated: the second half of each text is read with the cache of the run; plain: with "
        "full attention",
        choices=("none", EMULATED, "plain"),
    )
    steps: int = setting(40, help="steps", unit="steps", ge=1)
    batch_size: int = setting(1, help="texts per step", unit="texts", ge=1)
    length: int = setting(512, help="tokens of a text", unit="tokens", ge=4)
    learning_rate: float = setting(1e-5, help="peak learning rate", gt=0)
    characters: int = setting(1_000_000, help="text of each domain that is read", unit="characters", ge=1_000)


@dataclass(frozen=True, kw_only=True)
class RecycledAttentionConfig(UntrainedConfig):
    """Config of one `recycled-attention` run."""

    data: LongDocumentsConfig | RecallConfig | PromptsConfig = setting(help="texts")
    model: ToyLMConfig | RecallerConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model")
    cache: CacheConfig = setting(CacheConfig(), help="cache")
    continued: ContinuedConfig = setting(ContinuedConfig(), help="continued training")
    lora: LoraConfig = setting(LoraConfig(), help="low-rank adapters, of continued training")
    generation: GenerationConfig = setting(GenerationConfig(), help="continuations, of data=prompts")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        recall, trained = isinstance(self.data, RecallConfig), isinstance(self.model, RecallerConfig)
        if self.continued.attention != "none":
            return self._check_training()
        if recall and not trained:
            return [("model", f"{self.model.name} was not trained on data=recall; type model=recaller")]
        if trained and not recall:
            return [("model", f"recaller reads nothing but data=recall, not data={self.data.name}; type model=FOLDER")]
        return []

    def _check_training(self) -> list[tuple[str, str]]:
        """Rules of continued training."""
        if not isinstance(self.data, LongDocumentsConfig):
            return [("continued.attention", f"trains on documents, not data={self.data.name}; type none")]
        if self.cache.schedule == GLOBAL:
            return [("continued.attention", "one forward cannot emulate cache.schedule=global; type fixed or dynamic")]
        return lora_problems(self.lora, self.trainer, self.model)

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        training = f"{self.continued.steps:,} steps with {self.continued.attention} attention, once, then cached"
        return [
            ("data", self.data.description),
            ("model", self.model.description),
            ("cache", self.cache.description),
            *([("continued training", training)] if self.continued.attention != "none" else []),
        ]

    @property
    def sequence_limit(self) -> tuple[str, int] | None:
        """As `RunConfig.sequence_limit`: how long the documents are."""
        return ("data.tokens", self.data.tokens) if isinstance(self.data, LongDocumentsConfig) else None


CONFIG = RecycledAttentionConfig
NLL, RECOVERED, ACCURACY = "nll", "recovered", "accuracy"

CARD = Card(
    title="Recycled Attention: most steps attend to what the last full step found important",
    paper="arXiv 2411.05787 (Xu, Goyal, Choi; v2 RefreshKV, ACL 2025)",
    weights="cached keys, by the attention that the last full step paid to them",
    summary="Every tenth step attends to all keys; the steps between attend to the keys that it found important and to "
    "what came since. Nothing is evicted for good, so memory is not reduced.",
    claim=Claim(
        statement="Recycled keys predict long texts better than sinks and recent tokens, at equal keys read",
        metric=NLL,
        arm="recycled",
        baseline="streaming",
        direction=-1,
        published="perplexity 2.36 against 2.62 (Arxiv), 7.49 against 7.94 (Book), Llama-3.1-8B at 16K, equal K",
        minimal_effect=0.01,
        unit=EXAMPLE_UNIT,
    ),
    claims=(
        Claim(
            statement="Recycled keys predict long texts better than heavy hitters, at equal keys read",
            metric=NLL,
            arm="recycled",
            baseline="h2o",
            direction=-1,
            published="RULER at 32K: 63 against 21; of perplexity no number known to us",
            minimal_effect=0.01,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="They keep more of full attention than sinks and recent tokens, at equal keys read",
            metric=RECOVERED,
            arm="recycled",
            baseline="streaming",
            direction=1,
            published="above 90% against about 65%, at equal K",
            minimal_effect=0.02,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="What is recycled helps, not only the full steps: with the same full steps, sinks and recent "
            "tokens predict worse",
            metric=NLL,
            arm="recycled",
            baseline="streaming_plus",
            direction=-1,
            published="an ablation of the paper, whose numbers are not known to us",
            minimal_effect=0.01,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="Trained further with its own attention, it predicts better than trained with full attention",
            metric=NLL,
            arm="recycled_trained",
            baseline="plain_trained",
            direction=-1,
            published="perplexity 2.96 to 2.87 at stride 50, 2.90 to 2.81 at stride 25, against no training",
            minimal_effect=0.01,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="With a stride of 1 it is full attention: nats per token differ by no more than 0.0001",
            metric=NLL,
            arm="stride_1",
            baseline="full",
            direction=-1,
            published="by construction",
            minimal_effect=1e-4,
            unit=EXAMPLE_UNIT,
            kind=EXACT,
        ),
        Claim(
            statement="Recycled keys answer more questions about the text than sinks and recent tokens",
            metric=ACCURACY,
            arm="recycled",
            baseline="streaming",
            direction=1,
            published="RULER at 32K: 63 against 22, equal K",
            minimal_effect=0.05,
            only="data=recall",
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="Recycled keys answer more questions about the text than heavy hitters",
            metric=ACCURACY,
            arm="recycled",
            baseline="h2o",
            direction=1,
            published="RULER at 32K: 63 against 21, equal K",
            minimal_effect=0.05,
            only="data=recall",
            unit=EXAMPLE_UNIT,
        ),
    ),
    cost="two forwards of a frozen model a document",
    pair_keys=("arm", "cache", "continued"),
    version=1,
    control="h2o",
    headlines=(NLL, RECOVERED, ACCURACY, "keys_read"),
    price=("keys_read", "keys_held"),
    trains=False,
    metrics=(
        *(NLL, RECOVERED, "agrees", "keys_read", "keys_held", "full_steps", ACCURACY, "accuracy/*"),
        *("matches_full", "ms_per_token"),
    ),
)
