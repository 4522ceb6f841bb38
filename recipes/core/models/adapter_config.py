"""Config of low-rank adapters, for every recipe that trains a pretrained model. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from recipes.core.config.settings import TrainerConfig, setting
from recipes.core.models.config import SmallConfig, SmallLMConfig

PLAIN = "float32"  # how weights are loaded that are not in 4 or 8 bits


@dataclass(frozen=True)
class LoraConfig:
    """What is trained of the language model: low-rank adapters beside its linear layers, or all of it."""

    rank: int = setting(0, help="rank of the adapters; 0: all weights are trained", ge=0)
    alpha: float = setting(16.0, help="their output is scaled by alpha / rank", gt=0, origin="paper")
    targets: tuple[str, ...] = setting((), help="names of the layers that get one; []: all linear ones but the head")


def lora_problems(lora: LoraConfig, trainer: TrainerConfig, model: Any, tuned: bool = False) -> list[tuple[str, str]]:
    """Rules between adapters and what a run trains, as (key, message).

    Args:
        lora: Of the run.
        trainer: Of the run.
        model: Config of the model.
        tuned: Whether the run tunes the model whole before it trains it.
    """
    problems, trains = [], getattr(model, "train_backbone", True)
    if (bits := getattr(model, "load_in", PLAIN)) != PLAIN:
        if tuned:
            problems.append(("reference.steps", f"tunes weights, and {bits} ones cannot be; type 0"))
        if trains and not lora.rank:
            message = f"{bits} weights cannot be trained themselves; type lora.rank=8, or model.load_in={PLAIN}"
            problems.append(("model.load_in", message))
        if trainer.parallel == "fsdp":
            message = f"fsdp shares out weights as they are, not {bits} ones; type ddp, or model.load_in={PLAIN}"
            problems.append(("trainer.parallel", message))
    if not lora.rank:
        return problems
    if not tuned and (isinstance(model, SmallConfig | SmallLMConfig) or not hasattr(model, "path")):
        hint = "type model=smollm2-135m or model=FOLDER, or lora.rank=0"
        problems.append(("lora.rank", f"adapters stand beside weights that somebody trained; {hint}"))
    if not trains:
        message = "trains adapters in the language model that model.train_backbone=false leaves as it is; type one"
        problems.append(("lora.rank", message))
    return problems


def float32_problems(model: Any, why: str) -> list[tuple[str, str]]:
    """A rule between the keys of a recipe whose model is read in fp32, and not in 4 or 8 bits.

    Args:
        model: Its config; one that has no `load_in` is in fp32.
        why: What the recipe does with the weights.
    """
    if getattr(model, "load_in", PLAIN) == PLAIN:
        return []
    return [("model.load_in", f"{why}; leave it out")]
