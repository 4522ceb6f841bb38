"""All pruners by name. A pruner is made of its options: `make(options)`."""

from collections.abc import Callable
from typing import Any

from recipes.pruning.pruners.divprune import DivPrune
from recipes.pruning.pruners.flowcut import FlowCut
from recipes.pruning.pruners.language import VTW, FastV, PyramidDrop
from recipes.pruning.pruners.merging import PruMerge, PruMergePlus, Trim, VisionZip
from recipes.pruning.pruners.recoverable import Recoverable
from recipes.pruning.pruners.simple import ClsTopk, Full, Grid, Pool, Random
from recipes.pruning.pruners.sparsevlm import SparseVLM
from recipes.pruning.pruners.vit import ATS, EViT, ToMe
from recipes.pruning.pruners.zero_tprune import ZeroTPrune
from recipes.pruning.tokens import Pruner

PRUNERS: dict[str, Callable[[Any], Pruner]] = {
    "full": Full,
    "random": Random,
    "grid": Grid,
    "pool": Pool,
    "cls_topk": ClsTopk,
    "divprune": DivPrune,
    "flowcut": FlowCut,
    "zero_tprune": ZeroTPrune,
    "recoverable": Recoverable,
    "tome": ToMe,
    "ats": ATS,
    "evit": EViT,
    "visionzip": VisionZip,
    "prumerge": PruMerge,
    "prumerge_plus": PruMergePlus,
    "trim": Trim,
    "fastv": FastV,
    "sparsevlm": SparseVLM,
    "pyramiddrop": PyramidDrop,
    "vtw": VTW,
}


def make(options: Any) -> Pruner:
    """The pruner with these options (one of `recipes.pruning.options`)."""
    return PRUNERS[options.name](options)
