"""The router: a small network that predicts, from what the small model says, whether its token leads elsewhere."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recipes.core.models.build import local_seed
from recipes.decoding.r2r.config import RouterConfig
from recipes.decoding.r2r.method import positive_weight

HELD_OUT = 0.2  # of the texts, to stop by


@dataclass(frozen=True)
class Features:
    """What a router sees of places in texts.

    Attributes:
        hidden: float [places, d] what the small model's head gets.
        logits: float [places, top] its largest logits, in falling order.
        tokens: int64 [places] its token.
    """

    hidden: Tensor
    logits: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def at(self, places: Tensor) -> "Features":
        """Some places, by number or by mask."""
        return Features(self.hidden[places], self.logits[places], self.tokens[places])

    def to(self, device: str | torch.device) -> "Features":
        """On another device."""
        return Features(self.hidden.to(device), self.logits.to(device), self.tokens.to(device))


class Block(nn.Module):
    """x + Drop(W2 Drop(GELU(W1 LN(x)))).

    Args:
        width: Of x.
        expansion: Inner width by that.
        dropout: Rate.
    """

    def __init__(self, width: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.enter, self.leave = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[n, width] of [n, width]."""
        inner = self.dropout(nn.functional.gelu(self.enter(self.norm(x))))
        result: Tensor = x + self.dropout(self.leave(inner))
        return result


class Router(nn.Module):
    """A logit for each place: u = W_c [h; E[y]; W_l z + b] + b, a layer, blocks, a normalised output layer.

    Args:
        embedding: [vocabulary, d] of the small model's tokens; copied, not trained.
        top: Logits that it sees.
        config: Its size, and what it sees.
    """

    def __init__(self, embedding: Tensor, top: int, config: RouterConfig) -> None:
        super().__init__()
        width, d = config.width, embedding.shape[1]
        self._inputs = frozenset(config.inputs)
        self.register_buffer("embedding", embedding.detach().float().clone())
        if "logits" in self._inputs:
            self.project = nn.Linear(top, d)
        self.combine = nn.Linear(len(self._inputs) * d, width)
        self.enter = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Block(width, config.expansion, config.dropout) for _ in range(config.blocks))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    @property
    def size(self) -> int:
        """Parameters that are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, features: Features) -> Tensor:
        """[places] logits."""
        parts = []
        if "hidden" in self._inputs:
            parts.append(features.hidden.float())
        if "token" in self._inputs:
            parts.append(self.embedding[features.tokens])  # type: ignore[index]
        if "logits" in self._inputs:
            parts.append(self.project(features.logits.float()))
        x = self.enter(self.combine(torch.cat(parts, -1)))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.leave(self.norm(x))[:, 0]
        return logits

    @torch.no_grad()
    def probabilities(self, features: Features) -> Tensor:
        """[places] that the token of each leads elsewhere."""
        return self.eval()(features).sigmoid()


def fit_router(
    embedding: Tensor, features: Features, labels: np.ndarray, texts: np.ndarray, config: RouterConfig, seed: int
) -> Router:
    """Train a router; a fifth of the texts decides when to stop, and which epoch counts.

    Args:
        embedding: [vocabulary, d] of the small model, on the device to train on.
        features: Of all places.
        labels: bool [places]; if none is positive, the router learns that.
        texts: int64 [places] number of the text that each place lies in.
        config: Size and training.
        seed: Of split, initialisation and order.
    """
    device = embedding.device
    names = np.unique(texts)
    held_out = np.random.default_rng(seed).permutation(names)[: max(1, round(HELD_OUT * len(names)))]
    apart = np.isin(texts, held_out)
    weight = torch.tensor(
        positive_weight(labels[~apart], config.recall_factor) if labels[~apart].any() else 1.0, device=device
    )
    fitted, watched = (features.at(torch.from_numpy(part)).to(device) for part in (~apart, apart))
    wanted, expected = (torch.from_numpy(labels[part]).float().to(device) for part in (~apart, apart))
    with local_seed(seed):
        router = Router(embedding, features.logits.shape[1], config).to(device)
        optimizer = torch.optim.AdamW(router.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        best, left, chosen = np.inf, config.patience, copy.deepcopy(router)
        for _ in range(config.epochs):
            router.train()
            for part in torch.randperm(len(fitted)).to(device).split(config.batch_size):
                optimizer.zero_grad()
                binary_cross_entropy_with_logits(router(fitted.at(part)), wanted[part], pos_weight=weight).backward()
                optimizer.step()
            with torch.no_grad():
                loss = float(binary_cross_entropy_with_logits(router.eval()(watched), expected, pos_weight=weight))
            left -= 1
            if loss < best:
                best, left, chosen = loss, config.patience, copy.deepcopy(router)
            if not left:
                break
    return chosen.eval().requires_grad_(False)
