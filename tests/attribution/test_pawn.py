"""PAWN's formulas and heads: worked numbers, published sizes, and what must change nothing."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recipes.attribution.pawn.config import DetectorConfig
from recipes.attribution.pawn.heads import Pawn, build_head
from recipes.attribution.pawn.method import (
    METRICS,
    detection_loss,
    dropout_mask,
    metrics,
    pool,
    rank_buckets,
    segment_softmax,
    zero_shot,
)
from recipes.attribution.pawn.training import DetectionLoss, pack
from recipes.attribution.samples import STATISTICS
from recipes.core.models.head import OutputHead
from recipes.core.scoring.statistics import token_columns

SMALL = {"width": 12, "features": 8, "channels": 4}
HIDDEN = 6


def columns_of(probabilities: list[list[float]], targets: list[int]) -> dict[str, np.ndarray]:
    """What the scoring pass says where a model's distributions are these."""
    head, states = OutputHead(torch.eye(len(probabilities[0]))), torch.tensor(probabilities).log()
    columns = token_columns(states, head, torch.tensor(targets), STATISTICS)
    return {name: values.numpy() for name, values in columns.items()}


def items(lengths: list[int], seed: int = 0) -> list[dict[str, object]]:
    """Texts of so many predicted tokens, whose statistics and states are drawn."""
    random = torch.Generator().manual_seed(seed)
    return [
        {"id": str(i), "machine": i % 2 == 0, "metrics": torch.randn(n, 5, generator=random),
         "states": torch.randn(n + 1, HIDDEN, generator=random), "kept": torch.ones(n, dtype=torch.bool),
         "positions": torch.arange(n) / 512}
        for i, n in enumerate(lengths)
    ]  # fmt: skip


def test_worked_metrics_in_their_order() -> None:
    columns = columns_of([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]], [1, 0])
    expected = [[1.213008, -0.693147, -1.386294, 0.5, 0.75], [1.279854, -0.916291, -2.302585, 1.0, 1.0]]
    torch.testing.assert_close(metrics(columns, 4), torch.tensor(expected), atol=1e-5, rtol=0)
    assert METRICS == ("entropy", "max_logprob", "logprob", "rank", "mass")


def test_metrics_do_not_depend_on_the_order_of_the_vocabulary() -> None:
    p = torch.softmax(torch.randn(40, 9, generator=torch.Generator().manual_seed(0)) * 2, 1)
    order, targets = torch.randperm(9, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 9
    one = metrics(columns_of(p.tolist(), targets.tolist()), 9)
    other = metrics(columns_of(p[:, order].tolist(), order.argsort()[targets].tolist()), 9)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    _, largest, actual, rank, mass = one.T
    assert (largest >= actual).all() and (rank >= 1 / 9).all() and (rank <= 1).all()
    assert (mass >= actual.exp() - 1e-6).all()
    torch.testing.assert_close(largest[rank * 9 == 1], actual[rank * 9 == 1])
    assert (rank * 9 == 1).any()


def test_worked_pooling() -> None:
    segments = torch.zeros(3, dtype=torch.long)
    weights = segment_softmax(torch.tensor([[0.0], [np.log(3)], [-torch.inf]]), segments, 1)
    assert weights[:, 0].tolist() == pytest.approx([0.25, 0.75, 0])
    features = torch.tensor([[1.0, 2.0], [3.0, -2.0], [5.0, 0.0]])
    assert pool(weights, features, segments, 1)[0].tolist() == pytest.approx([2.5, -1.0])


def test_worked_losses() -> None:
    losses = detection_loss(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]), 0.2, 0.413)
    assert losses.tolist() == pytest.approx([0.247766, 1.194873], abs=1e-6)
    reference = nn.BCEWithLogitsLoss(reduction="none", pos_weight=torch.tensor(0.413))
    torch.testing.assert_close(losses, reference(torch.tensor([1.0, 1.0]), torch.tensor([0.9, 0.1])))


def test_numbers_without_training() -> None:
    """By hand: the tokens of ranks 2 and 4 of the distributions above."""
    columns = columns_of([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]], [1, 0])
    p, q = np.array([0.5, 0.25, 0.125, 0.125]), np.array([0.1, 0.2, 0.3, 0.4])
    variance = sum((x * np.log(x) ** 2).sum() - (x * np.log(x)).sum() ** 2 for x in (p, q))
    total = np.log(0.25) + np.log(0.1)
    expected = {
        "log_prob": total / 2, "rank": -3, "log_rank": -np.log(8) / 2, "entropy": -(1.213008 + 1.279854) / 2,
        "lrr": -total / np.log(8), "log_prob_entropy": (total + 1.213008 + 1.279854) / 2,
        "fast_detectgpt": (total + 1.213008 + 1.279854) / np.sqrt(variance),
    }  # fmt: skip
    for name, value in expected.items():
        assert zero_shot(name, columns) == pytest.approx(value, abs=1e-5), name
    sure = columns_of([[0.9, 0.1]], [0])
    assert np.isfinite([zero_shot(name, sure) for name in expected]).all()  # all ranks are 1
    assert rank_buckets(np.array([1, 10, 11, 100, 1000, 1001])).tolist() == pytest.approx([2 / 6, 2 / 6, 1 / 6, 1 / 6])


@pytest.mark.parametrize(("hidden", "published"), [(768, 989_185), (2048, 1_644_545), (576, 890_881)])
def test_published_sizes(hidden: int, published: int) -> None:
    config = DetectorConfig()
    assert sum(each.numel() for each in build_head(hidden, config).parameters()) == published
    assert config.parameters(hidden) == published


@pytest.mark.parametrize(
    "changes",
    [{}, {"gate": "mean"}, {"random_gate": True}, {"gate_inputs": "position"}, {"channels": 1}, {"name": "hsff"}],
)
def test_sizes_of_the_arms_are_those_of_what_is_trained(changes: dict[str, object]) -> None:
    config = DetectorConfig(**SMALL | changes)  # type: ignore[arg-type]
    trained = sum(each.numel() for each in build_head(HIDDEN, config).parameters() if each.requires_grad)
    assert config.parameters(HIDDEN) == trained


@pytest.mark.parametrize("gate", ["softmax", "sigmoid", "mean"])
def test_neither_other_texts_nor_their_order_change_a_logit(gate: str) -> None:
    texts = items([5, 1, 9, 3])
    for config in (DetectorConfig(gate=gate, **SMALL), DetectorConfig(name="hsff", **SMALL)):
        head = build_head(HIDDEN, config)
        alone = torch.cat([head(pack([text])) for text in texts])
        together = head(pack(texts[::-1])).flip(0)
        torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


def test_weights_sum_to_one_and_dropped_tokens_have_none() -> None:
    head, texts = Pawn(HIDDEN, DetectorConfig(**SMALL)), items([5, 2, 9])
    texts[0]["kept"] = torch.tensor([True, False, True, False, True])
    batch = pack(texts)
    weights = head.weights(batch)
    assert (weights[~batch["kept"]] == 0).all() and (weights[batch["kept"]] > 0).all()
    sums = torch.zeros(3, 4).index_add(0, batch["segments"], weights)
    torch.testing.assert_close(sums, torch.ones(3, 4))


def test_a_gate_of_zeros_is_the_mean_and_a_constant_changes_nothing() -> None:
    head, batch = Pawn(HIDDEN, DetectorConfig(**SMALL)), pack(items([5, 2, 9]))
    mean = Pawn(HIDDEN, DetectorConfig(gate="mean", **SMALL))
    mean.load_state_dict({name: values for name, values in head.state_dict().items() if not name.startswith("gate")})
    before = head(batch)
    with torch.no_grad():
        head.gate.leave.bias[2] += 3
        torch.testing.assert_close(head(batch), before)
        nn.init.zeros_(head.gate.leave.weight)
        nn.init.zeros_(head.gate.leave.bias)
    torch.testing.assert_close(head(batch), mean(batch))


def test_some_token_is_always_kept() -> None:
    random = np.random.default_rng(0)
    assert all(dropout_mask(3, 0.99, random).any() for _ in range(50))
    assert 0.8 < np.mean([dropout_mask(40, 0.15, random).mean() for _ in range(200)]) < 0.9
    texts = items([3, 1])
    for text in texts:
        text["kept"] = torch.from_numpy(dropout_mask(len(text["metrics"]), 0.99, random))  # type: ignore[arg-type]
    assert torch.isfinite(Pawn(HIDDEN, DetectorConfig(**SMALL))(pack(texts))).all()


def test_micro_batches_equal_the_whole_batch_and_a_random_gate_learns_nothing() -> None:
    texts, loss = items([5, 1, 9, 3]), DetectionLoss(0.2, 0.5)

    def gradients(parts: list[list[dict[str, object]]]) -> list[Tensor]:
        torch.manual_seed(0)
        head = Pawn(HIDDEN, DetectorConfig(random_gate=True, **SMALL))
        batches = [pack(part) for part in parts]
        normalizer = torch.stack([loss.normalizer(batch) for batch in batches]).sum()
        for batch in batches:
            loss(head, batch, normalizer)[0].backward()
        assert head.gate is not None and all(each.grad is None for each in head.gate.parameters())
        return [each.grad for each in head.parameters() if each.grad is not None]

    for one, other in zip(gradients([texts]), gradients([texts[:1], texts[1:]]), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_gradients_of_weights_and_pooling() -> None:
    segments, features = torch.tensor([0, 0, 1, 1, 1]), torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)

    def pooled(logits: Tensor, features: Tensor) -> Tensor:
        return pool(segment_softmax(logits, segments, 2), features, segments, 2)

    assert torch.autograd.gradcheck(pooled, (logits, features))
    weights = torch.cat([logits[segments == text].softmax(0) for text in (0, 1)])
    torch.testing.assert_close(pooled(logits, features), pool(weights, features, segments, 2))
