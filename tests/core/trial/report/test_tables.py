"""Tables of a trial for papers: their numbers are the comparison's, bold is what the intervals say, text is escaped."""

import csv
import io
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recipes.core.errors import UserError
from recipes.core.runs.records import seconds_taken
from recipes.core.statistics.compare import Comparison, MetricRow
from recipes.core.statistics.intervals import paired_t
from recipes.core.statistics.texts import interval_text, number_text
from recipes.core.storage.files import write_json
from recipes.core.trial.report.arms import Arm, Metric
from recipes.core.trial.report.delimited import ARM_COLUMNS, RUN_COLUMNS, arms_csv, runs_csv
from recipes.core.trial.report.files import write_files
from recipes.core.trial.report.latex import escape, latex_table
from recipes.core.trial.report.narrow import narrow_markdown
from recipes.core.trial.report.results import results_of_run, results_of_trial
from recipes.core.trial.report.tables import clear_best, result_table
from tests.core.trials import CARD, make_trial

AUC = Metric("auc", "area", True)
NASTY = r"a_b 50% & #1 {x} ~ ^ \ $y$ <b> | ± ≥ → α"


@pytest.fixture
def trial(make_run):
    return make_trial(make_run)


def arm(name: str, role: str, *values: float) -> Arm:
    """An arm with these values of `auc` on seeds 0, 1, ..., without a comparison."""
    return Arm(name, role, 1, {}, {seed: {"auc": value} for seed, value in enumerate(values)}, None)


def with_runs(one: Arm) -> Arm:
    return replace(one, runs=dict.fromkeys(one.finals))


# which arm is bold


def test_a_lead_is_clear_where_the_paired_interval_leaves_out_zero() -> None:
    apart = [with_runs(arm("a", "other", 0.80, 0.90, 1.00)), with_runs(arm("b", "other", 0.51, 0.60, 0.70))]
    assert clear_best(apart, AUC) == "a"
    assert clear_best(apart, replace(AUC, higher_is_better=False)) == "b"
    assert clear_best(apart, replace(AUC, higher_is_better=None)) == ""
    close = [apart[0], with_runs(arm("b", "other", 0.9, 0.7, 1.0))]
    assert paired_t([-0.1, 0.2, 0.0]).p_value > 0.05 and clear_best(close, AUC) == ""


def test_the_best_must_lead_every_other_arm_and_not_only_the_baseline() -> None:
    best, close = arm("a", "other", 0.8, 0.9, 1.0, 1.1), arm("b", "other", 0.8, 0.91, 0.99, 1.09)
    far = arm("c", "other", 0.1, 0.2, 0.3, 0.45)
    assert clear_best(list(map(with_runs, (best, far))), AUC) == "a"
    assert clear_best(list(map(with_runs, (best, close, far))), AUC) == ""


def test_leads_are_corrected_over_the_other_arms() -> None:
    best = with_runs(arm("best", "other", 1.0, 1.0, 1.0))
    values = (0.80, 0.86, 0.90)
    p_value = paired_t(1.0 - np.array(values)).p_value
    assert 0.025 < p_value < 0.05
    others = [with_runs(arm(name, "other", *values)) for name in "bc"]
    assert clear_best([best, others[0]], AUC) == "best"
    assert clear_best([best, *others], AUC) == ""


def test_on_one_seed_nothing_is_best_of_arms_that_are_not_the_baseline() -> None:
    assert clear_best([with_runs(arm("a", "other", 1.0)), with_runs(arm("b", "other", 0.1))], AUC) == ""


@pytest.mark.parametrize("sign", [1, -1])
def test_an_arm_that_loses_on_the_seeds_that_both_have_is_not_bold(sign: int) -> None:
    base = with_runs(arm("base", "baseline", *(sign * value for value in (1.0, 1.0, 1.0, 3.0, 3.0))))
    better = with_runs(arm("better", "other", *(sign * value for value in (1.10, 1.11, 1.12))))
    metric = replace(AUC, higher_is_better=sign > 0)
    interval = paired_t([sign * value for value in (0.10, 0.11, 0.12)])
    assert interval.p_value < 0.05 and clear_best([base, better], metric) == ""
    row = MetricRow("auc", "area", metric.higher_is_better, sign * 1.11, sign * 1.0, 3, interval)
    compared = replace(better, comparison=Comparison("", "better", "base", (0, 1, 2), "seeds", "auc", (row,)))
    assert clear_best([base, compared], metric) == ""
    assert clear_best([with_runs(arm("base", "baseline", sign, sign, sign)), compared], metric) == "better"


# the numbers


def test_values_are_those_of_the_comparison_and_the_baseline_stands_first(trial) -> None:
    results = results_of_trial(trial)
    table = result_table(results, results.named(["grounded/auc", "nll/other"]))
    assert [(row.arm, row.role) for row in table.rows] == [("ntp", "baseline"), ("prior", "arm"), ("random", "other")]
    row = trial.comparisons[0].row("nll/other")
    value = table.rows[1].values[1]
    assert (value.mean, value.difference, value.interval) == (row.value, row.difference, row.interval)
    assert (value.number, value.unit, value.outcome) == (5, "seeds", "worse")
    base = table.rows[0].values[1]
    assert (base.difference, base.outcome, base.best) == (None, "baseline", True)
    assert table.notes == (
        "Mean over 5 seeds",
        "Differences to ntp, paired, with 95% t intervals over seeds",
        "Bold: better than every other arm (p at most 0.05, Holm)",
        "Time: of a run, and over that of ntp",
    )


def test_time_is_the_mean_of_runs_that_were_not_cut_off_and_cost_is_over_the_baselines(trial) -> None:
    results = results_of_trial(trial)
    for one, end in zip(results.arms, ("00:01:00", "00:01:30", "00:00:30"), strict=True):
        for seed, run in one.runs.items():
            cut_off = 7 if seed == 4 else None
            start = {"state": "done", "started": "2026-01-01T00:00:00", "resumed_from": cut_off}
            write_json(run.path / "status.json", start | {"finished": f"2026-01-01T{end}"})
    rows = result_table(results, results.leading).rows
    assert [(row.arm, row.seconds, row.cost) for row in rows] == [
        ("ntp", 60, 1.0),
        ("prior", 90, 1.5),
        ("random", 30, 0.5),
    ]
    assert seconds_taken(results.arms[0].runs[4].path) is None


def test_runs_that_are_missing_and_a_smoke_budget_are_said(make_run) -> None:
    trial = make_trial(make_run, failed=[("prior", 1)], queued=[("random", 2)])
    smoke = replace(trial.runs[0], config=trial.runs[0].config | {"budget": "smoke"})
    results = results_of_trial(replace(trial, runs=(smoke, *trial.runs[1:])))
    assert result_table(results, results.leading).notes[-2:] == (
        "2 of 15 runs are not finished and left out",
        "Runs at budget=smoke are too small to judge by",
    )


def test_a_trial_without_a_finished_run_is_refused(make_run) -> None:
    trial = make_trial(make_run, ["prior", "ntp"], [0], queued=[("prior", 0), ("ntp", 0)])
    with pytest.raises(UserError, match="no run has finished"):
        results_of_trial(trial)


def test_a_run_stands_beside_the_baseline_with_intervals_over_items(trial) -> None:
    run, base = (next(one for one in trial.runs if (one.arm, one.seed) == (name, 0)) for name in ("prior", "ntp"))
    results = results_of_run(run, base, CARD)
    value = result_table(results, results.named(["nll/other"])).rows[1].values[0]
    assert (value.unit, value.number) == ("items", 60) and value.interval.low > 0
    other = next(one for one in trial.runs if (one.arm, one.seed) == ("random", 0))
    assert [(one.name, one.role) for one in results.arms] == [("ntp", "baseline"), ("prior", "arm")]
    assert [(one.role, one.place) for one in results_of_run(other, base, CARD).arms] == [("baseline", 0), ("other", 1)]
    alone = results_of_run(run, None, CARD)
    assert [one.name for one in alone.arms] == ["prior"] and result_table(alone, alone.leading).notes == (
        "Seed 0",
        "Time: of a run",
    )


# CSV


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_a_line_for_each_arm_and_metric_with_unrounded_numbers(trial) -> None:
    results = results_of_trial(trial)
    lines = read(arms_csv(result_table(results, results.metrics)))
    assert tuple(lines[0]) == ARM_COLUMNS and len(lines) == 3 * len(results.metrics)
    line = next(one for one in lines if (one["arm"], one["metric"]) == ("prior", "grounded/auc"))
    row = trial.comparisons[0].row("grounded/auc")
    numbers = [float(line[key]) for key in ("mean", "difference", "low", "high", "level", "n", "p_holm")]
    interval = row.interval
    assert numbers == [row.value, row.difference, interval.low, interval.high, 0.95, 5, row.p_holm]
    assert (line["unit"], line["higher_is_better"], line["role"]) == ("seeds", "true", "arm")
    base = next(one for one in lines if (one["arm"], one["metric"]) == ("ntp", "grounded/auc"))
    assert (base["difference"], base["low"], base["unit"], base["role"]) == ("", "", "", "baseline")


def test_csv_of_runs_has_each_seed_and_metric(trial) -> None:
    results = results_of_trial(trial)
    lines = read(runs_csv(results.arms, results.named(["grounded/auc"])))
    assert tuple(lines[0]) == RUN_COLUMNS and len(lines) == 30
    measured = [one for one in lines if one["metric"] == "grounded/auc"]
    values = {(one["arm"], int(one["seed"])): float(one["value"]) for one in measured}
    assert {float(one["value"]) for one in lines if one["metric"] == "seconds"} == {75.0}
    assert values == {(run.arm, run.seed): run.metrics["grounded/auc"] for run in trial.runs}


# Markdown


def test_markdown_is_narrow_and_has_a_table_for_each_metric(trial) -> None:
    results = results_of_trial(trial)
    text = narrow_markdown(result_table(results, results.named(["grounded/auc", "nll/other"])))
    row = trial.comparisons[0].row("grounded/auc")
    cells = (f"**{number_text(row.value)}**", number_text(row.difference, True), interval_text(row.interval))
    assert f"| prior | {' | '.join(cells)} |" in text
    assert text.count("| ntp (baseline) |") == 3 and text.startswith("# PRIOR: tokens & images\n\n**Digit named right")
    assert max(len(line) for line in text.splitlines() if line.startswith("|")) <= 72


# LaTeX


def test_every_special_sign_is_escaped() -> None:
    assert escape("a_b 50% & #1 {x} $y") == r"a\_b 50\% \& \#1 \{x\} \$y"
    assert escape("~ ^ \\") == r"\textasciitilde{} \textasciicircum{} \textbackslash{}"
    assert escape("<b> | ± ≥ → α") == (r"\textless{}b\textgreater{} \textbar{} $\pm$ $\geq$ $\rightarrow$ $\alpha$")
    assert escape("two\n lines") == "two lines"


def test_latex_has_booktabs_rules_caption_label_and_the_baselines_row(trial) -> None:
    results = results_of_trial(trial)
    text = latex_table(result_table(results, results.named(["grounded/auc", "nll/other", "nll/image"])))
    assert re.findall(r"\\(toprule|bottomrule|begin{\w+}|end{\w+}|label{.*?}|centering)", text) == [
        *("begin{table}", "centering", "label{tab:prior}", "begin{tabular}", "toprule", "bottomrule"),
        *("end{tabular}", "end{table}"),
    ]
    assert r"\caption{PRIOR: tokens \& images. Mean over 5 seeds. Differences to ntp" in text
    assert text.count("ntp (baseline) & ") == 2 == text.count(r"\addlinespace")
    row = trial.comparisons[0].row("grounded/auc")
    mean, difference = f"\\textbf{{{number_text(row.value)}}}", number_text(row.difference, True)
    assert f"prior & {mean} & ${difference}$ {{\\scriptsize ${interval_text(row.interval)}$}} & " in text
    columns = len(re.search(r"{@{}(\w+)@{}}", text)[1])
    rows = [line for line in text.splitlines() if line.endswith("\\\\") and "multicolumn" not in line]
    assert {line.count("&") for line in rows} == {columns - 1}


def test_numbers_that_are_not_plain_are_formulas(trial) -> None:
    results = results_of_trial(trial)
    table = result_table(results, results.named(["grounded/auc"]))
    values = [replace(table.rows[1].values[0], mean=mean, best=False) for mean in (-0.5, 1.2e-5, math.inf, math.nan)]
    texts = [latex_table(replace(table, rows=(replace(table.rows[1], values=(value,)),))) for value in values]
    for text, number in zip(texts, ("$-0.500$", r"$1.2\cdot 10^{-5}$", r"$\infty$", r"$\mathrm{nan}$"), strict=True):
        assert f"prior & {number} & " in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_it_compiles_with_booktabs_alone_and_fits_the_page(trial, tmp_path) -> None:
    results = results_of_trial(trial)
    metrics = [replace(one, title=f"{one.title} {NASTY}") for one in results.metrics]
    card = replace(results.card, title=NASTY)
    named = [replace(one, name=f"{one.name}_50%") for one in results.arms]
    table = latex_table(result_table(replace(results, card=card, arms=tuple(named)), metrics))
    log = compile_page(tmp_path, table)
    if "booktabs.sty' not found" in log:
        pytest.skip("needs booktabs")
    assert "Output written on page.pdf" in log and "Missing character" not in log, log[-2000:]
    long = [replace(one, name=f"recoverable_visual_{place}") for place, one in enumerate(results.arms)]
    for shown in (results, replace(results, arms=tuple(long))):
        assert "Overfull" not in compile_page(tmp_path, latex_table(result_table(shown, shown.metrics)))


def compile_page(folder: Path, table: str) -> str:
    """What pdflatex says to a page with the table."""
    page = f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{table}\\end{{document}}\n"
    (folder / "page.tex").write_text(page, encoding="utf-8")
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace").stdout


# files


def test_what_is_unknown_is_refused_with_the_nearest_name_and_nothing_is_written(trial, tmp_path) -> None:
    results, folder = results_of_trial(trial), tmp_path / "paper"
    for metrics, chosen, what, hint in (
        (["grounded/acu"], [], "no arm measured 'grounded/acu'", "did you mean grounded/auc?"),
        ([], ["rndom"], "no finished run of an arm 'rndom'", "did you mean random?"),
    ):
        with pytest.raises(UserError, match=what) as refused:
            write_files(results, ["csv", "tex"], metrics, chosen, folder)
        assert refused.value.hint == hint and not folder.exists()


def test_arms_that_are_named_stand_beside_the_baseline(trial, tmp_path) -> None:
    table, runs = write_files(results_of_trial(trial), ["csv"], ["nll/other"], ["random"], tmp_path / "paper")
    assert [(one["arm"], one["metric"]) for one in read(table.read_text())] == [
        ("ntp", "nll/other"),
        ("random", "nll/other"),
    ]
    assert {one["arm"] for one in read(runs.read_text())} == {"ntp", "random"}
