"""Rows of text for encoders, [CLS] piece of a document [SEP], and the masks in them, drawn anew for every row."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.text.mixture import Mixture
from recipes.core.data.text.splits import TEST, TRAIN
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.models.padded import pad_rows
from recipes.core.models.small_encoder import check_known, inside_words, special_tokens
from recipes.core.models.tokenizer import INSIDE
from recipes.core.training.sequences import MixtureItems
from recipes.pretraining.masking import choose_tokens, choose_words, corrupt, mask_counts, uniform_rows
from recipes.pretraining.masking_config import WORDS, MaskingConfig

FEWEST = 3  # tokens of a piece, the special ones not counted
SHORTEST = 5  # tokens of a row that is cut on purpose
CHOICE, CORRUPTION, SAMPLE, LENGTH, KINDS = range(5)  # what the numbers of a token decide


class Pieces:
    """The documents of a part of a corpus in pieces that fit a row; none crosses the end of a document.

    Args:
        ids: int32 [tokens] packed documents, each ended by `sep`, perhaps begun by `cls`.
        cls, sep: Ids.
        length: Most tokens of a row, these two included.

    Attributes:
        document: int [pieces] the number of the document that each is of.
        lengths: int [pieces] tokens of a row, these two included.
        left_out: Pieces of fewer than 3 tokens, which make no row: ends of documents, or short ones.
    """

    def __init__(self, ids: np.ndarray, cls: int, sep: int, length: int) -> None:
        self.ids, self.cls, self.sep = ids, cls, sep
        ends = np.flatnonzero(ids == sep)
        begins = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
        begins += (ids[begins] == cls) if len(ends) else 0
        room = length - 2
        counts = np.maximum(-(-(ends - begins) // room), 1)
        document = np.repeat(np.arange(len(ends)), counts)
        number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
        first = begins[document] + number * room
        last = np.minimum(first + room, ends[document])
        kept = last - first >= FEWEST
        self.first, self.last, self.document = first[kept], last[kept], document[kept]
        self.offset, self.lengths, self.left_out = (number * room)[kept], (last - first)[kept] + 2, int((~kept).sum())

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, number: int) -> np.ndarray:
        """int64 [tokens] a row."""
        return np.concatenate([[self.cls], self.ids[self.first[number] : self.last[number]], [self.sep]])

    def name(self, number: int) -> str:
        """Which document a row is of, and which of its tokens: rows of another length have other names."""
        offset = self.offset[number]
        return f"document {self.document[number]}, tokens {offset} to {offset + self.lengths[number] - 3}"

    def say_left_out(self, where: str) -> None:
        """Say how many pieces make no row, if any do not; `where` says of which texts."""
        if self.left_out:
            total = self.left_out + len(self)
            note(f"{where}: pieces of fewer than {FEWEST} tokens are left out, {self.left_out:,} of {total:,}")


@dataclass(frozen=True)
class RowMixture:
    """A mixture of domains whose sequences are rows of different lengths; `MixtureItems` draws from it.

    Attributes:
        mixture: Packed domains.
        tokenizer: That packed them.
        length: Most tokens of a row.
    """

    mixture: Mixture
    tokenizer: Any
    length: int

    @property
    def domains(self) -> tuple[str, ...]:
        """Their names."""
        return self.mixture.domains

    @property
    def weights(self) -> tuple[float, ...]:
        """Share of each in the stream."""
        return self.mixture.weights

    def train(self, domain: str) -> Pieces:
        """Rows to train on. Raises UserError: there are none."""
        return self._pieces(domain, TRAIN)

    def test(self, domain: str) -> Pieces:
        """Held-out rows. Raises UserError: there are none."""
        return self._pieces(domain, TEST)

    def check(self, tested: Sequence[str]) -> None:
        """Refuse domains without a row or a known token before anything is trained, and say what makes no row.

        Args:
            tested: Domains whose held-out rows are measured.

        Raises:
            UserError: one of those to train or to test on has no row, or the tokenizer knows no token of it.
        """
        for split, names in ((TRAIN, self.domains), (TEST, tested)):
            for name in names:
                pieces = self._pieces(name, split)
                check_known(self.tokenizer, [pieces.ids], f"domain {name!r}, to {split} on")
                pieces.say_left_out(f"domain {name!r}, to {split} on")

    def _pieces(self, domain: str, split: str) -> Pieces:
        ids = self.mixture.packed.ids(f"{domain}/{split}")
        pieces = Pieces(ids, self.tokenizer.cls_token_id, self.tokenizer.sep_token_id, self.length)
        if not len(pieces):
            what = f"domain {domain!r} has no text of {FEWEST} tokens to {split} on"
            raise UserError(what, "data", "give longer texts, or leave the domain out")
        return pieces


@dataclass(frozen=True)
class Masker:
    """Masks rows of ids.

    Attributes:
        config: How.
        tokenizer: Of the rows.
        length: Most tokens of a row.
        seed: Of what is drawn.

    Raises:
        UserError: whole words are to be masked, and the tokenizer marks no piece as one inside a word.
    """

    config: MaskingConfig
    tokenizer: Any
    length: int
    seed: int

    def __post_init__(self) -> None:
        if self.config.unit == WORDS and not self.inside.any():
            raise UserError(
                f"the tokenizer has no piece that begins with {INSIDE}: where words end cannot be seen",
                f"masking.unit={WORDS}",
                "type masking.unit=tokens, or a WordPiece as model.tokenizer",
            )

    @cached_property
    def special(self) -> Tensor:
        """bool [V] tokens that are never masked."""
        return special_tokens(self.tokenizer)

    @cached_property
    def plain(self) -> Tensor:
        """int64 [P] the others."""
        return (~self.special).nonzero()[:, 0]

    @cached_property
    def inside(self) -> Tensor:
        """bool [V] pieces inside words."""
        return inside_words(self.tokenizer)

    def batch(self, rows: Sequence[np.ndarray | Sequence[int]], numbers: Sequence[int]) -> dict[str, Tensor]:
        """Rows with masks, which depend on the numbers of the rows alone.

        Args:
            rows: Ids of each, special tokens included.
            numbers: Of each row in what is drawn from.

        Returns:
            `input_ids` as they are, `attention_mask`, `masked_ids` as a masked language model reads them (int64),
            `chosen` (bool: what it predicts) and `draws` (float32: a uniform number each, for a sampler), all
            [rows, tokens]. Rows without a word have nothing chosen.
        """
        draws = uniform_rows(self.seed, numbers, self.length, KINDS)
        ids, mask = pad_rows([self._cut(row, number) for row, number in zip(rows, draws[LENGTH, :, 0], strict=True)])
        draws = draws[:, :, : ids.shape[1]]
        candidates = mask.bool() & ~self.special[ids]
        counts = mask_counts(mask.sum(1), self.config.share, self.length)
        if self.config.unit == WORDS:
            chosen = choose_words(candidates, counts, draws[CHOICE], self.inside[ids])
        else:
            chosen = choose_tokens(candidates, counts, draws[CHOICE])
        shares = (self.config.masked, self.config.any_token)
        masked = corrupt(ids, chosen, draws[CORRUPTION], self.tokenizer.mask_token_id, self.plain, shares)
        rest = {"masked_ids": masked, "chosen": chosen, "draws": draws[SAMPLE].contiguous()}
        return {"input_ids": ids, "attention_mask": mask} | rest

    def _cut(self, row: np.ndarray | Sequence[int], number: Tensor) -> list[int]:
        """A row of this length, or of a random one: a number below `short` says that it is, and which."""
        ids, drawn = np.asarray(row).tolist(), float(number)
        if drawn < self.config.short:
            longest = SHORTEST + int(drawn / self.config.short * (self.length - SHORTEST + 1))
            ids = [*ids[: longest - 1], ids[-1]] if len(ids) > longest else ids
        return ids


class MaskedRows:
    """A stream of rows with masks to train on. An item depends on its index only.

    Args:
        rows: Where they are drawn from.
        size: How many.
        seed: Decides what is drawn and masked.
        masker: Masks them.
    """

    def __init__(self, rows: RowMixture, size: int, seed: int, masker: Masker) -> None:
        mixture: Any = rows
        self.rows, self.items, self.masker = rows, MixtureItems(mixture, size, seed), masker

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index] | {"number": index}

    @property
    def sequence_lengths(self) -> np.ndarray:
        """int64 [size] tokens of each row, before some are cut short."""
        lengths = np.zeros(len(self), np.int64)
        for number, domain in enumerate(self.rows.domains):
            mine = self.items.domain == number
            lengths[mine] = self.rows.train(domain).lengths[self.items.sequence[mine]]
        return lengths

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Items as a batch: what `Masker.batch` gives, `domain` [rows], `ids`."""
        batch: dict[str, Any] = {
            **self.masker.batch([item["tokens"] for item in items], [item["number"] for item in items])
        }
        domain = torch.tensor([item["domain"] for item in items])
        return batch | {"domain": domain, "ids": [item["id"] for item in items]}
