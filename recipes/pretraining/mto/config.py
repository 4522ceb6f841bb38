"""Config and card of the recipe `mto`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import Card, Claim, RunConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.data.images.labelled_config import LabelledImagesConfig

NONE, THRESHOLD, HARD_BLOCK = "none", "threshold", "hard_block"
LEARNED, FROZEN, MEAN, INDEPENDENT = "learned", "frozen", "mean_patch", "independent"
RANDOM, BLOCK = "random", "block"
PROBE, AREA, RESTORED, MASS, HET = "probe", "probe_area", "restoration", "mass", "het"
RATIO, EPOCHS, SECONDS, SECONDS_NEEDED = "area_ratio", "epochs_needed", "seconds", "seconds_needed"


@dataclass(frozen=True, kw_only=True)
class ViTShape:
    """A small vision transformer, trained from nothing."""

    name: str = setting("small-vit", help="model", choices=("small-vit",))
    layers: int = setting(4, help="blocks", ge=1)
    width: int = setting(64, help="of a token", ge=4)
    heads: int = setting(4, help="attention heads", ge=1)
    patch: int = setting(2, help="side of a patch; divides the side of the images", unit="pixels", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [("heads", f"width={self.width} does not divide by it")] if self.width % self.heads else []


@dataclass(frozen=True, kw_only=True)
class MtoConfig:
    """What visible tokens take from masked ones, and what masked tokens are; arms choose it."""

    spa: float = setting(0.1, help="weight of the attention that visible tokens pay to masked ones", ge=0)
    e: float = setting(0.01, help="weight of the entropy of that attention among masked tokens", ge=0)
    r: float = setting(0.1, help="weight of the likeness of masked tokens to the mean of visible ones", ge=0)
    recalibration: str = setting(
        THRESHOLD,
        help="visible tokens pay a masked one at least a threshold or nothing (threshold), nothing in the first layers "
        "(hard_block), or what they like",
        choices=(NONE, THRESHOLD, HARD_BLOCK),
    )
    threshold: float = setting(1.0, help="least weight that is kept, in those of a uniform row", ge=0)
    blocked_layers: int = setting(2, help="first layers that hard_block is about", unit="layers", ge=1)
    last_layer: float = setting(
        0.1, help="d of the last layer, 1 in the first: spa and r are weighted by d, e by 1 - d", gt=0, le=1
    )
    margin: float = setting(0.0, help="cosine up to which likeness costs nothing", ge=-1, lt=1)
    warmup_ratio: float = setting(0.05, help="share of the steps in which the weights rise from 0", ge=0, le=1)
    mask_token: str = setting(
        LEARNED,
        help="what stands for a masked patch: one vector that is learned, or stays as it is drawn; the mean patch of "
        "the images; or a vector drawn for each masked position",
        choices=(LEARNED, FROZEN, MEAN, INDEPENDENT),
        origin="paper",
    )
    masking: str = setting(
        RANDOM, help="masked patches lie anywhere, or side by side", choices=(RANDOM, BLOCK), origin="paper"
    )
    ratio: float = setting(0.6, help="share of the patches that are masked, at least one", gt=0, lt=1)

    @property
    def needs_rows(self) -> bool:
        """Whether rows of attention are looked at in training."""
        return self.recalibration != NONE or any((self.spa, self.e, self.r))

    @property
    def baseline(self) -> "MtoConfig":
        """The same pre-training without any of it; settings that change nothing then are those of the class."""
        return MtoConfig(spa=0.0, e=0.0, r=0.0, recalibration=NONE, ratio=self.ratio)

    @property
    def is_baseline(self) -> bool:
        """Whether it is that already."""
        return not self.needs_rows and self.mask_token == LEARNED and self.masking == RANDOM


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and when."""

    watch_every: int = setting(36, help="steps between measurements", unit="steps", ge=1)
    strength: float = setting(0.1, help="inverse strength of the L2 penalty of the linear probe", gt=0)
    tau: float = setting(0.1, help="temperature of the affinity of tokens", gt=0)
    baseline: bool = setting(
        True, help="train the arm none beside the run, once for a seed, and say how soon its accuracy is reached"
    )
    batch_size: int = setting(256, help="images of a forward", unit="images", ge=1)


@dataclass(frozen=True, kw_only=True)
class MtoRunConfig(RunConfig):
    """Config of one `mto` run."""

    data: LabelledImagesConfig = setting(help="images")
    model: ViTShape = setting(help="encoder, trained from nothing")
    mto: MtoConfig = setting(MtoConfig(), help="masked tokens")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), help="what is measured")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems, mto = [], self.mto
        side = self.data.image_side
        if side and (problem := grid_problem(side, self.model.patch)):
            problems.append(("model.patch", problem))
        if mto.recalibration == HARD_BLOCK and mto.blocked_layers > self.model.layers:
            problems.append(("mto.blocked_layers", f"are more than model.layers={self.model.layers}"))
        for key, plain in (("attention", "auto"), ("compile", False)):
            if getattr(self.trainer, key) != plain:
                problems.append((f"trainer.{key}", "is fixed: rows of attention are made by the recipe; leave it out"))
        if self.trainer.parallel == "fsdp":
            problems.append(("trainer.parallel", "fsdp shares out what is read outside of its layer; type ddp"))
        return problems

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run."""
        mto = self.mto
        return unread_keys(
            ("mto.threshold", mto.recalibration == THRESHOLD, "no row is recalibrated by a threshold"),
            ("mto.blocked_layers", mto.recalibration == HARD_BLOCK, "no layer is blocked"),
            ("mto.last_layer mto.warmup_ratio", any((mto.spa, mto.e, mto.r)), "no term has a weight"),
            ("mto.margin", mto.r > 0, "mto.r is 0"),
            ("mto.e mto.last_layer", self.model.layers > 1, "d is 1 in a single layer, and 1 - d, which weighs e, 0"),
            ("evaluation.baseline", not mto.is_baseline, "the run is the baseline"),
            (
                "data.seed",
                self.data.path is not None or self.data.limit is not None or self.data.test_fraction is not None,
                "the digits are split as all recipes split them",
            ),
            (
                "data.on_error data.format data.split",
                self.data.path is not None,
                "the digits ship",
            ),
        )

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        shape = self.model
        return [
            ("data", f"{self.data.description}, {self.mto.ratio:.0%} of the patches masked"),
            ("model", f"ViT, {shape.layers} layers, width {shape.width}, patches of {shape.patch}, from nothing"),
        ]

    def parameters(self) -> int | None:
        """Parameters of encoder, mask token and head; None where only the images know their side."""
        side, shape = self.data.image_side, self.model
        if side is None:
            return None
        width, pixels = shape.width, shape.patch**2 * (3 if self.data.path else 1)
        block = 12 * width**2 + 13 * width
        tokens = (side // shape.patch) ** 2 + 2  # positions of patches and CLS, and CLS
        token = width * (self.mto.mask_token == LEARNED)
        return shape.layers * block + (pixels + 1) * width + tokens * width + 2 * width + (width + 1) * pixels + token


def grid_problem(side: int, patch: int) -> str:
    """What is wrong with patches of this side in images of that; empty if nothing is."""
    if side % patch == 0 and side > patch:
        return ""
    fitting = [each for each in range(1, side) if side % each == 0]
    near = sorted(sorted(fitting, key=lambda each: abs(each - patch))[:2])
    instead = f"; type {' or '.join(map(str, near))}" if near else ""
    return f"{patch} does not divide images of {side} pixels into a grid{instead}"


CONFIG = MtoRunConfig


def _property(statement: str, baseline: str) -> Claim:
    return Claim(statement, AREA, "none", baseline, 1, "argued for in the paper; no number was read", 0.01)


CARD = Card(
    title="mto_reconstructed: masked token optimisation in formulas of ours",
    paper="arXiv 2404.08330 (Choi, Lee, Joung, Park, Kim, Min; ECCV 2024), whose equations could not be read: the "
    "experiment tests our reconstruction",
    weights="masked tokens, by what visible tokens take from them: little in early layers, and from few",
    summary="In masked image modelling, visible tokens are kept from aggregating masked ones: terms of the loss on "
    "attention and likeness, weighted by depth, and small weights cut off. The paper says that half the epochs are "
    "enough. Losses and recalibration here are a reconstruction, no result is one of the paper's.",
    claim=Claim(
        statement="With the reconstructed terms and recalibration, a linear probe learns sooner: the area under its "
        "accuracy over pre-training is larger",
        metric=AREA,
        arm="full",
        baseline="none",
        direction=1,
        published="the accuracy of the baseline in about half the epochs (ImageNet-1k, ViT-B and ViT-L, fine-tuned)",
        minimal_effect=0.01,
    ),
    claims=(
        Claim(
            statement="Visible tokens pay masked ones less attention, when the rows are plain softmax again",
            metric=MASS,
            arm="full",
            baseline="none",
            direction=-1,
            published="intended by the method; no number was read",
            minimal_effect=0.05,
        ),
        Claim(
            statement="The baseline's final accuracy is reached, for good, in fewer epochs",
            metric=EPOCHS,
            arm="full",
            baseline="none",
            direction=-1,
            published="about half",
            minimal_effect=2.0,
        ),
        _property("One vector for all masked positions is better than one drawn for each", "independent_tokens"),
        _property("A mask token unlike any patch is better than the mean patch", "mean_token"),
        _property("Masks that lie anywhere are better than blocks", "block_masks"),
    ),
    cost="rows of attention are held in memory in training, no fused kernel; nothing is left of it afterwards",
    pair_keys=("arm", "mto"),
    version=1,
    control="recalibration",
    headlines=(PROBE, RATIO, EPOCHS, SECONDS, MASS, HET),
    price=(RESTORED, SECONDS),
    metrics=(PROBE, AREA, RATIO, EPOCHS, SECONDS, SECONDS_NEEDED, RESTORED, f"{MASS}*", f"{HET}*"),
    watched=(PROBE, RESTORED),
)
