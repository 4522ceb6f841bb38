"""Where cells run: one after another in a child process, or through Hydra's launchers (joblib, submitit, ray).

This is the only module that uses `hydra._internal`; Hydra is pinned to 1.3 for it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from recipes.core.config.overrides import quote
from recipes.core.config.registry import RECIPES, ROOT, outside_folders
from recipes.core.config.schema import Problem, raise_problems
from recipes.core.config.sources import CONF, CONFIG_DIR
from recipes.core.errors import RunFailed, UserError
from recipes.core.process.ray_settings import quiet_ray
from recipes.core.spelling import did_you_mean
from recipes.core.storage.files import write_text
from recipes.core.trial.slurm import max_array_size
from recipes.core.trial.worker import LAUNCH, task

LAUNCHERS = ("local", "joblib", "slurm", "submitit", "ray")
# Launcher -> (keys that hold how many cells run at once, keys that hold the CPU threads of a cell).
KEYS: dict[str, tuple[list[str], list[str]]] = {
    "joblib": (["n_jobs"], []),
    "slurm": (["array_parallelism"], ["cpus_per_task"]),
    "submitit": ([], ["cpus_per_task"]),
    "ray": ([], ["ray.remote.num_cpus"]),
}
# Keys of a launcher that say what a cell needs: they follow from the cell, and what to type for them is this.
OF_CELLS = {"slurm": {"nodes": "trainer.nodes=N", "tasks_per_node": "trainer.nproc=N"}}
OF_CELLS["submitit"] = OF_CELLS["slurm"]
ARRAY = "max_array_size"  # a key of ours: Slurm's own limit, where it does not say it
# Keys below which a user may add any.
OPEN = ("ray.init", "ray.remote", "additional_parameters")
# What a cell needs of the driver's environment, for workers that a cluster has started before.
CARRIED = (
    "PYTHONPATH",
    "PYTHONSAFEPATH",
    "STEELYARD_HOME",
    RECIPES,
    CONFIG_DIR,
    "WANDB_MODE",
    "WANDB_DISABLED",
    "WANDB_DIR",
    "HF_HOME",
)


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
        sizes = [option for option in options if name == "slurm" and option.startswith(f"{ARRAY}=")]
        self.name, self.jobs, self.options = name, jobs, [option for option in options if option not in sizes]
        self.array_size = _array_size(sizes[-1]) if sizes else None
        if name != "local":
            self._check()

    def __call__(self, folder: Path, names: Sequence[str], threads: int, nodes: int = 1) -> None:
        """Run cells of the trial in `folder`; returns when all have ended, or raises what the launcher raises.

        Args:
            folder: The trial's folder.
            names: Of the cells.
            threads: CPU threads of each on a machine, over all its processes there.
            nodes: Machines of each.
        """
        folder = folder.absolute()
        if self.name == "local" or (self.name == "joblib" and 1 in (self.jobs, len(names))):
            # joblib would run a single job in the driver's own process.
            run_in_child(folder, names)
            return
        together = self._at_once(len(names))
        for start in range(0, len(names), together):
            self._launch(folder, names[start : start + together], threads, nodes)

    def _at_once(self, count: int) -> int:
        """How many of so many cells are submitted together."""
        if self.name == "submitit":
            return self.jobs  # its local executor would start all at once
        if self.name == "slurm":
            return min(count, self.array_size or max_array_size() or count)
        return count

    def _check(self) -> None:
        """Refuse keys that the launcher does not have, before anything is planned."""
        from omegaconf import OmegaConf

        node = OmegaConf.to_container(self._config(Path("."), 1, [])[1].hydra.launcher)
        known = _flat(cast(dict[str, Any], node))
        problems = []
        for option in self.options:
            key = option.partition("=")[0].lstrip("+")
            if key in KEYS[self.name][0]:
                problems.append(Problem(f"launcher.{key}", None, "type --jobs N"))
            elif instead := OF_CELLS.get(self.name, {}).get(key):
                problems.append(Problem(f"launcher.{key}", None, f"type {instead}"))
            elif key not in known and not key.startswith(tuple(f"{node}." for node in OPEN)):
                problems.append(Problem(f"launcher.{key}", None, did_you_mean(key, sorted(known))))
        raise_problems(problems)

    def _launch(self, folder: Path, names: Sequence[str], threads: int, nodes: int) -> None:
        from hydra._internal.callbacks import Callbacks
        from hydra.core.plugins import Plugins
        from hydra.types import HydraContext

        number = uuid.uuid4().hex
        write_text(folder / LAUNCH, number)
        os.environ |= _import_path()
        carried = [f"{key}={quote(os.environ[key])}" for key in CARRIED if key in os.environ]
        surroundings = [f"ray.init.runtime_env.env_vars.{word}" for word in carried] if self.name == "ray" else []
        keys = [f"folder={quote(str(folder))}", f"launch={quote(number)}", f"cwd={quote(os.getcwd())}"]
        machines = [f"nodes={nodes}"] if self.name == "slurm" else []
        hydra, config = self._config(folder, threads, [*machines, *surroundings, *self.options])
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
        with _block_ctrl_c():
            if self.name == "ray":
                _start_ray(config.hydra.launcher.ray.init)
            launcher.launch([[*keys, f"cell={quote(name)}"] for name in names], initial_job_idx=0)

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
        overrides = [f"launcher={self.name}", f"folder={quote(str(folder))}", *(_force(value) for value in values)]
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


def _array_size(option: str) -> int:
    value = option.partition("=")[2]
    if not value.isdecimal() or int(value) == 0:
        raise UserError("is no number of jobs above 0", where=f"launcher.{option}", hint=f"type launcher.{ARRAY}=1000")
    return int(value)


def run_in_child(folder: Path, names: Sequence[str]) -> None:
    """Run cells one after another in a process of its own, so that one that is killed takes no driver with it.

    Raises:
        RunFailed: the process ended before its cells did.
    """
    line = [sys.executable, "-m", "recipes.core.trial.worker", str(folder.absolute()), str(os.getpid()), *names]
    with _block_ctrl_c():
        child = subprocess.Popen(line, stdin=subprocess.DEVNULL, env=os.environ | _import_path())
    with child:
        code = child.wait()
    if code:
        ended = f"by signal {-code}" if code < 0 else f"with code {code}"
        raise RunFailed(f"the process that ran the cells ended {ended}")


def _import_path() -> dict[str, str]:
    """Variables that make workers import this checkout wherever they start, and recipes outside it as here."""
    outside = {RECIPES: os.pathsep.join(map(str, folders))} if (folders := outside_folders()) else {}
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", str(ROOT))]
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), *others]), "PYTHONSAFEPATH": "1"} | outside


@contextlib.contextmanager
def _block_ctrl_c() -> Iterator[None]:
    """Keep Ctrl-C from the processes that the block starts: they save when the driver tells them to stop.

    They inherit the blocked signal. The driver gets it through one of its other threads.
    """
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _start_ray(init: Any) -> None:
    """Start or join Ray, which takes SIGTERM for itself: give it back to the driver.

    Ray's workers import from where it is started before anything else.
    """
    from hydra_plugins.hydra_ray_launcher import _launcher_util

    quiet_ray()
    plain = signal.getsignal(signal.SIGTERM)
    with contextlib.chdir(ROOT):
        _launcher_util.start_ray(init)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, plain)


def _force(value: str) -> str:
    """`KEY=VALUE` that sets a key whether it is there or not."""
    return value if value.startswith("+") else f"++{value}"


def _flat(node: dict[str, Any], path: str = "") -> set[str]:
    """Dotted keys of all leaves; an empty group counts as one."""
    keys = set()
    for key, value in node.items():
        keys |= _flat(value, f"{path}{key}.") if isinstance(value, dict) and value else {f"{path}{key}"}
    return keys
