"""Which metric a run is headed by: the claim's, or the same at the budget that the run was asked for. No torch."""

from collections.abc import Mapping

UNCUT = "1"  # label of the model as it is, which is no budget


def headline(metric: str, measured: Mapping[str, float]) -> str:
    """The claim's metric; where it was measured at other budgets (`accuracy@8t`, not `accuracy@0.125`), the nearest.

    Args:
        metric: Of the claim, `NAME@SHARE` where it names a budget.
        measured: Final metrics of the run. `tokens@1` says how many tokens a share is taken of.

    Returns:
        `metric` where it was measured, or where nothing stands in for it.
    """
    name, at, wanted = metric.partition("@")
    if metric in measured or not at:
        return metric
    whole = measured.get(f"tokens@{UNCUT}")
    shares = {
        candidate: share
        for candidate in measured
        if candidate.startswith(f"{name}@") and (share := _share(candidate.partition("@")[2], whole)) is not None
    }
    target = _share(wanted, whole)
    if not shares or target is None:
        return metric
    return min(shares, key=lambda candidate: max(shares[candidate] / target, target / shares[candidate]))


def _share(label: str, whole: float | None) -> float | None:
    """Share of the tokens that a label stands for ("0.125", "8t"); None for other labels and for the whole model."""
    if label == UNCUT:
        return None
    counted = label.endswith("t")
    try:
        share = float(label.removesuffix("t")) / (whole or 1.0 if counted else 1.0)
    except ValueError:
        return None
    return share if share > 0 else None
