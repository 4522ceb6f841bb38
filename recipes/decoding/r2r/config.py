"""Config and card of the recipe `r2r`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import EQUIVALENCE, EXACT, EXAMPLE_UNIT, Card, Claim, UntrainedConfig, setting
from recipes.core.models.config import CausalLMConfig, SmolLM2TextConfig
from recipes.core.spelling import did_you_mean
from recipes.decoding.pair_config import (
    AnswersConfig,
    SmallConfig,
    SmallTransducerConfig,
    TransducerConfig,
    pair_problems,
)
from recipes.decoding.r2r.tasks import STYLES, TASKS, different_questions

SCORED = ("router", "entropy", "immediate", "random")
ROUTES = (*SCORED, "oracle_mismatch", "oracle_divergent", "small", "large")
INPUTS = ("hidden", "logits", "token")


@dataclass(frozen=True)
class WrittenArithmeticConfig:
    """Additions and multiplications, answered with a step for each digit."""

    name: str = setting("written-arithmetic", help="data set", choices=("written-arithmetic",))
    tasks: tuple[str, ...] = setting(tuple(TASKS), help="tasks, in equal shares")
    digits: int = setting(4, help="digits of a number", unit="digits", ge=2, le=12)
    styles: int = setting(2, help="ways to write a step, of which each step takes one at random", ge=1, le=len(STYLES))
    train: int = setting(60_000, help="questions that both models learn from, at most", unit="questions", ge=8)
    router: int = setting(1500, help="questions that the router learns from", unit="questions", ge=8)
    validation: int = setting(300, help="questions that thresholds are chosen on", unit="questions", ge=8)
    test: int = setting(500, help="questions that everything is measured on", unit="questions", ge=8)

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"{self.test:,} questions of {', '.join(self.tasks)} with {self.digits} digits, answered in steps"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        unknown = [name for name in self.tasks if name not in TASKS]
        problems = [("tasks", f"there is no {name}; {did_you_mean(name, list(TASKS))}") for name in unknown]
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            problems.append(("tasks", "names no task, or one twice"))
        elif not unknown and (most := different_questions(self.tasks, self.digits)) <= self.measured:
            message = f"there are {most:,} different questions of {self.digits} digits, and {self.measured:,} are asked"
            problems.append(("digits", f"{message} beside those to learn from; type more digits, or fewer questions"))
        return problems

    @property
    def measured(self) -> int:
        """Questions that the two models do not learn from."""
        return self.router + self.validation + self.test


@dataclass(frozen=True)
class RouterConfig:
    """The router, its size and its training. The paper's has width 1024 and 6 blocks, and a learning rate of 5e-5."""

    width: int = setting(128, help="of its layers", ge=1)
    blocks: int = setting(2, help="residual blocks", ge=0)
    expansion: int = setting(4, help="inner width of a block, by which the width is multiplied", ge=1, origin="code")
    dropout: float = setting(0.1, help="in blocks", ge=0, lt=1, origin="code")
    inputs: tuple[str, ...] = setting(INPUTS, help="what it sees of the small model", choices=INPUTS)
    top: int = setting(
        100, help="largest logits that it sees, at most the vocabulary", unit="logits", ge=1, origin="code"
    )
    objective: str = setting(
        "divergent",
        help="tokens that it learns to name: those that lead to another answer, or that the large one would not write",
        choices=("divergent", "different"),
    )
    recall_factor: float = setting(1.0, help="what the weight of positive tokens is multiplied by", gt=0, origin="code")
    learning_rate: float = setting(1e-3, help="of AdamW", gt=0)
    weight_decay: float = setting(5e-4, help="of AdamW", ge=0, origin="code")
    batch_size: int = setting(1024, help="tokens per step", unit="tokens", ge=1, origin="code")
    epochs: int = setting(50, help="longest training", unit="passes", ge=1, origin="code")
    patience: int = setting(10, help="passes without a smaller loss on held-out texts that end it", ge=1, origin="code")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if not self.inputs or len(set(self.inputs)) < len(self.inputs):
            return [("inputs", "names nothing, or something twice")]
        return []


@dataclass(frozen=True)
class RouteConfig:
    """Which tokens the large model writes."""

    name: str = setting("router", help="what decides; arms choose it", choices=ROUTES)
    usage: float = setting(
        0.1, help="share of the tokens that the large model is to write, by a threshold chosen on validation questions",
        gt=0, lt=1,
    )  # fmt: skip
    recall: float | None = setting(
        None, help="the threshold that routes so many of the divergent tokens instead, with fewest others", gt=0, le=1
    )
    threshold: float | None = setting(None, help="the threshold itself; above 1 nothing has a probability, at 0 all")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if self.recall is not None and self.threshold is not None:
            problems.append(("recall", "and threshold both say where to cut; type one of them"))
        for key in ("recall", "threshold"):
            if getattr(self, key) is not None and self.name not in SCORED:
                problems.append((key, f"{self.name} has no scores; type route={SCORED[0]}"))
        return problems


@dataclass(frozen=True)
class EvaluationConfig:
    """How answers are written and what is read off the curve."""

    max_new_tokens: int = setting(48, help="longest answer", unit="tokens", ge=2)
    batch_size: int = setting(256, help="questions side by side", unit="questions", ge=1)
    usages: tuple[float, ...] = setting((0.05, 0.1, 0.15, 0.2), help="accuracy at these usages", gt=0, lt=1)
    heatmap: int = setting(6, help="answers that the report shows", unit="questions", ge=0)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if not self.usages or len(set(self.usages)) < len(self.usages):
            return [("usages", "names none, or one twice; type [0.05,0.1,0.15,0.2]")]
        return []


@dataclass(frozen=True, kw_only=True)
class R2RConfig(UntrainedConfig):
    """Config of one `r2r` run."""

    data: WrittenArithmeticConfig | AnswersConfig = setting(help="questions")
    model: TransducerConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="the large model")
    small: SmallTransducerConfig | SmallConfig = setting(help="the small model")
    router: RouterConfig = setting(RouterConfig(), help="router")
    route: RouteConfig = setting(RouteConfig(), help="what decides")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), help="evaluation")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return pair_problems(self, WrittenArithmeticConfig)

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        return [
            ("data", self.data.description),
            ("large model", self.model.description),
            ("small model", self.small.description),
            ("route", self.route.name),
        ]


CONFIG = R2RConfig


def _claim(statement: str, metric: str, baseline: str, effect: float, published: str, arm: str = "router") -> Claim:
    return Claim(statement, metric, arm, baseline, 1, published, effect)


CARD = Card(
    title="R2R: which tokens of a small model a large one should write",
    paper="arXiv 2505.21600 (NeurIPS 2025)",
    weights="tokens that a small model writes, by whether they lead its reasoning to another answer",
    summary="A small model writes; a router looks at every token before it is committed, and has a large model rewrite "
    "those that would lead to another answer. Tokens that differ without consequences stay.",
    claim=_claim(
        "Where the large model writes a tenth of the tokens, a router makes more answers right than entropy does",
        "accuracy@0.1",
        "entropy",
        0.02,
        "46% on average at 5.6B parameters, usage 11 to 15%; entropy is below at every usage (figure, no number)",
    ),
    claims=(
        _claim(
            "A router makes more answers right than random tokens do at the same usage",
            "accuracy@0.1",
            "random",
            0.02,
            "random is the lowest curve (figure, no number)",
        ),
        _claim(
            "A router knows divergent tokens better than entropy does",
            "auroc",
            "entropy",
            0.02,
            "the entropy of the small model is 3.8 times as large at divergent tokens as elsewhere",
        ),
        _claim(
            "A router that learned which tokens diverge does better than one that learned which differ",
            "accuracy@0.1",
            "router_different",
            0.02,
            "an ablation of the paper, without a number that is known to us",
        ),
        Claim(
            "With only divergent tokens rewritten, as many answers are right as the large model's",
            "accuracy",
            "oracle_divergent",
            "large",
            1,
            "by construction, if labels are exact",
            0.01,
            kind=EQUIVALENCE,
        ),
        Claim(
            "Rewriting divergent tokens alone takes fewer of them than rewriting all that differ",
            "usage",
            "oracle_divergent",
            "oracle_mismatch",
            -1,
            "5 to 6% of the tokens are divergent, 5 to 6% neutral",
            0.01,
        ),
        Claim(
            "With all tokens rewritten that differ, texts are the large model's, token for token",
            "matches_large",
            "oracle_mismatch",
            "large",
            1,
            "by construction",
            0.0,
            unit=EXAMPLE_UNIT,
            kind=EXACT,
        ),
    ),
    cost="two small models trained once a seed; a continuation by the large one for each token that differs",
    pair_keys=("arm", "route", "router"),
    version=1,
    control="random",
    headlines=("accuracy", "usage", "auroc", "parameters"),
    price=("usage", "parameters", "parameters_additive"),
    frontiers=(("parameters", "accuracy"),),
    trains=False,
    metrics=(
        *("accuracy", "accuracy/*", "accuracy@*", "auc", "usage", "parameters", "parameters_additive", "cost"),
        *("length", "matches_large", "same_answer", "auroc", "auroc_mismatch", "share/*", "threshold"),
    ),
)
