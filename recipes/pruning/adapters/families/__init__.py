"""Vision-language models beside LLaVA, one file a family: found here by itself, registered nowhere.

A file holds `FAMILY`, an instance of a `Family` (`recipes.pruning.adapters.family`).
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from recipes.pruning.adapters.family import Family


@cache
def families() -> dict[str, Family]:
    """The families by the model types of their `config.json`."""
    modules = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
    return {kind: module.FAMILY for module in modules for kind in module.FAMILY.kinds}


def family_of(kind: str) -> Family | None:
    """The family of a model type; None for LLaVA and for what is not known."""
    return families().get(kind)
