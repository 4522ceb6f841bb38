"""Tensors of another device: they say what CUDA says, and compute what the CPU computes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._device import _device_constructors
from torch.utils.data import DataLoader

from recipes.core.other_device import DEVICE, OtherTensor, other_device
from recipes.core.storage.cache import build_once
from tests.core.training.test_trainer import TokenMean, go, model

HERE = torch.arange(12.0).view(3, 4)  # on the CPU


@pytest.fixture
def there() -> Iterator[Tensor]:
    with other_device():
        yield HERE.to(DEVICE)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda there: there + HERE,
        lambda there: HERE + there,
        lambda there: there @ HERE.T,
        lambda there: torch.cat([there, HERE]),
        lambda there: torch.stack([there.sum(), HERE.sum()]),
        lambda there: torch.where(HERE > 3, there, there),
        lambda there: there.masked_fill(HERE > 3, 0.0),
        lambda there: there.index_select(0, torch.tensor([0])),
        lambda there: there.gather(1, torch.zeros(3, 1, dtype=torch.int64)),
        lambda there: functional.embedding(torch.tensor([0]), there),
        lambda there: HERE[torch.zeros(1, dtype=torch.int64, device=DEVICE)],
        lambda there: HERE.sum().clone().add_(there.sum()),
        lambda there: HERE.clone().add_(there.sum()),
        lambda there: there.clone().index_put_((torch.tensor([0]),), HERE[0]),
        lambda there: nn.Linear(4, 4)(there),
        lambda there: functional.cross_entropy(there, torch.zeros(3, dtype=torch.int64)),
    ],
)
def test_what_cuda_does_not_mix_is_refused(mixed: Callable[[Tensor], Any], there: Tensor) -> None:
    with pytest.raises(RuntimeError, match="on the same device, but found"):
        mixed(there)
    with pytest.raises(RuntimeError, match="on the same device, but found"), torch.inference_mode():
        mixed(there)


@pytest.mark.parametrize(
    ("error", "message", "does"),
    [
        (TypeError, "to numpy", lambda there: there.numpy()),
        (TypeError, "to numpy", lambda there: np.asarray(there)),
        (RuntimeError, "generator", lambda there: torch.rand(2, device=DEVICE, generator=torch.Generator())),
        (RuntimeError, "generator", lambda there: there.clone().normal_(generator=torch.Generator())),
        (NotImplementedError, "int64", lambda there: there.long() @ there.long().T),
    ],
)
def test_what_cuda_cannot_do_is_refused(error: type[Exception], message: str, does: Any, there: Tensor) -> None:
    with pytest.raises(error, match=message):
        does(there)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda a, b: a + b.sum(),
        lambda a, b: a * torch.tensor(2.0),
        lambda a, b: torch.where(a > 3, a, torch.tensor(0.0)),
        lambda a, b: a.masked_fill(a > 3, torch.tensor(0.0)),
        lambda a, b: a[torch.tensor([2, 0])],
        lambda a, b: a[b[:, 0] > 3],
        lambda a, b: a.clone().copy_(b),
        lambda a, b: b.to(a) + a,
        lambda a, b: torch.zeros(3, 4).to(a.device) + a.new_ones(4) + torch.tensor([1.0], device=a.device),
        lambda a, b: functional.scaled_dot_product_attention(a[None], a[None], a[None], is_causal=True),
        lambda a, b: functional.layer_norm(a, (4,)),
        lambda a, b: torch.tensor([a.sum(), 2.0], device=a.device).sum() + a,
        lambda a, b: torch.eye(3).to_sparse().to(a.device) @ a,
        lambda a, b: torch.func.vmap(lambda row: row.cumsum(0))(a),
    ],
)
def test_what_cuda_mixes_gives_the_numbers_of_the_cpu(mixed: Callable[..., Tensor], there: Tensor) -> None:
    result = mixed(there, HERE)
    assert isinstance(result, OtherTensor) and result.device == torch.device(DEVICE)
    torch.testing.assert_close(result.cpu(), mixed(HERE, HERE))
    assert not isinstance(result.cpu(), OtherTensor) and f"{result.sum():.3f}" == f"{float(result.cpu().sum()):.3f}"


def test_a_model_that_is_moved_keeps_its_ties_and_gets_the_gradients_of_the_cpu(there: Tensor) -> None:
    def step(device: str) -> nn.Module:
        torch.manual_seed(0)
        tied = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        tied[2].weight = tied[0].weight
        tied.to(device)
        optimizer = torch.optim.AdamW(tied.parameters(), lr=0.1)
        tied(HERE.to(device)).square().mean().backward()
        optimizer.step()
        return tied

    moved, plain = step(DEVICE), step("cpu")
    assert moved[2].weight is moved[0].weight and isinstance(moved[0].weight, nn.Parameter)
    moved[0].bias.data = torch.ones(7, device=DEVICE)
    assert moved[0].bias.shape == (7,) and moved[0].bias.tolist() == [1] * 7
    moved[0].bias.data = moved[2].bias.data
    plain[0].bias.data = plain[2].bias.data
    for one, other in zip(moved.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.cpu(), other)


def test_the_trainer_ends_where_it_ends_on_the_cpu_and_resumes(tmp_path: Path) -> None:
    expected, _ = go(tmp_path / "cpu")
    with other_device():
        trained, _ = go(tmp_path / "other")
        again, result = go(tmp_path / "other")
    assert result.resumed_from == 12 and all(isinstance(one, OtherTensor) for one in trained.parameters())
    for ours, others, plain in zip(trained.parameters(), again.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours.cpu(), plain)
        torch.testing.assert_close(ours.cpu(), others.cpu())
    assert type(next(model().parameters())) is nn.Parameter  # nothing stays behind


def test_an_objective_that_makes_a_tensor_in_the_wrong_place_is_found(tmp_path: Path) -> None:
    class Careless(TokenMean):
        def __call__(self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor) -> Any:
            batch["x"] = batch["x"] * torch.ones(len(batch["x"]), 1)
            return super().__call__(model, batch, normalizer)

    with other_device(), pytest.raises(RuntimeError, match=r"aten::mul of .* on lazy:0, .* on cpu"):
        go(tmp_path, objective=Careless())


def test_a_batch_that_is_made_on_the_device_cannot_be_pinned() -> None:
    with other_device():
        loader = DataLoader(range(4), 2, collate_fn=lambda rows: {"x": torch.tensor(rows, device=DEVICE)})
        with pytest.raises(RuntimeError, match="cannot pin"):
            next(iter(loader))
        assert len(list(DataLoader(range(4), 2, collate_fn=lambda rows: {"x": torch.tensor(rows)}))) == 2


def test_no_run_on_the_cpu_reads_what_was_computed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))

    def entry(key: str, text: str) -> str:
        folder = build_once("numbers", key, lambda staging: (staging / "number").write_text(text) and None)
        return (folder / "number").read_text()

    assert entry("both", "cpu") == "cpu"
    with other_device():
        assert entry("both", "here") == "cpu"
        assert entry("new", "here") == "here" and entry("new", "again") == "here"
    assert entry("new", "cpu") == "cpu"
    with other_device():
        assert entry("new", "again") == "cpu"


def test_torch_device_still_knows_the_functions_that_are_replaced() -> None:
    _device_constructors.cache_clear()  # as in a process that has not used one yet
    with other_device(), torch.device("meta"):
        assert torch.tensor([1.0]).device.type == "meta"
    with torch.device("meta"):
        assert torch.tensor([1.0]).device.type == "meta"
