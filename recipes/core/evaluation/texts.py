"""Losses of token sequences under a causal language model, and of the held-out text of each domain."""

import numpy as np
import torch
from torch import nn

from recipes.core.data.text.mixture import Mixture
from recipes.core.evaluation.scores import Scores, add_class_mean
from recipes.core.scoring.rows import text_rows
from recipes.core.scoring.score import score

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
    scores = score(model, text_rows(sequences), device=device, batch_tokens=batch_tokens, what="scoring sequences")
    return -scores["logprob"].reshape(len(sequences), sequences.shape[1] - 1)


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
