"""Config and card of the recipe `prior`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import MODEL_CONTENT, SEEDS, Card, Claim, RunConfig, setting
from recipes.core.data.config import DigitCaptionsConfig, EasyVqaConfig, ImageTextConfig
from recipes.core.models.adapter_config import PLAIN, LoraConfig, lora_problems
from recipes.core.models.config import LlavaConfig, SmallConfig, SmolLM2Config
from recipes.core.models.memory import image_tokens

WEIGHTINGS = ("ntp", "prior", "random", "inverse", "drop", "surprisal", "focal", "cal", "oracle")
LIVE = ("focal", "cal")  # weights come from the model in training, step by step


@dataclass(frozen=True)
class WeightingConfig:
    """Which caption tokens count how much."""

    name: str = setting("prior", help="how tokens are weighted; arms choose it", choices=WEIGHTINGS)
    alpha: float = setting(1.0, help="exponent of 1 - p; 0 is next-token prediction", ge=0, origin="paper")
    floor: float = setting(0.0, help="share of every weight that is uniform", ge=0, le=1)
    cap: float | None = setting(None, help="largest normalised weight; null: none", gt=0)
    reduction: str = setting("token", help="how captions combine", choices=("token", "caption", "global_norm"))
    word_pool: str = setting("none", help="share a word's weight among its pieces", choices=("none", "max", "mean"))
    keep: float = setting(0.5, help="share of tokens that `drop` keeps", gt=0, le=1)
    surprisal_cap: float = setting(5.0, help="largest weight of `surprisal`", unit="nats", gt=0)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems = []
        if self.cap is not None and self.cap < 1:
            problems.append(("cap", f"{self.cap:g} is below 1, the mean weight; use at least 1"))
        return problems


@dataclass(frozen=True)
class ReferenceConfig:
    """The text-only model whose surprise makes the weights."""

    source: str = setting("train", help="train in the run, or take as it is", choices=("train", "path", "backbone"))
    path: str | None = setting(None, help="folder or hub name of a causal LM, for source=path", content=MODEL_CONTENT)
    steps: int = setting(300, help="optimizer steps; about one pass, so that it does not memorise", unit="steps", ge=1)
    batch_size: int = setting(32, help="captions per step", unit="captions", ge=1)
    learning_rate: float = setting(2e-3, help="peak learning rate", gt=0)
    seed: int = setting(0, help="its own seed: all arms and seeds share one reference", ge=0, lt=SEEDS)
    cross_fit: int = setting(1, help="2: two references, each scores the half it was not trained on", ge=1, le=2)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        if self.source == "path" and not self.path:
            return [("path", "reference.source=path needs reference.path=FOLDER or a hub name")]
        if self.source != "path" and self.path:
            return [("path", f"is only read with reference.source=path (now {self.source})")]
        if self.source != "train" and self.cross_fit > 1:
            return [("cross_fit", "only a reference trained in the run (source=train) can be cross-fitted")]
        return []


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, on how many examples of the test split."""

    watch_every: int = setting(100, help="steps between the light measurements of the curves", unit="steps", ge=1)
    watch_examples: int = setting(400, help="examples in them", unit="examples", ge=1)
    examples: int = setting(400, help="examples in the final measurement", unit="examples", ge=2)
    candidates: int = setting(10, help="captions to rank in image-caption matching", ge=2)
    captions: int = setting(50, help="captions generated greedily", unit="captions", ge=0)
    heatmap: int = setting(12, help="captions in the token heatmap", unit="captions", ge=0)


@dataclass(frozen=True, kw_only=True)
class PriorConfig(RunConfig):
    """Config of one `prior` run."""

    data: DigitCaptionsConfig | EasyVqaConfig | ImageTextConfig = setting(help="image-caption data")
    model: SmallConfig | SmolLM2Config | LlavaConfig = setting(help="vision-language model")
    lora: LoraConfig = setting(LoraConfig(), help="low-rank adapters in the language model")
    weighting: WeightingConfig = setting(help="token weights")
    reference: ReferenceConfig = setting(help="reference model")
    evaluation: EvaluationConfig = setting(help="evaluation")
    setting: str = setting("U", help="U: patches into the decoder; H: visual encoder and projector", choices=("U", "H"))

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems = lora_problems(self.lora, self.trainer, self.model)
        if self.weighting.name == "oracle" and isinstance(self.data, ImageTextConfig):
            problems.append(
                ("arm", "oracle needs data whose image-determined tokens are known: digit-captions or easy-vqa")
            )
        if isinstance(self.model, LlavaConfig) and self.setting == "U":
            problems.append(("setting", "a LLaVA model has a visual encoder; type setting=H"))
        if self.reference.source == "train" and (bits := getattr(self.model, "load_in", PLAIN)) != PLAIN:
            problems.append(("reference.source", f"trains weights, and {bits} ones cannot be; type backbone or path"))
        if self.weighting.name in LIVE and self.weighting.reduction == "global_norm":
            problems.append(
                (
                    "weighting.reduction",
                    f"{self.weighting.name} weights are known per micro-batch only; use token or caption",
                )
            )
        return problems

    @property
    def sequence_tokens(self) -> int | None:
        """Most tokens of an image with its caption, and the begin of the text."""
        image = image_tokens(self.model, self.setting, self.data.image_side)
        return None if image is None else 1 + image + self.data.max_tokens

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        return [
            ("data", f"{self.data.name}, {self.data.path or 'from the install or an asset'}"),
            ("model", f"{self.model.description}, setting {self.setting}"),
            ("reference", self.reference.path or self.reference.source),
        ]

    def parameters(self) -> int | None:
        """Parameters of the decoder."""
        return self.model.parameters


CONFIG = PriorConfig

CARD = Card(
    title="PRIOR: prioritizing image-related tokens in vision-language pre-training",
    paper="arXiv 2505.08971 (Chen, Peng, Zhang, Ji; 2025)",
    weights="caption tokens, by how badly a text-only model predicts them",
    summary="Caption tokens are weighted by how badly a text-only reference predicts them: weight (1 - p_ref)^alpha, "
    "mean 1 in each caption.",
    claim=Claim(
        statement="PRIOR learns image-related tokens in fewer steps than next-token prediction",
        metric="grounded/auc",
        arm="prior",
        baseline="ntp",
        direction=1,
        published="average relative improvement of 8% without and 19% with a visual encoder, on large benchmarks",
        minimal_effect=0.02,
        only="data=digit-captions or data=easy-vqa",
    ),
    cost="one reference trained and one scoring pass over the captions, cached; then no cost per step",
    pair_keys=("arm", "weighting"),
    version=1,
    control="random",
    headlines=("grounded/", "nll/", "matching/", "answers/"),
    price=("nll/other", "greedy/reference_nll", "greedy/recall"),
    watched=("grounded/*/accuracy", "nll/*"),
    metrics=("grounded/*", "nll/*", "matching/*", "answers/*", "probe/*", "greedy/*", "scaling/*"),
)
