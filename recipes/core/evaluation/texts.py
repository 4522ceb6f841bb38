"""Losses of token sequences under a causal language model."""

import numpy as np
import torch
from torch import Tensor, nn

from recipes.core.losses.kernels import weighted_cross_entropy
from recipes.core.models.head import OutputHead

BATCH_TOKENS = 16_384


@torch.no_grad()
def sequence_nlls(model: nn.Module, sequences: np.ndarray, device: str, batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
    """Mean NLL of each sequence, every token but the first predicted from those before it.

    Args:
        model: A `TextModel`; its training mode is left as it was.
        sequences: Token ids [sequences, length], length at least 2.
        device: Where to compute.
        batch_tokens: Tokens of one forward.

    Returns:
        [sequences] float64, nats per token.
    """
    training, length = model.training, sequences.shape[1]
    model.eval()
    rows = max(1, batch_tokens // length)
    found = [np.zeros(0)]
    for start in range(0, len(sequences), rows):
        ids = torch.from_numpy(np.array(sequences[start : start + rows], np.int64)).to(device)

        def read(hidden: Tensor, head: OutputHead, ids: Tensor = ids) -> Tensor:
            targets = ids[:, 1:].reshape(-1)
            ones = torch.ones(len(targets), device=targets.device)
            _, nll = weighted_cross_entropy(hidden[:, :-1].flatten(0, 1), head, targets, ones)
            return nll.view(len(ids), -1).mean(1)

        nll = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixels=None, readout=read)
        found.append(nll.double().cpu().numpy())
    model.train(training)
    return np.concatenate(found)
