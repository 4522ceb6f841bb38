"""Which files a model was loaded from, as long as it is what they hold."""

from typing import Any

from torch import nn

from recipes.core.storage.fingerprints import Stamp

_STAMP, _CHANGES = "_loaded_from", "_changes_when_loaded"


def note_source(model: nn.Module, stamp: Stamp) -> None:
    """Note the files that a model was just loaded from.

    Args:
        model: The model.
        stamp: Of the files, from before they were read.
    """
    object.__setattr__(model, _STAMP, stamp)
    object.__setattr__(model, _CHANGES, _changes(model))


def source_of(model: Any) -> Stamp | None:
    """The files that a model was loaded from; None if nobody noted them, or a tensor was changed in place since."""
    stamp: Stamp | None = getattr(model, _STAMP, None)
    return stamp if stamp and _changes(model) == getattr(model, _CHANGES) else None


def _changes(model: nn.Module) -> int:
    """How often tensors of a model were changed in place, all together."""
    return sum(tensor._version for tensor in [*model.parameters(), *model.buffers()])
