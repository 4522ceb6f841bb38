"""TokenFLEX: pooling to any square number of tokens, projectors that take any number, and the draw of that number.

Source: arXiv 2504.03154, pooling and projector as in the same team's published `TokenAdaptiveProjector`.
"""

import warnings
from collections.abc import Sequence
from math import ceil, isqrt

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate, silu

from recipes.core.errors import UserError

POOLS = ("resize_avg", "adaptive_avg")


def side_of(tokens: int) -> int:
    """The side of a square of `tokens`.

    Raises:
        UserError: it is no perfect square.
    """
    side = isqrt(max(tokens, 0))
    if side < 1 or side**2 != tokens:
        near = sorted({max(side, 1) ** 2, (side + 1) ** 2})
        raise UserError(
            f"{tokens} visual tokens do not fill a square", hint=f"choose {' or '.join(str(each) for each in near)}"
        )
    return side


def pool_tokens(x: Tensor, tokens: int, pool: str = "resize_avg") -> Tensor:
    """Pool a square map to `tokens` tokens.

    Args:
        x: [B, L, C] with L a perfect square, in raster order.
        tokens: K, a perfect square.
        pool: "resize_avg": enlarge bilinearly (corners aligned) to the next multiple of sqrt(K), then average;
            "adaptive_avg": `adaptive_avg_pool2d`, which differs where the side is no multiple.

    Returns:
        [B, K, C] in raster order.

    Raises:
        UserError: L or K is no perfect square.
    """
    side, target = side_of(x.shape[1]), side_of(tokens)
    if target > side:
        warnings.warn(f"{tokens} tokens of {x.shape[1]}: the map is enlarged, nothing is gained", stacklevel=2)
    grid = x.transpose(1, 2).unflatten(2, (side, side))
    if pool == "adaptive_avg":
        return adaptive_avg_pool2d(grid, target).flatten(2).transpose(1, 2)
    size = ceil(side / target) * target
    if size != side:
        grid = interpolate(grid, (size, size), mode="bilinear", align_corners=True)
    return avg_pool2d(grid, size // target).flatten(2).transpose(1, 2)


class SwiGLUProjector(nn.Module):
    """Pool, LayerNorm and a SwiGLU of hidden width 3 C, the same weights for every number of tokens.

    Args:
        width: C of the encoder's features.
        out: D of the language model.
        pool: See `pool_tokens`.

    Source:
        y = W_g(SiLU(W_1 x + b_1) (W_2 x + b_2)) + b_g of x = LayerNorm(pooled).
    """

    def __init__(self, width: int, out: int, pool: str = "resize_avg") -> None:
        super().__init__()
        self.pool = pool
        self.norm = nn.LayerNorm(width)
        self.gate, self.up = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, out)

    def forward(self, x: Tensor, tokens: int) -> Tensor:
        """[B, L, C] features to [B, tokens, D]."""
        x = self.norm(pool_tokens(x, tokens, self.pool))
        return self.down(silu(self.gate(x)) * self.up(x))


class MLPProjector(nn.Module):
    """Pool, then Linear, GELU, Linear.

    Args:
        width: C of the encoder's features.
        out: D of the language model.
        pool: See `pool_tokens`.
    """

    def __init__(self, width: int, out: int, pool: str = "resize_avg") -> None:
        super().__init__()
        self.pool = pool
        self.layers = nn.Sequential(nn.Linear(width, out), nn.GELU(), nn.Linear(out, out))

    def forward(self, x: Tensor, tokens: int) -> Tensor:
        """[B, L, C] features to [B, tokens, D]."""
        projected: Tensor = self.layers(pool_tokens(x, tokens, self.pool))
        return projected


class PixelShuffleProjector(nn.Module):
    """Put the features of `factor` x `factor` neighbours beside each other, then Linear, GELU, Linear.

    The number of tokens is fixed by the factor: it cannot flex.

    Args:
        width: C of the encoder's features.
        out: D of the language model.
        factor: Side of the squares that become one token.
    """

    def __init__(self, width: int, out: int, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.layers = nn.Sequential(nn.Linear(width * factor**2, out), nn.GELU(), nn.Linear(out, out))

    def forward(self, x: Tensor, tokens: int | None = None) -> Tensor:
        """[B, L, C] features to [B, L / factor^2, D].

        Raises:
            UserError: the side is no multiple of the factor, or another number of tokens is asked for.
        """
        side, f = side_of(x.shape[1]), self.factor
        count = (side // f) ** 2
        if side % f or tokens not in (None, count):
            raise UserError(f"pixel_shuffle makes {count} tokens of {x.shape[1]} at factor {f}, and no other number")
        grid = x.unflatten(1, (side // f, f, side // f, f)).permute(0, 1, 3, 2, 4, 5)
        projected: Tensor = self.layers(grid.reshape(len(x), count, -1))
        return projected


class Resampler(nn.Module):
    """Learned queries that look at the features by cross-attention; K tokens are the answers to the first K.

    Args:
        width: C of the encoder's features.
        out: D of the language model.
        most: Number of queries.
        heads: Of the attention; must divide D.
    """

    def __init__(self, width: int, out: int, most: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.norm, self.lift = nn.LayerNorm(width), nn.Linear(width, out)
        self.queries = nn.Parameter(torch.randn(most, out) * out**-0.5)
        self.attention = nn.MultiheadAttention(out, heads, batch_first=True)
        self.layers = nn.Sequential(nn.LayerNorm(out), nn.Linear(out, 2 * out), nn.GELU(), nn.Linear(2 * out, out))

    def forward(self, x: Tensor, tokens: int) -> Tensor:
        """[B, L, C] features to [B, tokens, D].

        Raises:
            UserError: more tokens than queries.
        """
        if tokens > len(self.queries):
            raise UserError(f"the resampler has {len(self.queries)} queries, which make no {tokens} tokens")
        features = self.lift(self.norm(x))
        queries = self.queries[:tokens].expand(len(x), -1, -1)
        seen, _ = self.attention(queries, features, features, need_weights=False)
        answers: Tensor = queries + seen
        return answers + self.layers(answers)


PROJECTORS: dict[str, type[nn.Module]] = {
    "swiglu_pool": SwiGLUProjector,
    "mlp_pool": MLPProjector,
    "pixel_shuffle_mlp": PixelShuffleProjector,
    "resampler": Resampler,
}


class TokenSampler:
    """How many visual tokens an optimizer step trains with: a function of seed and step, so nothing is to be saved.

    Args:
        choices: Numbers of tokens, perfect squares.
        probs: Their probabilities.
        seed: Of the draws.
        schedule: "random"; "cycle": one after another; "curriculum": in the order given, each for its share of `steps`.
        steps: Steps of the training, for the curriculum.

    Raises:
        UserError: no perfect square, or probabilities that do not fit.
    """

    def __init__(
        self,
        choices: Sequence[int],
        probs: Sequence[float],
        seed: int,
        schedule: str = "random",
        steps: int = 1,
    ) -> None:
        for each in choices:
            side_of(each)
        if len(choices) != len(probs) or min(probs, default=-1) < 0 or abs(sum(probs) - 1) > 1e-6:
            raise UserError(
                f"{len(choices)} numbers of tokens need as many probabilities that sum to 1, not {list(probs)}"
            )
        self.choices, self.probs, self.schedule, self.steps = tuple(choices), tuple(probs), schedule, steps
        self.seed = seed

    def at(self, step: int) -> int:
        """The number of tokens of a step, counted from 0; equal in all processes that share the seed."""
        return self.choices[self._index(step)]

    def _index(self, step: int) -> int:
        if self.schedule == "cycle":
            return step % len(self.choices)
        if self.schedule == "curriculum":
            at = min(step / self.steps, 1 - 1e-9)
        else:
            at = float(np.random.default_rng([self.seed, step]).random())
        total = 0.0
        for index, share in enumerate(self.probs):
            total += share
            if at < total:
                return index
        return max(index for index, share in enumerate(self.probs) if share)
