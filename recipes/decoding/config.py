"""Config that every recipe of this family has: what is continued, by which model, how far. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import UntrainedConfig, setting
from recipes.core.data.tasks.prompts_config import OpeningsConfig, PromptsConfig
from recipes.core.models.config import CausalLMConfig, SmolLM2TextConfig
from recipes.core.training.toys.config import ToyLMConfig


@dataclass(frozen=True)
class GenerationConfig:
    """How far prompts are continued, and how tokens are chosen."""

    max_new_tokens: int = setting(64, help="longest continuation of a prompt", unit="tokens", ge=1)
    temperature: float = setting(0.0, help="of the model's softmax; 0: the likeliest token each time", ge=0)
    heatmap: int = setting(6, help="continuations that the report shows", unit="prompts", ge=0)


@dataclass(frozen=True, kw_only=True)
class DecodingConfig(UntrainedConfig):
    """Config of a run that continues prompts with a frozen model; a recipe adds its own keys."""

    data: PromptsConfig | OpeningsConfig = setting(help="prompts")
    model: ToyLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model")
    generation: GenerationConfig = setting(GenerationConfig(), help="continuations")

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        how = f"sampled at temperature {self.generation.temperature:g}" if self.generation.temperature else "greedy"
        return [
            ("data", self.data.description),
            ("model", self.model.description),
            ("generation", f"up to {self.generation.max_new_tokens:,} tokens a prompt, {how}"),
        ]
