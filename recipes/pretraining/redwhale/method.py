"""Rows of new tokens, and where a model keeps what its stages train."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recipes.core.models.anatomy import transformer_blocks
from recipes.core.models.head import output_head
from recipes.core.models.rows import mean_of_pieces, mean_row, normal_rows, padded
from recipes.core.training.stages import Groups
from recipes.pretraining.redwhale.config import DECOMP_BOTH, DECOMP_EMB, DECOMP_HEAD, MEAN, RANDOM
from recipes.pretraining.redwhale.plans import EEVE, EMBEDDING, EVEN, HEAD, LORA, ODD, REST

FIRST = "first"
# What the embedding and the head make of new rows.
KINDS = {
    RANDOM: (RANDOM, RANDOM),
    MEAN: (MEAN, MEAN),
    DECOMP_EMB: (DECOMP_BOTH, RANDOM),
    DECOMP_HEAD: (RANDOM, DECOMP_BOTH),
    DECOMP_BOTH: (DECOMP_BOTH, DECOMP_BOTH),
    EEVE: (DECOMP_BOTH, FIRST),
}


def new_rows(old: Tensor, pieces: Sequence[Sequence[int]], kind: str, random: torch.Generator) -> Tensor:
    """Rows of new tokens [n, d].

    Args:
        old: [V, d] rows of the old tokens.
        pieces: S(t), the old tokens that spell each new one; a token that none spells gets the mean of all.
        kind: "random": per dimension normal numbers with mean and deviation of the old rows; "mean" of all; or
            "decomp_both": mean of the rows of S(t); "first": that of the first in S(t).
        random: Where numbers come from, on the CPU.

    Source:
        arXiv 2408.11294, step 3; `first`: EEVE, arXiv 2402.14714.
    """
    old = old.detach()
    if kind == RANDOM:
        return normal_rows(old, len(pieces), random)
    rows = mean_row(old).expand(len(pieces), -1).clone()
    if kind == MEAN:
        return rows
    sources = [list(each)[:1] if kind == FIRST else list(each) for each in pieces]
    spelled = [(token, torch.tensor(ids)) for token, ids in enumerate(sources) if ids]
    return mean_of_pieces(len(pieces), spelled).fill(rows, old)


def match_norm(rows: Tensor, old: Tensor) -> Tensor:
    """Rows [n, d] scaled to the mean length of the old ones [V, d]: means of k rows are shorter than these."""
    return rows * (old.norm(dim=1).mean() / rows.norm(dim=1, keepdim=True).clamp_min(1e-12))


@torch.no_grad()
def add_rows(
    model: Any, first: int, pieces: Sequence[Sequence[int]], init: str, *, rescale: bool, pad_to: int, seed: int
) -> None:
    """Give a causal language model of `transformers` rows of new tokens, in place; old rows stay to the bit.

    Rows behind the last token, which no text has, are the mean of the old ones.

    Args:
        model: The model.
        first: Id of the first new token; rows from there on are taken.
        pieces: S(t) of each new token.
        init: Name of the initialisation, of `KINDS`; of a table that is both the kind that is not random, if one is.
        rescale: Whether new rows get the mean length of the old ones.
        pad_to: The rows become a multiple of it.
        seed: Of random rows.
    """
    old = [model.get_input_embeddings().weight[:first].clone(), output_head(model).weight[:first].clone()]
    bias = output_head(model).bias
    mean_bias = None if bias is None else bias[:first].mean()
    count = max(first + len(pieces), output_head(model).vocabulary)
    tied = model.get_input_embeddings().weight.data_ptr() == output_head(model).weight.data_ptr()
    model.resize_token_embeddings(padded(count, pad_to), mean_resizing=False)
    tables = [model.get_input_embeddings().weight, output_head(model).weight]
    random = torch.Generator().manual_seed(seed)
    kinds = (next((kind for kind in KINDS[init] if kind != RANDOM), RANDOM),) if tied else KINDS[init]
    for table, rows, kind in zip(tables, old, kinds, strict=False):
        new = new_rows(rows, pieces, kind, random)
        table[first:] = mean_row(rows)
        table[first : first + len(pieces)] = match_norm(new, rows) if rescale else new
    if mean_bias is not None:
        bias = output_head(model).bias
        assert bias is not None
        bias[first:] = mean_bias


def groups(model: Any) -> Groups:
    """The parameters of a causal language model of `transformers` by what stages call them; blocks count from 1.

    Raises:
        UserError: it has no single stack of blocks.
    """
    head = output_head(model)
    tables: dict[str, list[Any]] = {
        EMBEDDING: [model.get_input_embeddings().weight],
        HEAD: [part for part in (head.weight, head.bias) if part is not None],
    }
    adapters = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    taken = {id(parameter) for part in (*tables.values(), adapters) for parameter in part}
    layers: dict[str, list[nn.Parameter]] = {ODD: [], EVEN: []}
    for number, block in enumerate(transformer_blocks(model), start=1):
        inside = [parameter for parameter in block.parameters() if id(parameter) not in taken]
        layers[ODD if number % 2 else EVEN] += inside
        taken |= {id(parameter) for parameter in inside}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    return {**tables, **layers, REST: rest, LORA: adapters}
