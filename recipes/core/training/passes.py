"""The order in which training takes its sequences: pass after pass, none twice before all once."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler

POOL = 50  # batches whose sequences are sorted by length together, as in `transformers`
PART = 1024  # sequences whose numbers are Python objects at a time


class WholePasses(Sampler[int]):
    """Shuffled passes over all sequences, one behind the other, cut into epochs of whole batches.

    An epoch that is no multiple of the batch ends inside a pass; the next one goes on there. A sampler that begins anew
    would leave the rest of each pass out and show other sequences twice before these.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        steps_done: Callable[[], int],
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Where the order comes from.

        Args:
            size: Sequences there are.
            batch_size: Those of an optimizer step, over all processes.
            seed: Decides the order.
            steps_done: Optimizer steps so far, asked when an epoch starts: the wrappers that skip what a resumed run
                has seen do not all pass on which epoch it is.
            lengths: Tokens of each sequence, if batches are to hold sequences of similar length.
        """
        self.lengths = None if lengths is None else torch.as_tensor(lengths)
        self.size, self.seed, self.steps_done = size, seed, steps_done
        self.batch_size, self.length = batch_size, size - size % batch_size

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        epoch = self.steps_done() * self.batch_size // self.length
        position, end = epoch * self.length, (epoch + 1) * self.length
        while position < end:
            number, start = divmod(position, self.size)
            stop = min(self.size, start + end - position)
            for part in self._pass(number)[start:stop].split(PART):
                yield from part.tolist()
            position += stop - start

    def _pass(self, number: int) -> Tensor:
        """All sequences in the order of one pass."""
        generator = torch.Generator().manual_seed(self.seed + number)
        order = torch.randperm(self.size, generator=generator)
        if self.lengths is None:
            return order
        begun = -number * self.size % self.batch_size  # sequences that fill up the last batch of the pass before
        return group_by_length(order, self.lengths, self.batch_size, begun, generator)


def group_by_length(order: Tensor, lengths: Tensor, batch_size: int, begun: int, generator: torch.Generator) -> Tensor:
    """Exchange places in an order so that most batches hold sequences of similar length.

    Args:
        order: int64 [sequences] a random order.
        lengths: [sequences] tokens of each sequence.
        batch_size: Sequences of a batch.
        begun: How many at the start belong to a batch begun before; they stay, as does what fills no batch at the end.
        generator: Of the order of the batches.

    Source:
        `transformers` LengthGroupedSampler: pools of 50 batches are sorted; here batches are shuffled afterwards.
    """
    batches = (len(order) - begun) // batch_size
    head, body, tail = order.tensor_split((begun, begun + batches * batch_size))
    pools = [pool[lengths[pool].argsort(descending=True, stable=True)] for pool in body.split(POOL * batch_size)]
    grouped = torch.cat(pools).view(batches, batch_size)[torch.randperm(batches, generator=generator)]
    return torch.cat([head, grouped.flatten(), tail])
