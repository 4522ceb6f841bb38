"""Losses of token sequences under a causal language model, and of the held-out text of each domain."""

import numpy as np
import torch
from torch import Tensor, nn

from recipes.core.data.text.mixture import Mixture
from recipes.core.evaluation.scores import Scores, add_class_mean
from recipes.core.losses.kernels import weighted_cross_entropy
from recipes.core.models.head import OutputHead

BATCH_TOKENS = 16_384


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
    nll = token_nlls(model, sequences, device, batch_tokens)
    return torch.from_numpy(nll).mean(1).double().numpy()


@torch.no_grad()
def token_nlls(model: nn.Module, sequences: np.ndarray, device: str, batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
    """NLL of every token but the first, predicted from those before it.

    Args:
        model: A `TextModel`; its training mode is left as it was.
        sequences: Token ids [sequences, length], length at least 2.
        device: Where to compute.
        batch_tokens: Tokens of one forward.

    Returns:
        [sequences, length - 1] float32, nats.
    """
    training, length = model.training, sequences.shape[1]
    model.eval()
    rows = max(1, batch_tokens // length)
    found = [np.zeros((0, length - 1), np.float32)]
    for start in range(0, len(sequences), rows):
        ids = torch.from_numpy(np.array(sequences[start : start + rows], np.int64)).to(device)

        def read(hidden: Tensor, head: OutputHead, ids: Tensor = ids) -> Tensor:
            targets = ids[:, 1:].reshape(-1)
            ones = torch.ones(len(targets), device=targets.device)
            _, nll = weighted_cross_entropy(hidden[:, :-1].flatten(0, 1), head, targets, ones)
            return nll.view(len(ids), -1)

        nll = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixels=None, readout=read)
        found.append(nll.float().cpu().numpy())
    model.train(training)
    return np.concatenate(found)


def domain_losses(mixture: Mixture, model: nn.Module, count: int, device: str) -> Scores:
    """Log-perplexity of held-out sequences by domain, `log_ppl/<domain>`, and its mean over domains, `log_loss`.

    Args:
        mixture: The domains.
        model: A `TextModel`.
        count: Sequences of each domain.
        device: Where to compute.
    """
    scores = Scores()
    sequences = {name: mixture.test(name)[:count] for name in mixture.domains}
    losses = sequence_nlls(model, np.concatenate(list(sequences.values())), device)
    start = 0
    for name, rows in sequences.items():
        scores.define(f"log_ppl/{name}", f"log-perplexity of {name} (nats per token)", higher_is_better=False)
        for number, loss in enumerate(losses[start : start + len(rows)]):
            scores.add(f"log_ppl/{name}", f"{name} {number}", f"{name} {number}", loss)
        start += len(rows)
    add_class_mean(scores, "log_loss", "log_ppl/", "log-perplexity, mean over domains", higher_is_better=False)
    return scores


def add_worst_domain(scores: Scores) -> dict[str, float]:
    """The largest log-perplexity of a domain; it has no score per example."""
    values = [value for name, value in scores.overall().items() if name.startswith("log_ppl/")]
    scores.define("worst_domain", "log-perplexity of the worst domain", higher_is_better=False)
    return {"worst_domain": max(values)}
