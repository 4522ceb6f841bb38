"""Config of low-rank adapters, for every recipe that trains a pretrained model. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from recipes.core.config.settings import TrainerConfig, setting
from recipes.core.models.config import SmallConfig, SmallLMConfig


@dataclass(frozen=True)
class LoraConfig:
    """What is trained of the language model: low-rank adapters beside its linear layers, or all of it."""

    rank: int = setting(0, help="rank of the adapters; 0: all weights are trained", ge=0)
    alpha: float = setting(16.0, help="their output is scaled by alpha / rank", gt=0, origin="paper")
    targets: tuple[str, ...] = setting((), help="names of the layers that get one; []: all linear ones but the head")


def lora_problems(lora: LoraConfig, trainer: TrainerConfig, model: Any = None) -> list[tuple[str, str]]:
    """Rules between adapters and what a run trains, as (key, message).

    Args:
        lora: Of the run.
        trainer: Of the run.
        model: Config of the model, where the run trains it as it is loaded or made.
    """
    if not lora.rank:
        return []
    problems = []
    if trainer.parallel == "fsdp":
        problems.append(("trainer.parallel", "fsdp shares out whole models, not adapters; type ddp, or lora.rank=0"))
    if isinstance(model, SmallConfig | SmallLMConfig) or (model is not None and not hasattr(model, "path")):
        hint = "type model=smollm2-135m or model=FOLDER, or lora.rank=0"
        problems.append(("lora.rank", f"adapters stand beside weights that somebody trained; {hint}"))
    if not getattr(model, "train_backbone", True):
        message = "trains adapters in the language model that model.train_backbone=false leaves as it is; type one"
        problems.append(("lora.rank", message))
    return problems
