"""A hypernetwork: rows of new tokens predicted from the rows of the old tokens that spell them.

    network = trained_hypernetwork(source, config, trainer, seed, texts, fingerprint)     # hypernetwork_training
    rows = predict_rows(network, [source.spell(data) for data in new.table if data])      # [n, width], see `OldRows`

Source:
    ZeTT (arXiv 2405.07883), Section 3; zett/model/__init__.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.core.models.build import local_seed
from recipes.tokenization.config import HypernetworkConfig

ANCHORS = 2048  # old tokens whose predictions decide the scale of all
DEVIATION = 0.02  # of each feature of the old rows, as the network reads them
CHUNK = 4096  # tokens whose rows are predicted at a time
TINY = 1e-8
HEAD_WIDTH = 64


@dataclass(frozen=True)
class Forms:
    """How old tokens spell new ones. Tokens of equally many pieces stand together, so that nothing is padded.

    Attributes:
        groups: int64 [tokens, pieces], one for each number of pieces.
        order: int64 [n] where each token stands among the tokens of all groups.
        single: bool [n] tokens of one piece, nothing left out: those that the old vocabulary has.
    """

    groups: tuple[Tensor, ...]
    order: Tensor
    single: Tensor

    @classmethod
    def of(cls, pieces: Sequence[Sequence[int]], longest: int) -> "Forms":
        """The forms of tokens.

        Args:
            pieces: Old ids that spell each token, at least one.
            longest: Pieces that are read of a token; what comes behind them is left out.
        """
        lengths = np.array([min(len(row), longest) for row in pieces])
        places = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
        groups = tuple(torch.tensor([list(pieces[at][:longest]) for at in place.tolist()]) for place in places)
        single = torch.tensor([len(row) == 1 for row in pieces])
        return cls(groups, torch.from_numpy(np.argsort(np.concatenate(places))), single)

    @property
    def first(self) -> Tensor:
        """int64 [n] the first piece of each token."""
        return torch.cat([group[:, 0] for group in self.groups])[self.order]


class Affine(nn.Module):
    """x * weight + bias for each feature, never trained.

    Args:
        width: Features.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(width))
        self.register_buffer("bias", torch.zeros(width))

    def forward(self, values: Tensor) -> Tensor:
        """[..., width]"""
        return values * self.weight + self.bias


class ResidualMLP(nn.Module):
    """LayerNorm(y + gelu(W2 gelu(W1 y + b1) + b2)).

    Args:
        width: Of y.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.LayerNorm(width)

    def forward(self, values: Tensor) -> Tensor:
        """[..., width]"""
        inner = functional.gelu(self.up(values), approximate="tanh")
        states: Tensor = self.norm(values + functional.gelu(self.down(inner), approximate="tanh"))
        return states


class Hypernetwork(nn.Module):
    """Predicts rows.

    Args:
        sources: [V, n] old rows, all parts of a token beside each other; never trained, and no part of the weights.
        width: Of its tokens, where the config names none.
        config: Its size.
        seed: Of its weights.
    """

    sources: Tensor

    def __init__(self, sources: Tensor, width: int, config: HypernetworkConfig, seed: int) -> None:
        super().__init__()
        size, features = config.width or width, sources.shape[1]
        self.longest = config.pieces
        self.register_buffer("sources", sources.detach().float(), persistent=False)
        with local_seed(seed):
            self.project = nn.Sequential(nn.Linear(features, size), ResidualMLP(size))
            self.positions = nn.Parameter(torch.randn(config.pieces, size) * DEVIATION)
            self.norm = nn.LayerNorm(size)
            heads = size // HEAD_WIDTH if size % HEAD_WIDTH == 0 else 1
            layer = nn.TransformerEncoderLayer(size, heads, 2 * size, 0.0, "gelu", batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
            for part in self.encoder.parameters():  # a stack of copies would start with equal layers
                if part.dim() > 1:
                    nn.init.normal_(part, std=DEVIATION)
            self.head = nn.Sequential(ResidualMLP(size), nn.Linear(size, features))
        self.in_scale, self.out_scale = Affine(features), Affine(features)
        self.to(self.sources.device)
        self._fit()

    def forward(self, forms: Forms) -> Tensor:
        """[n, width of a row] the rows of the tokens."""
        rows = torch.cat([self._rows(group.to(self.sources.device)) for group in forms.groups])
        return rows[forms.order.to(rows.device)]

    def _rows(self, pieces: Tensor) -> Tensor:
        """[tokens, features] of pieces [tokens, length]."""
        states = self.project(self.in_scale(self.sources[pieces])) + self.positions[: pieces.shape[1]]
        read: Tensor = self.encoder(self.norm(states))[:, 0]
        rows: Tensor = self.out_scale(self.head(read))
        return rows

    @torch.no_grad()
    def _fit(self) -> None:
        """Set both scales: what is read has mean 0 and deviation .02, what is predicted has those of the old rows."""
        mean, deviation = self.sources.mean(0), self.sources.std(0)
        self.in_scale.weight.copy_(DEVIATION / (deviation + TINY))
        self.in_scale.bias.copy_(-mean * self.in_scale.weight)
        predicted = self._rows(torch.arange(min(ANCHORS, len(self.sources)), device=mean.device)[:, None])
        self.out_scale.weight.copy_(deviation / (predicted.std(0) + TINY))
        self.out_scale.bias.copy_(mean - (predicted * self.out_scale.weight).mean(0))


@torch.no_grad()
def predict_rows(network: Hypernetwork, pieces: Sequence[Sequence[int]], chunk: int = CHUNK) -> Tensor:
    """float32 [n, width of a row] the rows of tokens, without gradient; each depends on its own pieces alone.

    Args:
        network: The network.
        pieces: Old ids that spell each token, at least one.
        chunk: Tokens at a time.
    """
    parts = [pieces[start : start + chunk] for start in range(0, len(pieces), chunk)]
    rows = [network(Forms.of(part, network.longest)).float() for part in parts]
    return torch.cat(rows) if rows else network.sources[:0]


def squared_errors(rows: Tensor, targets: Tensor, parts: Sequence[slice]) -> Tensor:
    """[n] squared distance of rows [n, width] from what they should be, the mean over input and head part."""
    errors = (rows - targets).square()
    return torch.stack([errors[:, part].sum(1) for part in parts]).mean(0)


def auxiliary_loss(rows: Tensor, sources: Tensor, single: Tensor, parts: Sequence[slice]) -> Tensor:
    """How far the rows of tokens that the old vocabulary has are from those that they have there.

        sum over tokens of one piece of |row - S_row|^2 / their number / mean over all tokens of |S_row|

    Args:
        rows: [n, width] predicted.
        sources: [n, width] old rows of the first pieces.
        single: bool [n] tokens of one piece.
        parts: Input part and head part of a row; the mean over them is taken.

    Source:
        zett/train.py.
    """
    errors, count = (rows - sources).square(), single.sum() + TINY
    losses = [(errors[:, part].sum(1) * single).sum() / count / sources[:, part].norm(dim=1).mean() for part in parts]
    return torch.stack(losses).mean()
