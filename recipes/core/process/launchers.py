"""What launchers of other programs leave in the environment, and why a run does not look at it.

A shell inside a Slurm, MPI, torchrun or accelerate job carries ranks and addresses that are meant for another program.
Libraries take them for this one's: with `WORLD_SIZE=2` they wait for a second process that never comes. How many
processes a run has is `trainer.nproc`; those it starts get variables of their own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = {
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "FORK_LAUNCHED"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NPROCS"),
}
PREFIXES = (
    *("TORCHELASTIC_", "ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_", "MEGATRON_LM_", "DEEPSPEED_"),
    *("PMI_", "PMIX_", "OMPI_", "MV2_", "MPI_", "SM_", "SMDATAPARALLEL_"),
)


@contextmanager
def without_launchers() -> Iterator[None]:
    """Hide what launchers left for the duration of the block."""
    hidden = {name: value for name, value in os.environ.items() if name in NAMES or name.startswith(PREFIXES)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
