"""Which one this process is of those that a launcher started for one run on several machines.

torchrun and srun say it in variables of the environment. `process.launchers` says why nobody else reads them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from recipes.core.errors import UserError

START = (
    "start the same command on each machine: torchrun --nnodes NODES --nproc-per-node 1 --master-addr HOST -m cli.app "
    "run ...,\nor srun --nodes NODES --ntasks-per-node 1 steelyard run ..., or a trial with --launcher slurm"
)
RANKS = {"WORLD_SIZE": "RANK", "SLURM_STEP_NUM_TASKS": "SLURM_PROCID"}  # the number of all, the number of one
PORTS, PORTS_FROM = 20_000, 15_000  # below those that systems give away by themselves


@dataclass(frozen=True)
class Member:
    """One of the processes that a launcher started for a run, each of which starts its share of the run's own.

    Attributes:
        rank: Its number among them; 0 writes and speaks.
        size: How many there are.
        local_rank: Its number on its machine.
        share: Processes of the run that it starts.
        nodes: Machines of the run.
        address: Host at which they meet, that of number 0.
        port: Its port.
        attempt: Tells this start from an earlier one that met at the same place.
        hosted: Whether the launcher itself listens there, as torchrun does; else number 0 has to.
    """

    rank: int
    size: int
    local_rank: int
    share: int
    nodes: int
    address: str
    port: int
    attempt: str = "0"
    hosted: bool = False

    @property
    def first_on_machine(self) -> bool:
        """Whether it speaks for its machine if something goes wrong."""
        return self.share > 1 or self.local_rank == 0


@dataclass(frozen=True)
class _Group:
    """What a launcher says of the processes it started; `where` names the variable that holds their number."""

    rank: int
    size: int
    local_rank: int
    address: str
    port: int
    attempt: str
    hosted: bool
    where: str


def member_of(nodes: int, nproc: int, environment: Mapping[str, str]) -> Member | None:
    """Which member of a run this process is; None if no other process takes part in starting it.

    A run on one machine joins other processes only if torchrun or srun started just as many as it has. Whatever else
    the environment says was left there for another program.

    Args:
        nodes: Machines of the run.
        nproc: Processes of the run on each.
        environment: The variables of this process.

    Raises:
        UserError: the run is to be on several machines, and no launcher started it on them, started it more or less
            often than it has machines or processes, or says what cannot be of this process.
    """
    total = nodes * nproc
    if total == 1:
        return None
    group = _by_torchrun(environment) or _by_srun(environment) or (_by_hand(environment) if nodes > 1 else None)
    if nodes == 1 and (group is None or group.size != total):
        return None
    if group is None:
        raise UserError(
            "a run on several machines is started on each of them, and this process is alone",
            where=f"trainer.nodes={nodes}",
            hint=START,
        )
    if group.size not in (nodes, total):
        times = f"{nodes}" if nproc == 1 else f"{nodes} (or {total})"
        raise UserError(
            f"a run on {nodes} machines with {nproc} processes each is to be started {times} times",
            where=f"{group.where}={group.size}",
            hint=START,
        )
    _check_place(group)
    share = total // group.size
    place = (group.address, group.port, group.attempt, group.hosted)
    return Member(group.rank, group.size, group.local_rank, share, nodes, *place)


def _check_place(group: _Group) -> None:
    """Refuse a place that cannot be: the others would wait for a process that never comes.

    Raises:
        UserError: its number is not below that of all, or the port is none.
    """
    if group.rank >= group.size:
        what = f"{group.where}={group.size} processes have the numbers 0 to {group.size - 1}"
        raise UserError(what, f"{RANKS[group.where]}={group.rank}", START)
    if not 0 < group.port < 2**16:
        raise UserError("is no port; type one from 1 to 65535", f"MASTER_PORT={group.port}", START)


def _by_torchrun(environment: Mapping[str, str]) -> _Group | None:
    return _by_hand(environment) if "TORCHELASTIC_RUN_ID" in environment else None


def _by_hand(environment: Mapping[str, str]) -> _Group | None:
    """By the variables that torch itself reads."""
    if "WORLD_SIZE" not in environment or "RANK" not in environment:
        return None
    return _Group(
        rank=_number(environment, "RANK"),
        size=_number(environment, "WORLD_SIZE"),
        local_rank=_number(environment, "LOCAL_RANK", "0"),
        address=_text(environment, "MASTER_ADDR"),
        port=_number(environment, "MASTER_PORT"),
        attempt=environment.get("TORCHELASTIC_RESTART_COUNT", "0"),
        hosted=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        where="WORLD_SIZE",
    )


def _by_srun(environment: Mapping[str, str]) -> _Group | None:
    """Only a step of a job has these: a shell inside a job has none."""
    if "SLURM_STEP_NUM_TASKS" not in environment:
        return None
    job, step = (environment.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    own_port = str(PORTS_FROM + (int(re.sub(r"\D", "", job) or 0) * 7 + int(re.sub(r"\D", "", step) or 0)) % PORTS)
    return _Group(
        rank=_number(environment, "SLURM_PROCID"),
        size=_number(environment, "SLURM_STEP_NUM_TASKS"),
        local_rank=_number(environment, "SLURM_LOCALID", "0"),
        address=environment.get("MASTER_ADDR") or first_host(_text(environment, "SLURM_STEP_NODELIST")),
        port=_number(environment, "MASTER_PORT", own_port),
        attempt=environment.get("SLURM_RESTART_COUNT", "0"),
        hosted=False,
        where="SLURM_STEP_NUM_TASKS",
    )


def is_first(environment: Mapping[str, str]) -> bool:
    """Whether this is the first of the processes that srun started for one job; that alone keeps its records."""
    group = _by_srun(environment)
    return group is None or group.rank == 0


def starts_again(environment: Mapping[str, str]) -> bool:
    """Whether an earlier start had the same command: Slurm queued the job again, or torchrun restarted processes."""
    names = ["SLURM_RESTART_COUNT"]
    names += ["TORCHELASTIC_RESTART_COUNT"] if "TORCHELASTIC_RUN_ID" in environment else []
    return any(environment.get(name, "0") not in ("", "0") for name in names)


def first_host(nodes: str) -> str:
    """The first name of a list of hosts as Slurm writes them: `gpu[03-05,9],cpu1` begins with `gpu03`."""
    match = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes


def _text(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise UserError("is not set: the machines of a run meet there", where=name, hint=START)
    return value


def _number(environment: Mapping[str, str], name: str, default: str = "") -> int:
    value = environment.get(name) or default or _text(environment, name)
    if not value.isdecimal():
        raise UserError(f"is {value!r}, which is no number", where=name, hint=START)
    return int(value)
