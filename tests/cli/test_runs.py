"""`steelyard runs` and `steelyard report` on synthetic run folders."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from cli import runs
from cli.runs import age
from recipes.core.runs.folder import RunFolder
from recipes.core.runs.records import load_run
from recipes.core.statistics.texts import number_text
from recipes.core.storage.locks import hold
from recipes.core.trial import manifest as manifests
from recipes.core.trial.cells import Cell
from recipes.core.trial.manifest import Manifest


def test_a_table_of_what_ran(steelyard, make_run) -> None:
    done = make_run("prior", 0)
    make_run("ntp", 1, state="failed")
    ended = steelyard("runs", "--outputs", done.parents[2])
    recipe, header, first, second = ended.out.splitlines()
    assert recipe == "prior"
    assert header.split() == ["arm", "seed", "state", "step", "grounded/auc", "age", "folder"]
    assert first.split()[:4] == ["ntp", "1", "failed", "600/600"]
    value = number_text(load_run(done).metrics["grounded/auc"])
    assert second.split()[:5] == ["prior", "0", "done", "600/600", value]
    assert second.endswith(str(done))


def test_keys_in_which_runs_of_one_arm_differ_are_columns_and_what_arms_choose_is_not(steelyard, make_run) -> None:
    make_run("ntp", 0)
    make_run("prior", 0, weighting__alpha=2.0, tag="1" * 10, outputs="elsewhere")
    folder = make_run("prior", 1, trainer__learning_rate=0.01)
    RunFolder(folder).finish(finished="2026-01-02T00:01:15")
    words = ("runs", "--outputs", folder.parents[2])
    header, ntp, first, second = steelyard(*words).out.splitlines()[1:]
    assert header.split()[5:] == ["took", "age", "trainer.learning_rate", "weighting.alpha", "folder"]
    assert "75 s" in second and "0.01  " in second and "2.0" in first and "0.002" in ntp
    entries = {(one["arm"], one["seed"]): one for one in json.loads(steelyard(*words, "--json").out)["result"]}
    assert entries["prior", 1]["keys"] == {"trainer.learning_rate": "0.01", "weighting.alpha": "1.0"}
    assert entries["prior", 1]["seconds"] == 75 and entries["ntp", 0]["seconds"] is None


def test_each_recipe_has_a_table_with_its_own_metric(steelyard, make_run) -> None:
    make_run("dpo", 0, recipe="sparsepo", state="running")
    outputs = make_run("prior", 0).parents[2]
    assert [line for line in steelyard("runs", "--outputs", outputs).out.splitlines() if " " not in line] == [
        *("prior", "", "sparsepo"),
    ]


@pytest.mark.parametrize("width", [80, 60])
def test_what_a_terminal_has_no_room_for_is_said(steelyard, make_run, monkeypatch, width: int) -> None:
    for seed, name in enumerate(("a/long/name/of/a/corpus/of/captions", "b")):
        folder = make_run("prior", seed, data__noise=name, weighting__alpha=float(seed), trainer__batch_size=8 + seed)
    monkeypatch.setattr(runs, "_width", lambda: width)
    ended = steelyard("runs", "--outputs", folder.parents[2])
    lines = ended.out.splitlines()
    shown, said = lines[:4], " ".join(lines[4:])
    assert all(len(line) <= width for line in shown)
    assert f"run folders: {folder.parents[1]}/ARM/RUN" in said and shown[2].endswith(f"{folder.name[:-1]}0")
    assert f"no room in {width} columns for step, age, data.noise" in said
    assert ("weighting.alpha" in shown[1]) != ("weighting.alpha" in said)
    whole = json.loads(steelyard("runs", "--outputs", folder.parents[2], "--json").out)["result"]
    assert set(whole[0]["keys"]) == {"data.noise", "weighting.alpha", "trainer.batch_size"}


def test_a_run_without_a_live_owner_is_cut_off(steelyard, make_run) -> None:
    folder = make_run("prior", 0, state="running")
    words = ("runs", "prior", "--outputs", folder.parents[2], "--json")
    assert json.loads(steelyard(*words).out)["result"][0]["state"] == "cut off"
    with hold(folder / "owner.lock", "run folder", wait=False):
        assert json.loads(steelyard(*words).out)["result"][0]["state"] == "running"


@pytest.mark.parametrize("damage", [b"arm: [", b"\xff\xfe", b"arm: prior", b""])
def test_a_folder_that_cannot_be_read_is_told_and_left_out(damage: bytes, steelyard, make_run) -> None:
    done, other = make_run("prior", 0), make_run("ntp", 0, state="interrupted")
    (other / "config.yaml").write_bytes(damage)
    ended = steelyard("runs", "--outputs", done.parents[2])
    assert ended.code == 0 and len(ended.out.splitlines()) == 3
    assert f"warning: {other} is not a run folder: it has no readable config.yaml; it is left out" in ended.err


def test_a_finished_run_that_changed_is_listed_as_damaged_and_named_with_its_file(steelyard, make_run) -> None:
    done, other = make_run("prior", 0), make_run("ntp", 0)
    (other / "metrics.jsonl").write_bytes((other / "metrics.jsonl").read_bytes()[:-1])
    ended = steelyard("runs", "--outputs", done.parents[2])
    assert [line.split()[2] for line in ended.out.splitlines()[2:]] == ["damaged", "done"]
    assert f"warning: {other} is damaged: metrics.jsonl has" in ended.err
    for words in (("compare", done, other), ("report", other)):
        refused = steelyard(*words)
        assert (refused.code, refused.out) == (2, "")
        assert f"{other}: the run is damaged: metrics.jsonl has" in refused.err and "--fresh" in refused.err
    left_out = steelyard("compare", "prior", "--outputs", done.parents[2])
    assert left_out.code == 2 and "1 of prior ntp (damaged)" in left_out.err


def test_json_holds_the_plain_values(steelyard, make_run) -> None:
    folder = make_run("prior", 3)
    (entry,) = json.loads(steelyard("runs", "--outputs", folder.parents[2], "--json").out)["result"]
    assert (entry["arm"], entry["seed"], entry["step"], entry["max_steps"]) == ("prior", 3, 600, 600)
    assert entry["started"] == "2026-01-04T00:00:00"
    assert entry["error"] is None


def test_outputs_also_come_from_the_environment(steelyard, make_run, monkeypatch) -> None:
    folder = make_run()
    monkeypatch.setenv("STEELYARD_OUTPUTS", str(folder.parents[2]))
    assert str(folder) in steelyard("runs").out


def test_nothing_ran_yet(steelyard) -> None:
    ended = steelyard("runs", "prior")
    assert (ended.code, ended.out) == (0, "no runs of prior in outputs; start one: steelyard run prior\n")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (61, "1 min"), (7_300, "2 h"), (200_000, "2 d"), (-5, "0 s")]
)
def test_age_is_told_in_its_largest_unit(seconds, text) -> None:
    now = datetime(2026, 1, 10, tzinfo=UTC)
    assert age((now - timedelta(seconds=seconds)).isoformat(), now) == text
    assert age("", now) == ""


def test_report_of_a_recipe_is_that_of_its_newest_finished_run(steelyard, make_run) -> None:
    make_run("ntp", 0)
    folder, older = make_run("prior", 0), make_run("prior", 1, state="failed")
    baseline = make_run("ntp", 1)
    ended = steelyard("report", "prior", "--outputs", folder.parents[2])
    assert ended.code == 0, ended.err
    assert str(baseline / "report.html") in ended.out
    assert "none finished that can be paired" in ended.out
    assert not (older / "report.html").exists()


def test_report_of_a_folder_names_its_baseline(steelyard, make_run) -> None:
    baseline, folder = make_run("ntp", 0), make_run("prior", 0)
    ended = steelyard("report", folder)
    assert ended.out.splitlines() == [
        f"report    {folder / 'report.html'}",
        f"picture   {folder / 'report.png'}",
        f"baseline  {baseline}",
    ]
    assert (folder / "report.html").stat().st_size > 1_000
    assert (folder / "report.png").exists()


def test_report_without_a_finished_run_says_what_to_type(steelyard, tmp_path) -> None:
    ended = steelyard("report", "prior", "--outputs", tmp_path)
    assert ended.code == 2
    assert "there is no finished run of prior" in ended.err
    assert "steelyard run prior" in ended.err
    assert steelyard("report", tmp_path).err.startswith(f"error: {tmp_path}: is not a run folder")


@pytest.mark.parametrize("command", ["report", "compare"])
def test_a_file_of_a_run_or_trial_is_answered_with_its_folder(steelyard, make_run, command: str) -> None:
    folder = make_run("prior", 0)
    refused = steelyard(command, folder / "metrics.jsonl")
    assert refused.code == 2
    assert (
        f"{folder / 'metrics.jsonl'}: is a file, no run folder\n  it lies in a run folder: type {folder}" in refused.err
    )
    trial = folder.parents[1] / "trials" / "0123456789"
    trial.mkdir(parents=True)
    (trial / "manifest.json").write_text('{"command": "steelyard trial prior --seeds 3"}')
    (trial / "report.html").touch()
    refused = steelyard(command, trial / "report.html")
    assert refused.code == 2
    hint = f"it belongs to a trial, {trial}; its report is written again by its command:\n"
    assert f"{hint}  steelyard trial prior --seeds 3" in refused.err
    elsewhere = folder.parents[2] / "notes.html"
    elsewhere.touch()
    assert "steelyard runs lists them" in steelyard(command, elsewhere).err


def test_a_report_of_the_folder_of_a_damaged_trial_says_what_to_do(steelyard, make_run) -> None:
    trial = make_run("prior", 0).parents[1] / "trials" / "0123456789"
    trial.mkdir(parents=True)
    (trial / "manifest.json").write_text('{"command": "steelyard trial prior --seeds 3"}')
    refused = steelyard("report", trial)
    assert refused.code == 2 and "is no manifest of a trial or sweep, or damaged" in " ".join(refused.err.split())


def test_a_trial_or_sweep_beside_the_runs_is_no_run(steelyard, make_run) -> None:
    folder = make_run("prior", 0)
    outputs = folder.parents[2]
    for kind in ("trials", "sweeps"):
        inside = outputs / "prior" / kind / "0123456789"
        (inside / "launcher" / "0-s0").mkdir(parents=True)
        (inside / "manifest.json").write_text("{}")
        (inside / "launcher" / "0-s0" / "config.yaml").write_text("not: a run")
    listed = json.loads(steelyard("runs", "--outputs", outputs, "--json").out)["result"]
    assert [entry["arm"] for entry in listed] == ["prior"]
    assert steelyard("report", "prior", "--outputs", outputs).code == 0


@pytest.fixture
def planned_trial(make_run):
    """A folder of a trial of two arms over two seeds, every run finished."""
    folders = [make_run(arm, seed) for seed in (0, 1) for arm in ("prior", "ntp")]
    outputs = folders[0].parents[2]
    cells = tuple(
        Cell(f"{one.parent.name}-s{one.name[-1]}", "", one.parent.name, int(one.name[-1]), (f"arm={one.parent.name}",),
             str(one.relative_to(outputs)))
        for one in folders
    )  # fmt: skip
    trial = outputs / "prior" / "trials" / "0123456789"
    manifests.write(trial, Manifest("trial", "prior", "steelyard trial prior", "2026-01-01T00:00:00+00:00", 1, cells))
    return trial


def test_a_trials_tables_and_figures_go_where_they_are_asked_for(steelyard, planned_trial, tmp_path) -> None:
    paper = tmp_path / "paper"
    words = ("report", planned_trial, "--format", "tex,csv,svg", "--metrics", "nll/other", "--to", paper)
    ended = steelyard(*words)
    assert ended.code == 0, ended.err
    files = ["table.tex", "table.csv", "runs.csv", "forest-nll-other.svg", "curves-nll-other.svg"]
    assert [line.split()[-1] for line in ended.out.splitlines()] == [str(paper / name) for name in files]
    assert sorted(one.name for one in paper.iterdir()) == sorted(files)
    assert not (planned_trial / "report.html").exists()
    written = json.loads(steelyard(*words, "--json").out)["result"]["files"]
    assert [one["path"] for one in written] == [str(paper / name) for name in files]


def test_a_runs_tables_lie_beside_its_page_and_say_what_they_leave_out(steelyard, make_run) -> None:
    make_run("ntp", 0)
    folder = make_run("prior", 0)
    ended = steelyard("report", folder, "--format", "html,md")
    assert (folder / "report.html").exists() and "| ntp (baseline) |" in (folder / "table.md").read_text()
    assert "table.md shows grounded/auc, nll/other; --metrics chooses among 3 more" in ended.err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--format", "tx"], "--format: unknown format 'tx'\n  did you mean tex?"),
        (["--format", ","], "--format ',': names nothing"),
        (["--format", "csv", "--metrics", "nll/othr"], "no arm measured 'nll/othr'\n  did you mean nll/other?"),
        (["--format", "md", "--arms", "pryor"], "no finished run of an arm 'pryor'\n  did you mean prior?"),
        (["--metrics", "nll/other"], "--metrics is for tables and figures\n  type --format tex,csv,md,pdf or svg"),
        (["--to", "paper"], "--to is for tables and figures"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_anything_is(steelyard, make_run, typed, message) -> None:
    make_run("ntp", 0)
    folder = make_run("prior", 0)
    before = sorted(folder.iterdir())
    refused = steelyard("report", folder, *typed)
    assert (refused.code, refused.out) == (2, "") and message in refused.err
    assert sorted(folder.iterdir()) == before
