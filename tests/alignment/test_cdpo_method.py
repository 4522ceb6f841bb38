"""The mathematics of cDPO: the contrast distribution, weights, both losses."""

from dataclasses import replace
from math import log
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.alignment.cdpo.config import CriticalConfig
from recipes.alignment.cdpo.method import Contrast, cdpo, contrast, positionwise, weights_of
from recipes.alignment.cdpo.objective import Critical, token_weights
from recipes.alignment.config import PreferenceConfig
from recipes.alignment.losses import Completions, PreferenceBatch, dpo
from recipes.alignment.pairs import IGNORE, Pair, PairSet
from tests.alignment.pairs import drawn

POSITIVE = torch.tensor([[2.0, 0, 0], [0, 0, 1]], dtype=torch.float64)
NEGATIVE = torch.tensor([[0.0, 1, 0], [0, 1, 1]], dtype=torch.float64)
TARGETS = torch.tensor([1, 2])
WORKED = [0.006573, 0.665241]


def scored(positive: Tensor, negative: Tensor, targets: Tensor, beta_ce: float = 1.0, chunk: int = 256) -> Contrast:
    return contrast(lambda part: positive[part], lambda part: negative[part], targets, beta_ce, chunk)


def logits(seed: int, tokens: int = 7, words: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(2, tokens, words, generator=random, dtype=torch.float64) * 3
    return z[0], z[1], torch.randint(0, words, (tokens,), generator=random)


def test_the_worked_example() -> None:
    s = scored(POSITIVE, NEGATIVE, TARGETS).log_s.exp()
    assert s.tolist() == pytest.approx(WORKED, abs=1e-6)
    u = torch.tensor([[-0.1, -0.5]], dtype=torch.float64)
    weighed = (u * (1 - s)).sum()
    assert float(weighed) == pytest.approx(-0.266722, abs=1e-6)
    pairs = PreferenceBatch(
        Completions(torch.tensor([[0.4, 0.0]]).double(), torch.ones(1, 2), torch.zeros(1, 2).double()),
        Completions(u, torch.ones(1, 2), torch.zeros(1, 2).double()),
    )
    assert float(cdpo(pairs, (1 - s)[None], beta=1.0)) == pytest.approx(0.414351, abs=1e-6)
    assert float(dpo(pairs, beta=1.0)) == pytest.approx(0.313262, abs=1e-6)


@pytest.mark.parametrize("beta_ce", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_the_score_is_a_softmax_of_logits(beta_ce: float, chunk: int) -> None:
    positive, negative, targets = logits(1)
    result = scored(positive, negative, targets, beta_ce, chunk)
    whole = ((1 + beta_ce) * positive - beta_ce * negative).log_softmax(1)
    torch.testing.assert_close(result.log_s, whole.gather(1, targets[:, None])[:, 0])
    torch.testing.assert_close(result.log_positive, positive.log_softmax(1).gather(1, targets[:, None])[:, 0])
    torch.testing.assert_close(result.log_negative, negative.log_softmax(1).gather(1, targets[:, None])[:, 0])


def test_the_contrast_is_a_distribution() -> None:
    positive, negative, _ = logits(2, tokens=1)
    s = [float(scored(positive, negative, torch.tensor([word])).log_s.exp()) for word in range(5)]
    assert sum(s) == pytest.approx(1) and all(0 < value < 1 for value in s)


def test_without_contrast_it_is_the_positive_model() -> None:
    positive, negative, targets = logits(3)
    for result in (scored(positive, negative, targets, 0.0), scored(positive, positive, targets, 1.7)):
        torch.testing.assert_close(result.log_s, result.log_positive)


def test_constants_in_logits_change_nothing() -> None:
    positive, negative, targets = logits(4)
    moved = scored(positive + 5.0, negative - 3.0, targets)
    torch.testing.assert_close(moved.log_s, scored(positive, negative, targets).log_s)


def test_half_precision_logits_are_scored_in_fp32() -> None:
    positive, negative, targets = logits(5)
    assert scored(positive.bfloat16(), negative.bfloat16(), targets).log_s.dtype == torch.float32


@pytest.mark.parametrize(("s", "expected"), [(0.0, "dpo"), (1.0, "chosen")])
def test_certain_scores(s: float, expected: str) -> None:
    pairs = drawn(6)
    losses = cdpo(pairs, torch.full_like(pairs.rejected.logps, 1 - s), beta=0.3)
    only = -torch.nn.functional.logsigmoid(0.3 * pairs.chosen.log_ratio())
    torch.testing.assert_close(losses, dpo(pairs, beta=0.3) if expected == "dpo" else only)


def test_gradients_are_those_of_dpo_times_the_weights() -> None:
    pairs, beta = drawn(7, pairs=2), 0.4
    chosen, rejected = (pairs.chosen.logps.requires_grad_(), pairs.rejected.logps.requires_grad_())
    weights = torch.rand(rejected.shape, dtype=torch.float64).requires_grad_()
    loss = cdpo(pairs, weights, beta=beta)
    at_chosen, at_rejected = torch.autograd.grad(loss.sum(), (chosen, rejected))
    weighed = replace(pairs.rejected, weights=weights.detach()).log_ratio()
    outer = beta * torch.sigmoid(-beta * (pairs.chosen.log_ratio() - weighed)).detach()[:, None]
    torch.testing.assert_close(at_chosen, -outer * pairs.chosen.mask)
    torch.testing.assert_close(at_rejected, outer * weights.detach() * pairs.rejected.mask)
    assert torch.autograd.grad(loss.sum(), weights, allow_unused=True) == (None,)


def test_at_the_reference_both_forms_are_log_2() -> None:
    pairs = drawn(8)
    equal = replace(
        pairs,
        chosen=replace(pairs.chosen, ref_logps=pairs.chosen.logps),
        rejected=replace(pairs.rejected, ref_logps=pairs.rejected.logps),
    )
    weights = torch.rand(pairs.rejected.logps.shape, dtype=torch.float64)
    torch.testing.assert_close(cdpo(equal, weights), torch.full((3,), log(2), dtype=torch.float64))
    positions = (pairs.chosen.mask.bool() | pairs.rejected.mask.bool()).sum(1)
    torch.testing.assert_close(positionwise(equal), positions * log(2), check_dtype=False)


def test_one_token_makes_both_forms_equal() -> None:
    pairs = drawn(9, time=1)
    one = PreferenceBatch(*(_cut(side) for side in (pairs.chosen, pairs.rejected)))
    weights = torch.tensor([[0.3], [0.6], [1.0]], dtype=torch.float64)
    weighed = replace(one, rejected=replace(one.rejected, weights=weights))
    torch.testing.assert_close(positionwise(weighed, beta=0.7), cdpo(one, weights, beta=0.7))


def _cut(side: Completions) -> Completions:
    tensors = {name: value[:, 1:2] for name, value in vars(side).items() if value is not None}
    return Completions(**tensors)


def test_tokens_outside_both_answers_do_not_count() -> None:
    pairs = drawn(10)
    wild = [
        replace(side, logps=torch.where(side.mask.bool(), side.logps, torch.nan))
        for side in (pairs.chosen, pairs.rejected)
    ]
    torch.testing.assert_close(positionwise(PreferenceBatch(*wild)), positionwise(pairs))


def pair_set() -> PairSet:
    def one(chosen: int, rejected: int, wrong: int) -> Pair:
        marks = np.zeros(chosen, bool), np.arange(rejected) == wrong
        return Pair("p", np.zeros(1, np.int32), np.arange(chosen), np.arange(rejected), (1.0, 0.0), marks)

    return PairSet([one(2, 3, 1), one(1, 2, 0)])


def test_every_kind_of_weight() -> None:
    pairs, random = pair_set(), np.random.default_rng(0)
    scores = {name: np.log(random.random(8).astype(np.float32)) for name in Contrast._fields}
    rejected = [2, 3, 4, 6, 7]
    s, p, n = (np.exp(scores[name][rejected]) for name in Contrast._fields)
    weights_by_kind = {
        kind: token_weights(CriticalConfig(weights=kind), pairs, scores, seed=0)
        for kind in ("contrast", "surprisal", "ratio", "random", "uniform", "oracle")
    }
    for weights in weights_by_kind.values():
        assert weights.dtype == np.float32 and weights[[0, 1, 5]].tolist() == [1, 1, 1]
    own = {kind: weights[rejected] for kind, weights in weights_by_kind.items()}
    assert own["contrast"] == pytest.approx(1 - s, abs=1e-6)
    assert own["surprisal"] == pytest.approx(1 - p, abs=1e-6)
    assert own["ratio"] == pytest.approx(1 - np.minimum(p / n, 1), abs=1e-6)
    assert sorted(own["random"]) == pytest.approx(sorted(own["contrast"])) and (own["random"] != own["contrast"]).any()
    assert own["uniform"] == pytest.approx(np.full(5, 1 - s.mean()), abs=1e-6)
    assert own["oracle"].tolist() == [0, 1, 0, 1, 0]


def test_chosen_tokens_may_weigh_what_the_score_says() -> None:
    scores = {name: np.log(np.linspace(0.1, 0.8, 8).astype(np.float32)) for name in Contrast._fields}
    weights = token_weights(CriticalConfig(only_negative=False), pair_set(), scores, seed=0)
    assert weights[[0, 1, 5]] == pytest.approx(np.exp(scores["log_s"])[[0, 1, 5]], abs=1e-6)
    assert weights[2] == pytest.approx(1 - np.exp(scores["log_s"])[2], abs=1e-6)


def test_an_oracle_needs_to_know() -> None:
    with pytest.raises(ValueError, match="nobody knows the first wrong tokens"):
        weights_of("oracle", {}, None, 0)


def test_positions_are_averaged_over_the_batch() -> None:
    # Chosen answers of 2 and 1 tokens, rejected ones of 1 and 3: 2 + 3 positions.
    labels = torch.full((4, 4), IGNORE)
    for row, tokens in enumerate((2, 1, 1, 3)):
        labels[row, :tokens] = 1
    scores = SimpleNamespace(needs=("ref_logps",))
    drops = [
        float(Critical(PreferenceConfig(loss="dpo"), agg, scores).normalizer({"labels": labels}))  # type: ignore[arg-type]
        for agg in ("position", "sequence")
    ]
    assert drops == [5, 2]
