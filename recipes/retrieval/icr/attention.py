"""What the tokens behind a list of passages attend to: the list is read once, each question behind it by itself."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recipes.core.models.kv_cache import KVCache
from recipes.core.models.taps import attention_taps


class TailAttention(NamedTuple):
    """Attention of a question to all that stands before it and to itself, [rows, layers, heads, columns] in fp32.

    Attributes:
        mean: Over the tokens of the question that count.
        last: Of its last token.
    """

    mean: Tensor
    last: Tensor


@torch.no_grad()
def read_lists(model: Any, lists: Sequence[Sequence[int]], where: str) -> KVCache:
    """A cache that has read lists of passages, one a row, padded at their end.

    Raises:
        UserError: the model takes no such cache, or a list does not fit its context.
    """
    cache = KVCache(model, where)
    longest = max(map(len, lists))
    ids = torch.tensor([[*each, *[each[-1]] * (longest - len(each))] for each in lists], device=model.device)
    mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in lists], device=model.device)
    cache.extend(ids, None if bool(mask.all()) else mask)
    return cache


@torch.no_grad()
def tail_attention(cache: KVCache, tails: Sequence[Sequence[int]], counted: Sequence[tuple[int, int]]) -> TailAttention:
    """What questions attend to behind the rows of a cache, which stays as it is.

    Args:
        cache: From `read_lists`; the columns of a row are those of its list.
        tails: The question of each row.
        counted: [start, end) of the tokens of each question that count.

    Raises:
        UserError: the attention of the model cannot be read.
    """
    device, longest = cache.ids.device, max(map(len, tails))
    ids = torch.tensor([[*each, *[each[-1]] * (longest - len(each))] for each in tails], device=device)
    places = torch.arange(longest, device=device)
    lengths = torch.tensor([len(each) for each in tails], device=device)
    spans = torch.tensor(counted, device=device)
    weights = ((places >= spans[:, :1]) & (places < spans[:, 1:])).float()
    weights = weights / weights.sum(1, keepdim=True)
    mean, last = list[Tensor](), list[Tensor]()
    with attention_taps(cache.model) as taps:
        mask = places < lengths[:, None]
        cache.fork().extend(ids, None if bool(mask.all()) else mask)
        for layer in range(taps.count):
            rows = taps[layer].rows()  # [rows, heads, tail, columns]
            mean.append(torch.einsum("bhqt,bq->bht", rows, weights).cpu())
            last.append(rows[torch.arange(len(ids)), :, lengths - 1].cpu())
    return TailAttention(torch.stack(mean, 1), torch.stack(last, 1))
