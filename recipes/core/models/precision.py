"""Which numbers are computed in which dtype."""

import torch
from torch import Tensor


def exact(values: Tensor) -> Tensor:
    """The same numbers in what softmaxes and sums are computed in: fp32, float64 for float64."""
    return values.to(softmax_dtype(values.dtype))


def softmax_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the softmax of logits of this dtype is computed in: fp32, float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def matmul_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype a linear layer would compute in here: autocast leaves float64 alone."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return hidden.dtype
