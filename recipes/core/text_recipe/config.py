"""Config that every `TextRecipe` has. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import MODEL_CONTENT, SEEDS, RunConfig, setting
from recipes.core.data.config import DomainsConfig
from recipes.core.evaluation.extra_config import QuestionsConfig
from recipes.core.models.adapter_config import LoraConfig, lora_problems
from recipes.core.models.config import CausalLMConfig, SmallLMConfig, SmolLM2TextConfig

# Patterns of the metrics that every `TextRecipe` measures, for `Card.metrics`.
METRICS = ("log_loss", "log_loss/auc", "log_ppl/*", "worst_domain", "weight/*", "kept/*", "extra/*")
WATCHED = ("log_loss", "log_ppl/*")  # of those that are measured during training, for `Card.watched`


@dataclass(frozen=True)
class EvaluationConfig(QuestionsConfig):
    """What is measured, and when."""

    watch_every: int = setting(50, help="steps between measurements", unit="steps", ge=1)
    test_sequences: int = setting(32, help="held-out sequences of each domain", unit="sequences", ge=1)
    probe_batches: int = setting(
        4, help="batches of the training stream whose weights are measured at the end", unit="batches", ge=1
    )
    heatmap: int = setting(8, help="sequences of them in the token heatmap", unit="sequences", ge=0)


@dataclass(frozen=True)
class ReferenceConfig:
    """The frozen language model whose losses the weights are made of."""

    path: str | None = setting(
        None,
        help="folder or hub name of a causal LM with the model's tokenizer; null: trained in the run, without noise",
        content=MODEL_CONTENT,
    )
    steps: int = setting(300, help="its optimizer steps", unit="steps", ge=1)
    seed: int = setting(0, help="its own seed: all arms and seeds share one reference", ge=0, lt=SEEDS)


@dataclass(frozen=True)
class NoiseConfig:
    """Random tokens in the training stream; which they are is known."""

    share: float = setting(0.0, help="share of the training tokens that become random ones", ge=0, lt=1)
    span: int = setting(8, help="tokens of a stretch that becomes random as a whole", unit="tokens", ge=1)
    seed: int = setting(0, help="which stretches, and what they become; all arms and seeds share them", ge=0, lt=SEEDS)


@dataclass(frozen=True, kw_only=True)
class TextConfig(RunConfig):
    """Config of a run that trains a causal language model on weighted text; a recipe adds its own keys."""

    data: DomainsConfig = setting(help="data")
    model: SmallLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model")
    lora: LoraConfig = setting(LoraConfig(), help="low-rank adapters")
    reference: ReferenceConfig = setting(ReferenceConfig(), help="reference model, of arms that need one")
    noise: NoiseConfig = setting(NoiseConfig(), help="noise planted in the training stream")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), help="evaluation")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys; a recipe that has more adds its own."""
        return lora_problems(self.lora, self.trainer, self.model)

    @property
    def needs_reference(self) -> bool:
        """Whether this arm's weights are made of a reference's losses; a recipe with such arms says which."""
        return False

    @property
    def weighing_batch_size(self) -> int:
        """Sequences whose weights are made together: a micro-batch over all processes."""
        trainer = self.trainer
        return (trainer.micro_batch_size or trainer.process_batch_size) * trainer.processes

    @property
    def sequence_tokens(self) -> int | None:
        """Tokens of a packed sequence."""
        return self.data.length

    @property
    def sequence_limit(self) -> tuple[str, int] | None:
        """Tokens of a packed sequence."""
        return "data.length", self.data.length

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        planted = f", {self.noise.share:.0%} of the training tokens are noise" if self.noise.share else ""
        rows = [
            ("data", f"{self.data.description}, mixture {self.data.mixture}{planted}"),
            ("model", self.model.description),
        ]
        if self.needs_reference:
            rows.append(("reference", self.reference.path or f"trained in the run, {self.reference.steps:,} steps"))
        return rows

    def parameters(self) -> int | None:
        """Parameters of the model."""
        return self.model.parameters
