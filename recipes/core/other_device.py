"""A GPU for machines that have none: its tensors compute on the CPU and refuse what CUDA refuses.

Inside `other_device()` a run takes the way of a run on CUDA: models and batches are moved to `DEVICE`; an operator that
mixes tensors of both devices fails at its line, as does `.numpy()` of a tensor that is not on the CPU. Numbers are
those of the CPU, to rounding (some operators are taken apart), so that a whole run goes to its report, whatever its
control flow depends on. `trainer.precision=bf16`, which `auto` is on a GPU, casts by the lists of CUDA. Cache entries
of the CPU are read; what is computed here is kept beside them: last bits differ.

The device is called "lazy": torch knows the name, has no kernels for it, and its autograd works without them.
What it cannot show: kernels and types that CUDA lacks (but for matrix products of integers), memory, random numbers,
several processes, and branches of code that ask for "cuda" by name.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data._utils.fetch import _MapDatasetFetcher

from recipes.core.cuda_autocast import CudaAutocast
from recipes.core.storage.cache import entry_folder

DEVICE = "lazy:0"
_DEVICE = torch.device(DEVICE)
_FETCH = _MapDatasetFetcher.fetch
# Operators that read and write across devices, and those that take their indices from the CPU, too.
_ACROSS = {"aten::copy_", "aten::_to_copy", "aten::_foreach_copy_"}
_INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
# A single value on the CPU is a number for these; torch marks all others that take one as pointwise.
_TAKES_NUMBERS = {"aten::masked_fill", "aten::masked_fill_", "aten::fill_", "aten::index_fill", "aten::index_fill_"}
# cuBLAS multiplies no integers, the CPU does.
_PRODUCTS = {f"aten::{name}" for name in ("mm", "bmm", "addmm", "baddbmm", "addmv", "mv", "dot", "convolution")}


class OtherTensor(Tensor):
    """A tensor on the other device; `memory` holds its numbers, on the CPU."""

    memory: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, memory: Tensor) -> "OtherTensor":
        """On the other device, with the numbers of `memory` and not a copy of them."""
        strided = memory.layout == torch.strided
        outer = torch.Tensor._make_wrapper_subclass(
            cls,
            memory.size(),
            strides=memory.stride() if strided else None,
            storage_offset=memory.storage_offset() if strided else None,
            dtype=memory.dtype,
            layout=memory.layout,
            device=_DEVICE,
        )
        outer.memory = memory
        return outer

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """An operator on tensors of which one or more lie here."""
        return _compute(func, args, kwargs or {})

    @property  # type: ignore[misc]
    def data(self) -> Tensor:
        """The same numbers, without a gradient."""
        return self.detach()

    @data.setter
    def data(self, value: Any) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.memory = value.memory

    def numpy(self, *, force: bool = False) -> Any:
        """As CUDA does.

        Raises:
            TypeError: unless it is forced.
        """
        if force:
            return self.memory.numpy(force=True)
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy: copy it to the CPU first, by .cpu()")

    def __array__(self, *_: Any) -> Any:
        """As CUDA does."""
        return self.numpy()

    def tolist(self) -> Any:
        """Numbers, which any device hands over."""
        return self.memory.tolist()

    def __format__(self, form: str) -> str:
        return self.memory.__format__(form)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{self.memory!r} on {DEVICE}"

    def __deepcopy__(self, memo: dict[int, Any]) -> "OtherTensor":
        copied: Any = self.detach().clone().requires_grad_(self.requires_grad)
        copied.__dict__ |= {name: value for name, value in self.__dict__.items() if name != "memory"}
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What is saved is loaded on the CPU."""
        return self.memory.detach().__reduce_ex__(protocol)

    def untyped_storage(self) -> torch.UntypedStorage:
        """Where the numbers are, by which tensors that share them know each other."""
        return self.memory.untyped_storage()

    def data_ptr(self) -> int:
        """As `untyped_storage`."""
        return self.memory.data_ptr()


class _Dispatch(TorchDispatchMode):
    """Sees every operator, also those that have no tensor on the other device yet: what makes one."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to say so each time takes longer than the operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Operator(NamedTuple):
    """What matters of an operator here: whether it is made of others, takes numbers from the CPU, writes its first."""

    name: str
    has_parts: bool
    takes_numbers: bool
    writes: bool


@cache
def _operator(func: Any) -> _Operator:
    name = func.name().partition(".")[0]
    has_parts = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    takes_numbers = name in _TAKES_NUMBERS | _INDEXED or torch.Tag.pointwise in func.tags
    return _Operator(name, has_parts, takes_numbers, func._schema.is_mutable)


def _compute(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """One operator: its devices checked, computed on the CPU, its results on the device where torch would have them."""
    tensors: list[Tensor] = []
    plain, named = _memories(args, tensors), _named_memories(kwargs, tensors) if kwargs else {}
    others = {id(one.memory): one for one in tensors if isinstance(one, OtherTensor)}
    device = kwargs.get("device")
    here = bool(others) if device is None else torch.device(device) == _DEVICE
    if not here and not others:
        return func(*args, **kwargs)
    operator = _operator(func)
    if others and operator.has_parts and (parts := func.decompose(*args, **kwargs)) is not NotImplemented:
        return parts
    _check(operator, args, kwargs, tensors)
    if device:
        named["device"] = "cpu"
    # What an operator wrote into comes back as the tensor that was given.
    return _handed_back(func(*plain, **named), others, here)


def _check(operator: _Operator, args: Sequence[Any], kwargs: dict[str, Any], tensors: Sequence[Tensor]) -> None:
    """Refuse what CUDA refuses.

    Raises:
        RuntimeError: in the words of CUDA.
    """
    name = operator.name
    if kwargs.get("generator") is not None:
        raise RuntimeError(f"{name}: expected a generator on {DEVICE}, got one on the CPU: draw there, then move")
    if not tensors or name in _ACROSS:
        return
    first = tensors[0]
    if name in _PRODUCTS and not (first.is_floating_point() or first.is_complex()):
        raise NotImplementedError(f"{name} of {first.dtype} is not implemented on CUDA")
    if name in _INDEXED and isinstance(first, OtherTensor):
        tensors = [first]
        _memories(args[2:], tensors)
    hosts = [one for one in tensors if not isinstance(one, OtherTensor)]
    if len(hosts) in (0, len(tensors)):
        return
    numbers = operator.takes_numbers and all(one.dim() == 0 for one in hosts)
    if not numbers or (operator.writes and not isinstance(first, OtherTensor)):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {DEVICE} and cpu! "
            f"({name} of {', '.join(f'{list(one.shape)} on {one.device}' for one in tensors)})"
        )


def _memories(values: Sequence[Any], tensors: list[Tensor]) -> list[Any]:
    """Arguments with the numbers of their tensors, also in lists; the tensors are added to `tensors`."""
    plain: list[Any] = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
            plain.append(value.memory if isinstance(value, OtherTensor) else value)
        elif isinstance(value, (list, tuple)):
            plain.append(type(value)(_memories(value, tensors)))
        else:
            plain.append(value)
    return plain


def _named_memories(values: dict[str, Any], tensors: list[Tensor]) -> dict[str, Any]:
    return dict(zip(values, _memories(tuple(values.values()), tensors), strict=True))


def _handed_back(result: Any, others: dict[int, OtherTensor], here: bool) -> Any:
    """Results as torch would have them: `others` by their numbers, the rest on the device or not."""
    if isinstance(result, Tensor):
        other = others.get(id(result))
        return other if other is not None else OtherTensor(result) if here else result
    if isinstance(result, (list, tuple)):
        return type(result)([_handed_back(one, others, here) for one in result])
    return result


def _numbers(value: Any) -> Any:
    """Lists of which `torch.tensor` makes a tensor, with what lies here as numbers: torch reads them below dispatch."""
    if isinstance(value, (list, tuple)):
        return type(value)([one.tolist() if isinstance(one, OtherTensor) else _numbers(one) for one in value])
    return value


def _entry_folder(kind: str, key: str) -> Path:
    """Where `build_once` looks for an entry, and where it builds one that there is not."""
    folder = entry_folder(kind, key)
    return folder if folder.is_dir() else folder.with_name(f"{key}-{_DEVICE.type}")


def _fetch(fetcher: Any, indices: Any) -> Any:
    """A batch as its collate function makes it, on the CPU: a run on CUDA pins its memory.

    Raises:
        RuntimeError: in the words of CUDA, it lies on the device.
    """
    batch = _FETCH(fetcher, indices)
    if any(isinstance(one, OtherTensor) for one in tree_leaves(batch)):
        raise RuntimeError(f"cannot pin a tensor on {DEVICE}, only dense CPU tensors can be pinned")
    return batch


@contextmanager
def _autocast(casting: CudaAutocast) -> Iterator[None]:
    """Inside the block the device has an autocast."""
    is_enabled, dtype_of, is_there, autocast = (
        torch.is_autocast_enabled, torch.get_autocast_dtype, torch.amp.is_autocast_available, torch.autocast,
    )  # fmt: skip
    here = lambda kind: torch.device(kind).type == _DEVICE.type  # noqa: E731

    def region(device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None) -> Any:
        if here(device_type):
            return casting.region(dtype, enabled)
        return autocast(device_type, dtype, enabled, cache_enabled)

    with (
        patch(
            "torch.is_autocast_enabled",
            lambda kind="cuda": casting.dtype is not None if here(kind) else is_enabled(kind),
        ),
        patch("torch.get_autocast_dtype", lambda kind: casting.dtype if here(kind) else dtype_of(kind)),
        patch("torch.amp.is_autocast_available", lambda kind: here(kind) or is_there(kind)),
        patch("torch.autocast", region),
    ):
        yield


@contextmanager
def other_device() -> Iterator[None]:
    """Inside the block runs work on `DEVICE`, in this process and thread."""
    lifts, swaps = torch._C._only_lift_cpu_tensors(), torch.__future__.get_swap_module_params_on_conversion()
    tensor = torch.tensor
    fused, casting = ["cpu", _DEVICE.type], CudaAutocast(lambda one: isinstance(one, OtherTensor))
    _device_constructors()  # which `with torch.device(...)` knows by identity, remembers torch's own
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(..., device=...)` is an operator, too
    torch.__future__.set_swap_module_params_on_conversion(True)  # tied parameters stay tied
    try:
        with (
            patch("recipes.core.training.trainer.resolve_device", lambda config: DEVICE),
            patch("recipes.core.training.devices.may_have_gpu", lambda: True),
            patch("recipes.core.training.needs._room", lambda device: None),
            patch("recipes.core.storage.cache.entry_folder", _entry_folder),
            patch(
                "transformers.TrainingArguments.device",
                property(lambda arguments: (arguments._setup_devices, _DEVICE)[1]),
            ),
            patch("accelerate.state.PartialState.default_device", _DEVICE),
            patch("torch.tensor", lambda data, **options: tensor(_numbers(data), **options)),
            patch.object(_MapDatasetFetcher, "fetch", _fetch),
            patch("transformers.training_args.is_torch_bf16_gpu_available", lambda: True),
            _autocast(casting),
            patch("torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: fused),
            _Dispatch(),
        ):
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.__future__.set_swap_module_params_on_conversion(swaps)
