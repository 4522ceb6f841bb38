"""Config and card of the recipe `sample-reweighting`. Imports no torch."""

import dataclasses
from dataclasses import dataclass

from recipes.core.config.settings import Card, Claim, RunConfig, setting
from recipes.core.data.config import DomainsConfig
from recipes.core.evaluation.extra_config import QuestionsConfig
from recipes.core.models.adapter_config import LoraConfig, lora_problems
from recipes.core.models.config import CausalLMConfig, SmallLMConfig, SmolLM2TextConfig

STRATEGIES = ("uniform", "linupper", "quadratic", "extremes", "upper_linear", "kl_dro")
REGIMES = ("redundant", "isotropic", "corrupted")
SMALLEST_BATCH = 4  # sequences that are weighed together; with 2 the extremes are always -alpha and alpha


@dataclass(frozen=True)
class ReweightConfig:
    """How the losses of a batch become weights."""

    strategy: str = setting("linupper", help="how losses become weights; arms choose it", choices=STRATEGIES)
    alpha: float = setting(1.0, help="half the width of the normalised range of losses", gt=0, origin="code")
    r: float = setting(1.0, help="temperature; smaller is sharper", gt=0, origin="code")
    warmup_steps: int | None = setting(
        None, help="first steps, in which warmup_r holds; null: the share warmup_ratio of the run", unit="steps", ge=0
    )
    warmup_ratio: float = setting(0.0, help="share of the steps in which warmup_r holds", ge=0, le=1)
    warmup_r: float | None = setting(None, help="temperature of the first steps; null: uniform weights", gt=0)
    scope: str = setting(
        "micro",
        help="what is weighed together: a micro-batch over all processes, or the whole optimizer step "
        "(with accumulation: one more forward)",
        choices=("micro", "global"),
        origin="code",
    )
    length_correction: bool = setting(False, help="weigh tokens, not sequences, where lengths differ")


@dataclass(frozen=True)
class RegressionConfig:
    """Noiseless linear regression: redundant rows, and two regimes in which reweighting should not help."""

    name: str = setting("linear-regression", help="data set", choices=("linear-regression",))
    regimes: tuple[str, ...] = setting(REGIMES, help="data sets trained on side by side", choices=REGIMES)
    features: int = setting(50, help="features of a row", ge=2)
    rows: int = setting(2000, help="training rows", unit="rows", ge=4)
    test_rows: int = setting(2000, help="test rows; all features are in use", unit="rows", ge=1)
    redundant: float = setting(0.9, help="share of rows with half their features zero (redundant)", ge=0, lt=1)
    corrupted: float = setting(0.02, help="share of labels with noise (corrupted)", ge=0, le=1)
    noise: float = setting(10.0, help="standard deviation of that noise", ge=0)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if not self.regimes or len(set(self.regimes)) < len(self.regimes):
            return [("regimes", "needs at least one regime, each once")]
        return []


@dataclass(frozen=True)
class LinearConfig:
    """One parameter vector for each regime, zero at the start."""

    name: str = setting("linear", help="model", choices=("linear",))


@dataclass(frozen=True)
class EvaluationConfig(QuestionsConfig):
    """What is measured, and when."""

    watch_every: int = setting(50, help="steps between measurements", unit="steps", ge=1)
    test_sequences: int = setting(32, help="held-out sequences of each domain", unit="sequences", ge=1)
    probe_batches: int = setting(
        2, help="batches of the training stream whose weights are watched", unit="batches", ge=0
    )
    descent_steps: int = setting(500, help="steps of full-batch descent against its bound", unit="steps", ge=0)


@dataclass(frozen=True, kw_only=True)
class SampleReweightingConfig(RunConfig):
    """Config of one `sample-reweighting` run."""

    data: RegressionConfig | DomainsConfig = setting(help="data")
    model: LinearConfig | SmallLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model")
    lora: LoraConfig = setting(LoraConfig(), help="low-rank adapters")
    reweight: ReweightConfig = setting(help="sample weights")
    evaluation: EvaluationConfig = setting(help="evaluation")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems = lora_problems(self.lora, self.trainer, self.model)
        regression = isinstance(self.data, RegressionConfig)
        if regression != isinstance(self.model, LinearConfig):
            hint = "model=linear" if regression else "model=small-lm, smollm2-135m or causal-lm"
            problems.append(("model.name", f"data={self.data.name} needs {hint}"))
        if (self.reweight.warmup_steps or 0) > self.trainer.max_steps:
            problems.append(
                ("reweight.warmup_steps", f"is longer than the run, trainer.max_steps={self.trainer.max_steps}")
            )
        if regression and self.evaluation.extra:
            problems.append(
                ("evaluation.extra", f"is asked of a language model, and data={self.data.name} trains none")
            )
        together = self._weighing_batch_size()
        if self.reweight.strategy != "uniform" and together < SMALLEST_BATCH:
            hint = "type reweight.scope=global or a larger batch" if self.reweight.scope == "micro" else "enlarge it"
            problems.append(("reweight.scope", f"{together} sequences are weighed together, too few to tell; {hint}"))
        return problems

    @property
    def weighing(self) -> ReweightConfig:
        """`reweight` with its warm-up in steps."""
        reweight = self.reweight
        steps = (
            round(reweight.warmup_ratio * self.trainer.max_steps)
            if reweight.warmup_steps is None
            else reweight.warmup_steps
        )
        return dataclasses.replace(reweight, warmup_steps=steps)

    def _weighing_batch_size(self) -> int:
        trainer = self.trainer
        if self.reweight.scope == "global":
            return trainer.batch_size
        return (trainer.micro_batch_size or trainer.process_batch_size) * trainer.processes

    @property
    def sequence_tokens(self) -> int | None:
        """Tokens of a packed sequence; None for rows of numbers."""
        return None if isinstance(self.data, RegressionConfig) else self.data.length

    @property
    def sequence_limit(self) -> tuple[str, int] | None:
        """Tokens of a packed sequence."""
        return None if isinstance(self.data, RegressionConfig) else ("data.length", self.data.length)

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        if isinstance(self.data, RegressionConfig):
            return [("data", f"{self.data.rows:,} rows of {self.data.features} features, drawn from the seed")]
        mixture = f"mixture {self.data.mixture}, {self.data.duplicates:.0%} duplicates"
        assert not isinstance(self.model, LinearConfig)
        return [("data", f"{self.data.description}, {mixture}"), ("model", self.model.description)]

    def parameters(self) -> int | None:
        """Parameters of the model."""
        if isinstance(self.data, RegressionConfig):
            return self.data.features * len(self.data.regimes)
        assert not isinstance(self.model, LinearConfig)
        return self.model.parameters


CONFIG = SampleReweightingConfig

CARD = Card(
    title="Dynamic loss-based sample reweighting",
    paper="arXiv 2502.06733 (Sow, Woisetschlaeger, Bulusu, Wang, Jacobsen, Liang; ICLR 2025)",
    weights="samples of a batch, by how large their loss is among the others",
    summary="Each step, the losses of the batch are mapped to [-alpha, alpha] and become weights by a softmax: "
    "linupper takes weight from easy sequences and does not chase hard ones.",
    claim=Claim(
        statement="LinUpper lowers the test loss faster than uniform weights",
        metric="log_loss/auc",
        arm="linupper",
        baseline="uniform",
        direction=-1,
        published="fastest of all strategies in linear regression; 1.8 to 3.4 points of 5-shot accuracy for Llama "
        "(a summary's numbers, unverified)",
        minimal_effect=0.005,
    ),
    cost="no forward more; one gather of a number per sequence and step",
    pair_keys=("arm", "reweight"),
    version=1,
    control="extremes",
    headlines=("log_loss", "log_ppl/", "worst_domain", "descent/"),
    price=("log_loss", "worst_domain"),
    watched=("log_loss", "log_loss/*", "log_ppl/*"),
    metrics=("log_loss*", "log_ppl/*", "worst_domain", "descent/*", "extra/*"),
)
