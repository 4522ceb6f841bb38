"""The report: what it says first, that it loads nothing, that everybody can read it, in both themes."""

import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from recipes.core.config.settings import Card, Claim
from recipes.core.evaluation.importance import Importance, WeighedText, importance_heatmap
from recipes.core.evaluation.plots import Plot, write_plots
from recipes.core.report import charts, curves, heatmap
from recipes.core.report import run as report
from recipes.core.statistics import compare
from recipes.core.statistics.claims import baseline_of
from recipes.core.statistics.texts import expectation, number_text
from recipes.core.storage.files import write_json

KEYS = {"weighting"}
CLAIM = Claim("fewer steps", "grounded/auc", "prior", "ntp", 1, "8% <and> 19%", 0.02)
CARD = Card("PRIOR: tokens & images", "arXiv 2505.08971", "weights", CLAIM, "one reference", ("arm", "weighting"), 1)
DICT = {
    "title": CARD.title,
    "paper": CARD.paper,
    "claim": dataclasses.asdict(CLAIM),
    "expects": expectation(CLAIM),
    "main_metric": "grounded/auc",
    "command": "steelyard run prior data.noise='random words' seed=0",
}
VOID = {"meta", "link", "br", "img", "input"}
INLINE = {"strong", "code", "a", "sub", "abbr"}
STYLE = Path(report.__file__).with_name("style.css.j2").read_text()


class Page(HTMLParser):
    """Checks that tags nest, and keeps what tests ask about."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in INLINE:
            self.words.append(" ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def of(self, tag):
        return [attributes for name, attributes in self.attributes if name == tag]


@pytest.fixture
def one_seed(make_run):
    run, other = compare.load_run(make_run("prior")), compare.load_run(make_run("ntp"))
    return run, other, compare.compare_runs(run, other, arm_keys=KEYS, main_metric="grounded/auc", draws=300)


@pytest.fixture
def page(one_seed):
    return Page(report.write_report(*one_seed, DICT).read_text())


def test_page_loads_nothing_from_elsewhere(one_seed):
    text = report.write_report(*one_seed, DICT).read_text()
    assert not re.search(r"https?://", text)
    assert not re.search(r"url\(|@import|<script|<iframe|<object", text)
    for tag, attributes in Page(text).attributes:
        for name in ("src", "href", "xlink:href", "srcset", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)


def test_page_is_well_formed_and_has_its_sections(page):
    ids = [attributes["id"] for _, attributes in page.attributes if "id" in attributes]
    assert len(ids) == len(set(ids))
    sections = [attributes["id"] for attributes in page.of("section")]
    assert sections == ["result", "curves", "metrics", "tokens", "again", "environment"]
    referenced = " ".join(attributes.get("aria-labelledby", "") for _, attributes in page.attributes).split()
    assert set(referenced) <= set(ids)
    assert "torch 2.13.0" in page.text
    assert "weighting.name" in page.text
    assert "max_steps: 600" in page.text


def test_page_is_accessible(page):
    assert page.of("html")[0]["lang"] == "en"
    for landmark in ("header", "main", "footer", "h1"):
        assert page.tags.count(landmark) == 1
    headings = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in zip(headings, headings[1:], strict=False))
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.of("th"))
    assert all(attributes.get("alt") for attributes in page.of("img"))
    for attributes in page.of("svg"):
        assert attributes.get("aria-hidden") == "true" or attributes["role"] == "img"


def luminance(color):
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color]
    return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def contrast(one, other):
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def themes():
    light = STYLE[: STYLE.index("@media")]
    dark = STYLE[STYLE.index("@media") : STYLE.index("*, *::before")]
    for text in (light, dark):
        values = {}
        for name, value in re.findall(r"--([a-z]+): ([^;]+);", text):
            if value.startswith("#"):
                values[name] = tuple(int(value[at : at + 2], 16) / 255 for at in (1, 3, 5))
            elif re.fullmatch(r"\d+ \d+ \d+", value):
                values[name] = tuple(int(part) / 255 for part in value.split())
        yield values


def test_contrast_meets_aa_in_both_themes():
    palettes = list(themes())
    assert len(palettes) == 2
    for colors in palettes:
        for surface in ("page", "card", "sunken"):
            for text in ("ink", "muted", "arm", "better", "worse", "unclear", "brass"):
                assert contrast(colors[text], colors[surface]) >= 4.5, (text, surface)
        assert contrast(colors["baseline"], colors["card"]) >= 4.5
        for shade in ("more", "less"):
            for amount in (0.25, 0.5, 1.0):
                mixed = [amount * a + (1 - amount) * b for a, b in zip(colors[shade], colors["card"], strict=True)]
                assert contrast(colors["ink"], mixed) >= 4.5, (shade, amount)


def test_one_seed_says_that_its_main_metric_has_no_interval(page):
    assert "Result on seed 0: Digit named right, mean over training" in page.text
    assert "with no interval, because one seed measures it once" in page.text
    assert "Better: Digit named right, Loss on image tokens" in page.text
    assert "Worse: Loss on the other tokens" in page.text
    assert "They say nothing about other seeds" in page.text
    assert "steelyard trial prior --arms prior,ntp --seeds 5 'data.noise=random words'" in page.text
    assert "Published: 8% <and> 19%" in page.text


def test_main_metric_with_an_interval_is_told_with_it(one_seed):
    run, other, comparison = one_seed
    card = DICT | {"main_metric": "nll/other"}
    text = Page(report.write_report(run, other, comparison, card).read_text()).text
    row = comparison.row("nll/other")
    assert f"a difference of {number_text(row.difference, True)} [+" in text
    assert "the 95% interval over 60 test items of this seed. Lower is better" in text
    assert "Result on seed 0: Loss on the other tokens Worse" in text


def test_several_seeds_are_told_as_seeds(make_run):
    pairs = [tuple(compare.load_run(make_run(arm, seed)) for arm in ("prior", "ntp")) for seed in range(3)]
    comparison = compare.compare_seeds(pairs, arm_keys=KEYS, main_metric="grounded/auc")
    text = Page(report.write_report(*pairs[0], comparison, DICT).read_text()).text
    assert "Result over 3 paired seeds: Digit named right, mean over training Better" in text
    assert "the 95% interval over 3 seeds" in text
    assert "paired t intervals over 3 seeds (0, 1, 2)" in text
    assert "steelyard trial" not in text


def test_without_a_baseline_the_page_says_what_to_type(make_run):
    text = Page(report.write_report(compare.load_run(make_run("prior")), None, None, DICT).read_text()).text
    assert "No baseline run yet: type steelyard run prior arm=ntp 'data.noise=random words' seed=0" in text
    assert "Of this run alone" in text
    assert "14.50" in text


def test_baseline_points_to_the_arm(make_run):
    text = Page(report.write_report(compare.load_run(make_run("ntp")), None, None, DICT).read_text()).text
    assert "This is the baseline." in text
    assert "steelyard run prior arm=prior" in text


def test_command_of_the_partner_keeps_what_was_typed(make_run):
    run = compare.load_run(make_run("prior", 3))
    typed = "steelyard run prior arm=prior budget=smoke seed=3 --fresh"
    assert report.command_for(typed, run, "ntp") == "steelyard run prior arm=ntp budget=smoke seed=3"
    assert report.command_for("python -m something", run, "ntp") == "steelyard run prior arm=ntp seed=3"


def test_keys_that_differ_unplanned_are_warned_of(make_run):
    run, other = compare.load_run(make_run("prior")), compare.load_run(make_run("ntp", trainer__batch_size=64))
    comparison = compare.compare_runs(run, other, arm_keys=KEYS, draws=200)
    text = Page(report.write_report(run, other, comparison, DICT).read_text()).text
    assert "Not a clean pair. The two runs also differ in trainer.batch_size (32 and 64)" in text


def test_unfinished_run_without_measurements_is_reported(make_run):
    text = Page(
        report.write_report(compare.load_run(make_run("prior", state="failed")), None, None, DICT).read_text()
    ).text
    assert "state failed" in text
    assert "This run was not measured during training" in text


def test_text_from_files_is_escaped(one_seed):
    text = report.write_report(*one_seed, DICT).read_text()
    assert "test-0 &lt;b&gt;&amp;" in text
    assert "<b>" not in text


def test_baseline_and_comparison_belong_together(one_seed):
    run, other, comparison = one_seed
    for arguments in ((other, None), (None, comparison)):
        with pytest.raises(ValueError, match="belong together"):
            report.write_report(run, *arguments, DICT)


def test_report_of_a_run_stands_beside_its_baseline(make_run):
    run, other, lonely = (
        compare.load_run(make_run(arm, seed)) for arm, seed in (("prior", 0), ("ntp", 0), ("prior", 5))
    )
    outputs = run.path.parents[2]
    assert baseline_of(run, CARD, outputs) == other
    assert baseline_of(other, CARD, outputs) is None and baseline_of(lonely, CARD, outputs) is None
    report.report_run(run, other, CARD)
    assert "prior minus ntp" in (run.path / "report.html").read_text()
    report.report_run(lonely, None, CARD)
    assert "steelyard run prior arm=ntp" in (lonely.path / "report.html").read_text()


def test_picture_is_written_with_and_without_a_comparison(one_seed):
    run, other, comparison = one_seed
    heights = []
    for arguments in ((other, comparison), (None, None)):
        report.write_report(run, *arguments, DICT)
        with Image.open(run.path / "report.png") as picture:
            assert picture.format == "PNG"
            assert len(picture.convert("L").resize((50, 50)).getcolors()) > 5
            heights.append(picture.height)
    assert heights[0] > heights[1]


def untrained(folder: Path) -> None:
    """As a recipe leaves it that trains nothing."""
    write_json(folder / "status.json", json.loads((folder / "status.json").read_text()) | {"step": 0, "max_steps": 0})
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join(line for line in lines if '"final"' in line) + "\n")


def test_a_run_that_trains_nothing_speaks_of_no_training(make_run):
    folder = make_run("prior")
    untrained(folder)
    (folder / "report.png").write_bytes(b"of before")
    page = report.write_report(compare.load_run(folder), None, None, DICT).read_text()
    assert not any(
        words in page for words in ("<dt>steps</dt>", "during training", "end of training", "Learning curves")
    )
    assert not (folder / "report.png").exists()  # an empty picture says nothing
    write_plots(folder, [Plot("kept", "Kept", "tokens", "accuracy", {"prior": [(1, 0.2), (2, 0.4)]})])
    report.write_report(compare.load_run(folder), None, None, DICT)
    with Image.open(folder / "report.png") as picture:
        assert len(picture.convert("L").resize((50, 50)).getcolors()) > 5


@pytest.mark.parametrize("longest", [4, 400])
def test_steps_are_whole_numbers_and_labelled_as_they_are(longest):
    for last in (1, 2, 3, 5, 7, 10, 13, 600, 900, 1500):
        series = [charts.Series("a" * longest, "arm", [(0, 0.0), (last, 1.0)])]
        drawn = curves.chart("m", series, {}, charts.with_names(charts.LARGE, longest))
        labels = [label for _, label in drawn.x_ticks]
        assert len(set(labels)) == len(labels) and all("." not in label for label in labels)
        for x, label in drawn.x_ticks:
            step = (x - drawn.frame.left) / (drawn.frame.plot_right - drawn.frame.left) * last
            assert abs(step - float(label.replace(",", ""))) < 1e-6
        assert drawn.frame.right <= drawn.frame.width / 3


def test_shade_is_logarithmic_and_symmetric():
    assert [heatmap.shade(weight) for weight in (1, 4, 16, 64, 0.25, 1 / 16, 0)] == [0, 0.5, 1, 1, -0.5, -1, -1]


def test_heatmap_underlines_what_the_image_determines(page):
    tokens = [attributes for attributes in page.of("span") if "tok" in attributes.get("class", "").split()]
    three = next(attributes for attributes in tokens if attributes["title"].startswith("three"))
    assert three["class"].split() == ["tok", "more", "kind"]
    assert three["title"].startswith("three: weight 9.900, digit, loss 0.")
    assert three["style"] == "--w:0.827"
    assert sum("kind" in attributes["class"].split() for attributes in tokens) == 6


def test_rows_over_the_same_tokens_stand_below_each_other_with_one_table(one_seed):
    rows = [Importance("deletion", [2, 1, 0]), Importance("attention", [1, 1, 1])]
    text = WeighedText("row-0", ["so", " <it>", " is"], rows, [None, "evidence", None], "What leads to here")
    write_json(one_seed[0].path / "heatmap.json", importance_heatmap([text], "Importance."))
    page = Page(report.write_report(*one_seed, DICT).read_text())
    assert page.tags.count("h4") == 2
    assert "What leads to here deletion so <it> is attention so <it> is" in page.text
    assert "Token deletion attention Kind so 2.000 1.000 <it> 1.000 1.000 evidence is 0.000 1.000" in page.text


def test_equal_weights_have_no_shade(make_run):
    examples = heatmap.read_heatmap(make_run("ntp"))
    assert {token.side for example in examples for token in example.tokens} == {"mean"}
    assert all(example.pixelated for example in examples)


def test_curves_start_with_the_main_metric_and_stay_inside_the_frame(make_run):
    run, baseline = compare.load_run(make_run("prior")), compare.load_run(make_run("ntp"))
    drawn = curves.learning_curves(run, baseline, {"nll/other": {"title": "Rest"}}, "nll/other")
    assert [chart.title for chart in drawn][:2] == ["Rest", "nll/image"]
    assert drawn[0].frame.width > drawn[1].frame.width
    for chart in drawn:
        frame = chart.frame
        for line in chart.lines:
            assert [point[2] for point in line.points] == [100, 200, 300, 400, 500, 600]
            assert all(
                frame.left <= x <= frame.plot_right and frame.top <= y <= frame.plot_bottom
                for x, y, _, _ in line.points
            )
        ends = [line.label_y for line in chart.lines]
        assert abs(ends[0] - ends[1]) >= charts.LABEL_GAP - 1e-9
    assert drawn[0].description.startswith("prior from ")
    assert drawn[0].table[0][0] == "100"


def test_flat_curve_and_values_that_are_not_numbers(make_run):
    run = compare.load_run(make_run("prior"))
    lines = [f'{{"step": {step}, "kind": "eval", "metrics": {{"a": 0.5, "b": NaN}}, "seconds": 1}}' for step in (1, 2)]
    (run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    charts = curves.learning_curves(run, None, {}, "a")
    assert [chart.metric for chart in charts] == ["a"]
    assert len({y for _, y, _, _ in charts[0].lines[0].points}) == 1


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=900,700",
)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize(("scheme", "flag"), [("light", 1), ("dark", 0)])
def test_browser_shows_both_themes(one_seed, tmp_path, scheme, flag):
    path = report.write_report(*one_seed, DICT)
    shot = tmp_path / f"{scheme}.png"
    theme = [f"--blink-settings=preferredColorScheme={flag}", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [CHROMIUM, *FLAGS, *theme, f"--screenshot={shot}", path.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    expected = list(themes())[scheme == "dark"]["page"]
    with Image.open(shot) as picture:
        pixels = picture.convert("RGB")
        assert pixels.size == (900, 700)
        assert [part / 255 for part in pixels.getpixel((3, 3))] == pytest.approx(expected)
        assert len(pixels.getcolors(900 * 700)) > 50


def test_commands_for_other_arms_leave_out_the_label_and_what_those_arms_set(make_run):
    command = "steelyard run sparsepo arm=dpo preference.loss=ipo preference.beta=0.2 label=ipo seed=1"
    run = compare.load_run(make_run("ipo", 1, recipe="sparsepo", label="ipo"))
    assert report.command_for(command, run, "dpo") == "steelyard run sparsepo arm=dpo preference.beta=0.2 seed=1"
    loop = report._more_seeds(command, run, ("ipo", "dpo"))
    assert loop == (
        "for seed in 0 2 3 4; do steelyard run sparsepo arm=dpo preference.loss=ipo preference.beta=0.2 label=ipo "
        "seed=$seed; steelyard run sparsepo arm=dpo preference.beta=0.2 seed=$seed; done; steelyard compare sparsepo"
    )


def test_a_kind_that_no_arm_chooses_stays_in_the_command_of_another_arm(make_run):
    run = compare.load_run(make_run("awrs_smc", 0, recipe="awrs"))
    words = "constraint=regex constraint.pattern=x"
    assert report.command_for(f"steelyard run awrs {words}", run, "lcd_mask") == (
        f"steelyard run awrs arm=lcd_mask {words}"
    )
