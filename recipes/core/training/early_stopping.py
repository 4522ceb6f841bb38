"""When training ends before its steps are done: a rule on what was measured, the same for a run that was resumed."""

from collections.abc import Sequence


def exhausted(values: Sequence[float], higher_is_better: bool, patience: int, min_delta: float) -> bool:
    """Whether the last `patience` values brought nothing better.

    Args:
        values: What was measured, in order.
        higher_is_better: Which values are better.
        patience: Measurements in a row without a better value that end training.
        min_delta: A value is better than the best before it if it is so by more than this; NaN never is.
    """
    best, since = float("-inf"), 0
    for value in values:
        gain = value if higher_is_better else -value
        if gain > best + min_delta:
            best, since = gain, 0
        else:
            since += 1
    return since >= patience
