"""What a trial came to, on synthetic run folders."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recipes.core.config import registry
from recipes.core.config.settings import Claim
from recipes.core.errors import UserError
from recipes.core.runs.folder import FAILED
from recipes.core.trial import manifest as manifests
from recipes.core.trial.manifest import Manifest
from recipes.core.trial.report.answer import answer_rows, mean_rows
from recipes.core.trial.report.page import write_trial_report
from recipes.core.trial.result import analyse, write_results
from recipes.core.trial.states import record_end, record_start
from tests.core.trial.conftest import make_cell
from tests.core.trials import make_trial

Planned = tuple[Path, Manifest]


@pytest.fixture
def folder(planned: Planned) -> Path:
    manifests.write(*planned)
    return planned[0]


@pytest.fixture
def finished(folder: Path, make_run) -> Path:
    """A trial of which all cells are done."""
    for arm in ("prior", "ntp"):
        for seed in (0, 1):
            make_run(arm, seed)
    return folder


def test_a_finished_trial_is_compared_and_judged(finished: Path) -> None:
    result = analyse(finished)
    assert [(run.arm, run.seed) for run in result.runs] == [("prior", 0), ("ntp", 0), ("prior", 1), ("ntp", 1)]
    (comparison,) = result.comparisons
    assert (comparison.arm, comparison.baseline, comparison.seeds, comparison.unit) == ("prior", "ntp", (0, 1), "seeds")
    row = comparison.row("grounded/auc")
    assert row is not None and result.verdict.interval == row.interval
    assert (result.verdict.word, result.verdict.seeds) == ("supported", 2)


def test_arms_without_a_baseline_are_shown_by_themselves(make_run) -> None:
    result = make_trial(make_run, arms=("prior", "random"), seeds=(0, 1))
    assert not answer_rows(result.comparisons, result.card.claim.metric)
    mean = np.mean([run.metrics["grounded/auc"] for run in result.runs if run.arm == "prior"])
    first, second = mean_rows(result)
    assert first == {"arm": "prior", "mean": f"{mean:.3f}", "n": "2 seeds"} and second["arm"] == "random"


def test_runs_beside_the_trial_have_no_part_in_it(finished: Path, make_run) -> None:
    before = analyse(finished)
    make_run("ntp", 2)
    make_run("random", 0)
    assert analyse(finished).comparisons == before.comparisons


def test_one_seed_alone_is_inconclusive(folder: Path, make_run) -> None:
    make_run("prior", 0)
    make_run("ntp", 0)
    result = analyse(folder)
    assert result.verdict.word == "inconclusive"
    assert result.verdict.reason == "an interval over seeds needs at least two seeds, got 1"


@pytest.mark.parametrize(
    "there", [[], [("prior", 0), ("prior", 1)], [("ntp", 0), ("ntp", 1)], [("prior", 0), ("ntp", 1)]]
)
def test_without_a_pair_of_the_claim_the_verdict_says_what_is_missing(folder: Path, make_run, there) -> None:
    for arm, seed in there:
        make_run(arm, seed)
    result = analyse(folder)
    assert (result.comparisons, result.verdict.interval, result.verdict.more_seeds) == ((), None, None)
    assert (result.verdict.word, result.verdict.seeds) == ("inconclusive", 0)
    assert result.verdict.reason == (
        "no seed has grounded/auc of both prior and ntp: runs are missing, or these data or this model do not give it"
    )


def test_failed_cells_are_left_out_and_listed(folder: Path, make_run) -> None:
    for arm in ("prior", "ntp"):
        make_run(arm, 0)
    make_run("prior", 1)
    record_start(folder, "ntp-s1")
    record_end(folder, "ntp-s1", FAILED, "loss is NaN")
    result = analyse(folder)
    assert result.comparisons[0].seeds == (0,)
    cells = json.loads(write_results(result).read_text())["cells"]
    assert cells[3] == {"name": "ntp-s1", "arm": "ntp", "seed": 1, "state": "failed", "error": "loss is NaN"}


def test_the_results_hold_the_answer_for_programs(finished: Path) -> None:
    path = write_results(analyse(finished))
    assert path == finished / "results.json"
    tree = json.loads(path.read_text())
    assert tree["verdict"]["word"] == "supported"
    assert tree["verdict"]["interval"]["low"] < tree["verdict"]["interval"]["high"]
    assert tree["claim"]["metric"] == "grounded/auc"
    rows = {row["metric"]: row for row in tree["comparisons"][0]["rows"]}
    assert len(rows["grounded/auc"]["differences"]) == 2
    assert {cell["state"] for cell in tree["cells"]} == {"done"}


def judging(monkeypatch: pytest.MonkeyPatch, own: Claim, *further: Claim) -> None:
    card = replace(registry.card("prior"), claim=own, claims=further)
    monkeypatch.setattr(registry, "card", lambda name: card)


def claim(metric: str, arm: str, baseline: str, direction: int = 1) -> Claim:
    return Claim(f"{arm} beats {baseline} on {metric}", metric, arm, baseline, direction, "8%", 0.0)


def test_further_claims_are_judged_each_against_its_own_baseline(finished: Path, monkeypatch) -> None:
    further = claim("grounded/auc", "ntp", "prior")
    judging(monkeypatch, claim("grounded/auc", "prior", "ntp"), further)
    result = analyse(finished)
    (judged,) = result.further
    assert (judged.claim, judged.verdict.word) == (further, "contradicted")
    assert judged.verdict.interval is not None and result.verdict.interval is not None
    assert judged.verdict.interval.low == pytest.approx(-result.verdict.interval.high)
    assert [one.arm for one in result.comparisons] == ["prior"]
    (told,) = json.loads(write_results(result).read_text())["further"]
    assert (told["claim"]["arm"], told["verdict"]["word"]) == ("ntp", "contradicted")


def test_claims_about_more_than_a_pair_are_judged_and_shown(folder: Path, make_run, monkeypatch) -> None:
    arms = ("prior", "random", "ntp")
    cells = tuple(make_cell(arm, seed) for seed in (0, 1) for arm in arms)
    manifests.write(folder, replace(manifests.read(folder), cells=cells))
    for cell in cells:
        make_run(cell.arm, cell.seed)
    order = Claim("falls", "grounded/auc", "prior", "ntp", 1, "", 0.0, kind="order", arms=arms)
    both = {"kind": "correlation", "beside": "nll/other", "unit": "examples"}
    together = Claim("go together", "nll/image", "prior", "ntp", 1, "", 0.1, **both)
    judging(monkeypatch, order, together)
    result = analyse(folder)
    (judged,) = result.further
    assert result.verdict.reason.startswith(("every step", "prior - random", "random - ntp"))
    assert judged.verdict.items and judged.verdict.reason.startswith("the rank correlation over")
    assert all(row.verdict == "" for comparison in result.comparisons for row in comparison.rows)
    page, text = (write_trial_report(result)[kind].read_text() for kind in ("html", "md"))
    assert "in every step from prior to random to ntp" in page
    for one in (page, text):
        assert "ank correlation of nll/image and nll/other over the examples of prior" in one.replace("\\", "")
    judging(monkeypatch, together, order)
    assert "<dt>rank correlation with nll/other</dt>" in write_trial_report(analyse(folder))["html"].read_text()


def test_a_claim_that_is_changed_after_results_is_reported_as_such(finished: Path, monkeypatch) -> None:
    first = claim("grounded/auc", "prior", "ntp")
    judging(monkeypatch, first)
    write_results(analyse(finished))
    judging(monkeypatch, replace(first, statement="the same in better words"))
    assert analyse(finished).former_claims == ()
    judging(monkeypatch, replace(first, minimal_effect=0.3))
    write_results(result := analyse(finished))
    (former,) = result.former_claims
    assert former == "grounded/auc of prior higher than of ntp, over seeds, difference with a minimal effect of 0"
    files = write_trial_report(analyse(finished))
    for kind in ("html", "md"):
        assert "The claim was changed after this trial had results." in files[kind].read_text()
    judging(monkeypatch, first)
    assert len(analyse(finished).former_claims) == 2


def test_whether_a_claim_was_changed_is_asked_of_its_fields_and_not_of_sentences(finished: Path, monkeypatch) -> None:
    judging(monkeypatch, first := claim("grounded/auc", "prior", "ntp"))
    path = write_results(analyse(finished))
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(tree | {"test": "the same in a sentence of another version"}))
    assert analyse(finished).former_claims == ()
    del tree["test"], tree["former_claims"]  # as versions before wrote it
    path.write_text(json.dumps(tree))
    assert analyse(finished).former_claims == ()
    judging(monkeypatch, replace(first, minimal_effect=1e-9))  # the same digits in a sentence are not the same test
    assert len(analyse(finished).former_claims) == 1


def test_a_claim_whose_arms_are_not_all_there_leads_nowhere(finished: Path, monkeypatch) -> None:
    order = Claim("falls", "grounded/auc", "prior", "ntp", 1, "", 0.0, kind="order", arms=("prior", "random", "ntp"))
    judging(monkeypatch, order, able := claim("grounded/auc", "prior", "ntp"))
    assert analyse(finished).card.claim == able


def test_the_first_claim_that_a_trial_can_judge_leads(finished: Path, monkeypatch) -> None:
    able = claim("grounded/auc", "prior", "ntp")
    elsewhere = replace(able, only="model=llava")
    for own in (claim("grounded/auc", "oracle", "ntp"), elsewhere):
        judging(monkeypatch, own, claim("grounded/auc", "ntp", "random"), able)
        result = analyse(finished)
        assert (result.card.claim, result.verdict.word, result.further) == (able, "supported", ())


def test_with_no_claim_to_judge_the_recipes_own_leads(finished: Path, monkeypatch) -> None:
    own = claim("grounded/auc", "oracle", "ntp")
    judging(monkeypatch, own, claim("grounded/auc", "ntp", "random"))
    result = analyse(finished)
    assert (result.card.claim, result.verdict.word, result.further) == (own, "inconclusive", ())


def test_a_folder_that_is_no_trial_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no manifest of a trial or sweep"):
        analyse(tmp_path / "prior" / "trials" / "x")
