"""MACs: the numbers papers print, recomputed."""

from dataclasses import replace

import pytest

from recipes.core.models.costs import LayerShape, flops, mlp_macs, model_macs, patch_macs
from recipes.pruning.accounting import (
    CLIP_L,
    VICUNA_7B,
    VICUNA_13B,
    avg_tokens,
    divprune_macs,
    prefill,
)


def tokens_by_layer(layers, tokens, stages):
    """Tokens that enter each layer; stages are (layer, tokens from there on)."""
    changes, entering = dict(stages), []
    for layer in range(layers):
        tokens = changes.get(layer, tokens)
        entering.append(tokens)
    return entering


@pytest.mark.parametrize(
    "visual, two, three",
    [
        (576, 3.1999, 4.0887),
        (192, 1.1818, 1.5165),
        (128, 0.8530, 1.0954),
        (64, 0.5263, 0.6763),
        (56, 0.4856, 0.6241),
    ],
)
def test_vicuna(visual: int, two: float, three: float):
    for matrices, expected in ((2, two), (3, three)):
        layer = replace(VICUNA_7B, matrices=matrices)
        assert model_macs(layer, [40 + visual] * 32) / 1e12 == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("k, share, expected", [(2, 0.5, 0.5544), (3, 0.5, 0.5693), (2, 0.25, 0.3364)])
def test_fastv(k: int, share: float, expected: float):
    tokens = [40 + each for each in tokens_by_layer(32, 576, [(k, round(576 * share))])]
    assert model_macs(VICUNA_7B, tokens) / (32 * VICUNA_7B.macs(616)) == pytest.approx(expected, abs=5e-5)


def test_divprune_tables():
    """The authors' script: eleven tasks' mean text length, 56 of 576 tokens kept."""
    text = sum((15, 15, 23, 83, 25, 113, 15, 39, 21, 91, 57)) / 11
    for layer, layers, full, pruned in ((VICUNA_7B, 32, 3.2280, 0.5122), (VICUNA_13B, 40, 6.2813, 1.0020)):
        assert model_macs(layer, [text + 576] * layers) / 1e12 == pytest.approx(full, rel=2e-3)
        assert model_macs(layer, [text + 56] * layers) / 1e12 == pytest.approx(pruned, rel=5e-3)


def test_clip_in_front_of_a_language_model():
    assert (model_macs(CLIP_L, [577] * 23) + patch_macs(576, 588, 1024)) / 1e9 == pytest.approx(183.0, abs=0.05)


def test_zero_tprune_schedules():
    """Tokens are counted with CLS; patches are cut behind blocks 2, 5 and 8."""
    deit = LayerShape(384, 1536)
    for rates, expected in (((0.9, 0.8, 0.7), 3.55), ((0.8,) * 3, 3.34), ((0.7,) * 3, 2.87), ((0.6,) * 3, 2.48)):
        left, stages = 196, []
        for block, rate in zip((3, 6, 9), rates, strict=True):
            left = int(left * rate + 1e-9)
            stages.append((block, left + 1))
        total = model_macs(deit, tokens_by_layer(12, 197, stages)) + patch_macs(196, 768, 384)
        assert total / 1e9 == pytest.approx(expected, abs=0.011)


def test_average_tokens():
    assert avg_tokens(tokens_by_layer(32, 576, [(8, 288), (16, 144), (24, 72)])) == 270
    sparse = tokens_by_layer(32, 576, [(3, 300), (7, 200), (16, 110)])
    assert avg_tokens(sparse) == pytest.approx((3 * 576 + 4 * 300 + 9 * 200 + 16 * 110) / 32)
    assert avg_tokens(tokens_by_layer(4, 100, [])) == 100


def test_prefill_adds_up():
    whole = prefill(
        LayerShape(8, 16), [5, 3], LayerShape(4, 8), [4, 2], 3, projected=4, projector=(8, 4, 4), patch=10, selection=7
    )
    llm, encoder = LayerShape(4, 8), LayerShape(8, 16)
    assert whole.encoder_macs == encoder.macs(5) + encoder.macs(3) + 10
    assert whole.projector_macs == mlp_macs(4, 8, 4, 4) == 4 * (8 * 4 + 4 * 4)
    assert whole.llm_macs == llm.macs(7) + llm.macs(5)
    metrics = whole.metrics()
    assert metrics["macs"] == whole.encoder_macs + whole.projector_macs + whole.llm_macs + 7
    assert metrics["flops"] == flops(metrics["macs"]) == 2 * metrics["macs"]


def test_costs_of_selection():
    assert divprune_macs(576, 4096) / 1e9 == pytest.approx(1.36, abs=5e-3)
