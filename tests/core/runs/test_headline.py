"""What a run is headed by: the budget that was asked for."""

import pytest

from recipes.core.runs.headline import headline

WHOLE = {"accuracy@1": 0.9, "tokens@1": 64.0, "accuracy@macs0.75": 0.8, "macs_ratio@0.5": 0.7}


@pytest.mark.parametrize(
    "budgets, expected",
    [
        (["0.5", "0.125"], "accuracy@0.125"),  # the claim's own
        (["8t"], "accuracy@8t"),
        (["32t", "9t", "4t"], "accuracy@9t"),  # 9 of 64 is nearer to an eighth than 4
        (["0.5", "0.25"], "accuracy@0.25"),
        (["0.0625"], "accuracy@0.0625"),
        ([], "accuracy@0.125"),  # nothing stands in
    ],
)
def test_the_budget_nearest_to_the_claims(budgets: list[str], expected: str) -> None:
    assert headline("accuracy@0.125", WHOLE | {f"accuracy@{label}": 0.5 for label in budgets}) == expected


def test_metrics_without_a_budget_stay() -> None:
    assert headline("grounded/auc", {"nll": 1.0}) == "grounded/auc"
    assert headline("accuracy@8t", {"accuracy@16t": 1.0}) == "accuracy@16t"
    assert headline("accuracy@best", {"accuracy@0.5": 1.0}) == "accuracy@best"
