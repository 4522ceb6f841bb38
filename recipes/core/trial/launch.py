"""Where cells run: one after another in a child process, or through Hydra's launchers (joblib, submitit, ray).

This is the only module that uses `hydra._internal`; Hydra is pinned to 1.3 for it.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from recipes.core.compose import CONF
from recipes.core.errors import RunFailed, UserError
from recipes.core.registry import ROOT
from recipes.core.schema import Problem, did_you_mean, raise_problems
from recipes.core.trial.worker import quoted, task

LAUNCHERS = ("local", "joblib", "slurm", "submitit", "ray")
# Launcher -> (keys that hold how many cells run at once, keys that hold the CPU threads of a cell).
KEYS: dict[str, tuple[list[str], list[str]]] = {
    "joblib": (["n_jobs"], []),
    "slurm": (["array_parallelism"], ["cpus_per_task"]),
    "submitit": ([], ["cpus_per_task"]),
    "ray": ([], ["ray.remote.num_cpus"]),
}
# Keys below which a user may add any.
OPEN = ("ray.init", "ray.remote", "additional_parameters")


class Launcher:
    """One way to run cells.

    Args:
        name: One of `LAUNCHERS`.
        jobs: Cells that run at once, where the launcher decides it.
        options: `KEY=VALUE` of the launcher's own keys (`partition=gpu`).

    Raises:
        UserError: unknown launcher or key, or its plugin is not installed.
    """

    def __init__(self, name: str, jobs: int, options: Sequence[str]) -> None:
        if name not in LAUNCHERS:
            raise UserError(f"unknown launcher {name!r}", hint=did_you_mean(name, list(LAUNCHERS)))
        if name == "local" and (options or jobs > 1):
            what = f"--jobs {jobs}" if jobs > 1 else options[0]
            raise UserError(
                "the local launcher runs one cell after another and has no keys", where=what, hint="--launcher joblib"
            )
        self.name, self.jobs, self.options = name, jobs, list(options)
        if name != "local":
            self._check()

    def __call__(self, folder: Path, names: Sequence[str], threads: int) -> None:
        """Run cells of the trial in `folder`; returns when all have ended, or raises what the launcher raises."""
        folder = folder.resolve()
        if self.name == "local":
            run_in_child(folder, names)
            return
        # submitit's local executor would start all at once.
        together = self.jobs if self.name == "submitit" else len(names)
        for start in range(0, len(names), together):
            self._launch(folder, names[start : start + together], threads)

    def _check(self) -> None:
        """Refuse keys that the launcher does not have, before anything is planned."""
        from omegaconf import OmegaConf

        node = OmegaConf.to_container(self._config(Path("."), 1, [])[1].hydra.launcher)
        known = _flat(cast(dict[str, Any], node))
        problems = []
        for option in self.options:
            key = option.partition("=")[0].lstrip("+")
            if key not in known and not key.startswith(tuple(f"{node}." for node in OPEN)):
                problems.append(Problem(f"launcher.{key}", None, did_you_mean(key, sorted(known))))
        raise_problems(problems)

    def _launch(self, folder: Path, names: Sequence[str], threads: int) -> None:
        from hydra._internal.callbacks import Callbacks
        from hydra.core.plugins import Plugins
        from hydra.types import HydraContext

        hydra, config = self._config(folder, threads, self.options)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
        # Workers of other hosts and processes import this checkout, wherever they start.
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
        jobs = [[f"folder={quoted(str(folder))}", f"cell={quoted(name)}"] for name in names]
        launcher.launch(jobs, initial_job_idx=0)

    def _config(self, folder: Path, threads: int, options: Sequence[str]) -> tuple[Any, Any]:
        """Hydra and the config of a launch: `conf/launch.yaml` with the launcher's file and keys."""
        from hydra import initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra
        from hydra.errors import HydraException
        from hydra.types import RunMode

        jobs_keys, thread_keys = KEYS[self.name]
        values = [f"hydra.launcher.{key}={self.jobs}" for key in jobs_keys]
        values += [f"hydra.launcher.{key}={threads}" for key in thread_keys]
        values += [f"hydra.launcher.{option.lstrip('+')}" for option in options]
        overrides = [f"launcher={self.name}", f"folder={quoted(str(folder))}", *(_forced(value) for value in values)]
        try:
            with initialize_config_dir(config_dir=str(CONF), version_base="1.3", job_name="steelyard"):
                hydra = cast(Any, GlobalHydra.instance().hydra)
                return hydra, hydra.compose_config("launch", overrides, run_mode=RunMode.MULTIRUN)
        except HydraException as error:
            if "hydra/launcher" in str(error):
                extra = "slurm" if self.name == "submitit" else self.name
                raise UserError(
                    f"the plugin of launcher {self.name} is not installed",
                    where=f"--launcher {self.name}",
                    hint=f"type: pip install -e '.[{extra}]'",
                ) from error
            raise UserError(
                f"the launcher's config does not compose: {error}", where=f"launcher={self.name}"
            ) from error


def run_in_child(folder: Path, names: Sequence[str]) -> None:
    """Run cells one after another in a process of its own, so that one that is killed takes no driver with it.

    Raises:
        RunFailed: the process ended before its cells did.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    line = [sys.executable, "-m", "recipes.core.trial.worker", str(folder.resolve()), str(len(names))]
    with subprocess.Popen(line, stdin=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdin
        child.stdin.write("".join(f"{name}\n" for name in names))
        child.stdin.flush()
        code = child.wait()
    if code:
        ended = f"by signal {-code}" if code < 0 else f"with code {code}"
        raise RunFailed(f"the process that ran the cells ended {ended}")


def _forced(value: str) -> str:
    """`KEY=VALUE` that sets a key whether it is there or not."""
    return value if value.startswith("+") else f"++{value}"


def _flat(node: dict[str, Any], path: str = "") -> set[str]:
    """Dotted keys of all leaves; an empty group counts as one."""
    found = set()
    for key, value in node.items():
        found |= _flat(value, f"{path}{key}.") if isinstance(value, dict) and value else {f"{path}{key}"}
    return found
