"""Short fine-tuning of encoders that were pretrained in the run, beside the probe of them. Imports no torch."""

from dataclasses import dataclass, fields

from recipes.core.config.settings import TrainerConfig, setting
from recipes.core.config.unread import Rule
from recipes.core.evaluation.probe_config import ProbeConfig

KEY = "fine_tuning"


@dataclass(frozen=True, kw_only=True)
class FineTuningConfig:
    """All weights of a copy of the encoder learn the classes of the probe, under a linear head on its pooled output."""

    steps: int = setting(0, help="optimizer steps; 0: no encoder is fine-tuned", unit="steps", ge=0)
    batch_size: int = setting(32, help="texts of a step", unit="texts", ge=1, origin="code")
    learning_rate: float = setting(1e-4, help="peak learning rate of the head", gt=0, origin="code")
    layer_decay: float = setting(
        0.8,
        help="rate of a block as a share of that of what is above it: a block, or the head; 1: one rate for all",
        gt=0,
        le=1,
        origin="paper",
    )
    warmup_ratio: float = setting(0.1, help="share of the steps with linear warm-up", ge=0, lt=1, origin="code")
    max_tokens: int | None = setting(
        None, help="longer texts are cut; null: those that probe.max_tokens cuts, as it does", unit="tokens", ge=3
    )

    def tokens(self, probe: ProbeConfig) -> int:
        """Most tokens of a text."""
        return probe.max_tokens if self.max_tokens is None else self.max_tokens

    def problems(self, trainer: TrainerConfig, key: str, longest: int) -> list[tuple[str, str]]:
        """Rules between its settings and others, as (key, message).

        Args:
            trainer: Of the run.
            key: What says how long the texts are that the encoder is pretrained on.
            longest: Tokens of these.
        """
        problems = []
        if (self.max_tokens or 0) > longest:
            message = f"is more than {key}={longest}, and positions behind it are never pretrained; type less, or null"
            problems.append((f"{KEY}.max_tokens", message))
        if self.steps and trainer.processes > 1:
            message = f"trains in one process, and the run is one of {trainer.processes}; type {KEY}.steps=0, or "
            problems.append((f"{KEY}.steps", f"{message}{trainer.processes_key}=1"))
        return problems

    @property
    def rule(self) -> Rule:
        """For `unread_keys`: of no steps the other settings say nothing."""
        keys = (f"{KEY}.{each.name}" for each in fields(self) if each.name != "steps")
        return " ".join(keys), self.steps > 0, f"{KEY}.steps=0: no encoder is fine-tuned"

    @property
    def described(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        return [("fine-tuned", f"{self.steps:,} steps of {self.batch_size:,} texts")] if self.steps else []
