"""The order in which training takes its sequences: pass after pass, none twice before all once."""

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import Sampler


class WholePasses(Sampler[int]):
    """Shuffled passes over all sequences, one behind the other, cut into epochs of whole batches.

    An epoch that is no multiple of the batch ends inside a pass; the next one goes on there. A sampler that begins anew
    would leave the rest of each pass out and show other sequences twice before these.
    """

    def __init__(self, size: int, batch_size: int, seed: int, steps_done: Callable[[], int]) -> None:
        """Where the order comes from.

        Args:
            size: Sequences there are.
            batch_size: Those of an optimizer step, over all processes.
            seed: Decides the order.
            steps_done: Optimizer steps so far, asked when an epoch starts: the wrappers that skip what a resumed run
                has seen do not all pass on which epoch it is.
        """
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
            generator = torch.Generator().manual_seed(self.seed + number)
            yield from torch.randperm(self.size, generator=generator)[start:stop].tolist()
            position += stop - start
