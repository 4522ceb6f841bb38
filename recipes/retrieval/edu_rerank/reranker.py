"""A scorer of candidates, trained by BRIO's margin loss on documents that the plan generator has not seen.

Source: arXiv 2203.16804 (BRIO), equation 5, with a scorer over sentence vectors in place of the writer's likelihood.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from recipes.core.models.build import local_seed
from recipes.retrieval.edu_rerank.config import RerankerConfig
from recipes.retrieval.edu_rerank.method import margin_loss


def features(document: np.ndarray, candidates: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """What a scorer sees of each candidate.

    Args:
        document: [d] vector of the source.
        candidates: [candidates, d] their vectors.
        numbers: [candidates, n] what else is known of each.

    Returns:
        float32 [candidates, 2d + 1 + n]: vector, its product with the source's, their cosine, and the numbers.
    """
    cosine = candidates @ document / (np.linalg.norm(candidates, axis=1) * np.linalg.norm(document) + 1e-9)
    return np.concatenate([candidates, candidates * document, cosine[:, None], numbers], 1).astype(np.float32)


class Scorer(nn.Module):
    """f of a candidate, linear or with one hidden layer.

    Args:
        rows: [candidates, features] to standardise by.
        hidden: Width of the hidden layer; 0: none.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, rows: Tensor, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", rows.mean(0))
        spread = rows.std(0, unbiased=False)
        self.register_buffer("scale", spread.where(spread > 1e-6, 1.0))  # a constant says nothing, nor does a new value
        last = nn.Linear(hidden or rows.shape[1], 1)
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(nn.Linear(rows.shape[1], hidden), nn.ReLU(), last) if hidden else last

    def forward(self, rows: Tensor) -> Tensor:
        """[..., features] -> [...]"""
        scores: Tensor = self.layers((rows - self.mean) / self.scale).squeeze(-1)
        return scores


def fit_scorer(
    rows: Sequence[np.ndarray], quality: Sequence[np.ndarray], config: RerankerConfig, seed: int
) -> Scorer | None:
    """Train a scorer, whole batches at a time.

    Args:
        rows: For each document [candidates, features].
        quality: For each document [candidates], by which they are sorted.
        config: Size and training.
        seed: Of its initialisation.

    Returns:
        The scorer; None if no document has two candidates.
    """
    sets = [
        torch.from_numpy(part[np.argsort(-good, kind="stable")])
        for part, good in zip(rows, quality, strict=True)
        if len(part) > 1
    ]
    if not sets:
        return None
    padded = nn.utils.rnn.pad_sequence(sets, batch_first=True)
    there = torch.arange(padded.shape[1]) < torch.tensor([len(part) for part in sets])[:, None]
    with local_seed(seed):
        scorer = Scorer(torch.cat(sets), config.hidden)
        optimizer = torch.optim.AdamW(scorer.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        for _ in range(config.steps):
            optimizer.zero_grad()
            margin_loss(scorer(padded), there, config.margin).mean().backward()
            optimizer.step()
    return scorer.eval().requires_grad_(False)
