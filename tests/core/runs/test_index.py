"""The index of finished runs: what it says is what the folders say, whatever happened to them, to it, or to both."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.runs import index as indexes
from recipes.core.runs import records
from recipes.core.runs.folder import DAMAGED, DONE, RunFolder
from recipes.core.runs.index import RunIndex, index_file
from recipes.core.runs.records import RunRecord, find_runs, load_run
from recipes.core.storage import seals
from recipes.core.storage.seals import SEAL
from tests.finished import finished_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three finished runs in outputs that no index knows; their files count as settled."""
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(indexes, "SETTLED_SECONDS", -60.0)
    words = ["budget=smoke", "tracker=none", f"outputs={tmp_path / 'outputs'}"]
    return [finished_run(compose.compose("prior", [*words, f"seed={seed}"]), seed) for seed in range(3)]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The run folders that are read."""
    folders: list[Path] = []

    def load(folder: Path, intact: bool = False) -> RunRecord:
        folders.append(folder)
        return load_run(folder, intact)

    monkeypatch.setattr(indexes, "load_run", load)
    return folders


def listed(outputs: Path) -> list[dict[str, Any]]:
    """The runs by a new index, with all that they say."""
    index = RunIndex(outputs)
    found = find_runs(outputs, load=index.load)
    index.write()
    return [said(run) for run in found]


def said(run: RunRecord) -> dict[str, Any]:
    names = (*indexes.RECORDED, "path", "status", "identity")
    return {name: getattr(run, name) for name in names} | {"metrics": metrics_of(run)}


def metrics_of(run: RunRecord) -> Any:
    try:
        return run.metrics
    except UserError as error:
        return str(error)


def by_folders(outputs: Path) -> list[dict[str, Any]]:
    return [said(run) for run in find_runs(outputs)]


def file_of(runs: list[Path]) -> Path:
    file = index_file(runs[0].parents[2])
    assert file is not None
    return file


def test_runs_that_did_not_change_are_read_once(runs: list[Path], loaded: list[Path]) -> None:
    outputs = runs[0].parents[2]
    first = listed(outputs)
    assert loaded == sorted(runs) and first == by_folders(outputs)
    assert listed(outputs) == first and len(loaded) == len(runs)


def test_files_that_just_changed_are_not_kept(
    runs: list[Path], loaded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "SETTLED_SECONDS", 3600.0)
    listed(runs[0].parents[2])
    listed(runs[0].parents[2])
    assert len(loaded) == 2 * len(runs) and not file_of(runs).exists()


def rewrite(path: Path) -> None:
    """Other bytes of the same length, and the time of before."""
    state = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], Any]] = {
    "a file of the same size and time": lambda run: rewrite(run / "metrics.jsonl"),
    "a file that is gone": lambda run: (run / "examples.parquet").unlink(),
    "a file below": lambda run: rewrite(run / "curve" / "step-1.parquet"),
    "a file that was added": lambda run: (run / "strips.json").write_text("{}"),
    "no seal": lambda run: (run / SEAL).unlink(),
    "another status": lambda run: RunFolder(run).update_status(state="running"),
    "no status": lambda run: (run / "status.json").unlink(),
    "another config": lambda run: rewrite(run / "config.yaml"),
    "another identity": lambda run: (run / "identity.json").write_text("{}"),
    "a run that is gone": lambda run: shutil.rmtree(run),
    "finished again": lambda run: (RunFolder(run).log(3, "final", {"nll/other": 9.0}, 1.0), RunFolder(run).finish()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_in_a_folder_is_seen(
    runs: list[Path], change: Callable[[Path], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = runs[0].parents[2]
    before = listed(outputs)
    capsys.readouterr()
    change(runs[1])
    index = RunIndex(outputs)
    status = index.finished(runs[1])
    after, said = listed(outputs), capsys.readouterr().err
    assert after == by_folders(outputs) != before and said == capsys.readouterr().err
    state = next((run["state"] for run in after if run["path"] == runs[1]), None)
    assert (status is not None) == (state == DONE)


def test_a_damaged_run_is_named_however_often_it_is_listed(runs: list[Path]) -> None:
    listed(runs[0].parents[2])
    rewrite(runs[0] / "metrics.jsonl")
    for _ in range(2):
        assert [run["state"] for run in listed(runs[0].parents[2])].count(DAMAGED) == 1


def test_a_mended_run_is_the_new_one(runs: list[Path]) -> None:
    outputs, run = runs[0].parents[2], RunFolder(runs[0])
    listed(outputs)
    run.metrics.unlink()
    run.log(2, "final", {"nll/other": 4.25}, 1.0)
    run.finish()
    assert [one["metrics"] for one in listed(outputs) if one["path"] == run.path] == [{"nll/other": 4.25}]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "torn in its last line": lambda data: data[:-40],
    "torn in the middle": lambda data: data[: len(data) // 2],
    "other bytes": lambda data: data.replace(b"nll/other", b"nll/mixed"),
    "no text": lambda data: b"\xff\x00" + data[2:],
    "another object": lambda data: b'{"a": 1}\n[]\nnull\n',
    "empty": lambda data: b"",
    "lines in another order, twice": lambda data: b"".join(sorted(data.splitlines(True))) * 2,
    "nested without end": lambda data: b"0123456789abcdef " + b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_index_costs_time_and_nothing_else(
    runs: list[Path], loaded: list[Path], damage: Callable[[bytes], bytes]
) -> None:
    outputs = runs[0].parents[2]
    expected = listed(outputs)
    file_of(runs).write_bytes(damage(file_of(runs).read_bytes()))
    assert listed(outputs) == expected
    loaded.clear()
    assert listed(outputs) == expected and loaded == []


def test_a_line_whose_digest_is_right_and_whose_content_is_none_is_left_out(runs: list[Path]) -> None:
    outputs = runs[0].parents[2]
    expected, name = by_folders(outputs), json.dumps(str(runs[0]))
    for body in (
        "1",
        "[]",
        f"[{name}]",
        f"[{name},1]",
        f"[{name},1,{{}},null]\tnull",
        f"[{name},[],1,null]",
        "[[\tnull",
    ):
        file_of(runs).parent.mkdir(parents=True, exist_ok=True)
        file_of(runs).write_bytes(indexes._signed(body.encode()) + b"\n")
        assert RunIndex(outputs).metrics(runs[0]) is None and listed(outputs) == expected


def test_a_run_behind_a_torn_line_is_kept(runs: list[Path], loaded: list[Path]) -> None:
    outputs = runs[0].parents[2]
    index = RunIndex(outputs)
    index.load(runs[0])
    index.write()
    with file_of(runs).open("ab") as file:
        file.write(b"0123456789abcdef [torn")
    listed(outputs)
    loaded.clear()
    listed(outputs)
    assert loaded == []


def test_two_commands_that_list_at_once_lose_nothing(runs: list[Path], loaded: list[Path]) -> None:
    outputs = runs[0].parents[2]
    one, other = RunIndex(outputs), RunIndex(outputs)
    for index, run in ((one, runs[0]), (other, runs[1]), (other, runs[0])):
        index.load(run)
    one.write()
    other.write()
    loaded.clear()
    assert listed(outputs) == by_folders(outputs) and loaded == [runs[2]]


def test_lines_of_folders_that_are_gone_do_not_pile_up(runs: list[Path]) -> None:
    outputs = runs[0].parents[2]
    for _ in range(9):
        listed(outputs)
        for run in runs:
            RunFolder(run).finish()
    shutil.rmtree(runs[0])
    for _ in range(9):
        RunFolder(runs[1]).finish()
        listed(outputs)
    assert len(file_of(runs).read_text().splitlines()) <= 6 * len(runs)


@pytest.mark.parametrize("home", ["file", "missing"])
def test_a_home_that_keeps_nothing_changes_nothing(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / home / "below"))
    outputs = runs[0].parents[2]
    assert listed(outputs) == listed(outputs) == by_folders(outputs)


def test_what_json_does_not_hold_is_read_each_time(runs: list[Path], loaded: list[Path]) -> None:
    outputs = runs[0].parents[2]
    config = runs[0] / "config.yaml"
    config.write_text(config.read_text() + "added: 2026-01-01\n")
    (runs[0] / "identity.json").unlink()
    RunFolder(runs[0]).finish()
    expected = by_folders(outputs)
    assert listed(outputs) == listed(outputs) == expected
    assert loaded.count(runs[0]) == 2 and loaded.count(runs[1]) == 1


def test_a_state_that_was_asked_for_is_no_record(runs: list[Path], loaded: list[Path]) -> None:
    outputs = runs[0].parents[2]
    index = RunIndex(outputs)
    assert [index.finished(run) for run in runs] == [RunFolder(run).status() for run in runs]
    index.write()
    assert loaded == [] and listed(outputs) == by_folders(outputs) and len(loaded) == len(runs)


def test_the_index_reads_no_folder_it_knows(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = runs[0].parents[2]
    expected = json.dumps(listed(outputs), default=str)
    monkeypatch.setattr(records, "read_yaml", lambda path: pytest.fail(f"{path} was read"))
    assert json.dumps(listed(outputs), default=str) == expected


def test_a_run_whose_state_is_known_is_not_compared_again_for_its_record(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = runs[0].parents[2]
    index, expected = RunIndex(outputs), by_folders(outputs)
    assert all(index.finished(run) for run in runs)
    index.write()
    monkeypatch.setattr(seals, "_compared", {})
    monkeypatch.setattr(seals, "_problem", lambda folder, seal: pytest.fail(f"{folder} was compared"))
    assert listed(outputs) == expected


def test_lines_of_one_process_that_lists_again_and_again_do_not_pile_up(runs: list[Path]) -> None:
    index = RunIndex(runs[0].parents[2])
    for _ in range(12):
        RunFolder(runs[0]).finish()
        assert index.finished(runs[0]) == RunFolder(runs[0]).status()
        index.write()
    assert len(file_of(runs).read_bytes().split()) <= 6 * len(runs)
