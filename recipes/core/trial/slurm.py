"""What Slurm says when it is asked, for cells that it runs; where its commands are absent it says nothing."""

import os
import re
import subprocess

SECONDS = 60


def max_array_size() -> int | None:
    """How many jobs an array may have (`MaxArraySize`); None if Slurm does not say."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _scontrol("show", "config"), re.MULTILINE)
    return int(match[1]) or None if match else None


def is_to_be_requeued() -> bool:
    """Whether a job that was told to stop is to be queued again by its own doing, as far as its queue says.

    In the time of grace before a pre-emption Slurm lets a job run on. One that it cancels, or queues again by itself,
    does not run any more.
    """
    job = os.environ.get("SLURM_JOB_ID")
    return job is None or "JobState=RUNNING" in _scontrol("show", "job", job)


def _scontrol(*words: str) -> str:
    try:
        return subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=SECONDS, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
