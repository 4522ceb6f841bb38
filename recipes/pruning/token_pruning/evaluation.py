"""From tallies to metrics: their names, titles and scores per question."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import fmean

from recipes.core.evaluation.scores import Scores
from recipes.pruning.token_pruning.config import EvaluationConfig
from recipes.pruning.token_pruning.measuring import FULL, MIB, Measured, Tally, at_ratio, typical
from recipes.pruning.token_pruning.subjects import Terms

MILLION = 1e6
# Metrics of a budget that have one number a run: name -> (title, whether higher is better, value). Titles have the
# words of `Terms` filled in.
Cost = Callable[[Tally, Tally], float | None]
COSTS: dict[str, tuple[str, bool, Cost]] = {
    "macs_ratio": ("MACs of the prefill over those of the unpruned model", False, lambda t, f: _over(t.macs, f.macs)),
    "llm_macs_ratio": ("the same, language model alone", False, lambda t, f: _over(t.llm, f.llm)),
    "macs": ("MACs of the prefill (millions)", False, lambda t, _: fmean(t.macs) / MILLION),
    "tokens": ("{tokens}, mean over layers", False, lambda t, _: fmean(t.tokens)),
    "min_distance": (
        "smallest cosine distance between kept tokens", True, lambda t, _: fmean(t.distance) if t.distance else None,
    ),
    "spearman": (
        "rank correlation of all pairs' similarities", True, lambda t, _: fmean(t.spearman) if t.spearman else None,
    ),
    "selection_ms": ("selection (ms per {sample})", False, lambda t, _: typical(t.selection)),
    "prefill_ms": (
        "prefill, selection included (ms per {sample})", False, lambda t, _: typical(t.forward) if t.forward else None,
    ),
    "peak_mib": ("peak memory of the device (MiB)", False, lambda t, _: t.memory / MIB if t.memory else None),
}  # fmt: skip


def metrics(measured: Measured, config: EvaluationConfig) -> tuple[dict[str, float], Scores]:
    """Final metrics and scores per question of a run."""
    scores, full, terms = Scores(), measured.full, measured.terms
    final: dict[str, float] = {}
    costs = {name: (title.format(**asdict(terms)), better, value) for name, (title, better, value) in COSTS.items()}
    for name, title in ((terms.metric, terms.title), ("evidence_recall", "evidence kept")):
        scores.define(name, title, higher_is_better=True)  # titles of axes
    for name, (title, better, _) in costs.items():
        scores.define(name, title, higher_is_better=better)
    for tally in measured.every:
        at = "unpruned" if tally.label == FULL else f"at {budget_words(tally.label, terms.tokens)}"
        _add(scores, f"{terms.metric}@{tally.label}", f"{terms.title}, {at}", tally.scores(), measured.groups)
        if tally.recall and tally is not full:
            recall = {name: fmean(draws) for name, draws in tally.recall.items()}
            title = f"share of the patches that show the answer that was kept, {at}"
            _add(scores, f"evidence_recall@{tally.label}", title, recall, measured.groups)
        for name, (title, better, value) in costs.items():
            number = value(tally, full)
            if number is not None:
                scores.define(f"{name}@{tally.label}", f"{title}, {at}", higher_is_better=better)
                final[f"{name}@{tally.label}"] = number
    _add_at_equal_macs(scores, measured, config)
    return scores.overall() | final, scores


def budget_words(label: str, tokens: str = Terms.tokens) -> str:
    """A budget in words, from its label and the name of what is pruned."""
    if label.endswith("t"):
        return f"{label[:-1]} {tokens}"
    return f"{100 * float(label):g}% of the {tokens}"


def ratios(measured: Measured) -> dict[str, float]:
    """Label -> MACs over those of the unpruned model."""
    return {t.label: fmean(t.macs) / fmean(measured.full.macs) for t in measured.every}


def _add_at_equal_macs(scores: Scores, measured: Measured, config: EvaluationConfig) -> None:
    """Scores where the MACs would be a given share of the unpruned model's."""
    full, terms = measured.full, measured.terms
    costs: tuple[tuple[str, str, Sequence[float], Callable[[Tally], list[float]]], ...] = (
        ("macs", "MACs", config.mac_ratios, lambda tally: tally.macs),
        ("llm_macs", "MACs of its language model", config.llm_mac_ratios, lambda tally: tally.llm),
    )
    for name, title, wanted, cost in costs:
        points = [
            (share, tally.scores()) for tally in measured.every if (share := _over(cost(tally), cost(full))) is not None
        ]
        for ratio in wanted:
            values = at_ratio(points, ratio)
            if values is not None and len(points) > 1:
                words = f"{terms.title} at {100 * ratio:g}% of the unpruned model's {title}, interpolated"
                words = words.replace("'s MACs of its", "'s MACs in its")
                _add(scores, f"{terms.metric}@{name}{ratio:g}", words, values, measured.groups)


def _add(scores: Scores, name: str, title: str, values: dict[str, float], groups: dict[str, str]) -> None:
    scores.define(name, title, higher_is_better=True)
    for question, value in values.items():
        scores.add(name, question, groups[question], value)


def _over(part: Sequence[float], whole: Sequence[float]) -> float | None:
    total = fmean(whole)
    return fmean(part) / total if total else None
