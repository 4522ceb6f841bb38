"""The report of a trial: its numbers are the comparison's, every section copes with what is missing."""

import html
import itertools
import json
import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from recipes.core.report import charts, curves
from recipes.core.report import run as report
from recipes.core.runs.folder import RunFolder
from recipes.core.runs.records import flatten
from recipes.core.statistics.texts import interval_text, number_text, p_text
from recipes.core.storage.files import write_json
from recipes.core.trial.cells import Cell
from recipes.core.trial.manifest import Manifest
from recipes.core.trial.report import arms, bands, cells, drill, forests
from recipes.core.trial.report.page import markdown_table, write_trial_report
from recipes.core.trial.result import Judged
from tests.core.report.test_report import CHROMIUM, FLAGS, Page, contrast, themes
from tests.core.trials import CARD, card_of, make_trial

TEN = ("prior", "ntp", "random", "inverse", "drop", "surprisal", "focal", "cal", "oracle", "uniform_floor")
SECTIONS = ["verdict", "differences", "curves", "arms", "tokens", "examples", "again", "cells", "environment"]
PAGE_STYLE = Path(report.__file__).with_name("style.css.j2").read_text()
MINUS = "\N{MINUS SIGN}"


def page_of(result) -> Page:
    return Page(write_trial_report(result)["html"].read_text())


def shown(text):
    return text.replace("-", MINUS)


@pytest.fixture
def trial(make_run):
    return make_trial(make_run)


@pytest.fixture
def page(trial):
    return page_of(trial)


def test_four_files_stand_in_the_folder_of_the_trial(trial):
    paths = write_trial_report(trial)
    assert paths == {kind: trial.folder / f"report.{kind}" for kind in ("html", "md", "png", "svg")}
    assert all(path.stat().st_size for path in paths.values())


def test_sections_stand_in_their_order(page):
    assert [attributes["id"] for attributes in page.of("section")] == SECTIONS


def test_page_loads_nothing_from_elsewhere(trial):
    text = write_trial_report(trial)["html"].read_text()
    assert not re.search(r"https?://", text)
    assert not re.search(r"url\(|@import|<script|<iframe|<object", text)
    for tag, attributes in Page(text).attributes:
        for name in ("src", "xlink:href", "srcset", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        if tag != "a":
            assert attributes.get("href", "#").startswith(("#", "data:"))


def test_links_lead_to_the_run_folders(trial):
    (trial.runs[0].path / "report.html").write_text("a run")
    links = [attributes["href"] for attributes in page_of(trial).of("a")][1:]
    assert len(links) == 15
    assert links[0] == "../../prior/0123456789-s0/report.html"
    assert all((trial.folder / link).resolve().exists() for link in links)


def test_page_is_accessible(page):
    ids = [attributes["id"] for _, attributes in page.attributes if "id" in attributes]
    assert len(ids) == len(set(ids))
    referenced = " ".join(attributes.get("aria-labelledby", "") for _, attributes in page.attributes).split()
    assert set(referenced) <= set(ids)
    assert page.of("html")[0]["lang"] == "en"
    for landmark in ("header", "main", "footer", "h1"):
        assert page.tags.count(landmark) == 1
    headings = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.of("th"))
    assert all(attributes.get("alt") for attributes in page.of("img"))


def test_colours_of_arms_can_be_read_in_both_themes():
    parts = PAGE_STYLE.split("@media", 2)[:2]
    for text, colors in zip(parts, themes(), strict=True):
        colours = re.findall(r"--p\d: #(\w{6})", text)
        assert len(colours) == 7
        for value in colours:
            color = tuple(int(value[at : at + 2], 16) / 255 for at in (0, 2, 4))
            assert contrast(color, colors["card"]) >= 4.5, value


def test_arms_differ_in_more_than_colour():
    looks = re.findall(r"\"([\d. ]+)\"", PAGE_STYLE[PAGE_STYLE.index("--dash") :])[:4]
    assert len(set(looks)) == 4
    assert len({(place % 7, place % 4) for place in range(28)}) == 28


# what the numbers are


def test_verdict_comes_first_with_the_numbers_of_the_comparison(trial, page):
    row = trial.comparisons[0].row("grounded/auc")
    assert f"prior minus ntp {number_text(row.difference, True)} {interval_text(row.interval)}" in page.text
    assert f"prior {number_text(row.value)} ntp {number_text(row.baseline)}" in page.text
    assert (
        "Digit named right, mean over training (grounded/auc), with the 95% paired t interval over 5 seeds" in page.text
    )
    assert f"T{trial.verdict.reason[1:]}." in page.text
    assert page.text.index("Supported") < page.text.index(CARD.claim.statement) < page.text.index("Every arm against")
    assert "Published 8% <and> 19%" in page.text


def test_forest_and_table_show_every_number_of_every_comparison(trial, page):
    for comparison in trial.comparisons:
        for row in comparison.rows:
            assert shown(f"{number_text(row.difference, True)} {interval_text(row.interval)}") in page.text
            assert number_text(row.value) in page.text
            assert f"p {p_text(row.p_holm)}" in page.text
        for value in comparison.row("grounded/auc").differences:
            assert number_text(value, True) in page.text


def test_table_has_mean_and_deviation_over_seeds_and_marks_the_best(trial):
    rows = arms.trial_arms(trial)
    info = arms.metrics_info(rows)
    metrics = arms.trial_metrics(rows, info, "grounded/auc")
    assert metrics[0] == arms.Metric("grounded/auc", "Digit named right, mean over training", True)
    assert {metric.name for metric in metrics} == {row.metric for row in trial.comparisons[0].rows}
    values = [final["grounded/auc"] for final in rows[0].finals.values()]
    first, second, third = arms.summaries(rows, metrics[0])
    assert first.mean == pytest.approx(np.mean(values))
    assert first.deviation == pytest.approx(np.std(values, ddof=1))
    assert [first.best, second.best, third.best] == [True, False, False]
    loss = next(metric for metric in metrics if metric.name == "nll/other")
    assert [one.best for one in arms.summaries(rows, loss)] == [False, True, False]
    text = page_of(trial).text
    assert f"{number_text(first.mean)} (best) ± {number_text(first.deviation)}" in text


def test_nothing_is_best_where_all_arms_are_equal(trial):
    rows = arms.trial_arms(trial)
    equal = arms.Metric("grounded/thickness/accuracy", "Thickness", True)
    assert len({one.mean for one in arms.summaries(rows, equal)}) == 1
    assert not any(one.best for one in arms.summaries(rows, equal))
    assert not any(one.best for one in arms.summaries(rows, replace(equal, name="nll/image", higher_is_better=None)))


def exact_run(make_run, values):
    """Runs that measured one number, chosen here."""

    def make(arm, seed, **changes):
        folder = make_run(arm, seed, **changes)
        (folder / "metrics.jsonl").unlink()
        (folder / "examples.parquet").unlink()
        RunFolder(folder).log(600, "final", {"a|b": values[arm][seed], "loss": 2.0}, 1.0)
        write_json(folder / "metrics_info.json", {"a|b": {"title": "Hits | all", "higher_is_better": True}})
        return folder

    return make


EXACT = {"prior": (0.80, 0.82, 0.84), "ntp": (0.70, 0.73, 0.76), "no_claim": (0.71, 0.70, 0.81)}
TABLE = """\
| arm | seeds | Hits \\| all ↑ | difference to ntp [95% interval] | p | loss |
| :-- | --: | --: | --: | --: | --: |
| ntp | 3 | 0.730 ± 0.030 |  |  | 2.000 ± 0.000 |
| prior | 3 | **0.820** ± 0.020 | +0.090 [+0.065, +0.115] | 0.008 | 2.000 ± 0.000 |
| no\\_claim | 3 | 0.740 ± 0.061 | +0.010 [-0.089, +0.109] | 0.707 | 2.000 ± 0.000 |
"""


def test_further_claims_follow_the_verdict(make_run):
    trial = make_trial(make_run)
    assert page_of(trial).text.count("Further claims") == 0
    further = replace(trial.card.claim, statement="random is <worse>", arm="random", published="<none>")
    trial = replace(trial, further=(Judged(further, replace(trial.verdict, word="contradicted", reason="it is")),))
    files = write_trial_report(trial)
    page = Page(files["html"].read_text())
    assert page.text.index("Published") < page.text.index("Further claims") < page.text.index("Every arm against")
    assert "Contradicted Random is <worse>. random minus ntp on grounded/auc: it is. Published: <none>" in page.text
    told = "- **Contradicted:** random is \\<worse\\> (`random` beside `ntp` on `grounded/auc`). It is."
    assert told in files["md"].read_text()


def test_markdown_table_is_exact(make_run):
    trial = make_trial(exact_run(make_run, EXACT), tuple(EXACT), (0, 1, 2), card=card_of("a|b"))
    assert markdown_table(trial) == TABLE
    text = write_trial_report(trial)["md"].read_text()
    assert TABLE in text
    assert text.startswith("# PRIOR: tokens & images\n\n**Supported:** prior needs fewer \\<steps\\> & tokens.")
    assert "t intervals over seeds" in text


def test_markdown_table_of_one_seed_has_no_deviation(make_run):
    trial = make_trial(exact_run(make_run, EXACT), ("prior", "ntp"), (0,), card=card_of("a|b"))
    assert "| prior | 1 | **0.800** | +0.100 |  | 2.000 |\n" in markdown_table(trial)


def test_forest_keeps_everything_but_far_ends_of_intervals_inside(make_run):
    values = {"prior": (0.5, 0.6), "ntp": (0.4, 0.4), "random": (0.40, 0.401)}
    trial = make_trial(exact_run(make_run, values), tuple(values), (0, 1), card=card_of("a|b"))
    rows = arms.trial_arms(trial)
    plot = forests.forest_plot(rows, arms.Metric("a|b", "A", True), 0.02, 1)
    wide, narrow = plot.rows
    assert (wide.arm.name, wide.cut_low, wide.cut_high) == ("prior", True, True)
    assert (narrow.cut_low, narrow.cut_high) == (False, False)
    points = [plot.zero, plot.band[0], sum(plot.band), *(x for x, _ in plot.ticks)]
    points += [x for row in plot.rows for x in (row.low, row.middle, row.high, *(dot[0] for dot in row.dots))]
    assert all(0 <= point <= 100 for point in points)
    assert [round(value, 3) for _, _, value in wide.dots] == [0.1, 0.2]
    assert wide.middle == pytest.approx(sum(dot[0] for dot in wide.dots) / 2, abs=0.01)
    write_trial_report(trial)


def test_arms_are_sorted_by_what_the_claim_wants(make_run):
    values = {"random": (0.5, 0.6), "ntp": (0.4, 0.4), "drop": (0.9, 0.91), "prior": (0.1, 0.11)}
    trial = make_trial(exact_run(make_run, values), tuple(values), (0, 1), card=card_of("a|b"))
    rows = arms.trial_arms(trial)
    assert [(arm.name, arm.role, arm.place) for arm in rows] == [
        ("prior", "arm", 0),
        ("ntp", "baseline", 0),
        ("random", "other", 1),
        ("drop", "other", 2),
    ]
    assert [arm.name for arm in arms.best_first(rows, "a|b", 1)] == ["prior", "drop", "random"]
    assert [arm.name for arm in arms.best_first(rows, "a|b", -1)] == ["prior", "random", "drop"]


# learning curves


def test_band_is_the_t_interval_from_four_seeds_on():
    values = np.random.default_rng(0).normal(size=(5, 3))
    low, high = bands.band(values)
    expected = stats.t.interval(0.95, 4, values.mean(0), stats.sem(values, axis=0))
    assert (low, high) == (pytest.approx(expected[0]), pytest.approx(expected[1]))
    low, high = bands.band(values[:3])
    assert (low == values[:3].min(0)).all() and (high == values[:3].max(0)).all()


def test_curves_are_means_over_seeds_at_steps_that_all_measured(trial):
    RunFolder(trial.runs[0].path).log(650, "eval", {"nll/image": 9.0}, 1.0)
    rows = arms.trial_arms(trial)
    charts = bands.trial_curves(rows, {}, "nll/image")
    assert [line.arm for line in charts.main.lines] == ["prior", "ntp", "random"]
    assert [bool(line.band) for line in charts.main.lines] == [True, True, False]
    first = charts.main.lines[0]
    assert [point[2] for point in first.points] == [100, 200, 300, 400, 500, 600]
    everyone = [curves.read_curves(run)["nll/image"][100] for run in rows[0].runs.values()]
    assert first.points[0][3] == pytest.approx(np.mean(everyone))
    assert charts.band == "95% t intervals of each arm's mean over 5 seeds"
    assert [[line.arm for line in chart.lines] for chart in charts.pairs] == [["ntp", "random"]]
    assert charts.pairs[0].lines[1].band


def test_lines_bands_and_names_stay_inside_the_frame(make_run):
    rows = arms.trial_arms(make_trial(make_run, TEN, (0, 1, 2, 3)))
    shown = bands.trial_curves(rows, {}, "grounded/auc")
    for chart in (shown.main, shown.narrow, *shown.pairs, *shown.rest):
        frame = chart.frame
        for line in chart.lines:
            for x, y in [(x, y) for x, y, _, _ in line.points] + line.band:
                assert frame.left <= x <= frame.plot_right and frame.top - 0.1 <= y <= frame.plot_bottom + 0.1
    for chart in (shown.main, shown.narrow):
        names = sorted(line.label_y for line in chart.lines)
        assert all(after - before >= charts.LABEL_GAP - 1e-9 for before, after in itertools.pairwise(names))
        assert chart.frame.top <= names[0] and names[-1] <= chart.frame.plot_bottom


def test_names_are_spread_near_their_lines():
    assert charts.spread([10, 50], 0, 100, 15) == [10, 50]
    assert charts.spread([50, 50, 52], 0, 100, 15) == pytest.approx([35.67, 50.67, 65.67], abs=0.01)
    assert charts.spread([2, 1], 0, 100, 15) == [15, 0]
    assert charts.spread([], 0, 100) == []


def test_every_other_arm_can_be_hidden_without_a_script(make_run):
    text = write_trial_report(make_trial(make_run, TEN, (0, 1)))["html"].read_text()
    boxes = [attributes["id"] for attributes in Page(text).of("input")]
    assert boxes == [f"show-{place}" for place in range(1, 9)]
    for place in range(1, 9):
        assert f"#curves:has(#show-{place}:not(:checked)) .toggled .line-{place} {{ display: none; }}" in text


# below the averages


def test_frontiers_that_the_card_asks_for_are_drawn_with_their_bands(make_run):
    card = replace(CARD, frontiers=(("nll/image", "grounded/digit/accuracy"),))
    text = (write_trial_report(make_trial(make_run, card=card))["html"]).read_text()
    start = text.index('id="frontiers-title"')
    section = text[start : text.index("</section>", start)]
    assert "grounded/digit/accuracy against nll/image" in section and "over 5 seeds" in section
    assert (
        section.count('<svg class="chart"') == 1 and "<polygon" in section and "<th>" not in section.split("<tbody>")[0]
    )


def test_the_same_caption_stands_side_by_side(trial, page):
    seed, captions = drill.side_by_side(arms.trial_arms(trial))
    assert (seed, len(captions)) == (0, 3)
    assert [arm.name for arm, _ in captions[0].arms] == ["prior", "ntp", "random"]
    token, weights = captions[0].table[0]
    assert token.text == "please"
    assert weights[1] == "1.000"
    assert "Token prior ntp random please" in page.text
    assert len(page.of("img")) == 3


def test_captions_cut_into_other_tokens_have_no_common_table(trial):
    path = trial.runs[1].path / "heatmap.json"
    content = json.loads(path.read_text())
    content["examples"][0]["tokens"].pop()
    path.write_text(json.dumps(content))
    _, captions = drill.side_by_side(arms.trial_arms(trial))
    assert captions[0].table == [] and captions[1].table != []
    assert "Weights of test-1" in page_of(trial).text


def test_text_without_an_image_is_shown(trial):
    for run in trial.runs:
        content = json.loads((run.path / "heatmap.json").read_text())
        for example in content["examples"]:
            example["image"] = None
        (run.path / "heatmap.json").write_text(json.dumps(content))
    page = page_of(trial)
    assert "please look at this one" in page.text
    assert page.of("img") == []


def test_examples_that_differ_most_are_averaged_over_seeds(make_run):
    trial = make_trial(make_run, seeds=(0, 1, 2), card=card_of("nll/image", direction=-1))
    rows = arms.trial_arms(trial)
    metrics = arms.trial_metrics(rows, arms.metrics_info(rows), "nll/image")
    result = drill.drill(rows, metrics, "nll/image", -1)
    assert (result.number, result.seeds, result.substitute, result.direction) == (120, [0, 1, 2], False, -1)
    pairs = [
        (drill._scores(rows[0].runs[seed].path, "nll/image"), drill._scores(rows[1].runs[seed].path, "nll/image"))
        for seed in range(3)
    ]
    expected = {name: np.mean([mine[name][1] - theirs[name][1] for mine, theirs in pairs]) for name in pairs[0][0]}
    ranked = sorted(expected, key=expected.get)
    assert [one.id for one in result.gains] == ranked[: drill.EXAMPLES]
    assert result.gains[0].difference == pytest.approx(expected[ranked[0]])
    assert all(one.difference > 0 for one in result.losses)
    assert result.better == sum(value < 0 for value in expected.values())
    assert sum(bar.count for bar in result.bars) == 120
    assert {bar.side for bar in result.bars if bar.high < 0} == {"more"}
    text = page_of(trial).text
    assert f"Of 120 examples, prior is better on {result.better}" in text
    assert result.gains[0].id in text and "of image-" in text


def test_parts_of_a_caption_are_shown_with_it(trial):
    run, baseline = trial.runs[:2]
    captions = {example.id: example for example in drill.read_heatmap(run.path)}
    known = drill.Difference("test-0 <b>&/1", "image-0", 1.0, 0.0, 1)
    other = drill.Difference("test-9", "image-9", 0.5, 0.0, 1)
    shown_first, shown_second = drill._largest([other, known], 1, captions)
    assert shown_first.caption.id == "test-0 <b>&" and shown_second.caption is None


def test_metric_without_scores_of_examples_is_stood_in_for(page):
    assert "grounded/auc has no score per example; this is the closest metric that has: Digit named right" in page.text


def test_equal_examples_have_no_histogram():
    assert drill._histogram([0.0, 0.0], 1) == ([], [])
    bars, ticks = drill._histogram([-1.0, 1.0, 0.0, 0.0], 1)
    assert [(bar.count, bar.side) for bar in bars if bar.count] == [(1, "less"), (2, "same"), (1, "more")]
    assert (50.0, "0") in ticks


# what is missing


def test_failed_and_queued_runs_are_named_with_their_error(make_run):
    trial = make_trial(make_run, failed=[("prior", 1)], queued=[("ntp", 4)], verdict="inconclusive", more_seeds=4)
    text = page_of(trial).text
    assert "2 of 15 runs are not finished." in text
    assert "failed prior, seed 1, step 200 of 600 CUDA out of <memory> Tried to allocate 2 GiB" in text
    assert "queued ntp, seed 4" in text
    assert "95% paired t interval over 3 seeds" in text
    assert "2 of 15 runs are not finished; means leave them out." in (trial.folder / "report.md").read_text()
    assert "claim, 3 seeds" in text and "baseline, 4 seeds" in text
    assert (
        "starts the missing runs again and keeps the finished ones: steelyard trial prior --arms prior,ntp,random"
        in text
    )
    assert "4 more seeds would settle it with 80% power" in text
    assert "steelyard trial prior --arms prior,ntp,random 'data.noise=a b' --seeds 9" in text


def test_command_with_more_seeds():
    def command(seeds, typed):
        planned = tuple(Cell(f"a-s{seed}", "", "a", seed, (), "") for seed in seeds)
        manifest = Manifest("trial", "prior", typed, "", 1, planned)
        return cells.more_seeds_command(manifest, 2)

    assert command((0, 1, 2), "steelyard trial prior") == "steelyard trial prior --seeds 5"
    assert command((0, 1), "steelyard trial prior --seeds=2 a='b c'") == "steelyard trial prior 'a=b c' --seeds 4"
    assert command((7, 1), "steelyard trial prior --seeds 7,1 -x") == "steelyard trial prior -x --seeds 1,7,0,2"


def test_one_seed_says_what_its_intervals_are_over(make_run):
    trial = make_trial(
        make_run, seeds=(0,), card=card_of("nll/image", direction=-1), verdict="inconclusive", more_seeds=None
    )
    text = page_of(trial).text
    assert "with the 95% bootstrap interval over 60 test items of seed 0" in text
    assert "How many more seeds would settle it cannot be told" in text
    assert "With one seed, intervals cover only which items" in text
    assert "± " not in text and "one seed each" not in text
    assert "bootstrap intervals over the examples of one seed" in (trial.folder / "report.md").read_text()


def test_metric_without_an_interval_on_one_seed(make_run):
    page = page_of(make_trial(make_run, seeds=(0,), verdict="inconclusive", more_seeds=None))
    assert "Digit named right, mean over training (grounded/auc), with no interval" in page.text
    assert "not tested" in page.text


def test_nothing_finished(make_run):
    everything = [(arm, 0) for arm in ("prior", "ntp", "random")]
    trial = make_trial(make_run, seeds=(0,), failed=everything)
    text = page_of(trial).text
    for sentence in (
        "Inconclusive",
        "No seed has both arms <finished>.",
        "so there is nothing to compare",
        "No arm could be paired with ntp",
        "No run was measured during training",
        "No run has finished.",
        "No run of this trial recorded weights",
        "The two arms have no seed with scores of the same examples",
        "No finished run recorded one.",
    ):
        assert sentence in text
    assert markdown_table(trial) == ""
    assert "No arm has finished a seed yet." in (trial.folder / "report.md").read_text()


@pytest.mark.parametrize("arm", ["prior", "ntp", "random"])
def test_trial_of_one_arm(make_run, arm):
    trial = make_trial(make_run, (arm,), (0, 1))
    page = page_of(trial)
    assert [attributes["id"] for attributes in page.of("section")] == SECTIONS
    assert "No arm could be paired with ntp" in page.text
    assert f"| {arm} | 2 | " in markdown_table(trial)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("heatmap.json", "No run of this trial recorded weights of tokens"),
        ("examples.parquet", "The two arms have no seed with scores of the same examples"),
        ("metrics_info.json", "grounded/digit/accuracy"),
        ("env.json", "No finished run recorded one."),
    ],
)
def test_files_that_a_recipe_does_not_write(make_run, name, sentence):
    def make(arm, seed, **changes):
        folder = make_run(arm, seed, **changes)
        (folder / name).unlink()
        return folder

    page = page_of(make_trial(make, seeds=(0, 1)))
    assert sentence in page.text
    assert [attributes["id"] for attributes in page.of("section")] == SECTIONS


def test_runs_without_evaluations_during_training(make_run):
    page = page_of(make_trial(exact_run(make_run, EXACT), tuple(EXACT), (0, 1), card=card_of("a|b")))
    assert "No run was measured during training" in page.text


def test_environments_that_differ_are_shown(trial):
    path = trial.runs[4].path / "env.json"
    content = json.loads(path.read_text()) | {"host": "other", "command": "something else", "seed": 9}
    content["packages"]["torch"] = "2.12.0"
    path.write_text(json.dumps(content))
    text = page_of(trial).text
    assert "The runs did not share one environment." in text
    assert "packages.torch 2.13.0 (14: prior-s0," in text
    assert "2.12.0 (1: ntp-s1)" in text
    assert "host not recorded (14:" in text
    assert "something else" not in text


def test_environments_are_told_apart_by_key_and_read_once_for_all_that_are_alike(trial, monkeypatch):
    for number, run in enumerate(trial.runs):
        content = json.loads((run.path / "env.json").read_text()) | {"seed": number, "host": f"h{number % 3}"}
        content["packages"] |= {"new": 1} if number in (2, 8) else {}
        (run.path / "env.json").write_text(json.dumps(content))
    names = {(state.cell.arm, state.cell.seed): state.cell.name for state in trial.states}
    labels = [names[run.arm, run.seed] for run in trial.runs]
    hosts = [(f"h{number}", labels[number::3]) for number in range(3)]
    new = [
        ("not recorded", [label for n, label in enumerate(labels) if n not in (2, 8)]),
        ("1", [labels[2], labels[8]]),
    ]
    flattened = []
    monkeypatch.setattr(cells, "flatten", lambda tree: flattened.append(tree) or flatten(tree))
    assert cells.environment_differences(trial) == [("host", hosts), ("packages.new", new)]
    assert len(flattened) == 4


def test_one_environment_is_not_warned_of(page):
    assert "did not share one environment" not in page.text
    assert "torch 2.13.0" in page.text


def test_config_differences_of_all_arms(page, trial):
    assert "Arm weighting.name prior prior ntp ntp random random" in page.text
    shorter = [
        replace(arm, runs=dict(list(arm.runs.items())[place:])) for place, arm in enumerate(arms.trial_arms(trial))
    ]
    keys, rows = cells.config_table(shorter)
    assert keys == ["weighting.name"] and [values for _, values in rows] == [["prior"], ["ntp"], ["random"]]


def test_keys_that_differ_unplanned_are_warned_of(make_run):
    def make(arm, seed, **changes):
        return make_run(arm, seed, **changes, trainer__batch_size=64 if arm == "random" else 32)

    text = page_of(make_trial(make, seeds=(0, 1))).text
    assert "Not clean pairs. Runs also differ in keys that the arms do not choose: trainer.batch_size" in text
    assert "trainer.batch_size (random: 64, ntp: 32)" in text


def test_commands_of_every_run_are_exact(page):
    assert "steelyard trial prior --arms prior,ntp,random --seeds 5 'data.noise=a b'" in page.text
    assert "steelyard run prior 'data.noise=a b' arm=random seed=4" in page.text


def test_text_from_files_is_escaped(make_run):
    trial = make_trial(make_run, failed=[("random", 0)])
    text = write_trial_report(trial)["html"].read_text()
    assert "test-0 &lt;b&gt;&amp;" in text and "&lt;memory&gt;" in text and "fewer &lt;steps&gt; &amp; tokens" in text
    assert not re.search(r"<b>|<memory>|<steps>|<and>|<finished>", text)


# pictures


def test_pictures_show_forest_and_curves_and_are_the_same_each_time(make_run):
    trial = make_trial(make_run, seeds=(0, 1), card=replace(CARD, claim=replace(CARD.claim, statement="costs $5 & $6")))
    first = write_trial_report(trial)
    pictures = [first[kind].read_bytes() for kind in ("png", "svg")]
    again = write_trial_report(trial)
    assert pictures == [again[kind].read_bytes() for kind in ("png", "svg")]
    with Image.open(first["png"]) as picture:
        assert picture.width >= 2000
        assert len(picture.convert("L").resize((50, 50)).getcolors()) > 5
    assert b"<svg" in pictures[1]
    assert not re.search(rb"<image|href=\"(?!#)", pictures[1])


def test_ten_arms_and_five_seeds_take_seconds(make_run):
    trial = make_trial(make_run, TEN)
    start = time.monotonic()
    page = page_of(trial)
    assert time.monotonic() - start < 15
    assert page.text.count("seed 4") >= 1
    assert all(name in page.text for name in TEN)


PROBE = """<!DOCTYPE html><body style="margin:0"><iframe id="page" style="border:0;width:{width}px;height:600px"
srcdoc="{page}"></iframe><script>
page.onload = () => {{
  const inside = page.contentDocument, box = inside.getElementById("show-1");
  const line = inside.querySelector(".toggled .line-1"), before = getComputedStyle(line).display;
  box.checked = false;
  const loaded = performance.getEntriesByType("resource").filter(one => one.name.startsWith("http")).length;
  document.body.dataset.found = JSON.stringify({{
    width: inside.documentElement.scrollWidth, before, after: getComputedStyle(line).display, loaded,
  }});
}};
</script>"""


def browser(*arguments):
    return subprocess.run([CHROMIUM, *FLAGS, *arguments], check=True, capture_output=True, text=True, timeout=60)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1200, 400])
def test_browser_finds_no_sideways_scrolling_and_toggles_arms(make_run, tmp_path, width):
    text = write_trial_report(make_trial(make_run, TEN, (0, 1)))["html"].read_text()
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(width=width, page=html.escape(text.replace("<details>", "<details open>"))))
    shown = browser(
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom", probe.as_uri()
    )
    state = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', shown.stdout)[1]))
    assert state == {"width": width, "before": "inline", "after": "none", "loaded": 0}


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize(("scheme", "flag"), [("light", 1), ("dark", 0)])
def test_browser_shows_both_themes(trial, tmp_path, scheme, flag):
    path, shot = write_trial_report(trial)["html"], tmp_path / "shot.png"
    theme = [f"--blink-settings=preferredColorScheme={flag}", f"--user-data-dir={tmp_path / 'profile'}"]
    browser(*theme, f"--screenshot={shot}", path.as_uri())
    expected = list(themes())[scheme == "dark"]["page"]
    with Image.open(shot) as picture:
        pixels = picture.convert("RGB")
        assert [part / 255 for part in pixels.getpixel((3, 3))] == pytest.approx(expected)
        assert len(pixels.getcolors(900 * 700)) > 50
