"""All pruners by name. A pruner is made of its options: `make(options)`."""

from collections.abc import Callable
from typing import Any

from recipes.pruning.pruners.divprune import DivPrune
from recipes.pruning.pruners.simple import ClsTopk, Full, Grid, Pool, Random
from recipes.pruning.tokens import Pruner

PRUNERS: dict[str, Callable[[Any], Pruner]] = {
    "full": Full,
    "random": Random,
    "grid": Grid,
    "pool": Pool,
    "cls_topk": ClsTopk,
    "divprune": DivPrune,
}


def make(options: Any) -> Pruner:
    """The pruner with these options (one of `recipes.pruning.options`)."""
    return PRUNERS[options.name](options)
