"""Config and card of the recipe `dsir`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import CORRELATION, DATA_CONTENT, Card, Claim, RunConfig, setting
from recipes.core.data.config import DOMAINS, near_duplicates_setting
from recipes.core.evaluation.extra_config import QuestionsConfig
from recipes.core.models.adapter_config import LoraConfig, lora_problems
from recipes.core.models.config import CausalLMConfig, SmallLMConfig, SmolLM2TextConfig

SHARE = 0.1  # of the pool that is selected where no number is typed
METHODS = ("dsir", "dsir_topk", "random", "heuristic_cls", "heuristic_cls_topk")


@dataclass(frozen=True)
class SelectionDataConfig:
    """A raw pool of text to select from, and a sample of the text it should resemble."""

    name: str = setting("selection", help="data set", choices=("selection",))
    source: str | None = setting(
        None,
        help="raw pool: JSONL, Parquet or text file, folder or datasets name; null: the domains that ship",
        content=DATA_CONTENT,
    )
    target: str | None = setting(
        None, help="target sample, in the same formats; null: target_domain", content=DATA_CONTENT
    )
    format: str = setting(
        "auto", help="auto: from the paths", choices=("auto", "jsonl", "parquet", "csv", "text", "folder", "datasets")
    )
    text_column: str | None = setting(None, help="column of texts; null: text, content or document")
    domain_column: str | None = setting(None, help="column that names the domain; null: domain, if there is one")
    split: str = setting("train", help="published split to read, or all; data without splits is train")
    on_error: str = setting(
        "fail", help="a bad document stops the run, or is left out and counted", choices=("fail", "skip")
    )
    chunk_words: int | None = setting(
        None, help="documents are cut into chunks of this many words; null: not cut", unit="words", ge=1, origin="code"
    )
    target_domain: str = setting("sotu-modern", help="domain to resemble (source=null)", choices=DOMAINS)
    target_in_pool: bool = setting(True, help="whether the pool holds documents of that domain, too (source=null)")
    characters: int | None = setting(
        2_000_000, help="text of each domain in the pool (source=null); null: all", unit="characters", ge=1
    )
    near_duplicates: float | None = near_duplicates_setting()

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if (self.source is None) != (self.target is None):
            missing = "target" if self.target is None else "source"
            return [(missing, "is missing: data.source and data.target belong together")]
        return []


@dataclass(frozen=True)
class SelectConfig:
    """Which documents are taken."""

    method: str = setting("dsir", help="how documents are chosen; arms choose it", choices=METHODS)
    n: int | None = setting(None, help="documents to select; null: a tenth of the pool", unit="documents", ge=1)
    ngrams: int = setting(2, help="1: words; 2: words and bigrams", ge=1, le=2, origin="paper")
    buckets: int = setting(10_000, help="hash buckets of n-grams", ge=2, origin="paper")
    smoothing: float = setting(0.0, help="Laplace smoothing of the target's counts", ge=0, origin="code")
    temperature: float = setting(1.0, help="log-weights are divided by it before sampling", gt=0)
    length_normalize: bool = setting(False, help="divide log-weights by the number of n-grams")
    min_words: int = setting(0, help="shorter documents are left out", unit="words", ge=0)
    quality: bool = setting(False, help="leave out what fails the paper's quality filter")
    processes: int = setting(1, help="processes over shards", ge=1)
    backend: str = setting("loky", help="loky: processes of this machine; ray: a Ray cluster", choices=("loky", "ray"))


@dataclass(frozen=True)
class EvaluationConfig(QuestionsConfig):
    """How the selection is judged."""

    held_out: float = setting(0.2, help="share of the target's documents kept for testing (downstream=lm)", gt=0, lt=1)
    held_out_pool: float = setting(
        0.02, help="share of the pool's documents kept for testing (downstream=lm)", gt=0, lt=1
    )
    watch_every: int = setting(100, help="steps between measurements", unit="steps", ge=1)
    sequences: int = setting(200, help="held-out sequences of target and pool", unit="sequences", ge=1)
    length: int = setting(64, help="tokens of a sequence", unit="tokens", ge=2)


@dataclass(frozen=True, kw_only=True)
class DsirConfig(RunConfig):
    """Config of one `dsir` run."""

    data: SelectionDataConfig = setting(help="pool and target")
    model: SmallLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model trained on the selection")
    lora: LoraConfig = setting(LoraConfig(), help="low-rank adapters")
    select: SelectConfig = setting(help="selection")
    downstream: str = setting(
        "none", help="none: select only; lm: then train a language model on it", choices=("none", "lm")
    )
    evaluation: EvaluationConfig = setting(help="evaluation")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.downstream == "none" and getattr(self.model, "path", None):
            return [("downstream", "none trains no model, so model.path would not be read; type downstream=lm")]
        if self.downstream == "none" and self.evaluation.extra:
            return [("evaluation.extra", "is asked of a language model, and downstream=none trains none")]
        if self.downstream == "none" and self.lora.rank:
            return [("downstream", "none trains no model that could have adapters; type downstream=lm")]
        return lora_problems(self.lora, self.trainer, self.model)

    @property
    def needs_torch(self) -> bool:
        """Selecting is counting and adding; only what is trained on the selection needs torch."""
        return self.downstream == "lm"

    @property
    def sequence_tokens(self) -> int | None:
        """Tokens of a packed sequence."""
        return self.evaluation.length

    @property
    def sequence_limit(self) -> tuple[str, int] | None:
        """Tokens of a packed sequence."""
        return "evaluation.length", self.evaluation.length

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        data, select = self.data, self.select
        size = f"{select.n:,} documents" if select.n else f"{SHARE:.0%} of the documents"
        rows = [
            ("data", data.source or "the domains that ship with the install or as assets"),
            ("target", data.target or data.target_domain),
            ("selection", f"{size} by {select.method}, {select.processes} processes"),
        ]
        return [*rows, ("model", self.model.description)] if self.downstream == "lm" else rows

    def parameters(self) -> int | None:
        """Parameters of the language model; 0 if none is trained."""
        return self.model.parameters if self.downstream == "lm" else 0


CONFIG = DsirConfig

CARD = Card(
    title="DSIR: data selection for language models via importance resampling",
    paper="arXiv 2302.03169 (Xie, Santurkar, Ma, Liang; NeurIPS 2023)",
    weights="documents of a pool, by how likely their n-grams are in a target",
    summary="Documents of a raw pool are sampled with probabilities proportional to how much likelier their hashed "
    "n-grams are in the target than in the pool.",
    claim=Claim(
        statement="A model trained on the DSIR selection predicts target text better than one trained on a random one",
        metric="nll/target",
        arm="dsir",
        baseline="random",
        direction=-1,
        published="82.30 against 80.25 on GLUE for BERT-base trained on 51 million chunks of the Pile",
        minimal_effect=0.05,
        only="downstream=lm",
    ),
    claims=(
        Claim(
            statement="The more a selection reduces the KL divergence to the target, the better its model predicts it",
            metric="kl_reduction",
            beside="nll/target",
            arm="dsir",
            baseline="random",
            arms=("dsir", "random", "dsir_topk", "dsir_smoothed", "unigrams", "heuristic_cls", "heuristic_cls_topk"),
            kind=CORRELATION,
            direction=-1,
            published="r = 0.82 of KL reduction with mean accuracy downstream, over eight selections",
            minimal_effect=0.5,
            only="downstream=lm",
        ),
    ),
    cost="two passes over the corpus on CPUs, cached per shard; then seconds for any size, seed or temperature",
    pair_keys=("arm", "select"),
    version=1,
    control="unigrams",
    headlines=("nll/", "kl_reduction", "selected/"),
    price=("nll/pool",),
    watched=("nll/*",),
    metrics=("nll/*", "kl_reduction", "selected/*", "extra/*"),
)
