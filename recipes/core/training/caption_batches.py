"""Caption batches: one item a caption, right-padded, with the weights that ride along from the data loader."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from recipes.core.data.images.captions import CaptionSplit, image_for
from recipes.core.data.images.tokenized import TokenizedCaptions
from recipes.core.losses.objectives import IGNORE

# (caption indices, batch [B, K] of token mask) -> (coefficients [B, K], normalizer); see `token_mean`.
Weigh = Callable[[Sequence[int], Tensor], tuple[Tensor, Tensor]]


def token_mean(indices: Sequence[int], mask: Tensor) -> tuple[Tensor, Tensor]:
    """Plain next-token prediction: every token counts once, the loss is the mean over tokens."""
    return mask.float(), mask.sum().float()


class CaptionItems(Dataset[dict[str, Any]]):
    """Items (index, token ids, pixels) of some captions of a split. An item depends on its index only.

    Args:
        split: Captions and images.
        tokens: The same captions, tokenised.
        indices: Which of them, in this order.
        pixels: Image array -> normalised pixels; None for text only.
    """

    def __init__(
        self,
        split: CaptionSplit,
        tokens: TokenizedCaptions,
        indices: Sequence[int],
        pixels: Callable[[np.ndarray], Tensor] | None,
    ) -> None:
        self.split, self.tokens, self.indices, self.pixels = split, tokens, indices, pixels

    @property
    def sequence_lengths(self) -> np.ndarray:
        """[items] tokens of each caption."""
        lengths: np.ndarray = self.tokens.lengths[np.asarray(self.indices)]
        return lengths

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        index = self.indices[position]
        item = {"index": index, "id": self.split.caption(index).id, "tokens": self.tokens.ids(index)}
        if self.pixels is not None:
            item["pixels"] = self.pixels(image_for(self.split, index, self.pixels))
        return item


def caption_collate(
    prefix: Sequence[int], pad_id: int, weigh: Weigh
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Collate caption items into the batch that `recipes.core.losses.objectives` describes.

    Args:
        prefix: Token ids before every caption (begin of text, image placeholders). Without any, the first token of a
            caption is only what others are predicted from.
        pad_id: What pads.
        weigh: Coefficients of the caption tokens and the normalizer of the batch.
    """

    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        """Items as a batch: ids, labels, weights [B, T], pixels where there are any, and the normalizer."""
        lengths = torch.tensor([len(item["tokens"]) for item in items])
        longest = int(lengths.max())
        mask = torch.arange(longest) < lengths[:, None]
        captions = torch.full((len(items), longest), pad_id)
        captions[mask] = torch.from_numpy(np.concatenate([item["tokens"] for item in items]).astype(np.int64))
        start = torch.tensor(list(prefix), dtype=torch.long).expand(len(items), -1)
        ids = torch.cat([start, captions], dim=1)
        labels = torch.full_like(ids, IGNORE)
        weights = torch.zeros(ids.shape)
        first = 0 if prefix else 1  # caption token that is predicted first
        predicted = mask & (torch.arange(longest) >= first)
        coefficients, normalizer = weigh([item["index"] for item in items], predicted)
        # A label stands where its token is predicted, one place before it.
        slots = slice(len(prefix) + first - 1, len(prefix) + longest - 1)
        labels[:, slots] = captions.masked_fill(~mask, IGNORE)[:, first:]
        weights[:, slots] = coefficients[:, first:]
        attention = torch.cat([torch.ones_like(start), mask.long()], dim=1)
        batch: dict[str, Any] = {"input_ids": ids, "attention_mask": attention, "labels": labels, "weights": weights}
        batch |= {"normalizer": normalizer, "ids": [item["id"] for item in items]}
        if "pixels" in items[0]:
            batch["pixels"] = torch.stack([item["pixels"] for item in items])
        return batch

    return collate
