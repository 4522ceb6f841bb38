"""The autocast of CUDA for tensors of a device that has none: what multiplies does so in bf16, what sums in float32.

CPU and CUDA differ in their lists. On CUDA, `exp`, `sum`, `cumsum` or a norm of bf16 numbers are float32 numbers, and
whatever then writes them into, or adds them to, a tensor of bf16 fails; a run on the CPU in bf16 does not see it.

Calls of Python are seen, with their arguments: what an operator of C++ calls inside itself is not cast. Dtypes that are
typed (`sum(dtype=...)`), float64 and writes in place are left alone, as CUDA leaves them.

Source: "CUDA Op-Specific Behavior" of torch.amp, and aten/src/ATen/autocast_mode.h of torch 2.13.
"""

from collections.abc import Callable
from contextlib import ContextDecorator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_IN_BF16 = (
    "linear matmul __matmul__ __rmatmul__ mm bmm mv addmm addmv addr addbmm baddbmm einsum chain_matmul multi_dot "
    "vecdot conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d prelu "
    "scaled_dot_product_attention"
)
_IN_FLOAT = (
    "acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal __rtruediv__ __rdiv__ rsqrt sinh tan pow __pow__ "
    "__rpow__ softplus layer_norm group_norm norm vector_norm matrix_norm normalize cosine_similarity cdist pdist "
    "dist renorm logsumexp interpolate prod sum softmax log_softmax cumsum cumprod cross_entropy nll_loss kl_div "
    "l1_loss smooth_l1_loss huber_loss mse_loss soft_margin_loss margin_ranking_loss triplet_margin_loss "
    "cosine_embedding_loss binary_cross_entropy_with_logits"
)
_IN_WIDEST = "addcdiv addcmul atan2 bilinear cross dot vdot grid_sample index_put scatter_add tensordot"
_LOWER, _FLOAT, _WIDEST = (frozenset(names.split()) for names in (_IN_BF16, _IN_FLOAT, _IN_WIDEST))
_REFUSED = "binary_cross_entropy"
_CAST = (torch.float32, torch.bfloat16, torch.float16)


class CudaAutocast(TorchFunctionMode):
    """Casts the arguments of calls inside the regions of autocast that a run opens.

    Args:
        is_there: Whether a tensor lies on the device.
    """

    def __init__(self, is_there: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.is_there = is_there
        self.dtype: torch.dtype | None = None  # None outside of all regions

    def region(self, dtype: torch.dtype | None = None, enabled: bool = True) -> "_Region":
        """What `torch.autocast` gives for the device."""
        return _Region(self, dtype or torch.bfloat16, enabled)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call, its arguments cast as CUDA would cast them.

        Raises:
            RuntimeError: CUDA refuses the call inside of autocast.
        """
        kwargs = kwargs or {}
        if self.dtype is None:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == _REFUSED:
            raise RuntimeError(f"{name} is unsafe to autocast: take binary_cross_entropy_with_logits")
        dtype = self._dtype_of(name, (*args, *kwargs.values())) if kwargs.get("dtype") is None else None
        if dtype is None:
            return func(*args, **kwargs)
        return func(*self._cast(args, dtype), **self._cast(kwargs, dtype))

    def _dtype_of(self, name: str, values: tuple[Any, ...]) -> torch.dtype | None:
        """What the arguments of a call are cast to, None for as they are."""
        if name in _LOWER:
            return self.dtype
        if name in _FLOAT:
            return torch.float32
        if name in _WIDEST:
            dtypes = {one.dtype for one in values if isinstance(one, Tensor) and one.is_floating_point()}
            return torch.float32 if torch.float32 in dtypes else None
        return None

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, Tensor):
            return value.to(dtype) if value.dtype in _CAST and self.is_there(value) else value
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            return type(value)([self._cast(one, dtype) for one in value])
        if isinstance(value, dict):
            return {key: self._cast(one, dtype) for key, one in value.items()}
        return value


class _Region(ContextDecorator):
    """A part of a run in which calls are cast, or are not; also around a function, as often as it is called."""

    def __init__(self, mode: CudaAutocast, dtype: torch.dtype, enabled: bool) -> None:
        self.mode, self.inside = mode, dtype if enabled else None
        self.outside: list[torch.dtype | None] = []

    def __enter__(self) -> "_Region":
        self.outside.append(self.mode.dtype)
        self.mode.dtype = self.inside
        self.mode.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        self.mode.__exit__(None, None, None)
        self.mode.dtype = self.outside.pop()
