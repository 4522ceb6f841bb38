"""Adam without bias correction, as BERT's and ELECTRA's code has it: the library's AdamW with other rates."""

from typing import Any

from torch.optim import Optimizer

from recipes.pretraining.electra.method import uncorrected

CHANGED = ("lr", "eps", "weight_decay")


def without_bias_correction(optimizer: Optimizer) -> None:
    """Let an AdamW take its steps without bias correction from now on; its schedule and state stay as they are.

    Rates are changed before each step and set back behind it. What decays the weights is left as it was.
    """

    def before(optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            rate, epsilon = uncorrected(_next_step(optimizer, group), *group["betas"])
            group["kept"] = {name: group[name] for name in CHANGED}
            group["lr"], group["eps"] = group["lr"] * rate, group["eps"] * epsilon
            group["weight_decay"] = group["weight_decay"] / rate

    def behind(optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group.update(group.pop("kept"))

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(behind)


def _next_step(optimizer: Optimizer, group: dict[str, Any]) -> int:
    """1 for the first of the parameters that this step moves; all of them began together."""
    moved = next((part for part in group["params"] if part.grad is not None), None)
    steps = optimizer.state.get(moved, {}).get("step", 0) if moved is not None else 0
    return int(steps) + 1
