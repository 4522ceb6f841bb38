"""Costs, distances, interpolation and pictures on worked numbers."""

import numpy as np
import pytest
import torch

from recipes.core.models.costs import LayerShape, mlp_macs
from recipes.pruning.adapters import Layout, Trace
from recipes.pruning.token_pruning.config import EvaluationConfig
from recipes.pruning.token_pruning.evaluation import budget_words, metrics
from recipes.pruning.token_pruning.measuring import (
    Measured,
    Seen,
    Tally,
    at_ratio,
    min_distance,
    sample_costs,
    visual_tokens,
)
from recipes.pruning.token_pruning.pictures import PAPER, dim, picture
from recipes.pruning.tokens import Depth

ENCODER, LLM = LayerShape(8, 32), LayerShape(16, 40, 3)


def layout(llm: LayerShape | None) -> Layout:
    depth = Depth(vit=3, llm=2 if llm else 0)
    return Layout("llava" if llm else "vit", depth, 1, ENCODER, 2 if llm else 3, llm, (8, 16, 16) if llm else (), 48)


def test_a_prefill_costs_what_its_layers_cost_at_their_tokens() -> None:
    trace = Trace(
        encoder_tokens=torch.tensor([[17, 9, 9], [17, 17, 17]]),
        crops=[1, 1],
        projected=torch.tensor([8, 16]),
        llm_visual=torch.tensor([[8, 4], [16, 16]]),
        text_tokens=torch.tensor([5, 6]),
    )
    first, second = sample_costs(layout(LLM), trace)
    patches = 16 * 48 * 8
    assert first.encoder_macs == ENCODER.macs(17) + ENCODER.macs(9) + patches  # the third block is never read
    assert first.projector_macs == mlp_macs(8, 8, 16, 16)
    assert first.llm_macs == LLM.macs(13) + LLM.macs(9)
    assert second.llm_macs == 2 * LLM.macs(22) and second.macs > first.macs
    assert visual_tokens(layout(LLM), trace) == [6, 16]


def test_crops_do_not_attend_to_each_other() -> None:
    trace = Trace(
        encoder_tokens=torch.tensor([[17, 9, 9], [17, 5, 5], [17, 17, 17]]),
        crops=[2, 1],
        projected=torch.tensor([12, 16]),
        llm_visual=torch.tensor([[12, 12], [16, 16]]),
        text_tokens=torch.tensor([5, 6]),
    )
    first, second = sample_costs(layout(LLM), trace)
    assert first.encoder_macs == 2 * ENCODER.macs(17) + ENCODER.macs(9) + ENCODER.macs(5) + 2 * 16 * 48 * 8
    assert second.encoder_macs == 2 * ENCODER.macs(17) + 16 * 48 * 8 and first.llm_macs == 2 * LLM.macs(17)


def test_a_classifier_has_an_encoder_only() -> None:
    trace = Trace(encoder_tokens=torch.tensor([[17, 9, 9]]), crops=[1])
    [cost] = sample_costs(layout(None), trace)
    assert cost.macs == cost.encoder_macs == ENCODER.macs(17) + 2 * ENCODER.macs(9) + 16 * 48 * 8
    assert visual_tokens(layout(None), trace) == [pytest.approx((16 + 8 + 8) / 3)]


def test_the_smallest_distance_of_the_divprune_notes() -> None:
    angles = torch.tensor([0.0, 10, 25, 60, 95, 100]).deg2rad()
    x = torch.stack([angles.cos(), angles.sin()], 1)
    assert min_distance(x[[0, 3]]) == pytest.approx(0.5, abs=1e-4)
    assert min_distance(3 * x[[0, 3, 5]]) == pytest.approx(0.2340, abs=1e-4)
    assert min_distance(x[:1]) is None


def test_accuracy_is_read_off_between_budgets() -> None:
    points = [(1.0, {"a": 1.0, "b": 1.0}), (0.5, {"a": 1.0, "b": 0.0}), (0.9, {"a": 0.0, "b": 1.0})]
    assert at_ratio(points, 0.6) == {"a": pytest.approx(0.75), "b": pytest.approx(0.25)}
    assert at_ratio(points, 0.5) == {"a": 1.0, "b": 0.0} and at_ratio(points, 1.0) == {"a": 1.0, "b": 1.0}
    assert at_ratio(points, 0.4) is None and at_ratio(points[:1], 1.0) is None


def tally(label: str, right: list[list[float]], macs: float, llm: float) -> Tally:
    names = ("a", "b")
    made = Tally(label, dict(zip(names, right, strict=True)), macs=[macs], llm=[llm], tokens=[8.0], selection=[0.002])
    made.recall = {name: [0.5] for name in names}
    return made


def test_metrics_of_budgets_and_at_equal_macs() -> None:
    full, half = tally("1", [[1], [1]], 4e6, 2e6), tally("0.5", [[1, 0], [0, 0]], 2e6, 0.5e6)
    measured = Measured(full, [half], {"a": "image", "b": "image"})
    final, scores = metrics(measured, EvaluationConfig(mac_ratios=(0.75, 0.25), llm_mac_ratios=(0.625,)))
    assert (final["accuracy@1"], final["accuracy@0.5"]) == (1, 0.25)
    assert (final["macs_ratio@0.5"], final["llm_macs_ratio@0.5"], final["macs@0.5"]) == (0.5, 0.25, 2)
    assert final["selection_ms@0.5"] == 2 and final["evidence_recall@0.5"] == 0.5
    assert final["accuracy@macs0.75"] == final["accuracy@llm_macs0.625"] == pytest.approx(0.625)
    assert "accuracy@macs0.25" not in final and "prefill_ms@0.5" not in final and "peak_mib@1" not in final
    assert scores.values("accuracy@0.5") == {"a": 0.5, "b": 0.0}
    assert {row[2] for row in scores.rows} == {"image"} and final.keys() <= scores.metrics.keys()


def test_budgets_in_words() -> None:
    assert budget_words("0.125") == "12.5% of the visual tokens" and budget_words("8t") == "8 visual tokens"


def test_pruned_patches_fade_and_kept_ones_keep_their_bits() -> None:
    image = picture(torch.arange(3 * 8 * 8.0).view(3, 8, 8))
    assert image.shape == (8, 8, 3) and image.min() == 0 and image.max() == 255
    cells = np.arange(4).reshape(2, 2)
    shown = dim(image, cells, Seen((1, 2), 4, 0, "", True))
    assert (shown[:4, 4:] == image[:4, 4:]).all() and (shown[4:, :4] == image[4:, :4]).all()
    for corner in (np.s_[:4, :4], np.s_[4:, 4:]):
        assert np.abs(shown[corner] - PAPER).max() < np.abs(image[corner] - PAPER).max()
    assert (dim(image, cells, Seen((0, 1, 2, 3), 4, 0, "", True)) == image).all()
