"""The table of a trial in Markdown, for papers and READMEs."""

import re
from collections.abc import Sequence

from recipes.core.config.settings import Claim
from recipes.core.report.page import sentence
from recipes.core.runs.folder import DONE
from recipes.core.statistics.price import price_below_verdict
from recipes.core.statistics.texts import interval_text, number_text, p_text, subject
from recipes.core.trial.report.arms import (
    Arm,
    Metric,
    Summary,
    best_first,
    metrics_info,
    summaries,
    trial_arms,
    trial_metrics,
)
from recipes.core.trial.result import TrialResult


def markdown_table(result: TrialResult) -> str:
    """Arms as rows, metrics as columns: mean over seeds, with the standard deviation; the claim's metric first.

    The claim's metric also has its difference to the baseline with interval and p-value. The best mean is bold.

    Args:
        result: The trial.

    Returns:
        The table alone, its lines ending in newlines; empty if no arm has finished a seed.
    """
    arms, metrics = table_arms(result)
    measured = [arm for arm in arms if arm.finals]
    if not measured or not metrics:
        return ""
    claim = result.card.claim
    columns = [summaries(measured, metric) for metric in metrics]
    heads = ["arm", "seeds", *(_head(metric) for metric in metrics)]
    lines = [
        [escape(arm.name), str(len(arm.seeds)), *(_value(column[index]) for column in columns)]
        for index, arm in enumerate(measured)
    ]
    if metrics[0].name == claim.metric and any(arm.comparison for arm in measured):
        heads[3:3] = [f"difference to {escape(claim.baseline)} [{_level(measured)} interval]", "p"]
        for arm, line in zip(measured, lines, strict=True):
            line[3:3] = _difference(arm, claim.metric)
    rule = [":--", *["--:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, rule, *lines))


def markdown_report(result: TrialResult) -> str:
    """The verdict, the table and what its numbers are, as one Markdown page."""
    claim, verdict = result.card.claim, result.verdict
    seeds = ", ".join(map(str, result.manifest.seeds))
    table = markdown_table(result) or "No arm has finished a seed yet.\n"
    missing = sum(state.state != DONE for state in result.states)
    gaps = f" {missing} of {len(result.states)} runs are not finished; means leave them out." if missing else ""
    return (
        f"# {escape(result.card.title)}\n\n"
        f"**{escape(result.lead.headline)}:** {escape(claim.statement)}. "
        f"{escape(sentence(verdict.reason))}{_price(result)}\n\n"
        f"Published: {escape(claim.published)} ({escape(result.card.paper)}).\n\n"
        f"{table}\n"
        f"{_caption(result)}{gaps}\n\n"
        f"{_further(result)}"
        f"{_former(result)}"
        f"Seeds {seeds}; written by `{result.manifest.command}`.\n"
    )


def _further(result: TrialResult) -> str:
    lines = [
        f"- **{escape(one.headline)}:** {escape(one.claim.statement)} ({_subject(one.claim)}). "
        f"{escape(sentence(one.verdict.reason))} "
        f"Published: {escape(one.claim.published)}.\n"
        for one in result.further
    ]
    return f"Further claims:\n\n{''.join(lines)}\n" if lines else ""


def _former(result: TrialResult) -> str:
    return "".join(
        f"The claim was changed after this trial had results. Before: {escape(former)}.\n\n"
        for former in result.former_claims
    )


def _subject(claim: Claim) -> str:
    if claim.of_a_pair:
        return f"`{claim.arm}` beside `{claim.baseline}` on `{claim.metric}`"
    return escape(subject(claim))


def _price(result: TrialResult) -> str:
    """The price as a sentence where the verdict's line does not say it."""
    price = price_below_verdict(result.verdict.word, result.prices, result.card)
    return f" Price: {escape(price)}." if price else ""


def table_arms(result: TrialResult) -> tuple[list[Arm], list[Metric]]:
    """Arms and metrics in the order of tables: the baseline, the claim's arm, the others with the best first."""
    arms, claim = trial_arms(result), result.card.claim
    metrics = trial_metrics(arms, metrics_info(arms), claim.metric)
    compared = best_first(arms, claim.metric, claim.direction)
    left = [arm for arm in arms if arm.role != "baseline" and arm not in compared]
    return [arm for arm in arms if arm.role == "baseline"] + compared + left, metrics


def _caption(result: TrialResult) -> str:
    over_seeds = any(comparison.unit == "seeds" for comparison in result.comparisons)
    if over_seeds:
        intervals = "differences are paired by seed, with t intervals over seeds"
    else:
        intervals = "differences are paired by example, with bootstrap intervals over the examples of one seed"
    but = " but for the claim's own test, which was named in advance" if result.card.claim.of_a_pair else ""
    return (
        f"Mean over seeds, \N{PLUS-MINUS SIGN} standard deviation over seeds where there are several; {intervals}; "
        f"p is corrected over the arms (Holm){but}; the best mean of each metric is bold."
    )


def _head(metric: Metric) -> str:
    return f"{escape(metric.title)} {metric.arrow}".rstrip()


def _value(summary: Summary | None) -> str:
    if summary is None:
        return ""
    mean = number_text(summary.mean)
    spread = "" if summary.deviation is None else f" \N{PLUS-MINUS SIGN} {number_text(summary.deviation)}"
    return (f"**{mean}**" if summary.best else mean) + spread


def _difference(arm: Arm, metric: str) -> list[str]:
    row = arm.row(metric)
    if row is None:
        return ["", ""]
    text = f"{number_text(row.difference, True)} {interval_text(row.interval)}".rstrip()
    return [text, "" if row.p_holm is None else f"{p_text(row.p_holm)} (claim)" if row.verdict else p_text(row.p_holm)]


def _level(arms: Sequence[Arm]) -> str:
    rows = [row for arm in arms if arm.comparison for row in arm.comparison.rows if row.interval]
    return f"{rows[0].interval.level:.0%}" if rows and rows[0].interval else "95%"


def escape(text: str) -> str:
    """Text that cannot end a cell or start a markup of its own."""
    return re.sub(r"([\\|*_`<>])", r"\\\1", " ".join(text.split()))
