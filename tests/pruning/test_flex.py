"""TokenFLEX: pooling, projectors and the draw of token counts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate

from recipes.core.errors import UserError
from recipes.pruning.flex import (
    PROJECTORS,
    MLPProjector,
    PixelShuffleProjector,
    Resampler,
    SwiGLUProjector,
    TokenSampler,
    pool_tokens,
)

PROBS = (0.2, 0.3, 0.5)
TOKENS = (64, 144, 256)


def grid(side: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, side**2, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_worked_example():
    x = torch.arange(1.0, 10.0, dtype=torch.float64)[None, :, None]
    resized = interpolate(x.reshape(1, 1, 3, 3), (4, 4), mode="bilinear", align_corners=True)[0, 0]
    thirds = [1, 5 / 3, 7 / 3, 3]
    expected = torch.tensor([[each + 2 * row for each in thirds] for row in range(4)], dtype=torch.float64)
    torch.testing.assert_close(resized, expected)
    assert pool_tokens(x, 4).flatten().tolist() == pytest.approx([7 / 3, 11 / 3, 19 / 3, 23 / 3])
    assert pool_tokens(x, 4, "adaptive_avg").flatten().tolist() == pytest.approx([3, 4, 6, 7])


@pytest.mark.filterwarnings("ignore:.*nothing is gained")
@pytest.mark.parametrize("side", range(1, 28))
def test_shapes_and_constants(side: int):
    x = torch.full((2, 27 * 27, 2), 1.3)
    pooled = pool_tokens(x, side**2)
    assert pooled.shape == (2, side**2, 2)
    torch.testing.assert_close(pooled, torch.full_like(pooled, 1.3))


@pytest.mark.parametrize("target", [1, 2, 3, 4, 6, 12])
def test_divisible_sides_are_plain_pooling(target: int):
    x = grid(12)
    square = x.transpose(1, 2).unflatten(2, (12, 12))
    plain = avg_pool2d(square, 12 // target).flatten(2).transpose(1, 2)
    assert torch.equal(pool_tokens(x, target**2), plain)
    torch.testing.assert_close(pool_tokens(x, target**2, "adaptive_avg"), plain)
    torch.testing.assert_close(adaptive_avg_pool2d(square, target).flatten(2).transpose(1, 2), plain)


def test_as_many_tokens_as_there_are_is_the_identity():
    assert torch.equal(pool_tokens(grid(5), 25), grid(5))


@given(a=st.floats(-3, 3), b=st.floats(-3, 3), side=st.integers(1, 7))
def test_pooling_is_linear_and_keeps_the_mean(a: float, b: float, side: int):
    x, y = grid(7), grid(7, seed=1)
    left = pool_tokens(a * x + b * y, side**2)
    torch.testing.assert_close(left, a * pool_tokens(x, side**2) + b * pool_tokens(y, side**2))
    size = math.ceil(7 / side) * side
    resized = interpolate(x.transpose(1, 2).unflatten(2, (7, 7)), (size, size), mode="bilinear", align_corners=True)
    torch.testing.assert_close(pool_tokens(x, side**2).mean(1), resized.mean((2, 3)))


def test_a_quarter_of_the_tokens_is_the_average_of_four():
    x = grid(27)
    fine = pool_tokens(x, 256).transpose(1, 2).unflatten(2, (16, 16))
    torch.testing.assert_close(avg_pool2d(fine, 2).flatten(2).transpose(1, 2), pool_tokens(x, 64))


def test_numbers_that_fill_no_square_are_told():
    for tokens, hint in ((63, "choose 49 or 64"), (0, "choose 1")):
        with pytest.raises(UserError, match=f"{tokens} visual tokens do not fill a square") as error:
            pool_tokens(grid(8), tokens)
        assert error.value.hint == hint
    with pytest.raises(UserError, match="8 visual tokens do not fill a square"):
        pool_tokens(torch.zeros(1, 8, 2), 4)
    with pytest.warns(UserWarning, match="nothing is gained"):
        assert pool_tokens(grid(2), 9).shape == (2, 9, 3)


@pytest.mark.parametrize("out, published", [(2048, 15_051_776), (3584, 20_361_728)])
def test_published_parameters(out: int, published: int):
    with torch.device("meta"):
        assert sum(p.numel() for p in SwiGLUProjector(1152, out).parameters()) == published


def test_swiglu_is_the_formula():
    torch.manual_seed(0)
    projector = SwiGLUProjector(3, 5).double()
    x = grid(4)
    h = projector.norm(pool_tokens(x, 4))
    gate = h @ projector.gate.weight.T + projector.gate.bias
    up = h @ projector.up.weight.T + projector.up.bias
    expected = (gate * gate.sigmoid() * up) @ projector.down.weight.T + projector.down.bias
    torch.testing.assert_close(projector(x, 4), expected)


@pytest.mark.parametrize("name", PROJECTORS)
def test_projectors_take_what_they_can(name: str):
    projector = PROJECTORS[name](3, 8)
    before = [p.shape for p in projector.parameters()]
    for tokens in (4,) if name == "pixel_shuffle_mlp" else (1, 4, 16):
        assert projector(grid(4).float(), tokens).shape == (2, tokens, 8)
    assert before == [p.shape for p in projector.parameters()]


def test_pixel_shuffle_puts_neighbours_together_and_cannot_flex():
    projector = PixelShuffleProjector(1, 4)
    projector.layers = torch.nn.Identity()
    x = torch.arange(16.0)[None, :, None]
    assert projector(x)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    for tokens, side in ((16, 4), (None, 3)):
        with pytest.raises(UserError, match="and no other number"):
            projector(torch.zeros(1, side**2, 1), tokens)


def test_mlp_projector_is_linear_gelu_linear():
    torch.manual_seed(0)
    projector = MLPProjector(3, 5).double()
    x = pool_tokens(grid(4), 4)
    first, _, second = projector.layers
    torch.testing.assert_close(projector(grid(4), 4), second(torch.nn.functional.gelu(first(x))))


@pytest.mark.parametrize("tokens", [1, 3, 4])
def test_resampler_tokens_are_answers_to_the_first_queries(tokens: int):
    """Each token depends on its own query only, so fewer tokens are the first of many."""
    torch.manual_seed(0)
    projector = Resampler(3, 8, most=4).double()
    whole = projector(grid(4), 4)
    torch.testing.assert_close(projector(grid(4), tokens), whole[:, :tokens])
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(projector(grid(4)[:, order], 4), whole)  # attention knows no order
    with pytest.raises(UserError, match="has 4 queries, which make no 9 tokens"):
        projector(grid(4), 9)


def test_draws_follow_the_probabilities():
    sampler = TokenSampler(TOKENS, PROBS, seed=0)
    drawn = [sampler.at(step) for step in range(10_000)]
    chi = sum((drawn.count(k) - 10_000 * p) ** 2 / (10_000 * p) for k, p in zip(TOKENS, PROBS, strict=True))
    assert chi < 13.8  # two degrees of freedom: exceeded once in a thousand


@pytest.mark.parametrize("schedule", ["random", "cycle", "curriculum"])
def test_draws_depend_on_seed_and_step_only(schedule: str):
    """So they go on after a checkpoint, and agree between processes."""
    first, second = (TokenSampler(TOKENS, PROBS, 3, schedule, steps=60) for _ in range(2))
    assert [first.at(step) for step in range(60)] == [second.at(step) for step in reversed(range(60))][::-1]
    other = TokenSampler(TOKENS, PROBS, 4, schedule, steps=60)
    differ = [first.at(step) != other.at(step) for step in range(60)]
    assert any(differ) == (schedule == "random")


def test_schedules():
    assert [TokenSampler(TOKENS, (0, 0, 1), s).at(s) for s in range(5)] == [256] * 5
    cycle = TokenSampler(TOKENS, PROBS, 0, "cycle")
    assert [cycle.at(step) for step in range(4)] == [64, 144, 256, 64]
    rising = TokenSampler(TOKENS, PROBS, 0, "curriculum", steps=10)
    assert [rising.at(step) for step in range(10)] == [64] * 2 + [144] * 3 + [256] * 5


def test_a_sampler_that_fits_not_is_told():
    with pytest.raises(UserError, match="60 visual tokens do not fill a square"):
        TokenSampler((60,), (1,), 0)
    for probs in ((0.5, 0.5), (0.5, 0.4, 0.4), (1.2, -0.1, -0.1)):
        with pytest.raises(UserError, match="3 numbers of tokens need as many probabilities"):
            TokenSampler(TOKENS, probs, 0)
