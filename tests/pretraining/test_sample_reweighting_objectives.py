"""The reweighted loss: equal to the formula on full logits, to plain training when uniform, and over processes."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing

from recipes.core.training.parallel import distributed
from recipes.core.training.parallel.launch import variables
from recipes.pretraining.sample_reweighting import method
from recipes.pretraining.sample_reweighting.config import STRATEGIES, ReweightConfig
from recipes.pretraining.sample_reweighting.objectives import Reweighted, ReweightedRegression
from recipes.pretraining.sample_reweighting.regression import LinearModels
from tests.pretraining.reweighting import REWEIGHT, batch_of, go, plain_losses, tiny_model

ONE = torch.ones(())


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def assert_equal_step(model: Any, objective: Reweighted, batch: dict[str, Any], expected: torch.Tensor) -> None:
    loss, _ = objective(model, batch, ONE)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    for ours, theirs in zip(gradients(model, loss), gradients(model, expected), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_loss_and_gradients_are_those_of_the_formula(strategy: str) -> None:
    model, batch = tiny_model(), batch_of(6)
    losses = plain_losses(model, batch)
    weights = method.sample_weights(losses, strategy, r=0.5).float()
    objective = Reweighted(ReweightConfig(strategy=strategy, r=0.5), 1)
    assert_equal_step(model, objective, batch, (weights * losses).sum())


@pytest.mark.parametrize("config", [ReweightConfig(strategy="uniform"), ReweightConfig(strategy="linupper", r=1e6)])
def test_uniform_and_hot_weights_are_the_plain_mean(config: ReweightConfig) -> None:
    model, batch = tiny_model(), batch_of(6)
    assert_equal_step(model, Reweighted(config, 1), batch, plain_losses(model, batch).mean())


def test_length_correction_of_uniform_weights_is_the_token_mean() -> None:
    model, batch = tiny_model(), batch_of(4, lengths=[2, 9, 5, 11])
    lengths = torch.tensor([2, 9, 5, 11])
    expected = (plain_losses(model, batch) * lengths).sum() / lengths.sum()
    objective = Reweighted(ReweightConfig(strategy="uniform", length_correction=True), 1)
    assert_equal_step(model, objective, batch, expected)


def test_an_empty_row_is_left_out() -> None:
    model, batch = tiny_model(), batch_of(5, lengths=[11, 0, 7, 11, 11])
    kept = torch.tensor([0, 2, 3, 4])
    losses = plain_losses(model, batch)[kept]
    weights = method.sample_weights(losses, "linupper").float()
    loss, metrics = Reweighted(ReweightConfig(), 1)(model, batch, ONE)
    torch.testing.assert_close(loss, (weights * losses).sum())
    assert metrics["excluded_share"][0] == pytest.approx(0.2)


def test_metrics_say_what_the_weights_do() -> None:
    model, batch = tiny_model(), batch_of(6)
    weights = method.sample_weights(plain_losses(model, batch), "linupper", r=0.4)
    objective = Reweighted(ReweightConfig(r=0.4), 1, ("hard", "easy"), duplicates=True)
    _, metrics = objective(model, batch, ONE)
    told = {name: float(pair[0] / pair[1]) for name, pair in metrics.items()}
    assert told["relative_weight_max"] == pytest.approx(float(weights.max() * 6))
    assert told["effective_share"] == pytest.approx(float(1 / weights.square().sum() / 6))
    assert told["weight/hard"] == pytest.approx(float(weights[1::2].mean() * 6))
    assert told["weight/duplicate"] == pytest.approx(float(weights[[0, 3]].mean() * 6))


def test_regression_weighs_each_regime_on_its_own() -> None:
    torch.manual_seed(0)
    model, batch = LinearModels(2, 3), {"x": torch.randn(2, 5, 3).double(), "y": torch.randn(2, 5).double()}
    losses = model(batch["x"], batch["y"])
    expected = sum((method.sample_weights(row, "linupper") * row).sum() for row in losses)
    loss, metrics = ReweightedRegression(ReweightConfig(), ("redundant", "isotropic"))(model, batch, ONE)
    torch.testing.assert_close(loss, expected)
    assert "isotropic/effective_share" in metrics


def test_global_scope_over_accumulation_steps_equals_one_large_batch(tmp_path: Path) -> None:
    whole, parts = go(tmp_path / "whole"), go(tmp_path / "parts", micro_batch_size=2)
    assert_same(parts, whole)


def test_micro_scope_weighs_each_micro_batch_on_its_own(tmp_path: Path) -> None:
    micro = replace(REWEIGHT, scope="micro")
    whole, parts = go(tmp_path / "whole", micro), go(tmp_path / "parts", micro, micro_batch_size=4)
    assert any(not torch.allclose(whole["weights"][name], parts["weights"][name]) for name in whole["weights"])
    model, batch = tiny_model(), batch_of(8)
    halves = [{name: value[start : start + 4] for name, value in batch.items()} for start in (0, 4)]
    objective = Reweighted(micro, 2)
    total = sum(objective(model, half, torch.tensor(2.0))[0] for half in halves)
    losses = plain_losses(model, batch).view(2, 4)
    expected = sum((method.sample_weights(row, "linupper", r=0.4).float() * row).sum() for row in losses) / 2
    torch.testing.assert_close(total, expected)


def assert_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    for name, value in left["weights"].items():
        torch.testing.assert_close(value, right["weights"][name], rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(left["lines"], right["lines"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_two_processes_equal_one_on_the_same_global_batch(tmp_path: Path) -> None:
    alone = go(tmp_path / "alone")
    torch.multiprocessing.start_processes(_work, (tmp_path,), nprocs=2, start_method="spawn")
    for rank in range(2):
        for outcome in torch.load(tmp_path / f"rank-{rank}.pt", weights_only=False):
            assert_same(outcome, alone)


def _work(rank: int, folder: Path) -> None:
    os.environ |= variables(rank, 2)
    torch.set_num_threads(1)
    with distributed.process_group("cpu", folder / "meeting"):
        ends = [go(folder / "two"), go(folder / "two accumulated", micro_batch_size=2)]
        ends.append(go(folder / "micro", replace(REWEIGHT, scope="micro")))
    torch.save(ends, folder / f"rank-{rank}.pt")
    distributed.end_process()
