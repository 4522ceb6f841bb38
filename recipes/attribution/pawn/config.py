"""Config of the recipe `pawn`. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from recipes.attribution.pawn.card import PAWN
from recipes.core.config.settings import MODEL_CONTENT, SEEDS, RunConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.data.config import DOMAINS
from recipes.core.data.tasks.labelled_config import LabelledTextsConfig
from recipes.core.models.config import CausalLMConfig, SmolLM2TextConfig
from recipes.core.models.memory import decoder_size
from recipes.core.training.toys.config import ToyLMConfig

TRAINED = ("pawn", "hsff")
FITTED = ("linear", "gltr", "length", "embedding")
ZERO_SHOT = ("log_prob", "rank", "log_rank", "entropy", "lrr", "fast_detectgpt", "log_prob_entropy")
DECODINGS = {  # temperature, top_p, repetition penalty
    "sampling": (1.0, 1.0, 1.0),
    "nucleus": (0.9, 0.9, 1.0),
    "penalty": (1.0, 1.0, 1.2),
}
SHIFTS = ("domain", "generator", "decoding")
METRICS, HSFF_BLOCKS = 5, 5  # HSFF has six hidden layers: the first, and five blocks


@dataclass(frozen=True, kw_only=True)
class ContinuationsConfig:
    """Documents that ship, and what language models write behind their first words, equally long."""

    name: str = setting("continuations", help="data set", choices=("continuations",))
    domain: str = setting("news", help="domain of which texts are trained on", choices=DOMAINS)
    unseen_domain: str = setting("wiki-en", help="domain of which none is", choices=DOMAINS)
    decoding: str = setting(
        "sampling", help="how machine texts that are trained on are drawn", choices=tuple(DECODINGS)
    )
    unseen_decoding: str = setting("nucleus", help="how others are", choices=tuple(DECODINGS))
    shifts: tuple[str, ...] = setting(
        SHIFTS, help="what is measured beside texts like those trained on", choices=SHIFTS
    )
    documents: int = setting(120, help="documents of the domain, at most", unit="documents", ge=4)
    unseen_documents: int = setting(48, help="documents of the unseen domain, at most", unit="documents", ge=2)
    test_fraction: float = setting(0.4, help="share of the documents that is tested on, drawn by the seed", gt=0, lt=1)
    train_documents: int | None = setting(None, help="documents that are trained on, at most; null: all others", ge=2)
    prompt: int = setting(
        9, help="first words of a document, which a model continues", unit="words", ge=1, origin="ours"
    )
    tokens: int = setting(40, help="tokens of each text, as the detector counts them", unit="tokens", ge=4)
    seed: int = setting(0, help="which documents, and what is drawn behind them", ge=0, lt=SEEDS)

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"{self.documents} documents of {self.domain} and what machines make of their first {self.prompt} words"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        for shift, key, mine in (
            ("domain", "unseen_domain", self.domain),
            ("decoding", "unseen_decoding", self.decoding),
        ):
            if shift in self.shifts and getattr(self, key) == mine:
                problems.append((key, f"{mine} is trained on; type another, or data.shifts without {shift}"))
        if len(set(self.shifts)) < len(self.shifts):
            problems.append(("shifts", "names one twice"))
        return problems


@dataclass(frozen=True, kw_only=True)
class DetectionTextsConfig(LabelledTextsConfig):
    """Your own texts, each labelled as written by a person or by a machine."""

    name: str = setting("detection-texts", help="data set", choices=("detection-texts",))
    machine_label: str | None = setting(None, help="label of machine texts; null: machine, ai, generated or 1")
    held_out: tuple[str, ...] = setting(
        (), help="values of data.source_column (generators, or domains) that are tested on and never trained on"
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = super().check()
        if self.held_out and self.source_column is None:
            problems.append(
                ("held_out", "needs data.source_column=COLUMN, the column that names generators or domains")
            )
        return problems


@dataclass(frozen=True, kw_only=True)
class OtherConfig(ToyLMConfig):
    """The generator that is not trained on: a toy trained in the run."""

    domains: tuple[str, ...] = setting(("sotu-modern", "wiki-en"), help="domains on whose documents it is trained")
    layers: int = setting(2, help="decoder layers", ge=1)
    width: int = setting(96, help="hidden width", ge=4)
    steps: int = setting(400, help="steps of its training", unit="steps", ge=1)


@dataclass(frozen=True, kw_only=True)
class OtherCausalLMConfig(CausalLMConfig):
    """The generator that is not trained on: one of yours."""

    path: str | None = setting(None, help="folder or hub name of the other generator", content=MODEL_CONTENT)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.path else [("path", "is missing; type other.path=FOLDER or a hub name")]


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """The detector."""

    name: str = setting(
        "pawn", help="pawn: metrics weighed by states; hsff: states alone; linear: means and deviations of metrics; "
        "gltr: shares of ranks; length: how many tokens; embedding: a sentence encoder; others: one number, untrained",
        choices=(*TRAINED, *FITTED, *ZERO_SHOT),
    )  # fmt: skip
    gate: str = setting("softmax", help="weights of tokens; mean: all the same", choices=("softmax", "sigmoid", "mean"))
    gate_inputs: str = setting("states", help="what weights are made of", choices=("states", "position"))
    channels: int = setting(256, help="gates, each for as many features", ge=1, origin="paper")
    random_gate: bool = setting(False, help="leave the gate's network as it was drawn")
    features: int = setting(256, help="features of a token that are pooled", ge=1, origin="paper")
    width: int = setting(256, help="of hidden layers", ge=1, origin="paper")
    blocks: int = setting(2, help="hidden layers behind the first", ge=0, origin="paper")
    dropout: float = setting(0.0, help="in hidden layers", ge=0, lt=1, origin="code")
    drop_tokens: float = setting(0.15, help="share of a text's tokens left out in training", ge=0, lt=1, origin="paper")
    smoothing: float = setting(0.2, help="of labels", ge=0, lt=1, origin="paper")
    pos_weight: float | None = setting(
        None, help="weight of machine texts in the loss; null: human texts trained on, by machine texts", gt=0
    )
    standardise: bool = setting(False, help="shift and divide metrics by training means and deviations")
    max_tokens: int = setting(512, help="longer texts are cut", unit="tokens", ge=2, origin="paper")

    @property
    def is_trained(self) -> bool:
        """Whether a network is trained."""
        return self.name in TRAINED

    @property
    def decides(self) -> bool:
        """Whether what it says is a logit, so that 0 parts human and machine texts."""
        return self.name not in ZERO_SHOT

    @property
    def has_gate(self) -> bool:
        """Whether a network makes weights."""
        return self.name == "pawn" and self.gate != "mean"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.features % self.channels:
            return [("channels", f"features={self.features} does not divide by {self.channels}")]
        return []

    def gate_width(self, hidden: int) -> int:
        """What the gate reads, of states so wide."""
        return 1 if self.gate_inputs == "position" else 2 * hidden + 1

    def parameters(self, hidden: int) -> int:
        """Weights that are trained."""
        if self.name == "hsff":
            return mlp_parameters(2 * hidden + 1, 1, self.width, HSFF_BLOCKS)
        count = mlp_parameters(METRICS, self.features, self.width, self.blocks)
        count += mlp_parameters(self.features, 1, self.width, self.blocks)
        if self.has_gate and not self.random_gate:
            count += mlp_parameters(self.gate_width(hidden), self.channels, self.width, self.blocks)
        return count


def mlp_parameters(inputs: int, outputs: int, width: int, blocks: int) -> int:
    """Weights of an MLP: the first and the last layer, and blocks of a layer and the scale of a norm."""
    return (inputs + 1) * width + blocks * (width * width + 2 * width) + (width + 1) * outputs


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The sentence encoder of detector.name=embedding."""

    path: str | None = setting(
        None, help="folder or hub name of a BERT-type encoder; null: all-MiniLM-L6-v2, an asset", content=MODEL_CONTENT
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured on the way, and shown."""

    watch_every: int = setting(50, help="steps between measurements", unit="steps", ge=1)
    heatmap: int = setting(6, help="texts that the report shows", unit="texts", ge=0)


@dataclass(frozen=True, kw_only=True)
class PawnConfig(RunConfig):
    """Config of one `pawn` run."""

    data: ContinuationsConfig | DetectionTextsConfig = setting(help="texts")
    model: ToyLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="language model that reads the texts")
    other: OtherConfig | OtherCausalLMConfig = setting(OtherConfig(), help="generator that is not trained on")
    detector: DetectorConfig = setting(DetectorConfig(), help="detector")
    encoder: EncoderConfig = setting(EncoderConfig(), help="sentence encoder")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), help="evaluation")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        if isinstance(self.data, ContinuationsConfig) and self.data.tokens > self.detector.max_tokens:
            return [("data.tokens", f"is more than detector.max_tokens={self.detector.max_tokens}")]
        return []

    @property
    def trains_model(self) -> bool:
        """What is trained reads the language model, which stays as it is."""
        return False

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        model: Any = self.model
        rows = [
            ("data", self.data.description),
            ("language model", model.description),
            ("detector", self.detector.name),
        ]
        if isinstance(self.data, ContinuationsConfig):
            rows.append(("setting", "white box: the language model has written the texts that are trained on"))
        return rows

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run, though they may in other arms, and why."""
        detector, name = self.detector, f"detector.name={self.detector.name}"
        built = isinstance(self.data, ContinuationsConfig)
        return unread_keys(
            ("detector.gate detector.features detector.blocks detector.standardise", detector.name == "pawn",
             f"{name} has no features that are weighed"),
            ("detector.gate_inputs detector.channels detector.random_gate", detector.has_gate, "there is no gate"),
            ("detector.width detector.dropout detector.drop_tokens detector.smoothing detector.pos_weight "
             "evaluation.watch_every", detector.is_trained, f"{name} trains no network"),
            ("encoder", detector.name == "embedding", f"{name} reads no sentence encoder"),
            ("evaluation.heatmap", detector.name == "pawn", f"{name} weighs no tokens"),
            ("other", built and "generator" in self.data.shifts, "no other generator writes"),  # type: ignore[union-attr]
        )  # fmt: skip

    def parameters(self) -> int | None:
        """Weights of the head; None if only the language model's files know how wide its states are."""
        if not self.detector.is_trained:
            return 0
        size = decoder_size(self.model)
        return None if size is None else self.detector.parameters(size.width)


CONFIG = PawnConfig
CARD = PAWN
