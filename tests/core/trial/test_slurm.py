"""A trial on Slurm: what is submitted, that it runs, and that a pre-empted job is queued again and goes on.

The commands of Slurm are small scripts here; submitit and the cells are the real ones.
"""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.core.trial.processes import (
    LONG,
    PATIENCE_SECONDS,
    Driver,
    assert_done_once,
    endings,
    signal_training,
    trains,
    undisturbed,
    wait_until,
)

SLURM = {
    # Starts every task of an array at once, and again if it was queued again.
    "sbatch": """
cp "$1" "$QUEUE/script.sh"
echo "Submitted batch job 4242"
for task in $(seq 0 $(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")); do
  export SLURM_JOB_ID=$((5000 + task)) SLURM_ARRAY_JOB_ID=4242 SLURM_ARRAY_TASK_ID=$task SLURM_PROCID=0
  (
    cd /
    while echo RUNNING > "$QUEUE/state.$task"; do
      bash "$QUEUE/script.sh"
      echo COMPLETED > "$QUEUE/state.$task"
      rm "$QUEUE/again.$task" || break
    done
  ) < /dev/null > "$QUEUE/out.$task" 2>&1 &
done
""",
    "srun": 'while [[ $1 == --* ]]; do [[ $1 == --unbuffered ]] || shift; shift; done; exec "$@"',
    "sacct": """
echo "JobID|State|NodeList"
for file in "$QUEUE"/state.*; do echo "4242_${file##*.}|$(cat "$file")|here"; done
""",
    "scontrol": """
case "$1 $2" in
  "show config") echo "MaxArraySize = 1001" ;;
  "show job") echo "JobId=$3 JobState=RUNNING" ;;
  *) echo "$@" >> "$QUEUE/asked"; touch "$QUEUE/again.${2#*_}" ;;
esac
""",
}


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    """Folder of a queue, with its commands in `bin`."""
    (tmp_path / "bin").mkdir()
    for name, text in SLURM.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/bash\n{text.strip()}\n")
        path.chmod(0o755)
    return tmp_path


@pytest.mark.slow
def test_a_trial_is_one_array_and_a_preempted_job_of_it_saves_is_queued_again_and_goes_on(
    queue: Path, tmp_path: Path, session_home: Path
) -> None:
    home = {"STEELYARD_HOME": str(session_home)}
    driver = Driver(tmp_path / "outputs", [*LONG, "--arms", "ntp,prior", "--seeds", "1"], home)
    plain = Driver(tmp_path / "plain", driver.words, home)
    undisturbed(plain)
    driver.words = [*driver.words, "--launcher", "slurm", "--jobs", "2"]
    driver.words += ["launcher.partition=gpu", "launcher.timeout_min=30", "launcher.signal_delay_s=60"]
    driver.environment |= {"QUEUE": str(queue), "PATH": f"{queue / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    with driver.started() as process:
        wait_until(trains(driver, cells=1), "a job trains", process)
        signal_training(driver, signal.SIGUSR2)
        wait_until(lambda: (queue / "asked").exists(), "it is queued again", process)
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
        wait_until(lambda: not driver.processes(), "all jobs have ended")
    assert re.fullmatch(r"requeue 4242_[01]\n", (queue / "asked").read_text())
    assert_done_once(driver)
    assert endings(driver) == endings(plain)
    assert sorted(state.attempts for state in driver.states()) == [1, 2]
    assert driver.logs().count("stopping: the run is saved after this step") == 1
    asked = set((queue / "script.sh").read_text().splitlines())
    assert {f"#SBATCH --{flag}" for flag in FLAGS} <= asked


FLAGS = [
    *["partition=gpu", "array=0-1%2", "cpus-per-task=1", "signal=USR2@60", "time=30", "job-name=steelyard"],
    *["nodes=1", "ntasks-per-node=1", "open-mode=append"],
]
