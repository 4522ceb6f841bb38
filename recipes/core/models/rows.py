"""Rows of new tokens as weighted sums of rows of old ones: whatever composes them, they are weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowWeights:
    """Weights of old rows in new ones: new[targets[i]] = sum_i values[i] old[sources[i]].

    Attributes:
        count: New rows.
        targets: int64 [n] new rows.
        sources: int64 [n] old rows.
        values: float32 [n] weights.
    """

    count: int
    targets: Tensor
    sources: Tensor
    values: Tensor

    def apply(self, old: Tensor) -> Tensor:
        """[count, d] new rows of `old` [V, d]; rows without a weight are 0, rows with a single weight of 1 are copies.

        Input rows, output rows and biases [V, 1] get the same weights.
        """
        weights = torch.sparse_coo_tensor(
            torch.stack([self.targets, self.sources]), self.values, (self.count, len(old)), check_invariants=True
        ).to(old.device)
        new = torch.sparse.mm(weights, old.float()).to(old.dtype)
        alone = (self.sizes[self.targets] == 1) & (self.values == 1)
        new[self.targets[alone].to(old.device)] = old[self.sources[alone].to(old.device)]  # also -0.0
        return new

    def fill(self, rows: Tensor, old: Tensor) -> Tensor:
        """`rows` [count or more, d], where these weights say something their rows of `old` [V, d]; in place."""
        filled = (~self.missing).nonzero()[:, 0].to(old.device)
        rows[filled] = self.apply(old)[filled]
        return rows

    @property
    def sizes(self) -> Tensor:
        """int64 [count] old rows in each new one."""
        return torch.bincount(self.targets, minlength=self.count)

    @property
    def missing(self) -> Tensor:
        """bool [count] rows that nothing is said of."""
        return self.sizes == 0

    def with_others(self, others: "RowWeights") -> "RowWeights":
        """These rows, and of those that nothing is said of here the others'."""
        more = self.missing[others.targets]
        return RowWeights(
            self.count,
            torch.cat([self.targets, others.targets[more]]),
            torch.cat([self.sources, others.sources[more]]),
            torch.cat([self.values, others.values[more]]),
        )


def weighted_rows(count: int, tokens: Sequence[int], sources: Sequence[Tensor], values: Sequence[Tensor]) -> RowWeights:
    """The rows of some tokens.

    Args:
        count: New rows.
        tokens: New ids [n].
        sources: Of each its old ids, int64.
        values: Of each their weights.
    """
    if not tokens:
        return RowWeights(count, torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0))
    targets = torch.repeat_interleave(torch.tensor(tokens), torch.tensor([len(each) for each in sources]))
    return RowWeights(count, targets, torch.cat(list(sources)), torch.cat(list(values)))


def mean_of_pieces(count: int, spelled: Sequence[tuple[int, Tensor]]) -> RowWeights:
    """The mean of the pieces of each token.

    Args:
        count: New rows.
        spelled: Tokens and the old tokens that spell them, at least one each.
    """
    tokens, pieces = [token for token, _ in spelled], [ids for _, ids in spelled]
    return weighted_rows(count, tokens, pieces, [torch.full((len(ids),), 1 / len(ids)) for ids in pieces])


def random_rows(old: Tensor, count: int, seed: int) -> Tensor:
    """[count, d] normal numbers with the mean and the standard deviation of all numbers of `old` [V, d].

    Drawn on the CPU, from the seed alone: devices and what else is drawn change nothing.
    """
    draw = torch.Generator().manual_seed(seed)
    values = old.float()
    rows = torch.randn(count, old.shape[1], generator=draw) * float(values.std()) + float(values.mean())
    return rows.to(old)


def normal_rows(old: Tensor, count: int, random: torch.Generator) -> Tensor:
    """[count, d] normal numbers with the mean and the standard deviation of each column of `old` [V, d].

    Args:
        old: Rows.
        count: How many are drawn.
        random: Where numbers come from, on the CPU.

    Source:
        FOCUS (arXiv 2305.14481), tokens without a vector; `random` of ZeTT and of arXiv 2408.11294.
    """
    values = old.float()
    drawn = torch.randn(count, old.shape[1], generator=random).to(old.device)
    return (drawn * values.std(0) + values.mean(0)).to(old)


def mean_row(old: Tensor) -> Tensor:
    """[d] the mean of all old rows."""
    return old.double().mean(0).to(old.dtype)


def padded(count: int, pad_to: int) -> int:
    """Rows of a table for so many tokens: the next multiple of `pad_to`."""
    return -(-count // pad_to) * pad_to
