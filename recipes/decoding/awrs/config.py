"""Config and card of the recipe `awrs`. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from recipes.core.config.settings import DATA_CONTENT, EQUIVALENCE, EXAMPLE_UNIT, Card, Claim, UntrainedConfig, setting
from recipes.core.data.tasks.prompts_config import PromptsConfig
from recipes.core.models.config import CausalLMConfig, SmolLM2TextConfig
from recipes.core.spelling import did_you_mean
from recipes.core.training.toys.config import ToyLMConfig

TASKS = ("date", "ending", "ipv4", "email", "sum", "json", "python")
METHODS = ("awrs", "mask", "twisted", "rerank", "base")
ESTIMATORS = ("two_loop", "recursive", "geometric", "auto", "with_replacement", "none")
LARGEST_WORLD = 100_000  # prefixes of an enumerable language


@dataclass(frozen=True)
class FormatsConfig:
    """Requests that ship, each with the constraint that its answer has to satisfy."""

    name: str = setting("formats", help="data set", choices=("formats",))
    tasks: tuple[str, ...] = setting(TASKS, help="kinds of requests and constraints, which take turns")
    limit: int = setting(21, help="requests, over all tasks", unit="requests", ge=1)

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"{self.limit:,} requests of {', '.join(self.tasks)}"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        unknown = [name for name in self.tasks if name not in TASKS]
        problems = [("tasks", f"there is no {name}; {did_you_mean(name, list(TASKS))}") for name in unknown]
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            problems.append(("tasks", "names no task, or one twice"))
        return problems


@dataclass(frozen=True)
class TaskConstraint:
    """The constraint of each request that ships; of your prompts the regular expression in their column `pattern`."""

    name: str = setting("task", help="constraint", choices=("task",))


@dataclass(frozen=True)
class RegexConstraint:
    """A regular expression that the whole answer matches."""

    name: str = setting("regex", help="constraint", choices=("regex",))
    pattern: str | None = setting(None, help="regular expression, in the syntax of the package regex")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.pattern else [("pattern", "is missing; type constraint.pattern='[0-9]{4}'")]


@dataclass(frozen=True)
class JsonConstraint:
    """A JSON text that satisfies a JSON Schema."""

    name: str = setting("json", help="constraint", choices=("json",))
    path: str | None = setting(None, help="JSON file with the schema; null: any JSON object", content=DATA_CONTENT)


@dataclass(frozen=True)
class SumConstraint:
    """An addition with the right sum: `12+30=42`."""

    name: str = setting("sum", help="constraint", choices=("sum",))
    digits: int = setting(3, help="most digits of a summand", ge=1, le=12)


@dataclass(frozen=True)
class PythonConstraint:
    """Python code without a syntax error."""

    name: str = setting("python", help="constraint", choices=("python",))


@dataclass(frozen=True)
class CodeConstraint:
    """Your own test: a Python file with the functions `viable(text)` and `complete(text)`."""

    name: str = setting("code", help="constraint", choices=("code",))
    path: str | None = setting(
        None, help="Python file with viable(text: str) -> bool, whether a text can go on to a valid one, and "
        "complete(text: str) -> bool, whether it is one; it is run", content=DATA_CONTENT,
    )  # fmt: skip

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.path else [("path", "is missing; type constraint.path=FILE.py")]


@dataclass(frozen=True)
class SMCConfig:
    """How tokens are drawn under the constraint, and what becomes of particles."""

    method: str = setting(
        "awrs", help="awrs: rejection; mask: all tokens are tested; twisted: the model draws, the constraint is the "
        "weight; rerank: the same, tested at the end; base: no constraint", choices=METHODS,
    )  # fmt: skip
    estimator: str = setting(
        "two_loop", help="awrs: of the weights; auto: recursive, but geometric where max_accepts > 2 or a token has "
        "two thirds of the probability, as the library does; none, also for mask: weights of 1, local constraining",
        choices=ESTIMATORS, origin="paper",
    )  # fmt: skip
    max_accepts: int = setting(2, help="geometric, with_replacement: acceptances of a draw", ge=2, origin="code")
    max_rejects: int | None = setting(
        None, help="geometric, with_replacement: most rejections of a draw; null: no limit, of with_replacement 1,000",
        ge=1, origin="code",
    )  # fmt: skip
    particles: int = setting(5, help="particles of a prompt", ge=1, origin="paper")
    tau: float = setting(
        0.5, help="particles are drawn anew where their effective number falls below this share of them", ge=0, le=1,
        origin="paper",
    )  # fmt: skip
    resampling: str = setting(
        "stratified", help="how they are drawn anew", choices=("stratified", "systematic", "multinomial"), origin="code"
    )
    proposal_temperature: float = setting(
        1.0,
        help="awrs: tokens are drawn from the probabilities at this temperature, and the weight sets it right",
        gt=0,
    )
    rows: int = setting(64, help="particles of all prompts in one forward, at most", unit="particles", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if self.method == "mask" and self.estimator == "with_replacement":
            problems.append(("estimator", "a mask draws once; type two_loop (exact weights) or none"))
        if self.proposal_temperature != 1 and (self.method != "awrs" or self.estimator == "none"):
            message = "another proposal than the model needs weights; type smc.method=awrs and an estimator"
            problems.append(("proposal_temperature", message))
        return problems


@dataclass(frozen=True)
class SamplingConfig:
    """How far prompts are continued."""

    max_new_tokens: int = setting(40, help="longest answer; then it has to end", unit="tokens", ge=1)
    temperature: float = setting(1.0, help="of the model's softmax; the constraint is put on what it then says", gt=0)
    heatmap: int = setting(7, help="answers that the report shows", unit="prompts", ge=0)


@dataclass(frozen=True)
class WorldsConfig:
    """Small random languages with random sets of valid texts, whose posterior is enumerated."""

    count: int = setting(12, help="languages; 0: none", ge=0)
    vocabulary: int = setting(6, help="tokens", unit="tokens", ge=2, le=64)
    length: int = setting(4, help="longest text", unit="tokens", ge=1, le=6)
    valid: float = setting(0.05, help="share of the texts that are valid", gt=0, le=1)
    spread: float = setting(1.5, help="standard deviation of the logits", gt=0, le=20)
    draws: int = setting(1000, help="particles of each language, over all repetitions", unit="particles", ge=1)
    particles: tuple[int, ...] = setting((1, 2, 5, 10, 20), help="numbers of particles that are plotted", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if (size := self.vocabulary**self.length) > LARGEST_WORLD:
            message = f"{self.vocabulary} tokens make {size:,} texts of {self.length}; at most {LARGEST_WORLD:,}"
            return [("vocabulary", message)]
        return []


@dataclass(frozen=True, kw_only=True)
class AwrsConfig(UntrainedConfig):
    """Config of one `awrs` run."""

    data: FormatsConfig | PromptsConfig = setting(help="prompts")
    model: ToyLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model")
    constraint: (
        TaskConstraint | RegexConstraint | JsonConstraint | SumConstraint | PythonConstraint | CodeConstraint
    ) = setting(help="constraint")
    smc: SMCConfig = setting(SMCConfig(), help="sampler")
    generation: SamplingConfig = setting(SamplingConfig(), help="answers")
    worlds: WorldsConfig = setting(WorldsConfig(), help="enumerable languages")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems = []
        if isinstance(self.model, ToyLMConfig) and self.model.tokenizer == "characters":
            problems.append(("model.tokenizer", "a character says nothing of its bytes; type model.tokenizer=bpe"))
        if isinstance(self.data, PromptsConfig) and isinstance(self.constraint, TaskConstraint) and not self.data.path:
            message = (
                "the instructions that ship have none; type constraint=regex constraint.pattern=..., or data=formats"
            )
            problems.append(("constraint", message))
        return problems

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        smc = self.smc
        weights = f", weights {smc.estimator}" if smc.method == "awrs" else ""
        return [
            ("data", self.data.description),
            ("model", self.model.description),
            ("constraint", self.constraint.name),
            ("sampler", f"{smc.method}{weights}, {smc.particles} particles"),
        ]


CONFIG = AwrsConfig

SHARE, TV, RATIO, LOGLIK, VALID = "tests_share", "tv", "probability_ratio", "loglik", "valid"


def _claim(
    statement: str, metric: str, arm: str, baseline: str, direction: int, effect: float, published: str, **more: Any
) -> Claim:
    return Claim(statement, metric, arm, baseline, direction, published, effect, unit=EXAMPLE_UNIT, **more)


CARD = Card(
    title="AWRS: text under a constraint by adaptive weighted rejection sampling",
    paper="arXiv 2504.05410 (COLM 2025)",
    weights="particles, by how much probability the constraint leaves of each token's distribution",
    summary="Tokens are drawn without replacement until the constraint accepts one; the few that were rejected give an "
    "unbiased weight, with which sequential Monte Carlo undoes the bias of constraining token by token. Nothing is "
    "trained.",
    claim=_claim(
        "A token takes at most 1/100 of the constraint tests of a mask over the vocabulary",
        SHARE, "awrs_smc", "lcd_mask", -1, 0.99,
        "orders of magnitude below the vocabulary, by its abstract; no table known to us",
    ),
    claims=(
        _claim(
            "Answers are nearer to the true posterior than those of local constraining",
            TV, "awrs_smc", "lcd", -1, 0.05,
            "better quality than local constraining, by its abstract; no total variation reported",
        ),
        _claim(
            "They come nearer with twice the particles",
            TV, "awrs_smc_10", "awrs_smc", -1, 0.01,
            "a property of SMC; no number known to us",
        ),
        _claim(
            "Local constraining comes no nearer with ten particles: total variation differs by less than 0.03",
            TV, "lcd_10", "lcd", -1, 0.03,
            "follows from the method", kind=EQUIVALENCE,
        ),
        _claim(
            "Weights are unbiased: the constraint's probability is estimated as with exact weights, to 0.1",
            RATIO, "awrs_smc", "mask_smc", -1, 0.1,
            "a theorem", kind=EQUIVALENCE,
        ),
        _claim(
            "The model finds the answers likelier than those of local constraining",
            LOGLIK, "awrs_smc", "lcd", 1, 0.5,
            "better quality than local constraining, by its abstract",
        ),
        _claim(
            "More answers are valid than among ten that are drawn freely and tested at the end",
            VALID, "awrs_smc", "sample_rerank", 1, 0.05,
            "better quality than the baselines, by its abstract",
        ),
        _claim(
            "More answers are valid than with a constraint that only weighs (twisted SMC, ten particles)",
            VALID, "awrs_smc", "twisted_smc", 1, 0.05,
            "better quality than the baselines, by its abstract",
        ),
    ),
    cost="a forward for each token and distinct particle; constraint tests",
    pair_keys=("arm", "smc"),
    version=2,
    control="lcd",
    headlines=(SHARE, "tests_per_token", TV, VALID, LOGLIK),
    price=("ms_per_token", "rows_per_token"),
    trains=False,
    metrics=(
        *(SHARE, "tests_per_token", "walked_per_token", VALID, LOGLIK, "log_probability", "ess", "resampled"),
        *("answers", "ms_per_token", "rows_per_token", "forward_share", TV, "tv_floor", RATIO),
    ),
)  # fmt: skip
