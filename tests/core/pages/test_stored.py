"""What is stored of a trial: as written so read, with the numbers of its report, whole, and no path of a machine."""

from dataclasses import replace

import pytest

from cli.trial import show_verdict
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.pages.store import _command, _name, stored_trial
from recipes.core.pages.stored import RESULTS, read_trial, trial_names, trials_of, write_trial
from recipes.core.trial.report.answer import answer_text
from recipes.core.trial.report.markdown import table_arms
from tests.core.pages.conftest import judged, priced
from tests.core.trials import CARD, make_trial


def test_what_was_written_is_read(stored, tmp_path):
    third = {"prior": {"auc": [1 / 3, 0.1 + 0.2, 2 / 3]}}  # every digit: what rounds twice differs from the report
    trial = stored(priced(judged(), True), judged("inconclusive", more_seeds=None), differences=third)
    path = write_trial(trial, tmp_path)
    assert path == tmp_path / "prior" / "default.json" and trial_names(tmp_path) == ["prior/default"]
    assert read_trial("prior/default", tmp_path) == trial
    assert '"auc": [0.8, 0.9, 1.0],' in path.read_text()


def test_what_is_not_stored_is_refused(tmp_path):
    with pytest.raises(UserError, match="no stored trial 'prior/defualt'"):
        read_trial("prior/defualt", tmp_path)
    (tmp_path / "prior").mkdir()
    (tmp_path / "prior" / "other.json").write_text("{}")
    with pytest.raises(UserError, match="is no stored trial"):
        read_trial("prior/other", tmp_path)


def test_keys_that_were_typed_are_the_setting(stored):
    typed = stored(
        name="prior/a", command="steelyard trial prior --seeds 3 data.filler=x tracker=none launcher.ray.cpus=1"
    )
    assert typed.setting == "data.filler=x"
    plain = stored(name="prior/z")
    assert plain.setting == "" and trials_of("prior", [typed, plain]) == [plain, typed]


@pytest.fixture
def trial(make_run):
    return make_trial(make_run)


def test_numbers_are_those_of_the_report(trial):
    kept = stored_trial(trial, "prior/x")
    arms, metrics = table_arms(trial)
    assert list(kept.values) == ["prior", "ntp", "random"] and list(kept.metrics) == [one.name for one in metrics]
    for arm in arms:
        for metric in metrics:
            row = arm.row(metric.name)
            if row:
                assert kept.seed_values(arm.name, metric.name).mean() == pytest.approx(row.value)
                ends = (row.difference, row.interval.low, row.interval.high)
                assert kept.difference(arm.name, metric.name, "ntp") == pytest.approx(ends)
    # Beside another arm the interval is worked out from the same values.
    again = replace(kept, judged=(replace(kept.judged[0], claim=replace(kept.claim, baseline="random")),))
    assert again.difference("prior", "grounded/auc", "ntp") == pytest.approx(
        kept.difference("prior", "grounded/auc", "ntp")
    )


def test_how_it_was_measured(trial):
    kept = stored_trial(trial, "prior/x")
    assert (kept.runs, kept.seeds, kept.date) == (15, (0, 1, 2, 3, 4), "2026-01-05")
    assert kept.seconds == 4 * 86_400 + 75
    assert kept.machines[0]["torch"] == "2.13.0" and len(kept.machines) == 1
    assert kept.command == trial.manifest.command


def test_an_unfinished_trial_is_not_stored(make_run):
    with pytest.raises(UserError, match=r"1 of 15 runs are not finished \(random-s2 is failed\)"):
        stored_trial(make_trial(make_run, failed=[("random", 2)]), "prior/x")


def test_paths_of_the_machine_stay_there(trial):
    def typed(words):
        command = f"steelyard trial prior {words}"
        return stored_trial(replace(trial, manifest=replace(trial.manifest, command=command)), "prior/x").command

    assert typed("outputs=/tmp/x --seeds 5") == "steelyard trial prior --seeds 5"
    for path in ("data.path=/home/me", "data.path=[a,/home/me]", "model=~/llava", "--config=/x.yaml"):
        with pytest.raises(UserError, match="a path of this machine: "):
            typed(path)
    assert typed("data.path=corpora/a.jsonl") == "steelyard trial prior data.path=corpora/a.jsonl"


def test_a_command_names_the_arms_that_no_longer_follow_from_it(trial):
    def typed(words, arms):
        cells = tuple(replace(cell, arm=arm) for arm in arms for cell in trial.manifest.cells[:1])
        manifest = replace(trial.manifest, command=f"steelyard trial prior {words}", cells=cells)
        return _command(replace(trial, manifest=manifest))

    short, every = ["prior", "ntp", "random"], list(compose.arms("prior"))
    assert typed("--seeds 3", short) == "steelyard trial prior --seeds 3"
    assert typed("--seeds 3", every) == "steelyard trial prior --seeds 3 --arms all"
    assert typed("--seeds 3", ["prior", "ntp"]) == "steelyard trial prior --seeds 3 --arms prior,ntp"
    assert typed("budget=smoke", ["prior", "ntp"]) == "steelyard trial prior budget=smoke"
    assert typed("--arms all", short) == "steelyard trial prior --arms all"


def test_it_lies_below_its_recipe(tmp_path):
    assert _name("prior", RESULTS / "prior" / "six-hundred.json") == "prior/six-hundred"
    for elsewhere in (tmp_path / "a.json", RESULTS / "cdpo" / "a.json", RESULTS / "prior" / "a.txt"):
        with pytest.raises(UserError, match="is no place for this trial"):
            _name("prior", elsewhere)


def test_the_answer_is_what_the_command_prints(trial, capsys):
    further = judged("inconclusive", replace(trial.card.claim, statement="it is cheap"), 4)
    both = replace(trial, card=replace(CARD, price=("nll/other",)), further=(further,))
    both = replace(both, verdict=replace(both.verdict, word="inconclusive", more_seeds=3))
    show_verdict(both)
    kept = stored_trial(both, "prior/x")
    printed = capsys.readouterr().out
    assert answer_text("prior", kept.rows, kept.judged, both.card) == printed
    assert "about 3 more seeds" in printed and "price" in printed and "further claim: inconclusive" in printed
