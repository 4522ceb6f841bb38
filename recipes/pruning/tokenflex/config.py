"""Config and card of the recipe `tokenflex`. Imports no torch."""

from dataclasses import dataclass
from math import isqrt

from recipes.core.config.settings import Card, Claim, RunConfig, setting
from recipes.core.data.images.canvas_config import CanvasConfig
from recipes.core.models.config import llama_parameters
from recipes.core.training.toys.config import DecoderShape, ToyViTConfig

VOCABULARY = 22  # words of the toy language model
PROJECTORS = ("swiglu_pool", "mlp_pool", "pixel_shuffle_mlp", "resampler")


@dataclass(frozen=True)
class FlexConfig:
    """How many visual tokens the model trains with, and how they are made."""

    tokens: tuple[int, ...] = setting((4, 16, 64), help="numbers that are trained, one drawn a step", unit="tokens")
    probs: tuple[float, ...] = setting((0.2, 0.3, 0.5), help="how often each is drawn", ge=0, origin="paper")
    schedule: str = setting(
        "random",
        help="draw at random, go round, or go through tokens once, each for its share of the steps",
        choices=("random", "cycle", "curriculum"),
        origin="paper",
    )
    projector: str = setting("swiglu_pool", help="what makes tokens of patches", choices=PROJECTORS, origin="code")
    pool: str = setting(
        "resize_avg",
        help="enlarge to a multiple, then average; or adaptive_avg_pool2d",
        choices=("resize_avg", "adaptive_avg"),
        origin="code",
    )
    tokens_per_question: float | None = setting(
        None, help="use so much of each batch that a question of it costs this many on average; null: all", gt=0
    )
    projector_learning_rate: float = setting(1e-3, help="peak learning rate of the projector", gt=0)

    @property
    def mean_tokens(self) -> float:
        """Visual tokens of a step, on average."""
        shares = [1 / len(self.tokens)] * len(self.tokens) if self.schedule == "cycle" else self.probs
        return sum(count * share for count, share in zip(self.tokens, shares, strict=True))

    @property
    def batch_share(self) -> float:
        """Share of each batch that is used."""
        return min(1.0, (self.tokens_per_question or self.mean_tokens) / self.mean_tokens)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = [("tokens", message) for message in map(no_square, self.tokens) if message]
        if not self.tokens or len(set(self.tokens)) < len(self.tokens):
            problems.append(("tokens", "needs numbers of tokens, each once"))
        if len(self.probs) != len(self.tokens):
            problems.append(("probs", f"has {len(self.probs)} entries for {len(self.tokens)} numbers of tokens"))
        elif abs(sum(self.probs) - 1) > 1e-6:
            problems.append(("probs", f"sums to {sum(self.probs):g}, not to 1"))
        return problems


@dataclass(frozen=True)
class FlexEvaluationConfig:
    """What is measured, and when."""

    tokens: tuple[int, ...] = setting((4, 16, 64), help="numbers of tokens a run is tested at", unit="tokens")
    unseen: tuple[int, ...] = setting((1, 36), help="more of them, which are in no mean", unit="tokens")
    watch_every: int = setting(100, help="steps between measurements", unit="steps", ge=1)
    watch_canvases: int = setting(200, help="test canvases of these measurements", unit="canvases", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = [
            (key, message)
            for key, counts in (("tokens", self.tokens), ("unseen", self.unseen))
            for message in map(no_square, counts)
            if message
        ]
        if not self.tokens:
            problems.append(("tokens", "needs at least one number of tokens"))
        if set(self.tokens) & set(self.unseen) or len(set(self.tokens)) < len(self.tokens):
            problems.append(("tokens", "names a number twice, or one of unseen"))
        return problems


@dataclass(frozen=True, kw_only=True)
class TokenFlexConfig(RunConfig):
    """Config of one `tokenflex` run."""

    data: CanvasConfig = setting(help="canvases")
    model: ToyViTConfig = setting(help="frozen encoder")
    decoder: DecoderShape = setting(help="language model, trained with its projector")
    flex: FlexConfig = setting(help="visual tokens")
    evaluation: FlexEvaluationConfig = setting(help="evaluation")

    @property
    def factor(self) -> int:
        """Patches on a side of what the pixel shuffle makes a token of."""
        return self.data.grid // isqrt(self.flex.tokens[0])

    @property
    def largest(self) -> int:
        """Most tokens that a run asks for."""
        return max(*self.flex.tokens, *self.evaluation.tokens, *self.evaluation.unseen)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        side, flex = self.data.grid, self.flex
        if flex.projector == "pixel_shuffle_mlp":
            fitting = [(side // f) ** 2 for f in range(2, side + 1) if side % f == 0]
            if len(flex.tokens) != 1 or flex.tokens[0] not in fitting:
                offer = " or ".join(f"[{count}]" for count in sorted(fitting))
                message = f"pixel_shuffle_mlp makes one number of tokens of {side}x{side} patches; type {offer}"
                return [("flex.tokens", message)]
        return []

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        flex, encoder = self.flex, self.model.encoder
        drawn = ", ".join(map(str, flex.tokens))
        return [
            ("data", self.data.description),
            ("encoder", f"{encoder.layers} blocks of width {encoder.width}, {encoder.steps:,} steps once, then frozen"),
            (
                "visual tokens",
                f"{drawn} of {self.data.patches} patches ({flex.schedule}), {flex.mean_tokens:g} on average",
            ),
            *(("warning", f"{count} tokens enlarge the map: nothing is gained") for count in self.enlarging),
        ]

    def parameters(self) -> int:
        """Parameters of projector and language model."""
        # The head is no embedding; a word is a token.
        words = VOCABULARY * self.decoder.width
        language = llama_parameters(VOCABULARY, self.decoder.layers, self.decoder.width, self.decoder.ffn) + words
        return language + _projector_parameters(self)

    @property
    def enlarging(self) -> list[int]:
        """Numbers of tokens that are more than the encoder's patches."""
        asked = {*self.flex.tokens, *self.evaluation.tokens, *self.evaluation.unseen}
        return sorted(count for count in asked if isqrt(count) > self.data.grid)


def _projector_parameters(config: TokenFlexConfig) -> int:
    """Weights and biases of each projector, layer by layer (`recipes.pruning.flex`)."""
    width, out, flex = config.model.encoder.width, config.decoder.width, config.flex
    if flex.projector == "swiglu_pool":
        return 2 * width + 2 * (width + 1) * 3 * width + (3 * width + 1) * out
    if flex.projector == "resampler":
        attention, mlp = 4 * (out + 1) * out, (out + 1) * 2 * out + (2 * out + 1) * out
        return 2 * width + (width + 1) * out + config.largest * out + attention + 2 * out + mlp
    taken = width * config.factor**2 if flex.projector == "pixel_shuffle_mlp" else width
    return (taken + 1) * out + (out + 1) * out


def no_square(count: int) -> str | None:
    """Why a model cannot make this many tokens; None if it can."""
    side = isqrt(max(count, 0))
    if side > 0 and side**2 == count:
        return None
    near = sorted({max(side, 1) ** 2, (side + 1) ** 2})
    return f"{count} is no square of a whole number; type {' or '.join(map(str, near))}"


CONFIG = TokenFlexConfig

CARD = Card(
    title="TokenFLEX: one model for several numbers of visual tokens",
    paper="arXiv 2504.03154 (2025)",
    weights="visual tokens, by training with a number of them drawn at each step",
    summary="A vision-language model trained with a number of visual tokens that is drawn anew at each step, by a "
    "projector that pools patches to any square, so that the number can be chosen at inference.",
    claim=Claim(
        statement="a model trained with varying numbers of visual tokens answers better from few of them than a model "
        "trained with many",
        metric="accuracy@4",
        arm="flex",
        baseline="fixed_large",
        direction=1,
        published="59.1 against 53.3 (+5.8) at 64 tokens for a model trained with 256, mean of eight OpenCompass sets; "
        "against models trained for the number they are tested at +1.6, +1.0 and +0.4 at 64, 144 and 256",
        minimal_effect=0.02,
    ),
    cost="the encoder is trained once and its features are cached; a step costs what its number of tokens costs",
    pair_keys=("arm", "flex"),
    version=1,
    control="fixed_small",
    headlines=("accuracy", "tokens/", "macs@"),
    price=("accuracy@64", "accuracy@16"),
    watched=("accuracy*", "tokens/total"),
    metrics=("accuracy*", "tokens/*", "macs@*", "encoder_share@*"),
    frontiers=(("tokens/total", "accuracy/mean"), ("tokens/total", "accuracy@64"), ("tokens/total", "accuracy@4")),
)
