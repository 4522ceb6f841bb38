"""The board: each system has a row, each verdict its numbers, and the page needs nothing from elsewhere."""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from recipes.core.config import compose, registry
from recipes.core.config.settings import System
from recipes.core.pages.board import (
    ELSEWHERE,
    UNMEASURED,
    BoardTrial,
    board_page,
    board_rows,
    measured_trials,
    stored_board,
)
from recipes.core.pages.stored import read_trial, trial_names
from recipes.core.trial import manifest as manifests
from recipes.core.trial.result import write_results
from tests.core.conftest import make_run
from tests.core.pages.conftest import CLAIM, judged, priced
from tests.core.report.test_report import CHROMIUM, FLAGS, Page
from tests.core.trials import make_trial

__all__ = ["make_run"]

COMMAND = "steelyard trial prior data=easy-vqa --seeds 3"


def trial(recipe: str = "prior", *answers, **changes) -> BoardTrial:
    fields = {"recipe": recipe, "command": COMMAND, "date": "2026-11-28", "judged": answers or (judged(),)}
    fields["setting"] = "data=easy-vqa"
    return BoardTrial(**fields | changes)


# which rows there are


def test_every_recipe_and_every_system_has_a_row_and_what_was_not_measured_says_so() -> None:
    rows = board_rows([])
    systems = {(name, system.name) for name in registry.recipe_names() for system in registry.card(name).covers}
    assert {(row.recipe, row.system) for row in rows} == systems
    assert {row.word for row in rows} == {UNMEASURED} and {row.difference + row.over for row in rows} == {""}
    assert len(rows) == sum(1 + len(registry.card(name).claims) for name in registry.recipe_names())


def test_token_pruning_covers_four_systems() -> None:
    systems = registry.card("token-pruning").covers
    assert [system.name for system in systems] == ["DivPrune", "FlowCut", "Zero-TPrune", "Recoverable Compression"]


@pytest.mark.parametrize("name", registry.recipe_names())
def test_each_claim_is_about_one_system_whose_arms_there_are(name: str) -> None:
    card = registry.card(name)
    for claim in (card.claim, *card.claims):
        assert sum(system.has(claim) for system in card.covers) == 1, claim.statement
    assert {arm for system in card.covers for arm in system.arms} <= set(compose.every_arm(name))


def test_without_systems_the_card_names_the_one() -> None:
    card = registry.card("prior")
    assert card.covers == (System("PRIOR", card.paper),) and card.covers[0].has(card.claim)


def test_a_claim_that_one_trial_judged_is_not_also_unmeasured() -> None:
    claim = registry.card("prior").claim
    first, second = (judged(claim=claim), judged("inconclusive", claim))
    rows = [row for row in board_rows([trial("prior", first), trial("prior", second)]) if row.recipe == "prior"]
    left = [row for row in rows if row.judged is None]
    assert [row.word for row in rows][:2] == ["supported", "inconclusive"]
    assert claim not in [row.claim for row in left] and len(left) == len(registry.card("prior").claims)


def test_a_recipe_that_is_not_in_the_checkout_has_its_rows() -> None:
    (row,) = [row for row in board_rows([trial("my-rho")]) if row.family == ELSEWHERE]
    assert (row.system, row.recipe, row.word) == ("my-rho", "my-rho", "supported")


# what a row says


def test_a_row_has_difference_price_seeds_and_setting() -> None:
    answer = priced(judged(claim=registry.card("prior").claim), worse=True)
    row = next(row for row in board_rows([trial("prior", answer)]) if row.judged)
    assert row.difference == "+0.310 [+0.244, +0.375]" and row.estimate == 0.31
    assert row.price == ["nll/other +5.070 [+4.650, +5.490]"] and row.priced
    assert (row.over, row.trial.setting) == ("3 seeds", "data=easy-vqa")
    items = replace(answer, verdict=replace(answer.verdict, items=800))
    assert replace(row, judged=items).over == "800 items of 3 seeds"
    assert replace(row, judged=priced(answer, worse=False)).price == ["none"]


def test_verdicts_are_sorted_supported_first_and_not_measured_last() -> None:
    answers = [
        judged(),
        priced(judged(), True),
        *(judged(word) for word in ("inconclusive", "contradicted", "not judged")),
    ]
    rows = [row for answer in answers for row in board_rows([trial("my-rho", answer)]) if row.judged]
    ranks = [row.rank for row in rows] + [board_rows([])[0].rank]
    assert ranks == sorted(ranks) and len(set(ranks)) == 6


# the page


@pytest.fixture
def page() -> Page:
    return Page(stored_board([read_trial(name) for name in trial_names()]))


def test_the_page_loads_nothing_from_elsewhere_and_escapes_what_it_shows() -> None:
    claim = replace(CLAIM, statement="<b>bold</b> & more")
    text = board_page(board_rows([trial("my-rho", judged(claim=claim))]), "a test")
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; more" in text and "<b>bold" not in text
    assert not re.search(r"https?://|url\(|@import|<iframe|<object|src=", text)


def test_the_page_is_accessible_and_every_column_can_be_sorted(page: Page) -> None:
    heads = [one for one in page.of("th") if one["scope"] == "col"]
    assert len(heads) == 9 == len(page.of("option")) == len(page.of("button"))
    assert page.of("html")[0]["lang"] == "en" and page.tags.count("h1") == 1
    assert all("data-sort" in one for one in [*page.of("td"), *(o for o in page.of("th") if o["scope"] == "row")])
    assert "Zero-TPrune" in page.text and "not measured" in page.text


def test_the_stored_board_names_the_trials_and_recipes(page: Page) -> None:
    links = {one["href"] for one in page.of("a")}
    assert {"recipes/prior.md", "results/prior/default.json"} <= links


SCRIPT = """<script>
const click = column => document.querySelectorAll("thead button")[column].click();
const systems = () => [...document.querySelectorAll("tbody th")].map(one => one.firstChild.textContent).join();
click(4); const rising = [...document.querySelectorAll("tbody tr")].map(one => one.cells[4].dataset.sort).join();
click(4); const falling = [...document.querySelectorAll("tbody tr")].map(one => one.cells[4].dataset.sort).join();
document.title = [rising, falling, document.querySelector("[aria-sort=descending]").textContent,
                  document.documentElement.scrollWidth <= innerWidth].join("|");
</script>"""


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
@pytest.mark.parametrize("width", [1400, 390])
def test_a_click_sorts_by_number_and_nothing_overflows(tmp_path, width: int) -> None:
    rows = [trial("my-rho", judged(estimate=value)) for value in (10.0, -2.0, 9.0)]
    (tmp_path / "board.html").write_text(board_page(board_rows(rows), "a test") + SCRIPT, encoding="utf-8")
    words = [CHROMIUM, *FLAGS, f"--window-size={width},900", "--dump-dom", f"file://{tmp_path}/board.html"]
    title = re.search(r"<title>(.*?)</title>", subprocess.run(words, capture_output=True, text=True).stdout)[1]
    rising, falling, sorted_by, fits = title.split("|")
    assert rising.startswith("-2.0,9.0,10.0,") and falling.startswith("10.0,9.0,-2.0,")
    assert (sorted_by, fits) == ("difference", "true")


# trials of this machine


def test_trials_of_this_machine_are_read_from_their_results(make_run, tmp_path) -> None:
    made = make_trial(make_run)
    manifests.write(made.folder, made.manifest)
    board = tmp_path / "board.html"
    assert measured_trials([tmp_path / "outputs"], board) == ([], 1)
    write_results(made)
    (made.folder / "report.html").touch()
    (one,), unanswered = measured_trials([tmp_path / "outputs", tmp_path / "outputs" / "."], board)
    assert unanswered == 0 and (one.recipe, one.date) == ("prior", "2026-01-05")
    assert one.link == "outputs/prior/trials/0123456789/report.html"
    assert one.judged[0].verdict == made.verdict and one.judged[0].claim == made.card.claim


def test_the_setting_is_what_all_cells_share_whether_it_was_typed_or_stood_in_a_file(make_run, tmp_path) -> None:
    made = make_trial(make_run)
    added = ("model=small-lm", "tracker=none", "trainer.threads=1", "outputs=x")
    cells = tuple(replace(cell, overrides=(*cell.overrides, *added)) for cell in made.manifest.cells)
    command = "steelyard trial --config mine.yaml --seeds 5"
    manifests.write(made.folder, replace(made.manifest, command=command, cells=cells))
    write_results(made)
    ((one,), _) = measured_trials([tmp_path / "outputs"], tmp_path / "board.html")
    assert one.setting == "data.noise=a b model=small-lm"


def test_a_trial_that_cannot_be_read_is_named_and_left_out(make_run, tmp_path, capsys) -> None:
    made = make_trial(make_run)
    manifests.write(made.folder, made.manifest)
    write_results(made)
    shutil.copytree(made.folder, made.folder.with_name("damaged"))
    (made.folder.with_name("damaged") / "results.json").write_text('{"claim": 3}')
    trials, unanswered = measured_trials([tmp_path / "outputs"], tmp_path / "board.html")
    assert (len(trials), unanswered) == (1, 0)
    assert f"warning: {made.folder.with_name('damaged')} is left out" in capsys.readouterr().err
