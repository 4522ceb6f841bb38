"""What torchrun and srun say of the processes that they start, and what is left over from another program."""

import pytest

from recipes.core.errors import UserError
from recipes.core.process.members import first_host, is_first, member_of, starts_again

LEFT = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
TORCHRUN = LEFT | {
    **{"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "3"},
    **{"TORCHELASTIC_USE_AGENT_STORE": "True"},
}
SRUN = {
    **{"SLURM_JOB_ID": "812", "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"},
    **{"SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "gpu[03-05,9],cpu1", "SLURM_NTASKS": "2"},
}


@pytest.mark.parametrize("environment", [{}, LEFT, TORCHRUN, SRUN, {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}])
def test_a_run_of_one_process_joins_nobody(environment: dict[str, str]) -> None:
    assert member_of(1, 1, environment) is None


@pytest.mark.parametrize(
    "environment", [{}, LEFT, TORCHRUN | {"WORLD_SIZE": "8"}, SRUN | {"SLURM_STEP_NUM_TASKS": "1"}]
)
def test_a_run_on_one_machine_starts_its_processes_unless_a_launcher_started_just_these(
    environment: dict[str, str],
) -> None:
    assert member_of(1, 2, environment) is None
    assert member_of(1, 2, TORCHRUN) is not None and member_of(1, 2, SRUN) is not None


def test_torchrun_on_two_machines_once_each_or_once_a_process() -> None:
    once = member_of(2, 4, TORCHRUN)
    assert once and (once.rank, once.size, once.share, once.address, once.port) == (1, 2, 4, "10.0.0.1", 29500)
    assert once.hosted and once.attempt == "3" and once.first_on_machine
    each = member_of(2, 4, TORCHRUN | {"WORLD_SIZE": "8", "RANK": "5"})
    assert each and (each.rank, each.size, each.share, each.local_rank) == (5, 8, 1, 1)
    assert not each.first_on_machine


def test_srun_meets_at_the_first_host_and_each_step_at_another_port() -> None:
    member = member_of(2, 1, SRUN)
    assert member and (member.rank, member.size, member.share, member.address) == (1, 2, 1, "gpu03")
    assert not member.hosted
    other = member_of(2, 1, SRUN | {"SLURM_STEP_ID": "2"})
    assert other and other.port != member.port and 15_000 <= other.port < 35_000
    named = member_of(2, 1, SRUN | {"MASTER_ADDR": "head", "MASTER_PORT": "4000"})
    assert named and (named.address, named.port) == ("head", 4000)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu7", "gpu7"), ("gpu7,gpu9", "gpu7"), ("n[001-016]", "n001"), ("r[2,5]-ib,n1", "r2-ib"), ("a-b3,c", "a-b3")],
)
def test_the_first_of_slurms_hosts(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_the_first_of_a_job_keeps_its_records() -> None:
    assert is_first({}) and is_first(LEFT) and is_first(SRUN | {"SLURM_PROCID": "0"}) and not is_first(SRUN)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "trainer.nodes=2: a run on several machines is started on each of them, and this process is alone"),
        (
            LEFT | {"WORLD_SIZE": "3"},
            "WORLD_SIZE=3: a run on 2 machines with 4 processes each is to be started 2 (or 8)",
        ),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "16"}, "SLURM_STEP_NUM_TASKS=16: a run on 2 machines"),
        (LEFT | {"MASTER_PORT": ""}, "MASTER_PORT: is not set"),
        (LEFT | {"MASTER_PORT": "http"}, "MASTER_PORT: is 'http', which is no number"),
        (LEFT | {"MASTER_PORT": "99999"}, "MASTER_PORT=99999: is no port; type one from 1 to 65535"),
        (LEFT | {"MASTER_PORT": "0"}, "MASTER_PORT=0: is no port"),
        (LEFT | {"RANK": "2"}, "RANK=2: WORLD_SIZE=2 processes have the numbers 0 to 1"),
        (TORCHRUN | {"RANK": "9", "WORLD_SIZE": "8"}, "RANK=9: WORLD_SIZE=8 processes have the numbers 0 to 7"),
        (SRUN | {"SLURM_PROCID": "7"}, "SLURM_PROCID=7: SLURM_STEP_NUM_TASKS=2 processes have the numbers 0 to 1"),
    ],
)
def test_what_cannot_be_joined_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        member_of(2, 4, environment)
    assert message in str(caught.value) and "torchrun --nnodes" in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "again"),
    [
        ({}, False),
        ({"SLURM_RESTART_COUNT": "0"}, False),
        ({"SLURM_RESTART_COUNT": ""}, False),
        ({"SLURM_RESTART_COUNT": "2"}, True),
        (TORCHRUN, True),
        (TORCHRUN | {"TORCHELASTIC_RESTART_COUNT": "0"}, False),
        ({"TORCHELASTIC_RESTART_COUNT": "1"}, False),
    ],
)
def test_a_start_after_the_first_is_known(environment: dict[str, str], again: bool) -> None:
    assert starts_again(environment) is again
