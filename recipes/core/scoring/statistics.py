"""What a distribution over the vocabulary says of a token, from hidden states, without the full logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.core.losses.kernels import softmax_and_nll, token_nll
from recipes.core.models.head import OutputHead
from recipes.core.models.precision import matmul_dtype, softmax_dtype

CHUNK = 256  # tokens whose logits exist at a time


@dataclass(frozen=True)
class Ask:
    """What is read of every token besides its log-prob, p being the distribution that predicts it and y the token.

    Attributes:
        entropy: - sum_v p_v log p_v, in nats.
        max_logprob: log-prob of the most likely token, in nats.
        rank: Tokens at least as likely as y, itself included: 1 for the most likely one.
        variance: sum_v p_v (log p_v)^2 - entropy^2, in nats^2: of the log-prob of a token that is drawn from p.
        mass: The probability of these tokens; y is inside the nucleus of top-p sampling if the others have less than p.
        top_k: Ids and logits of so many likeliest tokens.
        hidden: Hidden states of these layers: 0 for the embeddings, i for decoder layer i, -1 for what the head gets.
    """

    entropy: bool = False
    max_logprob: bool = False
    rank: bool = False
    mass: bool = False
    top_k: int = 0
    hidden: tuple[int, ...] = ()
    variance: bool = False

    @property
    def logprob_only(self) -> bool:
        """Whether nothing else is read of the vocabulary."""
        return not (self.entropy or self.max_logprob or self.rank or self.mass or self.top_k or self.variance)


@torch.no_grad()
def token_columns(hidden: Tensor, head: OutputHead, targets: Tensor, ask: Ask, chunk: int = CHUNK) -> dict[str, Tensor]:
    """The columns that are asked for; the log-prob is the same to the bit whatever else is.

    Args:
        hidden: [N, d] what the head gets at the positions that predict the tokens.
        head: What makes logits of it.
        targets: [N] int64 ids of the tokens.
        ask: What is read; hidden states are not read here.
        chunk: Tokens whose logits exist at a time.

    Returns:
        Name -> [N] or [N, top_k]: logprob, entropy, variance, max_logprob, mass and top_logits in fp32 (float64 for
        float64), rank and top_ids in int32.
    """
    if ask.logprob_only:
        return {"logprob": -token_nll(hidden, head, targets, chunk)}
    dtype = matmul_dtype(hidden)
    inner, exact = head.detach().to(dtype), softmax_dtype(dtype)
    rows = max(1, min(chunk, len(hidden)))
    logits = head.weight.new_empty(rows, head.vocabulary, dtype=dtype)
    probabilities = torch.empty_like(logits, dtype=exact)
    parts: list[dict[str, Tensor]] = []
    for start in range(0, max(1, len(hidden)), rows):
        part = slice(start, start + rows)
        states = hidden[part].to(dtype)
        z, p = logits[: len(states)], probabilities[: len(states)]
        inner.fill_logits(states, z)
        nll = softmax_and_nll(z, p, targets[part]) if len(states) else z.new_zeros(0, dtype=exact)
        parts.append({"logprob": -nll} | _columns(z, p, targets[part], ask))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _columns(z: Tensor, p: Tensor, targets: Tensor, ask: Ask) -> dict[str, Tensor]:
    """Those besides the log-prob, of logits and probabilities [n, V]."""
    columns: dict[str, Tensor] = {}
    if ask.rank or ask.mass:
        above = z >= z.gather(1, targets[:, None])
        if ask.rank:
            columns["rank"] = above.sum(1, dtype=torch.int32)
        if ask.mass:
            columns["mass"] = (p * above).sum(1).clamp_max_(1)
    if ask.entropy:
        columns["entropy"] = torch.special.entr(p).sum(1)
    if ask.variance:
        # About the mean, so that nothing cancels; a token of probability 0 adds 0.
        distance = p.log().clamp_min_(-1e3) + torch.special.entr(p).sum(1, keepdim=True)
        columns["variance"] = (p * distance.square_()).sum(1)
    if ask.max_logprob:
        # p(argmax) >= 1/V does not underflow.
        columns["max_logprob"] = p.amax(1).log()
    if ask.top_k:
        top = z.topk(ask.top_k, 1)
        columns |= {"top_ids": top.indices.int(), "top_logits": top.values.to(p.dtype)}
    return columns
