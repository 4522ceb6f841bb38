"""Faithfulness metrics: worked numbers, ends of their range, invariants."""

import math

import pytest
import torch
from torch import Tensor

from recipes.attribution import faithfulness
from recipes.attribution.faithfulness import HELLINGER, OFFICIAL, Masking, distance, matched

Q, P, FLAT = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.6, 0.3, 0.1]), torch.full((3,), 1 / 3)
FREE = torch.ones(4, dtype=torch.bool)


def predict(embeddings: Tensor) -> Tensor:
    """A softmax of fixed products of the embeddings, in which each token counts differently."""
    weights = torch.linspace(-1, 2, embeddings.shape[1] * embeddings.shape[2] * 5).reshape(-1, 5)
    return (embeddings.flatten(1) @ weights).softmax(-1)


def masking(kind: str = HELLINGER, free: Tensor = FREE, draws: int = 50) -> Masking:
    embeddings = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    return Masking(embeddings, free, predict, kind, draws, seed=0)


def test_the_worked_numbers_of_the_specification() -> None:
    floor = 1 - distance(Q, FLAT, OFFICIAL)
    assert float(distance(Q, P, OFFICIAL)) == pytest.approx(0.009867, abs=1e-6)
    assert float(floor) == pytest.approx(0.892264, abs=1e-6)
    assert float(faithfulness.sufficiency(distance(Q, P, OFFICIAL), float(floor))) == pytest.approx(0.908416, abs=1e-5)
    left = float(faithfulness.comprehensiveness(distance(Q, P, OFFICIAL), float(floor)))
    assert left == pytest.approx(0.091584, abs=1e-5)
    assert float(distance(Q, P)) == pytest.approx(0.083528, abs=1e-6)


@pytest.mark.parametrize("kind", [HELLINGER, OFFICIAL])
def test_a_distance_is_symmetric_and_0_for_equals(kind: str) -> None:
    assert distance(Q, P, kind) == distance(P, Q, kind) and distance(Q, Q, kind) == 0
    far = float(distance(torch.tensor([1.0, 0]), torch.tensor([0.0, 1]), kind))
    assert far == pytest.approx(1 if kind == HELLINGER else math.sqrt(2))


@pytest.mark.parametrize("kind", [HELLINGER, OFFICIAL])
def test_importance_of_1_keeps_all_and_takes_all_away_and_of_0_nothing(kind: str) -> None:
    everything, nothing = masking(kind).soft(torch.ones(4)), masking(kind).soft(torch.zeros(4))
    assert (everything.sufficiency, everything.comprehensiveness) == pytest.approx((1, 1), abs=1e-3)
    assert (nothing.sufficiency, nothing.comprehensiveness) == pytest.approx((0, 0), abs=1e-3)
    whole = masking(kind).hard(torch.arange(4.0), 4)
    assert (whole.sufficiency, whole.comprehensiveness) == pytest.approx((1, 1), abs=1e-3)


def test_soft_comprehensiveness_is_bounded_and_masks_are_the_same_for_every_attribution() -> None:
    one, again = masking(), masking()
    for seed in range(5):
        shares = torch.rand(4, generator=torch.Generator().manual_seed(seed)).softmax(-1)
        assert one.soft(shares) == again.soft(shares)
        assert one.soft(shares).comprehensiveness <= 1 / (1 - one.floor) + 1e-9


def test_tokens_that_are_not_free_stay_as_they_are() -> None:
    fixed = torch.tensor([False, True, True, True])
    seen: list[Tensor] = []

    def watch(embeddings: Tensor) -> Tensor:
        seen.append(embeddings)
        return predict(embeddings)

    embeddings = torch.randn(4, 3)
    one = Masking(embeddings, fixed, watch, HELLINGER, 3, 0)
    one.soft(torch.zeros(4))
    one.hard(torch.arange(4.0), 2)
    assert all(torch.equal(batch[:, 0], embeddings[0].expand(len(batch), -1)) for batch in seen)


def test_a_prediction_that_needs_no_text_is_not_defined() -> None:
    def constant(embeddings: Tensor) -> Tensor:
        return FLAT.expand(len(embeddings), -1)

    assert not Masking(torch.randn(4, 3), FREE, constant, HELLINGER, 2, 0).is_defined and masking().is_defined


def test_matched_sharpness_keeps_the_order_alone() -> None:
    weights = [math.exp(-rank) for rank in range(3)]
    expected = [weight / sum(weights) for weight in weights]
    free = torch.tensor([True, False, True, True])
    for scores in ([0.2, 9.0, 0.1, 0.3], [2.0, -1.0, -50.0, 2000.0]):
        shares = matched(torch.tensor(scores), free)
        assert shares[[3, 0, 2]].tolist() == pytest.approx(expected) and shares[1] == 0
    assert matched(torch.zeros(3), torch.ones(3, dtype=torch.bool)).argmax() == 0  # of equal scores the first
    assert matched(torch.tensor([1.0, 0, 0, 0]), FREE, tau=1e6).tolist() == pytest.approx([0.25] * 4, abs=1e-5)


def test_evenness_is_1_for_equal_shares_and_0_for_one_token() -> None:
    assert faithfulness.evenness(torch.full((4,), 0.25), FREE) == pytest.approx(1)
    assert faithfulness.evenness(torch.tensor([1.0, 0, 0, 0]), FREE) == 0


def test_areas_under_curves_of_replacement() -> None:
    # Each token that stands adds its number to p; the last one is never replaced.
    parts, free = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([True, True, True, False])
    curves = faithfulness.replacement_curves(
        torch.tensor([1.0, 2, 3, 9]), free, 1.0, lambda replaced: (parts * ~replaced).sum(-1)
    )
    assert curves.deletion == pytest.approx((0.3 + 0.5 + 0.6) / 3)
    assert curves.insertion == pytest.approx((0.7 + 0.9 + 1.0) / 3)
