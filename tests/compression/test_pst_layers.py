"""Pruned layers in models of the three kinds: exact zeros at every step, the first step, copies without scores."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recipes.compression.linears import linears_of, zero_count
from recipes.compression.pst.config import FULL, MAGNITUDE, MOVEMENT, NONE, RANDOM, START, PruningConfig
from recipes.compression.pst.layers import PrunedClassifier, dense_classifier
from recipes.compression.pst.method import mask_lowest
from recipes.core.models.head import decoder
from recipes.core.training.classifier import Classifier
from tests.compression.models import KINDS, VOCABULARY, small_model

CONFIG = PruningConfig(sparsity=0.7, weight_rank=2, score_rank=3)
IDS = torch.arange(12).view(2, 6) % VOCABULARY
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
STEPS = 10


def classifier(kind: str) -> Classifier:
    model = small_model(kind)
    return Classifier(model if kind == "bert" else decoder(model), 3, "mean" if kind == "bert" else "last").eval()


def pruned(kind: str, config: PruningConfig = CONFIG, seed: int = 0, **options: Any) -> PrunedClassifier:
    made = classifier(kind)
    torch.manual_seed(seed)
    return PrunedClassifier(made, linears_of(made.body, kind), config, STEPS, **options)


def disturb(model: PrunedClassifier) -> PrunedClassifier:
    """As after some training."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in model.parameters():
            if part.requires_grad:
                part.add_(0.3 * torch.randn(part.shape, generator=draw))
    return model


def zeros(model: Any) -> list[int]:
    return [int((linear.weight == 0).sum()) for linear in linears_of(model.body, "model")]


@pytest.mark.parametrize("kind", KINDS)
def test_before_training_it_is_the_pretrained_model_pruned_by_magnitude(kind: str) -> None:
    plain, model = classifier(kind), pruned(kind)
    assert torch.equal(model(IDS, MASK), plain(IDS, MASK))
    model.set_step(STEPS)
    for linear in linears_of(plain.body, kind):
        linear.weight.mul_(mask_lowest(linear.weight.abs(), zero_count(0.7, linear.weight.numel())))
    assert torch.equal(model(IDS, MASK), plain(IDS, MASK))


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_and_trained_parameters_are_exact_and_the_copy_says_the_same(kind: str) -> None:
    model = disturb(pruned(kind))
    shapes = [linear.weight.shape for linear in linears_of(classifier(kind).body, kind)]
    assert sum(part.numel() for _, part in model.added()) == (2 + 3 + 1) * sum(
        rows + columns for rows, columns in shapes
    )
    assert {name for name, part in model.named_parameters() if part.requires_grad} == {
        *(name for name, _ in model.added()), "classifier.head.weight", "classifier.head.bias"
    }  # fmt: skip
    for step in (0, 4, STEPS):
        model.set_step(step)
        dense = dense_classifier(model)
        assert zeros(dense) == [zero_count(model.schedule.at(step), rows * columns) for rows, columns in shapes]
        torch.testing.assert_close(dense(IDS, MASK), model(IDS, MASK), rtol=0, atol=1e-6)
    assert dense.state_dict().keys() == classifier(kind).state_dict().keys()
    assert not torch.equal(model(IDS, MASK), pruned(kind)(IDS, MASK))  # the layers still compute anew


def test_a_checkpoint_holds_step_zeros_and_the_best_state_which_is_one_of_full_sparsity() -> None:
    model = pruned("bert")
    disturb(model).set_step(5)
    model.keep_best(0.9)  # sparsity still grows
    assert float(model.best_value) == -1
    model.set_step(8)
    model.keep_best(0.6)
    best = model(IDS, MASK)
    disturb(model).set_step(9)
    model.keep_best(0.6)  # no better
    resumed = pruned("bert", seed=1)
    resumed.load_state_dict(model.state_dict())
    assert torch.equal(resumed(IDS, MASK), model(IDS, MASK)) and int(resumed.step) == 9
    resumed.restore_best()
    assert torch.equal(resumed(IDS, MASK), best) and int(resumed.step) == 8


@pytest.mark.parametrize("score", [MAGNITUDE, MOVEMENT, RANDOM, START])
def test_other_scores(score: str) -> None:
    weights = FULL if score == MOVEMENT else CONFIG.weights
    config = replace(CONFIG, score=score, weights=weights)
    model = pruned("gpt2", config)
    # What was drawn once, or stood there before training, is fixed and is zero at every step.
    share = model.schedule.at(0)
    assert share == (0.7 if score == START else 0.0)
    model.set_step(STEPS)
    before = [part.fixed for part in model.modules() if hasattr(part, "fixed")]
    kept = [linear.weight != 0 for linear in linears_of(dense_classifier(model).body, "x")]
    disturb(model)(IDS, MASK).sum().backward()
    after = [linear.weight != 0 for linear in linears_of(dense_classifier(model).body, "x")]
    same = all(map(torch.equal, kept, after))
    assert same == (score in (RANDOM, START)) == bool(before)
    again = pruned("gpt2", config)
    again.set_step(STEPS)
    assert all(map(torch.equal, kept, (part.weight != 0 for part in linears_of(dense_classifier(again).body, "x"))))
    learnt = {name.rpartition(".")[2] for name, part in model.named_parameters() if part.grad is not None}
    assert ("S" in learnt) == (score == MOVEMENT) and ("original" in learnt) == (weights == FULL)
    overlap = [layer.parametrizations.weight[0].overlap(layer.parametrizations.weight.original)
               for layer in model.layers().values()]  # fmt: skip
    assert all(value == 1 for value in overlap) == (score == MAGNITUDE) and min(overlap) > 0


def test_without_zeros_all_weights_that_are_read_are_trained() -> None:
    names = frozenset(name for name, _ in classifier("bert").body.named_parameters() if name.startswith("pooler"))
    model = pruned("bert", replace(CONFIG, score=NONE, weights=FULL), unread=names, train_head=False)
    model.set_step(STEPS)
    assert not any(zeros(dense_classifier(model)))
    frozen = {name for name, part in model.named_parameters() if not part.requires_grad}
    expected = {*(f"classifier.body.{name}" for name in names), "classifier.head.weight", "classifier.head.bias"}
    assert frozen == expected


def test_autocast_leaves_scores_and_mask_in_fp32() -> None:
    model = disturb(pruned("llama"))
    model.set_step(STEPS)

    def weights() -> list[Tensor]:
        return [layer.weight for layer in model.layers().values()]

    exact = weights()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, exact, weights()))
        assert model(IDS, MASK).isfinite().all()


def test_copies_are_free_of_each_other() -> None:
    model = disturb(pruned("bert"))
    other = copy.deepcopy(model)
    other.set_step(STEPS)
    assert not torch.equal(other(IDS, MASK), model(IDS, MASK)) and int(model.step) == 0
