"""The weighted loss of text: the formula on full logits, weights of mean one, processes, what is refused."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import nn

from recipes.core.scoring.statistics import Ask
from recipes.core.text_recipe.items import text_collate
from recipes.core.text_recipe.objective import WeightedText, live_statistics, mean_one
from recipes.core.training.parallel import distributed
from recipes.core.training.parallel.launch import variables
from recipes.core.training.task import TrainEvents, Training
from recipes.core.training.trainer import train
from tests.pretraining.reweighting import CONFIG, Sequences, tiny_model

MASK = torch.tensor([[True, True, False], [True, False, False]])


class Referenced(Sequences):
    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        random = torch.Generator().manual_seed(1000 + index)
        reference = 4 * torch.rand(len(item["tokens"]), generator=random)
        return item | {"reference": reference.numpy(), "planted": reference.numpy() > 3}


def half(statistics, batch):
    """The tokens whose excess loss is above the median of all that is weighed together."""
    return statistics.excess > statistics.excess[statistics.mask].median()


def objective(weigh=half) -> WeightedText:
    return WeightedText(weigh)


def batch_of(count: int) -> dict[str, Any]:
    return text_collate([Referenced()[index] for index in range(count)])


def nll_of(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    logits = model.language_model(input_ids=batch["input_ids"]).logits.transpose(1, 2)  # type: ignore[operator]
    return nn.functional.cross_entropy(logits, batch["labels"], reduction="none", ignore_index=-100)


def test_weights_of_tokens_and_sequences_have_mean_one():
    tokens = torch.tensor([[1.0, 3.0, 7.0], [2.0, 5.0, 5.0]])
    assert mean_one(tokens, MASK).tolist() == [[0.5, 1.5, 0], [1, 0, 0]]
    assert mean_one(torch.tensor([1.0, 4.0]), MASK).tolist() == [[0.5, 0.5, 0], [2, 0, 0]]
    assert mean_one(torch.zeros(2), MASK).isnan().all()


def test_what_is_asked_of_the_distribution_reaches_weigh_in_training_and_outside():
    model, batch, seen = tiny_model(), batch_of(3), []

    def by_entropy(statistics, _):
        seen.append(statistics.columns)
        return statistics.columns["entropy"]

    weighted = WeightedText(by_entropy, Ask(entropy=True, top_k=2))
    logits = model.language_model(input_ids=batch["input_ids"]).logits
    mask = batch["labels"] != -100
    entropy = torch.distributions.Categorical(logits=logits).entropy() * mask
    loss, _ = weighted(model, batch, mask.sum().float())
    expected = (mean_one(entropy, mask) * nll_of(model, batch)).sum() / mask.sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(seen[0]["entropy"], entropy)
    assert seen[0]["top_ids"].shape == (*mask.shape, 2) and not seen[0]["entropy"].requires_grad
    outside = live_statistics(model, batch, weighted.ask)
    torch.testing.assert_close(outside.columns["entropy"], entropy)
    torch.testing.assert_close(weighted.alone(outside, batch), mean_one(entropy, mask))


def test_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \[3\]; it must return \[2, 3\] \(tokens\) or \[2\] \(sequences\)"):
        mean_one(torch.ones(3), MASK)


def test_loss_and_gradients_are_those_of_the_formula():
    model, batch = tiny_model(), batch_of(6)
    nll, mask = nll_of(model, batch), batch["labels"] != -100
    excess = (nll - batch["reference"]).detach()
    chosen = mask & (excess > excess[mask].median())
    expected = nll[chosen].mean()
    loss, metrics = objective()(model, batch, objective().normalizer(batch))
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    parameters = list(model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    planted = batch["planted"] & mask
    weight, count = metrics["weight/noise"].tolist()
    assert count == planted.sum()
    assert weight == pytest.approx(float((chosen & planted).sum() * mask.sum() / chosen.sum()))


def test_equal_weights_are_the_plain_mean():
    model, batch = tiny_model(), batch_of(4)
    same = objective(lambda statistics, batch: torch.full((4,), 7.0))
    loss, _ = same(model, batch, same.normalizer(batch))
    torch.testing.assert_close(loss, nll_of(model, batch).sum() / (4 * 11), atol=1e-6, rtol=1e-5)


def test_statistics_outside_of_training_are_those_of_the_loss():
    model, batch = tiny_model(), batch_of(3)
    known = live_statistics(model, batch)
    torch.testing.assert_close(known.nll, nll_of(model, batch), atol=1e-6, rtol=1e-5)
    assert known.mask[:, :-1].all() and not known.mask[:, -1].any()
    torch.testing.assert_close(known.excess, known.nll - batch["reference"])


def go(folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """Weights after a few steps in a folder."""
    config, model = replace(CONFIG, nproc=distributed.world_size(), **changes), tiny_model()
    items: Any = Referenced()
    train(Training(model, objective(), items, text_collate), config, 3, folder, TrainEvents())
    return {name: weights.detach().clone() for name, weights in model.named_parameters()}


@pytest.mark.slow
def test_two_processes_weigh_together_like_one(tmp_path: Path) -> None:
    alone = go(tmp_path / "alone")
    torch.multiprocessing.start_processes(_work, (tmp_path,), nprocs=2, start_method="spawn")
    for name, together in torch.load(tmp_path / "two.pt", weights_only=True).items():
        torch.testing.assert_close(together, alone[name], rtol=1e-5, atol=1e-5)


def _work(rank: int, folder: Path) -> None:
    os.environ |= variables(rank, 2)
    torch.set_num_threads(1)
    with distributed.process_group("cpu", folder / "meeting"):
        weights = go(folder / "two")
    if rank == 0:
        torch.save(weights, folder / "two.pt")
    distributed.end_process()
