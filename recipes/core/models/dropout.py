"""Dropout, and whatever else makes a model in training another function than the one that is evaluated."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

# nn.Dropout, functional dropout, LayerDrop, stochastic depth, the noise of routers: all are named so.
_NOISE = re.compile(r"drop|stochastic_depth|jitter")


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; behind it every module of the model is in the mode that it was in before.

    `model.train(model.training)` would put the mode of a wrapper, which is new and hence in training, on the model in
    it, and turn its dropout on.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def without_dropout(model: Any) -> Any:
    """Switch a model's dropout off for good, so that in training it computes what it computes in evaluation.

    Some models hold it in modules, some read it from their config or from a number beside their weights at each
    forward: all of them become 0, in place. A model that is saved later says so in its `config.json`.

    Args:
        model: A `transformers` model.

    Returns:
        The same model.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        _zero(module)
        if config := getattr(module, "config", None):
            _quiet(config)
    return model


def _quiet(config: Any) -> None:
    """Zero what a config says, and what the configs in it say."""
    _zero(config)
    for value in vars(config).values():
        if hasattr(value, "to_dict"):
            _quiet(value)


def _zero(holder: Any) -> None:
    for name, value in list(vars(holder).items()):
        if isinstance(value, int | float) and not isinstance(value, bool) and value and _NOISE.search(name):
            setattr(holder, name, type(value)(0))
