"""Pages hold what the stored trials say: those of the project, and what a marker does to a page."""

import pytest

from recipes.core.config import registry
from recipes.core.config.registry import ROOT
from recipes.core.errors import UserError
from recipes.core.pages.__main__ import main
from recipes.core.pages.markers import markers, pages, stale, with_numbers, write_pages
from recipes.core.pages.stored import write_trial

MARKER = "<!-- table: prior/default\ncolumns: {area: auc}\narms: [ntp]\n-->\n"
BODY = "| arm | area |\n|---|---|\n| ntp | .500 |\n"


@pytest.fixture
def results(stored, tmp_path):
    write_trial(stored(), tmp_path)
    return tmp_path


def test_pages_and_results_agree():
    assert [str(path.relative_to(ROOT)) for path in stale()] == [], "type: make docs"


def test_the_list_of_recipes_has_them_all():
    text = (ROOT / "docs" / "recipes" / "README.md").read_text(encoding="utf-8")
    for name in registry.recipe_names():
        assert f"[{name}]({name}.md)" in text and registry.card(name).weights in text


def test_text_between_markers_is_written_and_nothing_else(results):
    page = f"# A page\n\n{MARKER}old\n<!-- end -->\n\nProse.\n\n<!-- verdict: prior/default -->\n<!-- end -->\nEnd.\n"
    fresh = with_numbers(page, "page", results)
    assert fresh == (
        f"# A page\n\n{MARKER}{BODY}<!-- end -->\n\nProse.\n\n<!-- verdict: prior/default -->\n"
        "PRIOR learns faster: **supported**, +.310 [+.244, +.375], three seeds.\n<!-- end -->\nEnd.\n"
    )
    assert with_numbers(fresh, "page", results) == fresh


def test_examples_that_are_indented_stay(results):
    page = "    <!-- table: prior/nowhere -->\n    <!-- end -->\n"
    assert with_numbers(page, "page", results) == page


def test_what_is_pending_stays_until_its_trial_is_stored(results, stored):
    head, rest = "<!-- table: prior/later\n", "columns: {area: auc}\narms: [ntp]\n-->\n"
    page = f"{head}pending: true\n{rest}typed\n<!-- end -->\n"
    assert with_numbers(page, "page", results) == page
    lone = "<!-- output: prior/default\npending: true\n-->\n<!-- end -->\n"
    assert with_numbers(lone, "page", results).startswith("<!-- output: prior/default -->\n    prior: auc")
    never = "<!-- recipes\npending: true\n-->\ntyped\n<!-- end -->\n"
    assert with_numbers(never, "page", results) == never
    assert [(one.name, one.pending) for one in markers(page, "page")] == [("prior/later", True)]
    write_trial(stored(name="prior/later"), results)
    assert with_numbers(page, "page", results) == f"{head}{rest}{BODY}<!-- end -->\n"


@pytest.mark.parametrize(
    ("page", "what"),
    [
        ("text\n<!-- tabel: prior/default -->\n<!-- end -->\n", "page, line 2: is no marker that is known"),
        (f"\n\n{MARKER}old\n", "page, line 3: the marker table has no end"),
        (f"{MARKER}{MARKER}<!-- end -->\n", "page, line 1: the marker table has no end"),
        ("text\n<!-- end -->\n", "ends no marker"),
        ("<!-- verdict -->\n<!-- end -->\n", "verdict: it needs the name of a stored trial"),
        ("<!-- table: prior/x\ncolumns: {a: auc}\n-->\n<!-- end -->\n", "no stored trial 'prior/x'"),
        ("<!-- table: prior/default\ncolumns: {a\n-->\n<!-- end -->\n", "are no YAML"),
        ("<!-- table: prior/default\ncolumns\n-->\n<!-- end -->\n", "no KEY: VALUE lines"),
        ("<!-- table: prior/x\npending: true\ncolumns: {a: auc twice}\n-->\n<!-- end -->\n", "a column says 'twice'"),
        ("<!-- measured: prior/default\narms: [ntp]\n-->\n<!-- end -->\n", "it has no option 'arms'"),
        ("<!-- recipes\nnames: [proir]\n-->\n<!-- end -->\n", "recipes: unknown recipe 'proir'"),
        ("<!-- table: prior/default\ncolumns: {a: acc}\n-->\n<!-- end -->\n", "page, line 1: table prior/default: the"),
    ],
)
def test_a_marker_that_cannot_be_served_is_refused(results, page, what):
    with pytest.raises(UserError) as caught:
        with_numbers(page, "page", results)
    assert what in str(caught.value)


def test_only_pages_that_changed_are_written(results, tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/a.md"):
        (tmp_path / name).write_text(f"{MARKER}<!-- end -->\n", encoding="utf-8")
    assert write_pages(tmp_path, results) == [*pages(tmp_path), tmp_path / "docs" / "board.html"]
    assert (tmp_path / "docs" / "a.md").read_text(encoding="utf-8") == f"{MARKER}{BODY}<!-- end -->\n"
    assert write_pages(tmp_path, results) == []


def test_recipes_show_their_stored_verdicts_and_send_to_their_page_without(results, stored):
    write_trial(stored(name="prior/long", command="steelyard trial prior trainer.max_steps=600"), results)
    lists = with_numbers(
        "<!-- recipes\nfolder: docs/recipes/\n-->\n<!-- end -->\n<!-- index -->\n<!-- end -->\n", "page", results
    )
    verdict = "**supported**, +.310 [+.244, +.375], three seeds"
    what = registry.card("prior").weights
    # The stored claim is not about the card's own arms only if they differ; here both are prior and ntp.
    assert f"| [prior](docs/recipes/prior.md) | {what} | {verdict} |\n" in lists
    assert f"{verdict}<br>`trainer.max_steps=600`: {verdict} | not measured<br>" in lists
    one = with_numbers("<!-- recipes\nnames: [prior]\n-->\n<!-- end -->\n", "page", results).splitlines()
    assert one[5] == f"| [prior](prior.md) | {what} | {verdict} |" and len(one) == 7
    assert "| see [its page](docs/recipes/dsir.md) |\n" in lists and "### Pretraining\n" in lists


def test_words_that_say_nothing_end_in_two(capsys):
    assert main(["stroe", "x"]) == 2
    assert "store FOLDER docs/results/RECIPE/NAME.json" in capsys.readouterr().err
    assert main(["store", "nowhere", "docs/results/prior/x.json"]) == 2
