"""Lists that are longer than a prompt: windows from the tail to the head, so that good passages rise."""

from collections.abc import Callable, Sequence

import numpy as np

Order = Callable[[Sequence[int]], Sequence[int]]
Orders = Callable[[Sequence[int], Sequence[Sequence[int]]], Sequence[Sequence[int]]]


def windows(count: int, size: int, stride: int) -> list[tuple[int, int]]:
    """[start, end) of each window over `count` candidates, from the tail to the head; the last one begins at 0.

    Args:
        count: Candidates.
        size: Of a window, at most.
        stride: By how much the next one lies further to the head; at most the size, or candidates would be left out.

    Raises:
        ValueError: size below 1, or a stride that is not from 1 to size.
    """
    if size < 1 or not 1 <= stride <= size:
        raise ValueError(f"windows of {size} with a stride of {stride}")
    size, spans, end = min(size, count), list[tuple[int, int]](), count
    while end > 0:
        start = max(end - size, 0)
        spans.append((start, end))
        if not start:
            break
        end -= stride
    return spans


def slide(count: int, size: int, stride: int, order: Order) -> list[int]:
    """The order in which candidates end, window by window.

    Args:
        count: Candidates.
        size: Of a window.
        stride: Between windows.
        order: Given candidates of a window in their order now, returns places in it, the best first.

    Returns:
        Each number below `count` once.
    """
    return slide_together([count], size, stride, lambda _, parts: [order(parts[0])])[0]


def slide_together(counts: Sequence[int], size: int, stride: int, order: Orders) -> list[list[int]]:
    """The same for many lists, the n-th windows of all of them side by side: those of one list wait for each other.

    Args:
        counts: Candidates of each list.
        size: Of a window.
        stride: Between windows.
        order: Given numbers of lists and a window of each, returns the order of each window.
    """
    ranked, spans = [list(range(count)) for count in counts], [windows(count, size, stride) for count in counts]
    for turn in range(max(map(len, spans), default=0)):
        live = [number for number, each in enumerate(spans) if turn < len(each)]
        parts = [ranked[number][slice(*spans[number][turn])] for number in live]
        for number, part, places in zip(live, parts, order(live, parts), strict=True):
            ranked[number][slice(*spans[number][turn])] = [part[place] for place in checked(places, len(part))]
    return ranked


def checked(order: Sequence[int], count: int) -> list[int]:
    """An order of `count` places, each once.

    Raises:
        ValueError: it is none.
    """
    places = [int(place) for place in order]
    if sorted(places) != list(range(count)):
        raise ValueError(f"no order of {count} places: {places}")
    return places


def completed(named: Sequence[int], count: int) -> list[int]:
    """An order from what somebody named: places out of range and repeated ones are left out, the others follow."""
    kept = list(dict.fromkeys(place for place in named if 0 <= place < count))
    rest = np.setdiff1d(np.arange(count), kept)
    return [*kept, *rest.tolist()]
