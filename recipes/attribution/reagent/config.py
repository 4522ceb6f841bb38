"""Config and card of the recipe `reagent`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import EXAMPLE_UNIT, Card, Claim, UntrainedConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.data.tasks.prompts_config import OpeningsConfig, PromptsConfig
from recipes.core.models.config import CausalLMConfig, CharacterLMConfig, SmolLM2TextConfig
from recipes.core.training.toys.config import ToyLMConfig

REAGENT, OCCLUSION, RANDOM = "reagent", "occlusion", "random"
GRADIENT_NORM, INPUT_X_GRADIENT = "gradient_norm", "input_x_gradient"
INTEGRATED, SHAP = "integrated_gradients", "gradient_shap"
ATTENTION_LAST, ATTENTION, ROLLOUT = "attention_last", "attention", "attention_rollout"
OF_GRADIENTS = (GRADIENT_NORM, INPUT_X_GRADIENT, INTEGRATED, SHAP)
OF_ATTENTION = (ATTENTION_LAST, ATTENTION, ROLLOUT)
METHODS = (REAGENT, OCCLUSION, *OF_GRADIENTS, *OF_ATTENTION, RANDOM)
CLASS, UNIFORM, LM_SAMPLE, LM_ARGMAX = "class", "uniform", "lm_sample", "lm_argmax"
SAMPLERS = (CLASS, LM_SAMPLE, LM_ARGMAX, UNIFORM)
ZERO, MEAN = "zero", "mean"
LOGIT, MEAN_LOGIT = "logit", "mean_logit"
SOFT_NC, SOFT_NS, MATCHED_NC, HIT = "soft_nc", "soft_ns", "soft_nc/matched", "hit"
SYMBOLS = 20  # keys, and as many values, of planted texts


@dataclass(frozen=True)
class AttributionConfig:
    """What tokens get their importance from, and what replaces a token where that needs one."""

    name: str = setting(REAGENT, help="attribution; arms choose it", choices=METHODS)
    sampler: str = setting(
        CLASS,
        help="what replaces a token: another of its surface class, a draw of what the model expects there without the "
        "token itself, the likeliest of it, or any token",
        choices=SAMPLERS,
    )
    draws: int = setting(8, help="occlusion, gradient_shap: replacements of a token that are averaged", ge=1)
    points: int = setting(101, help="integrated_gradients: points of the path", ge=2, origin="code")
    baseline: str = setting(
        ZERO,
        help="integrated_gradients: where the path begins, at zero embeddings or at the mean embedding; beside zero a "
        "model with RMS norms changes abruptly, and attributions from there do not add up",
        choices=(ZERO, MEAN),
        origin="code",
    )
    samples: int = setting(5, help="gradient_shap: random points of the path", ge=1)
    softmax: bool = setting(
        True,
        help="attention, gradient_norm, random: importance is the softmax of scores, which flattens those in [0, 1]; "
        "false: scores over their sum",
        origin="code",
    )


@dataclass(frozen=True)
class ReagentConfig:
    """The search of the method."""

    ratio: float = setting(0.3, help="chance of a token to be replaced in a step", ge=0, le=1, origin="paper")
    keep: float = setting(0.3, help="share of tokens that a stop test keeps", gt=0, le=1, origin="paper")
    top_k: int = setting(
        3, help="a probe stops when the predicted token is among so many likeliest", unit="tokens", ge=1, origin="paper"
    )
    probes: int = setting(5, help="probes of a prediction", unit="probes", ge=1, origin="code")
    max_steps: int = setting(200, help="most subsets of a probe; the released code has 3000", unit="steps", ge=1)
    fixed_steps: int | None = setting(None, help="so many subsets, without stop tests", unit="steps", ge=1)
    test_every: int = setting(1, help="steps between stop tests", unit="steps", ge=1, origin="paper")
    score: str = setting(
        LOGIT,
        help="what the softmax is of: summed credit, which sharpens with every step, or its mean over steps",
        choices=(LOGIT, MEAN_LOGIT),
    )
    overlap: int = setting(
        2, help="probes that must keep a token for the rationale", unit="probes", ge=1, origin="code"
    )


@dataclass(frozen=True)
class PredictionsConfig:
    """Which predictions are explained: tokens of the model's own greedy continuation."""

    tokens: int = setting(1, help="tokens that the model continues a text by; the paper's 10", unit="tokens", ge=1)
    stride: int = setting(1, help="every so many of them is explained", unit="tokens", ge=1)


@dataclass(frozen=True)
class MetricConfig:
    """How faithfulness is measured."""

    distance: str = setting(
        "hellinger",
        help="of next-token distributions; official: the released code's",
        choices=("hellinger", "official"),
    )
    draws: int = setting(20, help="masks that a soft metric averages; the released code has 1", unit="masks", ge=1)
    tau: float = setting(1.0, help="matched sharpness: importance is softmax(-rank / tau)", gt=0)
    hard: float = setting(0.3, help="share of tokens that hard metrics keep or take away", gt=0, lt=1)
    sampler: str = setting(
        CLASS,
        help="what replaces tokens in deletion and insertion, the same for every attribution; as attribution.sampler",
        choices=SAMPLERS,
        origin="ours",
    )
    replacements: int = setting(4, help="replacements of tokens that deletion and insertion average", ge=1)
    top: int = setting(3, help="tokens among which planted evidence is looked for", unit="tokens", ge=1)


@dataclass(frozen=True)
class ShownConfig:
    """What the heatmap shows."""

    predictions: int = setting(6, help="predictions that the report shows", unit="predictions", ge=0)
    beside: tuple[str, ...] = setting((OCCLUSION, GRADIENT_NORM), help="attributions below the one of the run")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        unknown = [name for name in self.beside if name not in METHODS]
        return [("beside", f"there is no {name}; there are {', '.join(METHODS)}") for name in unknown]


@dataclass(frozen=True)
class PlantedConfig:
    """Texts whose evidence is known: pairs of a key and its value, and one key again, whose value is predicted."""

    name: str = setting("planted", help="data set", choices=("planted",))
    pairs: int = setting(6, help="pairs of a text", unit="pairs", ge=2, le=SYMBOLS)
    train: int = setting(32_000, help="texts that the model learns from", unit="texts", ge=8)
    limit: int = setting(60, help="texts to measure on", unit="texts", ge=1)

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"{self.limit:,} texts of {self.pairs} keys and values, and a key whose value is predicted"


@dataclass(frozen=True, kw_only=True)
class PairReaderConfig(CharacterLMConfig):
    """A small causal language model of characters, trained in the run on planted texts."""

    name: str = setting("pair-reader", help="model", choices=("pair-reader",))
    layers: int = setting(2, help="decoder layers", ge=1)
    width: int = setting(64, help="hidden width", ge=4)
    steps: int = setting(500, help="steps of its training", unit="steps", ge=1)
    batch_size: int = setting(64, help="texts per step", unit="texts", ge=1)
    learning_rate: float = setting(6e-3, help="peak learning rate", gt=0)


@dataclass(frozen=True, kw_only=True)
class ReagentRunConfig(UntrainedConfig):
    """Config of one `reagent` run."""

    data: PlantedConfig | PromptsConfig | OpeningsConfig = setting(help="texts")
    model: PairReaderConfig | ToyLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model")
    attribution: AttributionConfig = setting(AttributionConfig(), help="attribution")
    reagent: ReagentConfig = setting(ReagentConfig(), help="search of the method")
    predictions: PredictionsConfig = setting(PredictionsConfig(), help="what is explained")
    metric: MetricConfig = setting(MetricConfig(), help="faithfulness")
    shown: ShownConfig = setting(ShownConfig(), help="heatmap")
    batch_tokens: int = setting(4096, help="tokens that a forward reads", unit="tokens", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        planted, trained = isinstance(self.data, PlantedConfig), isinstance(self.model, PairReaderConfig)
        if planted and not trained:
            return [("model", f"{self.model.name} was not trained on data=planted; type model=pair-reader")]
        if trained and not planted:
            what = f"pair-reader reads nothing but data=planted, not data={self.data.name}; type model=FOLDER"
            return [("model", what)]
        if planted and self.predictions.tokens > 1:
            return [("predictions.tokens", "data=planted has one prediction a text; type 1")]
        return []

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        with_sampler = f", tokens replaced by {self.attribution.sampler}"
        replaces = self.attribution.name in (REAGENT, OCCLUSION, SHAP)
        return [
            ("data", self.data.description),
            ("model", self.model.description),
            ("attribution", self.attribution.name + (with_sampler if replaces else "")),
        ]

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run, though they may in other arms, and why."""
        name = self.attribution.name
        used = {name, *(self.shown.beside if self.shown.predictions else ())}
        why = f"attribution.name={name} does without, and so do those that are shown beside it"
        fixed = "reagent.fixed_steps makes no stop tests"
        return unread_keys(
            ("reagent", REAGENT in used, why),
            ("attribution.sampler", bool({REAGENT, OCCLUSION, SHAP} & used), why),
            ("attribution.draws", bool({OCCLUSION, SHAP} & used), why),
            ("attribution.points attribution.baseline", INTEGRATED in used, why),
            ("attribution.samples", SHAP in used, why),
            ("attribution.softmax", bool({*OF_ATTENTION, GRADIENT_NORM, RANDOM} & used), why),
            ("reagent.max_steps reagent.test_every reagent.top_k", self.reagent.fixed_steps is None, fixed),
            ("predictions.stride", self.predictions.tokens > 1, "predictions.tokens=1 explains one token of each text"),
            ("shown.beside", self.shown.predictions > 0, "shown.predictions=0 shows nothing"),
            ("metric.top", isinstance(self.data, PlantedConfig), "only data=planted has evidence that is known"),
        )


CONFIG = ReagentRunConfig

CARD = Card(
    title="ReAGent: which tokens a prediction came from, by replacing some of them",
    paper="arXiv 2402.00794 (Zhao, Shan; ReLM workshop at AAAI 2024)",
    weights="tokens of a context, by what the prediction loses when random subsets of them are replaced",
    summary="Random subsets of tokens are replaced, and each token gets credit for what the prediction loses, until "
    "the most important tokens alone bring it back. Needs neither gradients nor attention.",
    claim=Claim(
        statement="By its importance more of the prediction is taken away than by attention of the last layer",
        metric=SOFT_NC,
        arm="reagent",
        baseline="attention_last",
        direction=1,
        published="Soft-NC on LongRA, log of the ratio to random scores: 4.01 for GPT-2 354M, 4.07 for OPT 350M; of "
        "attention at most .2",
        minimal_effect=0.01,
        unit=EXAMPLE_UNIT,
    ),
    claims=(
        Claim(
            statement="It is so, too, when both are made equally sharp, so that only the order of tokens counts",
            metric=MATCHED_NC,
            arm="reagent",
            baseline="attention_last",
            direction=1,
            published="not reported",
            minimal_effect=0.01,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="It finds planted evidence better than the norm of gradients",
            metric=HIT,
            arm="reagent",
            baseline="gradient_norm",
            direction=1,
            published="not measured; a pilot has it below",
            minimal_effect=0.05,
            only="data=planted",
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="It finds planted evidence better than attention rollout",
            metric=HIT,
            arm="reagent",
            baseline="attention_rollout",
            direction=1,
            published="not measured; a pilot has it below",
            minimal_effect=0.05,
            only="data=planted",
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="Its early stop costs it: with 300 subsets and no stop test it finds more of the evidence",
            metric=HIT,
            arm="reagent_300",
            baseline="reagent",
            direction=1,
            published="not measured; a pilot has .94 to .96 against .49 to .55",
            minimal_effect=0.05,
            only="data=planted",
            unit=EXAMPLE_UNIT,
        ),
    ),
    cost="two forwards of five texts a step and prediction, up to 200 steps",
    pair_keys=("arm", "attribution", "reagent"),
    version=1,
    control="gradient_norm",
    headlines=(SOFT_NC, SOFT_NS, HIT, "deletion", "probes/"),
    price=(MATCHED_NC, HIT, "forwards"),
    frontiers=(("forwards", SOFT_NC),),
    trains=False,
    metrics=(
        *(SOFT_NC, f"{SOFT_NC}/*", SOFT_NS, f"{SOFT_NS}/*", "hard_nc", "hard_ns", "deletion", "insertion", HIT),
        *("evenness", "probes/stopped", "probes/steps", "forwards", "right", "gap"),
    ),
)
