"""Ranks and addresses that a launcher left for another program are not this run's."""

import os
from pathlib import Path

import pytest
from accelerate import PartialState

from recipes.core import execution, runner
from recipes.core.config import compose
from recipes.core.process.launchers import without_launchers

LEFT = {
    **{"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"},
    **{"OMPI_COMM_WORLD_SIZE": "2", "PMI_SIZE": "2", "MV2_COMM_WORLD_SIZE": "2", "SLURM_NTASKS": "2"},
    **{"TORCHELASTIC_RUN_ID": "none", "ACCELERATE_MIXED_PRECISION": "bf16", "FSDP_OFFLOAD_PARAMS": "true"},
}


@pytest.fixture(autouse=True)
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LEFT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_JOB_ID", "7")


def test_libraries_see_one_process_and_find_everything_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PartialState, "_shared_state", {})
    before = dict(os.environ)
    with without_launchers():
        assert not LEFT.keys() & os.environ.keys() and os.environ["SLURM_JOB_ID"] == "7"
        assert PartialState(cpu=True).num_processes == 1
    assert {name: os.environ[name] for name in LEFT} == LEFT and os.environ.keys() >= before.keys()


def test_a_run_does_not_see_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    monkeypatch.setattr(execution, "work", lambda *arguments: seen.append(LEFT.keys() & os.environ.keys()))
    runner.run(compose.compose("prior", [f"outputs={tmp_path}"]), fresh=False, command="steelyard run prior")
    assert seen == [set()]
