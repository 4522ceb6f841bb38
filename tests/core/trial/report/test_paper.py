"""Figures of a trial for papers: one file each, text as text, the same bytes every time."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from recipes.core.errors import UserError
from recipes.core.trial.report.files import write_files
from recipes.core.trial.report.paper import paper_figures
from recipes.core.trial.report.results import results_of_trial
from tests.core.trials import CARD, make_trial

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def results(make_run):
    card = replace(CARD, frontiers=(("nll/other", "nll/image"),))
    return results_of_trial(make_trial(make_run, seeds=(0, 1), card=card))


def test_each_figure_of_the_page_is_a_file_and_its_bytes_do_not_change(results) -> None:
    first, again = (paper_figures(results, [], ["pdf", "svg"]) for _ in range(2))
    assert first == again
    assert [name for name in first if name.endswith(".pdf")] == [
        "forest-grounded-auc.pdf",
        "curves-grounded-digit-accuracy.pdf",
        "frontier-nll-other-nll-image.pdf",
    ]
    for name, content in first.items():
        assert b"Date" not in content and b"Matplotlib v" not in content, name
        assert content.startswith(b"%PDF") == name.endswith(".pdf")


def test_text_is_text_names_every_arm_and_there_is_no_title(results) -> None:
    figures = paper_figures(results, [], ["svg", "pdf"])
    for name in ("forest-grounded-auc", "curves-grounded-digit-accuracy", "frontier-nll-other-nll-image"):
        root = ElementTree.fromstring(figures[f"{name}.svg"])
        assert float(root.get("width").removesuffix("pt")) == pytest.approx(3.4 * 72)
        texts = {"".join(one.itertext()).strip() for one in root.iter(f"{SVG}text")}
        assert {"prior", "random"} <= texts and CARD.title not in texts and CARD.claim.statement not in texts
        assert b"/FontFile2" in figures[f"{name}.pdf"]  # TrueType, embedded
    forest = figures["forest-grounded-auc.svg"].decode()
    assert re.search(r"difference to ntp", forest) and "over 2 seeds" not in forest


def test_named_metrics_have_a_forest_and_curves_where_they_have_them(results) -> None:
    named = results.named(["nll/image", "grounded/auc"])
    assert list(paper_figures(results, named, ["svg"])) == [
        "forest-nll-image.svg",
        "curves-nll-image.svg",
        "forest-grounded-auc.svg",
    ]


def test_where_nothing_can_be_drawn_nothing_is_written(make_run, tmp_path) -> None:
    alone = results_of_trial(make_trial(make_run, ["prior"], [0]))
    with pytest.raises(UserError, match="nothing can be drawn of grounded/auc") as refused:
        write_files(alone, ["csv", "svg"], ["grounded/auc"], [], tmp_path / "paper")
    assert "--format csv,md" in refused.value.hint and not (tmp_path / "paper").exists()
