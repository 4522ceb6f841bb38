"""Inside of autocast the other device casts as CUDA does, where the CPU would not."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.core.config.settings import TrainerConfig
from recipes.core.other_device import DEVICE, other_device
from recipes.core.training.task import TrainEvents, Training
from recipes.core.training.trainer import train
from tests.core.training.test_trainer import CONFIG, Numbers, TokenMean, collate, model

KIND = torch.device(DEVICE).type
HALF, FULL, EXACT = torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize(
    ("call", "dtype"),
    [
        (lambda full, half: functional.linear(full, full), HALF),
        (lambda full, half: full @ full, HALF),
        (lambda full, half: torch.einsum("ij,kj->ik", full, half), HALF),
        (lambda full, half: functional.scaled_dot_product_attention(full[None], full[None], full[None]), HALF),
        (lambda full, half: half.exp(), FULL),
        (lambda full, half: half.sum(), FULL),
        (lambda full, half: half.cumsum(0), FULL),
        (lambda full, half: half.softmax(-1), FULL),
        (lambda full, half: functional.log_softmax(half, -1), FULL),
        (lambda full, half: half.norm(), FULL),
        (lambda full, half: half**2, FULL),
        (lambda full, half: 1 / half, FULL),
        (lambda full, half: functional.cross_entropy(half, half.argmax(1)), FULL),
        (lambda full, half: half.scatter_add(0, half.argmax(1)[None], full[:1]), FULL),
        (lambda full, half: half.sum(dtype=HALF), HALF),
        (lambda full, half: half.mean(), HALF),
        (lambda full, half: half * half, HALF),
        (lambda full, half: half + full, FULL),
        (lambda full, half: full.double() @ full.double(), EXACT),
        (lambda full, half: half.double().exp(), EXACT),
    ],
)
def test_calls_give_the_dtypes_of_cuda(call: Callable[..., Tensor], dtype: torch.dtype) -> None:
    with other_device():
        full = torch.rand(4, 4).to(DEVICE)
        with torch.autocast(KIND, HALF):
            assert call(full, full.to(HALF)).dtype == dtype


def test_what_does_not_fit_together_on_cuda_fails() -> None:
    with other_device(), torch.autocast(KIND):
        half = torch.rand(4, 4).to(DEVICE, HALF)
        owners = torch.zeros(4, dtype=torch.int64, device=DEVICE)
        with pytest.raises(RuntimeError):
            half.new_zeros(2, 4).index_add(0, owners, half.exp())  # float32 into bf16
        with pytest.raises(RuntimeError, match="binary_cross_entropy_with_logits"):
            functional.binary_cross_entropy(half, half)


def test_regions_nest_wrap_functions_and_leave_the_cpu_alone() -> None:
    with other_device():
        full = torch.rand(4, 4).to(DEVICE)
        product = torch.autocast(device_type=KIND, dtype=HALF)(lambda: full @ full)
        assert product().dtype == product().dtype == HALF and (full @ full).dtype == FULL
        with torch.autocast(KIND, HALF):
            assert torch.is_autocast_enabled(KIND) and torch.get_autocast_dtype(KIND) == HALF
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == FULL
            with torch.autocast(KIND, enabled=False):
                assert (full @ full).dtype == FULL and not torch.is_autocast_enabled(KIND)
            assert (full @ full).dtype == HALF
        assert not torch.is_autocast_enabled(KIND)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("place", [nullcontext, other_device])
def test_a_model_is_trained_in_bf16_and_measured_in_its_own_dtype(place: Any, tmp_path: Path) -> None:
    dtypes: dict[str, list[torch.dtype]] = {"training": [], "measured": []}
    net = model()
    net[0].register_forward_hook(lambda layer, given, out: dtypes[doing[0]].append(out.dtype))
    doing = ["training"]

    class Measuring(TrainEvents):
        def on_step_end(self, step: int, model: nn.Module) -> None:
            doing[0] = "measured"
            if step in watched:
                model(torch.ones(2, 3, device=next(model.parameters()).device))
            doing[0] = "training"

    watched = frozenset({4, 8})
    with place():
        training = Training(net, TokenMean(), Numbers(), collate, watch_steps=watched)
        train(training, TrainerConfig(**(CONFIG | {"precision": "bf16"})), 3, tmp_path, Measuring())
        doing[0] = "measured"
        net(torch.ones(2, 3, device=next(net.parameters()).device))
    assert set(dtypes["training"]) == {HALF} and dtypes["measured"] == [FULL] * 3
    assert net.__dict__.keys().isdisjoint({"forward", "_original_forward"})
