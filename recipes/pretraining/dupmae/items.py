"""Pieces of text, and batches of them with all masks: those of the encoder, and what each row of the decoder sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.text.documents import open_documents
from recipes.core.errors import UserError
from recipes.core.models.padded import pad_rows
from recipes.pretraining.dupmae.config import ENHANCED, LENGTH, PretrainingConfig
from recipes.pretraining.dupmae.method import visible_tokens
from recipes.pretraining.masked_rows import Masker, Pieces
from recipes.pretraining.masking import choose_words, mask_counts, uniform_rows
from recipes.pretraining.masking_config import WORDS, MaskingConfig

DECODER = 1 << 40  # items from here on stand for what the decoder sees of an item


def read_texts(path: str) -> list[str]:
    """The user's texts to pre-train on. Raises UserError: they cannot be read."""
    return [document.text for document in open_documents(path, key="pretraining.path", alone=True)]


def cut_pieces(tokenizer: Any, texts: Sequence[Sequence[int]], length: int) -> Pieces:
    """Texts in pieces that fit a row.

    Args:
        tokenizer: Of the texts.
        texts: Ids of each, without special tokens.
        length: Most tokens of a piece, [CLS] and [SEP] included.

    Raises:
        UserError: there is none.
    """
    sep = tokenizer.sep_token_id
    packed = np.fromiter((token for ids in texts for token in (*ids, sep)), np.int32)
    pieces = Pieces(packed, tokenizer.cls_token_id, sep, length)
    if not len(pieces):
        raise UserError("there is no text to pre-train on", "pretraining.path", "give a file with more text")
    pieces.say_left_out("texts to pre-train on")
    return pieces


@dataclass(frozen=True)
class MaskedPieces:
    """`size` pieces, none twice before all once, and batches of them. An item depends on its index only.

    A batch of B pieces, padded to T tokens, holds
        input_ids, attention_mask   [B, T] the text
        masked_ids, chosen          [B, T] what the encoder reads, and which tokens it predicts
        ordinary                    bool [B, T] positions that mu is taken over: all but [CLS] and padding
        types, type_weights         [B, U] distinct tokens of each text, and their weights in the loss of its bag
        decoder_ids                 [B, T] what the decoder reads behind h
        decoded                     bool [B, T] which tokens it predicts
        visible                     bool [B, T, T] what each of its rows sees
    the last three only where there is a decoder.

    Attributes:
        pieces: Ids of each.
        size: How many items.
        config: Shares and kinds of masks.
        tokenizer: Of the pieces.
        seed: Decides order and masks.
    """

    pieces: Pieces
    size: int
    config: PretrainingConfig
    tokenizer: Any
    seed: int

    @cached_property
    def order(self) -> np.ndarray:
        """int64 [size] the piece of each item."""
        random, passes = np.random.default_rng(self.seed), -(-self.size // len(self.pieces))
        return np.concatenate([random.permutation(len(self.pieces)) for _ in range(passes)])[: self.size]

    @cached_property
    def masker(self) -> Masker:
        """Masks whole words for the encoder."""
        masking = MaskingConfig(share=self.config.encoder_mask, unit=WORDS, short=0.0)
        return Masker(masking, self.tokenizer, self.config.length, self.seed)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index

    @property
    def sequence_lengths(self) -> list[int]:
        """Tokens of each item."""
        lengths = self.pieces.last - self.pieces.first + 2
        return [int(each) for each in lengths[self.order]]

    def collate(self, numbers: list[int]) -> dict[str, Any]:
        """Items as a batch."""
        rows = [self.pieces[int(self.order[number])] for number in numbers]
        batch = self.masker.batch(rows, numbers)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        text = mask.bool() & ~self.masker.special[ids]
        ordinary = mask.bool() & (torch.arange(ids.shape[1]) > 0)
        names: dict[str, Any] = {"ids": [f"piece {self.order[number]}" for number in numbers]}
        decoder = self._decoder(ids, mask, text, numbers) if self.config.decodes else {}
        return batch | {"ordinary": ordinary} | self._bags(ids, text) | decoder | names

    def _bags(self, ids: Tensor, text: Tensor) -> dict[str, Tensor]:
        """Weight 1 / L' of each distinct token, L' of all; or 1. A text without tokens has none."""
        types, mask = pad_rows([row[kept].unique().tolist() for row, kept in zip(ids, text, strict=True)])
        divisor = text.sum(1).clamp(min=1)[:, None] if self.config.bow_norm == LENGTH else 1
        return {"types": types.long(), "type_weights": mask.float() / divisor}

    def _decoder(self, ids: Tensor, mask: Tensor, text: Tensor, numbers: list[int]) -> dict[str, Tensor]:
        """The first of the draws says which mask a row picks, the others what each mask hides."""
        enhanced, lengths = self.config.decoder_mask == ENHANCED, mask.sum(1)
        masks = min(self.config.masks, self.config.length) if enhanced else 1
        draws = uniform_rows(self.seed, [DECODER + number for number in numbers], ids.shape[1], 1 + masks)
        counts, inside = mask_counts(lengths, self.config.decoder_rate, self.config.length), self.masker.inside[ids]
        repeated = [part.repeat(masks, *[1] * (part.ndim - 1)) for part in (text, counts, inside)]
        hidden = choose_words(repeated[0], repeated[1], draws[1:].flatten(0, 1), repeated[2]).unflatten(0, (masks, -1))
        present = mask.bool()[:, None, :]
        if not enhanced:
            read = torch.where(hidden[0], self.tokenizer.mask_token_id, ids)
            return {"decoder_ids": read, "decoded": hidden[0], "visible": present.repeat(1, ids.shape[1], 1)}
        picks = (draws[0] * lengths.clamp(max=masks)[:, None]).long()
        visible = torch.stack([visible_tokens(hidden[:, row], picks[row]) for row in range(len(ids))]) & present
        visible[:, :, 0] |= ~mask.bool()  # rows of padding see one token, or their softmax would be of nothing
        return {"decoder_ids": ids, "decoded": text, "visible": visible}
