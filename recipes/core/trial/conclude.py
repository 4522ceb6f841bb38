"""The end of a trial: compare, judge, write, and send the answer to the tracker."""

from pathlib import Path

from recipes.core.trial.result import TrialResult, analyse, write_results


def conclude(folder: Path) -> tuple[TrialResult, dict[str, Path]]:
    """Compare the finished cells, judge the claim and write the results.

    Args:
        folder: The trial's folder.

    Returns:
        The result, and what was written by kind.
    """
    result = analyse(folder)
    return result, {"results": write_results(result)}
