"""Config and card of the recipe `edu-rerank`. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from recipes.core.config.settings import DATA_CONTENT, MODEL_CONTENT, RunConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.models.adapter_config import LoraConfig, lora_problems
from recipes.core.models.config import CausalLMConfig, SmolLM2TextConfig
from recipes.core.training.toys.config import ToyLMConfig
from recipes.retrieval.edu_rerank.card import EDU_RERANK

VECTOR = 384  # width of all-MiniLM-L6-v2
SEARCHES = ("beam", "diverse_beam", "sampling")  # plans that a trained generator writes
PLANS = (*SEARCHES, "random", "oracle", "none")
LOSSES = ("full", "no_unlikelihood", "mle_only")
RERANKERS = ("brio", "loglik", "none", "random", "oracle")


@dataclass(frozen=True, kw_only=True)
class PartsConfig:
    """How documents are divided."""

    sentences: int = setting(6, help="of a document that is measured, at least", unit="sentences", ge=1)
    train_sentences: int = setting(3, help="of one that is learned from, at least", unit="sentences", ge=1)
    test_fraction: float = setting(0.3, help="share of the documents that are measured", gt=0, lt=1)
    rank_fraction: float = setting(
        0.25, help="share of the others that the re-ranker learns from, and the plan generator does not", gt=0, lt=1
    )
    documents: int | None = setting(None, help="of each part, the first ones; null: all", unit="documents", ge=2)


@dataclass(frozen=True, kw_only=True)
class DocstringSummariesConfig(PartsConfig):
    """Docstrings of SymPy (asset sympy-source): the first paragraph sums up the others."""

    name: str = setting("docstring-summaries", help="data set", choices=("docstring-summaries",))
    described: ClassVar[str] = "docstrings of SymPy (asset sympy-source): their bodies, and their first paragraphs"

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return self.described


@dataclass(frozen=True, kw_only=True)
class SummariesConfig(PartsConfig):
    """Your own documents: rows with a document and its summary."""

    name: str = setting("summaries", help="data set", choices=("summaries",))
    path: str | None = setting(None, help="file, folder or datasets name", content=DATA_CONTENT)
    format: str = setting("auto", help="auto: from the path", choices=("auto", "jsonl", "parquet", "csv", "datasets"))
    document_column: str | None = setting(None, help="column of documents; null: document, text, article or source")
    summary_column: str | None = setting(None, help="column of summaries; null: summary, highlights or abstract")
    split: str = setting("train", help="published split, or all; data without splits is train")
    on_error: str = setting(
        "fail", help="a row that cannot be used stops the run, or is left out and counted", choices=("fail", "skip")
    )

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"documents and summaries of {self.path}"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.path else [("path", "is missing; type data.path=FILE, FOLDER or a datasets name")]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What makes vectors of EDUs."""

    path: str | None = setting(
        None, help="folder or hub name of a BERT-type sentence encoder; null: all-MiniLM-L6-v2", content=MODEL_CONTENT
    )
    max_tokens: int | None = setting(256, help="longer units are cut; null: as the encoder was trained", ge=3)


@dataclass(frozen=True, kw_only=True)
class PlansConfig:
    """Which plans there are of a document."""

    name: str = setting(
        "beam", help="beam, diverse_beam, sampling: by the trained generator; random: drawn units; oracle: the plan "
        "nearest to the reference; none: a writer writes without", choices=PLANS,
    )  # fmt: skip
    unit: str = setting("edu", help="what a plan chooses from", choices=("edu", "sentence"))
    count: int = setting(16, help="plans of a document", unit="plans", ge=1)
    shortest: int = setting(1, help="units of a plan, at least, where a document has so many", unit="units", ge=1)
    longest: int = setting(20, help="units of a plan, at most", unit="units", ge=1, origin="paper")
    alpha: float = setting(1.0, help="plans are scored by sum log p / length^alpha", ge=0, origin="paper")
    top_p: float = setting(0.92, help="sampling: probability of what is drawn from", gt=0, le=1, origin="paper")
    penalty: float = setting(1.0, help="diverse_beam: cost of a unit that another beam took", ge=0, origin="paper")
    longest_document: int = setting(96, help="EDUs of a document, at most", unit="EDUs", ge=2)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.shortest > self.longest:
            return [("shortest", f"{self.shortest} is more than longest={self.longest}")]
        return []

    @property
    def is_learned(self) -> bool:
        """Whether a generator is trained."""
        return self.name in SEARCHES


@dataclass(frozen=True, kw_only=True)
class PlannerConfig:
    """The plan generator."""

    width: int = setting(128, help="of its layers", ge=4)
    heads: int = setting(4, help="attention heads", ge=1)
    layers: int = setting(2, help="layers of its encoder, and of its decoder", ge=1, origin="paper")
    dropout: float = setting(0.1, help="in training", ge=0, lt=1)
    salience_weight: float = setting(1.0, help="weight of the salience loss", ge=0, origin="code")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.width % self.heads:
            return [("width", f"{self.width} does not divide by heads={self.heads}")]
        return []

    def parameters(self, positions: int) -> int:
        """Weights of a generator over vectors of all-MiniLM-L6-v2, for documents of so many units."""
        d = self.width
        attention, ffn, norm = 4 * (d * d + d), 8 * d * d + 5 * d, 2 * d
        encoder, decoder = attention + ffn + 2 * norm, 2 * attention + ffn + 3 * norm
        ends = VECTOR * d + d + (positions + 2) * d + 2 * d  # projection, positions, stop and start
        pointer = 2 * d * d + d + 2 * (d + 1)  # its two layers, and the salience head
        return ends + self.layers * (encoder + decoder) + 2 * norm + pointer


@dataclass(frozen=True, kw_only=True)
class RerankerConfig:
    """What chooses among the candidates of a document."""

    name: str = setting(
        "brio", help="brio: a scorer trained by the margin loss; loglik: the plan's likelihood; none: the first; "
        "random; oracle: the best by ROUGE-1", choices=RERANKERS,
    )  # fmt: skip
    margin: float = setting(0.001, help="brio: by which neighbours in rank are to differ", ge=0, origin="code")
    alpha: float = setting(2.0, help="loglik, brio: power of the length, of a likelihood", ge=0, origin="paper")
    hidden: int = setting(0, help="brio: width of a hidden layer; 0: the scorer is linear", ge=0)
    steps: int = setting(200, help="brio: steps over all documents", unit="steps", ge=1)
    learning_rate: float = setting(3e-3, help="brio: of AdamW", gt=0)
    weight_decay: float = setting(0.1, help="brio: of AdamW", ge=0)


@dataclass(frozen=True, kw_only=True)
class WriterConfig:
    """What writes a text for a plan, and how a language model learns to."""

    name: str = setting(
        "extract", help="extract: the units of the plan; abstract: a language model, trained in the run",
        choices=("extract", "abstract"),
    )  # fmt: skip
    loss: str = setting(
        "full", help="full: with the oracle's plan, against a random one, without; no_unlikelihood: not against a "
        "random one; mle_only: without tags only", choices=LOSSES, origin="paper",
    )  # fmt: skip
    plan_weight: float = setting(1.0, help="lambda: of the NLL with the oracle's plan", ge=0, origin="paper")
    unlikelihood_weight: float = setting(1.0, help="of the unlikelihood with a random plan", ge=0, origin="paper")
    plain_weight: float = setting(1.0, help="beta: of the NLL without tags", ge=0, origin="code")
    smoothing: float = setting(0.1, help="of labels", ge=0, lt=1, origin="paper")
    learning_rate: float = setting(1e-4, help="peak learning rate of the language model", gt=0)
    search: str = setting(
        "beam", help="beam: the first of some beams, or without plans as many as plans are asked for; "
        "nucleus: drawn, by plans.top_p", choices=("beam", "nucleus"),
    )  # fmt: skip
    beams: int = setting(4, help="beams of a text", ge=1, origin="paper")
    no_repeat: int = setting(3, help="n-grams that a text has once, at most; 0: no such rule", ge=0, origin="paper")
    prompt_tokens: int = setting(512, help="of a document in the prompt, tags included", unit="tokens", ge=16)
    summary_tokens: int = setting(64, help="of a text, at most", unit="tokens", ge=2)
    batch_size: int = setting(
        16, help="beam: texts that are written at once; nucleus: one prompt's", unit="texts", ge=1
    )

    @property
    def weights(self) -> tuple[float, float, float]:
        """Weights of the losses with the oracle's plan, with a random one, and without tags, as `loss` has them."""
        if self.loss == "mle_only":
            return 0.0, 0.0, self.plain_weight
        return self.plan_weight, self.unlikelihood_weight if self.loss == "full" else 0.0, self.plain_weight


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """What is measured."""

    watch_every: int = setting(100, help="steps between measurements", unit="steps", ge=1)
    heatmap: int = setting(6, help="documents that the report shows", unit="documents", ge=0)


@dataclass(frozen=True, kw_only=True)
class EDURerankConfig(RunConfig):
    """Config of one `edu-rerank` run."""

    data: DocstringSummariesConfig | SummariesConfig = setting(help="documents and summaries")
    model: ToyLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="language model that writes")
    lora: LoraConfig = setting(LoraConfig(), help="low-rank adapters of the writer")
    encoder: EncoderConfig = setting(EncoderConfig(), help="sentence encoder")
    plans: PlansConfig = setting(PlansConfig(), help="plans")
    planner: PlannerConfig = setting(PlannerConfig(), help="plan generator")
    writer: WriterConfig = setting(WriterConfig(), help="writer")
    reranker: RerankerConfig = setting(RerankerConfig(), help="re-ranker")
    evaluation: WatchConfig = setting(WatchConfig(), help="evaluation")

    @property
    def writes(self) -> bool:
        """Whether a language model writes."""
        return self.writer.name == "abstract"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems = lora_problems(self.lora, self.trainer, self.model) if self.writes else []
        if self.lora.rank and not self.writes:
            problems.append(("lora.rank", "no language model is trained; type writer.name=abstract, or lora.rank=0"))
        if self.plans.name == "none" and not self.writes:
            problems.append(("plans.name", "without plans nothing is extracted; type writer.name=abstract"))
        if self.plans.unit == "sentence" and self.writes:
            problems.append(("plans.unit", "tags stand around EDUs; type plans.unit=edu, or writer.name=extract"))
        followed, _, plain = self.writer.weights
        if self.writes and not followed and not plain:
            problems.append(
                ("writer.plain_weight", "makes no text likely; type a weight above 0, or writer.plan_weight")
            )
        return problems

    @property
    def sequence_tokens(self) -> int | None:
        """Tokens of a prompt and its text, at most."""
        return self.writer.prompt_tokens + self.writer.summary_tokens if self.writes else None

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        plans = f"{self.plans.count} of {self.plans.unit}s, {self.plans.name}"
        rows = [("data", self.data.description), ("plans", plans), ("re-ranker", self.reranker.name)]
        return [*rows, ("writer", f"{self.model.description}, {self.writer.loss}")] if self.writes else rows

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run, though they may in other arms, and why."""
        plans, writer, reranker, loss = self.plans, self.writer, self.reranker.name, self.writer.loss
        nucleus = self.writes and writer.search == "nucleus"
        by, no_part = f"plans.name={plans.name}", f"writer.loss={loss} leaves it out"
        return unread_keys(
            ("plans.count", plans.name != "oracle", "there is one plan of the oracle"),
            ("plans.shortest plans.longest planner", plans.is_learned, f"{by} trains no generator"),
            ("plans.alpha", plans.name == "beam", f"{by} is no search by beams"),
            ("plans.penalty", plans.name == "diverse_beam", f"{by} is no search by diverse beams"),
            ("plans.top_p", plans.name == "sampling" or nucleus, "nothing is drawn from a nucleus"),
            ("reranker.margin reranker.hidden reranker.steps reranker.learning_rate reranker.weight_decay",
             reranker == "brio", f"reranker.name={reranker} is not trained"),
            ("reranker.alpha", reranker in ("brio", "loglik"), f"reranker.name={reranker} reads no likelihood"),
            ("model lora writer", self.writes, f"writer.name={writer.name} asks no language model"),
            ("writer.plan_weight", loss != "mle_only", no_part),
            ("writer.unlikelihood_weight", loss == "full", no_part),
            ("writer.beams writer.batch_size", not nucleus, "texts are drawn, one prompt at a time"),
            ("evaluation.watch_every", self.plans.is_learned or self.writes, "nothing is trained"),
        )  # fmt: skip

    @property
    def trains_model(self) -> bool:
        """Only an arm that writes trains the language model."""
        return self.writes

    def parameters(self) -> int | None:
        """Weights of what is trained: the plan generator, the writer, both or none; None if only files know."""
        planner = self.planner.parameters(self.plans.longest_document) if self.plans.is_learned else 0
        writer = self.model.parameters if self.writes else 0
        if writer is None or (planner and self.encoder.path):
            return None
        return planner + writer


CONFIG = EDURerankConfig
CARD = EDU_RERANK
