"""Numbers that are drawn for a sample: the same whatever stands beside it, in every batch, process and device."""

import hashlib

import torch
from torch import Tensor

from recipes.pruning.tokens import Tokens


def sample_seed(run_seed: int, sample_id: int | str) -> int:
    """A seed for one sample, the same in every batch and process."""
    digest = hashlib.blake2b(f"{run_seed}/{sample_id}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def generator(tokens: Tokens, row: int) -> torch.Generator:
    """The generator of one sample at this point; on the CPU, so that devices agree."""
    label = f"{tokens.point.place}{tokens.point.layer}"
    return torch.Generator().manual_seed(sample_seed(tokens.seeds[row], label))


def random_scores(tokens: Tokens) -> Tensor:
    """[B, N] uniform numbers; those of a sample depend on its seed and number of tokens only."""
    scores = torch.zeros(tokens.valid.shape)
    for row in range(len(scores)):
        mask = tokens.valid[row].cpu()
        scores[row, mask] = torch.rand(int(mask.sum()), generator=generator(tokens, row))
    return scores.to(tokens.x.device)
