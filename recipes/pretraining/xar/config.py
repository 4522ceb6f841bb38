"""Config and card of the recipe `xar`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import RunConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.data.config import DigitCaptionsConfig, EasyVqaConfig
from recipes.core.data.images.labelled_config import LabelledImagesConfig
from recipes.pretraining.xar.card import CARD as CARD

CELL, PATCH, IMAGE, SUBSAMPLE, SCALE = "cell", "patch", "image", "subsample", "scale"
NOISY, CLEAN = "noisy", "clean"
LOGIT_NORMAL, UNIFORM = "logit_normal", "uniform"
SDE, ODE = "sde", "ode"
LINEAR, CONSTANT = "linear", "constant"
FREQUENCIES = 256  # width of the sinusoids of a time


@dataclass(frozen=True)
class NextXConfig:
    """A small transformer over image tokens, trained from nothing in the run."""

    name: str = setting("next-x", help="model", choices=("next-x",))
    layers: int = setting(3, help="blocks", ge=1)
    width: int = setting(64, help="hidden width", ge=8)
    heads: int = setting(4, help="attention heads", ge=1)
    dropout: float = setting(0.0, help="dropout of attention and projections; published: 0.1", ge=0, lt=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.width % (4 * self.heads):
            what = f"4 x heads = {4 * self.heads} does not divide width={self.width}: rotations of y and x need pairs"
            return [("heads", what)]
        return []

    @property
    def inner(self) -> int:
        """Width inside the gated MLP."""
        return self.width * 8 // 3


@dataclass(frozen=True)
class GridConfig:
    """The grid of tokens that an image is cut into."""

    side: int | None = setting(
        None, help="pixels of a side that digits and shapes are resized to; null: as they are; images of yours have "
        "data.side", ge=1, unit="pixels",
    )  # fmt: skip
    patch: int = setting(2, help="pixels of a side of a token", unit="pixels", ge=1)


@dataclass(frozen=True, kw_only=True)
class EntityConfig:
    """What is predicted at a time; arms choose it."""

    kind: str = setting(
        CELL, help="cell: a square of neighbouring tokens; patch: a token; subsample: every so many tokens; scale: the "
        "whole image, coarse to fine; image: all tokens at once", choices=(CELL, PATCH, SUBSAMPLE, SCALE, IMAGE),
    )  # fmt: skip
    size: int = setting(2, help="tokens of a side of a cell; stride of a subsample; published: 8", unit="tokens", ge=1)

    @property
    def has_size(self) -> bool:
        """Whether the size decides anything."""
        return self.kind in (CELL, SUBSAMPLE)

    def tokens(self, grid: int) -> list[int]:
        """Tokens of each entity in turn, on a grid of so many tokens a side."""
        if self.kind == SCALE:
            return [side**2 for side in self.scales(grid)]
        each = {CELL: self.size**2, PATCH: 1, IMAGE: grid**2, SUBSAMPLE: (grid // self.size) ** 2}[self.kind]
        return [each] * (grid**2 // each)

    def scales(self, grid: int) -> list[int]:
        """Sides of the resolutions, coarse to fine: the powers of two that divide the grid, and the grid."""
        return sorted({side for side in (2**power for power in range(16)) if grid % side == 0} | {grid})


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """What an entity is learned from; arms choose it."""

    mode: str = setting(
        NOISY, help="noisy: the noisy entities before it (noisy context learning); clean: the true ones (teacher "
        "forcing, twice the tokens)", choices=(NOISY, CLEAN),
    )  # fmt: skip
    shared_noise: bool = setting(False, help="mode=noisy: all entities of an image have one time t")
    t: float = setting(0.0, help="time, and so noise, of finished entities in sampling and of a clean context", ge=0,
                       lt=1, origin="code")  # fmt: skip
    images: int = setting(
        2, help="images of each of a batch's items; a clean context at equal compute takes half as many", ge=1
    )


@dataclass(frozen=True)
class FlowConfig:
    """Flow matching."""

    t_dist: str = setting(
        LOGIT_NORMAL, help="where times come from: the sigmoid of a normal, or all alike",
        choices=(LOGIT_NORMAL, UNIFORM), origin="paper",
    )  # fmt: skip
    class_dropout: float = setting(
        0.1, help="probability that an image is learned without its class", ge=0, lt=1, origin="paper"
    )
    ema: float = setting(
        0.999, help="decay of the average of the weights that is measured and sampled from, after n steps "
        "min(ema, (1 + n) / (10 + n)); 0: the last weights; published: 0.9999", ge=0, lt=1,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How an entity is drawn; arms choose it."""

    kind: str = setting(ODE, help="Euler steps along the velocity, or Euler-Maruyama; published: sde",
                        choices=(ODE, SDE))  # fmt: skip
    steps: int = setting(10, help="model calls of an entity; published: 40 to 50", unit="steps", ge=2)
    guidance: float = setting(1.5, help="strength of classifier-free guidance; 1: none; published: 2.2 to 2.7", ge=1)
    schedule: str = setting(
        LINEAR, help="guidance over entities: from none at the first to all at the last, or constant",
        choices=(LINEAR, CONSTANT), origin="paper",
    )  # fmt: skip


@dataclass(frozen=True)
class ClassifierConfig:
    """The classifier whose penultimate layer is the feature space; trained once on the training images."""

    steps: int = setting(300, help="optimizer steps", unit="steps", ge=1)
    batch_size: int = setting(64, help="images of a step", unit="images", ge=1)
    learning_rate: float = setting(3e-3, help="peak learning rate", gt=0)
    features: int = setting(32, help="width of its penultimate layer, in which Frechet distances are taken", ge=2)


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and on how much."""

    watch_every: int = setting(200, help="steps between measurements", unit="steps", ge=1)
    samples: int = setting(500, help="images drawn for a Frechet distance, classes as in the training images", ge=2)
    probes: int = setting(300, help="test images of the exposure gap", unit="images", ge=1)
    draws: int = setting(4, help="draws of times and noise for each of them", ge=1)
    context_noise: tuple[float, ...] = setting(
        (0.2, 0.4), help="standard deviations of noise added to finished entities, for frechet/noise_*", gt=0
    )
    batch: int = setting(200, help="images of a forward; another number draws other images", unit="images", ge=1)
    cached: bool = setting(True, help="sample with a KV cache; false: compute all finished entities anew")


@dataclass(frozen=True, kw_only=True)
class XarConfig(RunConfig):
    """Config of one `xar` run."""

    data: DigitCaptionsConfig | EasyVqaConfig | LabelledImagesConfig = setting(help="images with classes")
    model: NextXConfig = setting(help="model, trained from nothing")
    grid: GridConfig = setting(GridConfig(), help="tokens of an image")
    entity: EntityConfig = setting(EntityConfig(), help="what is predicted at a time")
    context: ContextConfig = setting(ContextConfig(), help="what it is learned from")
    flow: FlowConfig = setting(FlowConfig(), help="flow matching")
    sampler: SamplerConfig = setting(SamplerConfig(), help="sampling")
    classifier: ClassifierConfig = setting(ClassifierConfig(), help="feature space")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), help="what is measured")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems, side, patch = [], self.side, self.grid.patch
        if isinstance(self.data, LabelledImagesConfig):
            if self.data.path is None:
                problems.append(("data.path", "is missing; type a folder, or data=digit-captions for the digits"))
            if self.grid.side is not None:
                problems.append(("grid.side", "is of the data that ship; type data.side for images of yours"))
        if side is None:
            problems.append(("data.side", "is missing: images of yours may differ in size; type data.side=32"))
        elif side % patch:
            problems.append(("grid.patch", f"{patch} does not divide images of {side} x {side} pixels"))
        elif self.entity.has_size and self.tokens % self.entity.size:
            grid = f"the grid of {self.tokens} x {self.tokens} tokens"
            problems.append(("entity.size", f"{self.entity.size} does not divide {grid}; type a divisor"))
        if self.context.shared_noise and self.context.mode == CLEAN:
            problems.append(("context.shared_noise", "belongs to context.mode=noisy; leave it out"))
        if self.evaluation.samples <= self.classifier.features:
            what = f"are too few for a covariance of classifier.features={self.classifier.features}; type more"
            problems.append(("evaluation.samples", what))
        if noises := self.evaluation.context_noise:
            if len(set(noises)) < len(noises):
                problems.append(("evaluation.context_noise", "has a value twice; type each once"))
        else:
            problems.append(("evaluation.context_noise", "is empty, and frechet_rise needs one; type [0.2,0.4]"))
        if self.trainer.parallel == "fsdp":
            problems.append(("trainer.parallel", "fsdp shares out weights that are averaged whole; type ddp"))
        return problems

    @property
    def side(self) -> int | None:
        """Pixels of a side of the images; None if nobody knows."""
        return self.grid.side or self.data.image_side

    @property
    def tokens(self) -> int:
        """Tokens of a side of the grid."""
        return (self.side or 0) // self.grid.patch

    @property
    def sequence_tokens(self) -> int:
        """Tokens of an image in training: twice as many with a clean context."""
        return sum(self.entity.tokens(self.tokens)) * (2 if self.context.mode == CLEAN else 1)

    @property
    def training_tokens(self) -> int:
        """Tokens that training reads."""
        return self.trainer.max_steps * self.trainer.batch_size * self.context.images * self.sequence_tokens

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run."""
        kind = self.entity.kind
        alone = kind == IMAGE or len(self.entity.tokens(self.tokens)) == 1
        why = "one entity has no context"
        words = "data.filler" if isinstance(self.data, DigitCaptionsConfig) else "data.pairs"
        return unread_keys(
            (
                f"data.on_long data.max_tokens data.seed data.on_error {words}",
                isinstance(self.data, LabelledImagesConfig),
                "only images and classes are read, and they are split already",
            ),
            ("entity.size", self.entity.has_size, f"kind={kind} has no size"),
            ("context.t evaluation.context_noise evaluation.cached", not alone, why),
            ("sampler.schedule", self.sampler.guidance > 1 and not alone, "there is no guidance, or one entity"),
        )

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        parts, side = self.entity.tokens(self.tokens), self.tokens
        sizes = f"{len(parts)} of {parts[0]}" if len(set(parts)) == 1 else ", ".join(map(str, parts))
        model = f"transformer, {self.model.layers} blocks, width {self.model.width}, trained in the run"
        each = f"{self.sequence_tokens} tokens an image, {self.context.images} images an item"
        return [
            ("data", f"{self.data.name}, {self.side} x {self.side} pixels, a grid of {side} x {side} tokens"),
            ("model", model),
            ("entities", f"{self.entity.kind}: {sizes} tokens"),
            ("context", f"{self.context.mode}, {each}"),
        ]

    def parameters(self) -> int | None:
        """Parameters of the model; None where only the data know how many classes there are."""
        if not isinstance(self.data, DigitCaptionsConfig):
            return None
        width, channels = self.model.width, self.grid.patch**2
        block = 4 * width * (width + 1) + 3 * width * self.model.inner + 6 * width * (width + 1)
        ends = width * (channels + 1) + channels * (width + 1) + sum(self.entity.tokens(self.tokens)) * width
        return self.model.layers * block + ends + 11 * width + width * (FREQUENCIES + 1) + width * (width + 1)


CONFIG = XarConfig
