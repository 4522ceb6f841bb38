"""The answer of a trial as the command line prints it: the claim's metric of every arm, then each verdict."""

from collections.abc import Mapping, Sequence

import numpy as np

from recipes.core.config.settings import Card, Claim
from recipes.core.messages import align
from recipes.core.statistics.compare import Comparison
from recipes.core.statistics.comparison_table import comparison_column, comparison_table
from recipes.core.statistics.price import price_below_verdict, verdict_words
from recipes.core.statistics.texts import number_text
from recipes.core.trial.report.arms import trial_arms
from recipes.core.trial.result import Judged, TrialResult

COLUMNS = ("difference", "interval", "p (Holm)", "n", "outcome")
NUMBERS = ("mean", "difference", "interval", "p (Holm)", "n")  # set flush right


def answer_rows(comparisons: Sequence[Comparison], metric: str) -> list[dict[str, str]]:
    """The claim's metric of the baseline, then of every arm beside it, as texts by column."""
    rows: list[dict[str, str]] = []
    for comparison in comparisons:
        row = next((r for r in comparison_table(comparison) if r["metric"] == metric), None)
        if row and not rows:
            base = {"arm": comparison.baseline, "mean": row[comparison_column(comparison.baseline)]}
            rows.append(base | dict.fromkeys(COLUMNS, "") | {"n": row["n"], "outcome": "baseline"})
        if row:
            named = {"arm": comparison.arm, "mean": row[comparison_column(comparison.arm)]}
            rows.append(named | {name: row[name] for name in COLUMNS})
    return rows


def mean_rows(result: TrialResult) -> list[dict[str, str]]:
    """The claim's metric of every arm by itself, for a trial that has no run of the baseline to set beside them."""
    metric, rows = result.card.claim.metric, []
    for arm in trial_arms(result):
        if values := list(arm.values(metric).values()):
            n = f"{len(values)} seed{'s' * (len(values) > 1)}"
            rows.append({"arm": arm.name, "mean": number_text(float(np.mean(values))), "n": n})
    return rows


def answer_title(recipe: str, claim: Claim, compared: bool = True) -> str:
    """The line above the rows: those of arms beside the baseline, or of arms by themselves."""
    return f"{recipe}: {claim.metric}" + (f", difference to {claim.baseline}" if compared else "")


def answer_pairs(judged: Judged, card: Card, leads: bool) -> list[tuple[str, str]]:
    """The claim, why the verdict is what it is, the price where the verdict's line does not say it, what is published.

    Args:
        judged: A claim with its answer.
        card: Names the side effects.
        leads: Whether it is the trial's first claim, which is shown with what was published.
    """
    price = price_below_verdict(judged.verdict.word, judged.prices, card)
    rows = [("claim", judged.claim.statement), ("because", judged.verdict.reason)]
    rows += [("price", price)] if price else []
    return [*rows, ("published", judged.claim.published)] if leads else rows


def answer_head(judged: Judged, leads: bool) -> str:
    """The line with the verdict on a claim."""
    return f"{'verdict' if leads else 'further claim'}: {verdict_words(judged.verdict.word, judged.prices)}"


def seeds_line(judged: Judged) -> str:
    """How many more seeds would settle the claim; empty if it is settled or that cannot be told."""
    more = judged.verdict.more_seeds
    seeds = "seed" if more == 1 else "seeds"
    return f"about {more} more {seeds} would settle it, if the estimate and its spread hold" if more else ""


def answer_text(recipe: str, rows: Sequence[Mapping[str, str]], judged: Sequence[Judged], card: Card) -> str:
    """All of the answer as it is printed where there is no terminal."""
    names = ["arm", "mean", *COLUMNS]
    lines = [answer_title(recipe, judged[0].claim)]
    if rows:
        cells = [[row[name] for name in names] for row in rows]
        lines.append(align([names, *cells], [name in NUMBERS for name in names]))
    for index, one in enumerate(judged):
        shown = [list(row) for row in answer_pairs(one, card, index == 0)]
        lines += ["", answer_head(one, index == 0), align(shown, [False, False])]
        if index == 0 and seeds_line(one):
            lines.append(seeds_line(one))
    return "\n".join(lines) + "\n"
