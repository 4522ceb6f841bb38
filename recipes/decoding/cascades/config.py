"""Config and card of the recipe `cascades`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import Card, Claim, UntrainedConfig, setting
from recipes.core.models.config import CausalLMConfig, SmolLM2TextConfig
from recipes.core.spelling import did_you_mean
from recipes.decoding.cascades.tasks import EQUAL, TASKS
from recipes.decoding.pair_config import (
    AnswersConfig,
    SmallConfig,
    SmallTransducerConfig,
    TransducerConfig,
    pair_problems,
)

PLAIN = (
    "chow_sum", "chow_average", "chow_quantile", "first_token", "entropy_mean", "entropy_max", "margin", "length",
    "random", "oracle",
)  # fmt: skip
LEARNED = ("post_hoc_quantile", "post_hoc_embed1", "post_hoc_embed12")


@dataclass(frozen=True)
class TransductionsConfig:
    """Tasks with one right answer each, whose answers have 1 to about 30 characters."""

    name: str = setting("transductions", help="data set", choices=("transductions",))
    tasks: tuple[str, ...] = setting(tuple(TASKS), help="tasks, in equal shares")
    equal_length: bool = setting(False, help="answers of six characters only, of the tasks copy, reverse and sort")
    train: int = setting(24_000, help="questions that both models learn from, at most", unit="questions", ge=8)
    validation: int = setting(1500, help="questions that rules are fitted on", unit="questions", ge=8)
    test: int = setting(1500, help="questions that everything is measured on", unit="questions", ge=8)

    @property
    def asked(self) -> tuple[str, ...]:
        """The tasks that are used."""
        return tuple(task for task in self.tasks if task in EQUAL) if self.equal_length else self.tasks

    @property
    def description(self) -> str:
        """What a dry run announces."""
        equal = ", all answers of six characters" if self.equal_length else ""
        return f"{self.test:,} questions of {', '.join(self.asked)}{equal}"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        unknown = [name for name in self.tasks if name not in TASKS]
        problems = [("tasks", f"there is no {name}; {did_you_mean(name, list(TASKS))}") for name in unknown]
        if len(set(self.tasks)) < len(self.tasks):
            problems.append(("tasks", "names a task twice"))
        elif not self.asked:
            problems.append(("tasks", "names no task" + (f" of equal length: {', '.join(EQUAL)}" * self.equal_length)))
        return problems


@dataclass(frozen=True)
class RuleConfig:
    """What decides which answers of the small model are deferred."""

    name: str = setting("chow_quantile", help="rule; arms choose it", choices=(*PLAIN, *LEARNED))
    alpha: float | None = setting(
        None, help="chow_quantile: which quantile; null: the best one on validation questions", ge=0, le=1
    )
    extra: bool = setting(False, help="learned rules also see sum, mean and length")
    target: str = setting(
        "diff01",
        help="what learned rules predict: that the large model is better, by how much, that the small one is wrong",
        choices=("diff01", "diff", "small_wrong"),
    )
    width: int = setting(64, help="of the three hidden layers of learned rules", ge=1)
    epochs: int = setting(60, help="longest training of learned rules", unit="passes", ge=1)
    learning_rate: float = setting(1e-3, help="of learned rules", gt=0)


@dataclass(frozen=True)
class EvaluationConfig:
    """How answers are generated and what is read off the curve."""

    max_new_tokens: int = setting(48, help="longest answer", unit="tokens", ge=1)
    shares: tuple[float, ...] = setting((0.1, 0.25, 0.5), help="accuracy at these shares deferred", gt=0, lt=1)


@dataclass(frozen=True, kw_only=True)
class CascadesConfig(UntrainedConfig):
    """Config of one `cascades` run."""

    data: TransductionsConfig | AnswersConfig = setting(help="questions")
    model: TransducerConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="the large model")
    small: SmallTransducerConfig | SmallConfig = setting(help="the small model")
    rule: RuleConfig = setting(RuleConfig(), help="deferral rule")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), help="evaluation")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return pair_problems(self, TransductionsConfig)

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        return [
            ("data", self.data.description),
            ("large model", self.model.description),
            ("small model", self.small.description),
            ("rule", self.rule.name),
        ]


CONFIG = CascadesConfig

CARD = Card(
    title="LM cascades: which answers of a small model to defer",
    paper="arXiv 2404.10136 (Gupta, Narasimhan, Jitkrittum, Rawat, Menon, Kumar; ICLR 2024)",
    weights="answers of a small model, by how uncertain it was of their tokens",
    summary="A small model answers; a rule scores its answer by the probabilities of its tokens; the lowest scores go "
    "to a large model. Rules are compared by the area under the curve of accuracy against the share that is deferred.",
    claim=Claim(
        statement="A quantile of the token log-probabilities defers better than their mean",
        metric="auc",
        arm="chow_quantile",
        baseline="chow_average",
        direction=1,
        published="no number for a fixed quantile is known to us; post-hoc quantiles gain 10.4% over random where the "
        "mean gains -0.3% (MNLI, FLAN-T5 Base to Large)",
        minimal_effect=0.005,
    ),
    claims=(
        Claim(
            statement="A rule learned from quantiles defers better than the mean",
            metric="auc",
            arm="post_hoc_quantile",
            baseline="chow_average",
            direction=1,
            published="+10.4% over random against -0.3% on MNLI, +15.5% against +3.6% on TriviaQA",
            minimal_effect=0.005,
        ),
        Claim(
            statement="States of both models make the learned rule better",
            metric="auc",
            arm="post_hoc_embed12",
            baseline="post_hoc_quantile",
            direction=1,
            published="+12.2% against +10.4% on MNLI, +19.6% against +15.5% on TriviaQA",
            minimal_effect=0.005,
        ),
        Claim(
            statement="Where all answers are equally long, sum and mean are one rule",
            metric="auc",
            arm="chow_sum",
            baseline="chow_average",
            direction=1,
            published="by construction",
            minimal_effect=0.005,
            kind="equivalence",
            only="data.equal_length=True",
        ),
    ),
    cost="two small models trained once a seed, then forwards over the questions",
    pair_keys=("arm", "rule"),
    version=1,
    control="random",
    headlines=("auc", "auc_gain", "accuracy/"),
    price=("length/deferred",),
    trains=False,
    metrics=("auc", "auc_gain", "accuracy/*", "accuracy@*", "length/*"),
)
