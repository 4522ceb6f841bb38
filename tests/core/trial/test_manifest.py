"""The manifest: written whole, found again, and refused when it is not what the command plans."""

import dataclasses
import json
from pathlib import Path

import pytest

from recipes.core.config import compose, overrides
from recipes.core.errors import UserError
from recipes.core.trial import manifest as manifests
from recipes.core.trial.cells import Cell, command_of, sweep_cells, trial_cells
from recipes.core.trial.manifest import NAME, Manifest, outputs_of, plan, read, read_once, write
from tests.core.conftest import give_cores
from tests.core.trial.conftest import change_json

QUICK = ["budget=smoke", "tracker=none"]


def planned(outputs: Path, *typed: str, arms: tuple[str, ...] = ("prior", "ntp"), jobs: int = 1):
    cells = trial_cells("prior", [*QUICK, f"outputs={outputs}", *typed], arms, [0])
    return plan("trial", "prior", cells, "steelyard trial prior", jobs)[:2]


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    give_cores(monkeypatch, 8)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    folder, manifest = planned(tmp_path)
    write(folder, manifest)
    assert read(folder) == manifest
    assert read(folder).cell("ntp-s0") == manifest.cells[1]
    assert (manifest.arms, manifest.seeds) == (["prior", "ntp"], [0])


def test_planning_writes_nothing(tmp_path: Path) -> None:
    folder, _ = planned(tmp_path)
    assert folder.parent == tmp_path / "prior" / "trials"
    assert outputs_of(folder) == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_has_a_folder_of_its_own(tmp_path: Path) -> None:
    cells = sweep_cells("prior", [*QUICK, f"outputs={tmp_path}", "seed=0,1"])
    folder, manifest, _ = plan("sweep", "prior", cells, "", 1)
    assert folder.parent == tmp_path / "prior" / "sweeps" and manifest.kind == "sweep"


def test_threads_are_shared_among_jobs(tmp_path: Path, cores: None) -> None:
    _, manifest = planned(tmp_path, jobs=2)
    assert manifest.threads == 4
    assert all(cell.overrides[-1] == "trainer.threads=4" for cell in manifest.cells)


def test_a_trial_started_again_with_other_jobs_keeps_its_threads(tmp_path: Path, cores: None) -> None:
    folder, manifest = planned(tmp_path, jobs=2)
    write(folder, manifest)
    assert planned(tmp_path, jobs=4) == (folder, manifest)


def test_typed_threads_win_and_are_what_a_launcher_gets(tmp_path: Path, cores: None) -> None:
    _, manifest = planned(tmp_path, "trainer.threads=3", jobs=8)
    assert manifest.threads == 3
    assert all("trainer.threads=1" not in cell.overrides for cell in manifest.cells)


def test_the_same_cells_in_another_order_are_the_same_trial(tmp_path: Path) -> None:
    folder, manifest = planned(tmp_path)
    write(folder, manifest)
    assert planned(tmp_path, arms=("ntp", "prior")) == (folder, manifest)


def test_other_cells_are_another_trial(tmp_path: Path) -> None:
    assert planned(tmp_path)[0] != planned(tmp_path, arms=("prior",))[0] != planned(tmp_path, "weighting.alpha=2")[0]


def test_a_manifest_of_other_cells_is_refused(tmp_path: Path) -> None:
    folder, manifest = planned(tmp_path)
    write(folder, dataclasses.replace(manifest, cells=manifest.cells[:1]))
    with pytest.raises(UserError) as caught:
        planned(tmp_path)
    assert str(caught.value).startswith(f"{folder / NAME}: the manifest is of other cells than this command plans")
    assert "move this folder away, finished runs are still reused" in str(caught.value)


@pytest.mark.parametrize("version", [0, 1, 3, "1"])
def test_another_version_is_refused_with_both_numbers(tmp_path: Path, version: object) -> None:
    folder, manifest = planned(tmp_path)
    write(folder, manifest)
    change_json(folder / NAME, version=version, what_it_may_hold=[])
    with pytest.raises(UserError) as caught:
        planned(tmp_path)
    assert str(caught.value).splitlines() == [
        f"{folder / NAME}: is of version {version}, this Steelyard reads version {manifests.VERSION}",
        "  move its folder away and type the command again: finished runs are still reused",
    ]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[1, 2]",
        lambda text: "{}",
        lambda text: json.dumps({"version": manifests.VERSION}),
        lambda text: json.dumps(json.loads(text) | {"cells": [{"name": "x"}]}),
        lambda text: json.dumps(json.loads(text) | {"unknown": 1}),
        lambda text: "\x00" * 10,
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, spoil) -> None:
    folder, manifest = planned(tmp_path)
    write(folder, manifest)
    (folder / NAME).write_text(spoil((folder / NAME).read_text()))
    with pytest.raises(UserError, match="is no manifest of a trial or sweep, or damaged\n  move its folder away"):
        planned(tmp_path)


def test_no_manifest_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no manifest") as caught:
        read(tmp_path)
    assert str(tmp_path / NAME) in str(caught.value)


def test_a_write_that_is_cut_off_leaves_the_manifest_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, manifest = planned(tmp_path)
    write(folder, manifest)

    def gone(*_: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr("os.replace", gone)
    with pytest.raises(OSError):
        write(folder, dataclasses.replace(manifest, cells=()))
    assert read(folder) == manifest
    assert [path.name for path in folder.iterdir()] == [NAME]


@pytest.mark.parametrize("name", ["a b", "it's", 'say "x"', "a,b=c{d}[e]", "back\\slash", "end\\", "ü ✓"])
def test_paths_with_blanks_and_quotes_survive(tmp_path: Path, name: str) -> None:
    outputs = tmp_path / name
    word = f"outputs={overrides.quote(str(outputs))}"
    cells = trial_cells("prior", [*QUICK, word], ["ntp"], [0])
    assert compose.compose("prior", list(cells[0].overrides)).outputs == str(outputs)
    folder, manifest, _ = plan("trial", "prior", cells, "", 1)
    write(folder, manifest)
    assert outputs_of(folder) == outputs and read(folder) == manifest


def test_the_command_of_a_cell_can_be_pasted_into_a_shell() -> None:
    cell = Cell("x", "x", "ntp", 0, ("data.path='a b'", "seed=0"), "prior/ntp/0-s0")
    assert command_of("prior", cell) == """steelyard run prior 'data.path='"'"'a b'"'"'' seed=0"""


def test_the_manifest_stays_readable_for_people(tmp_path: Path) -> None:
    folder, manifest = planned(tmp_path)
    write(folder, manifest)
    tree = json.loads((folder / NAME).read_text())
    assert tree["version"] == manifests.VERSION
    assert set(tree) == {"sha256", *(field.name for field in dataclasses.fields(Manifest))}


def test_a_worker_reads_a_manifest_once_and_again_when_it_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = planned(tmp_path)
    write(folder, manifest)
    reads = []
    monkeypatch.setattr(manifests, "read", lambda folder: reads.append(folder) or read(folder))
    assert [read_once(folder) for _ in range(5)] == [manifest] * 5 and len(reads) == 1
    other = dataclasses.replace(manifest, cells=manifest.cells[:1])
    write(folder, other)
    assert [read_once(folder) for _ in range(5)] == [other] * 5 and len(reads) == 2
    (folder / NAME).unlink()
    with pytest.raises(UserError):
        read_once(folder)
