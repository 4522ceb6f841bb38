"""Batches of sequences of similar length: each once a pass, whatever was resumed."""

from itertools import islice

import numpy as np
import pytest

from recipes.core.training.passes import WholePasses


def taken(size: int, batch_size: int, start: int = 0, grouped: bool = True) -> list[list[int]]:
    """The batches of three passes, from a step on."""
    lengths = np.random.default_rng(0).integers(1, 1000, size) if grouped else None
    done = start
    batches = []
    while done * batch_size < 3 * size - batch_size:
        sampler = iter(WholePasses(size, batch_size, 7, lambda: done, lengths))  # noqa: B023
        epoch = [*sampler]
        skipped = done % (size // batch_size)
        rows = [epoch[at : at + batch_size] for at in range(0, len(epoch), batch_size)][skipped:]
        batches += rows
        done += len(rows)
    return list(islice(batches, 3 * size // batch_size - start))


@pytest.mark.parametrize(("size", "batch_size"), [(40, 16), (64, 8), (1000, 7), (5, 5)])
def test_every_sequence_comes_once_a_pass_and_a_resumed_run_goes_on(size: int, batch_size: int) -> None:
    batches = taken(size, batch_size)
    flat = [index for batch in batches for index in batch]
    for start in range(0, len(flat) - size + 1, size):
        assert sorted(flat[start : start + size]) == list(range(size))
    for step in (1, len(batches) // 2):
        assert taken(size, batch_size, step) == batches[step:]


def test_batches_hold_similar_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 1000)

    def padding(grouped: bool) -> float:
        batches = [lengths[batch] for batch in taken(1000, 7, grouped=grouped)]
        return float(np.mean([batch.max() * len(batch) / batch.sum() for batch in batches]))

    assert padding(True) < 1.1 < 1.6 < padding(False)
    first = [lengths[batch].mean() for batch in taken(1000, 7)[:20]]
    assert min(first) < 400 and max(first) > 600  # the longest do not all come first
