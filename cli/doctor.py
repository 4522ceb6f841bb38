"""`steelyard doctor`: what this machine can do, and how to mend what it cannot."""

import netrc
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import typer

from cli.console import say, table
from cli.keys import OUTPUTS_PLACE
from cli.results import JSON, print_result
from recipes.core.config import registry
from recipes.core.config.outside import recipe_problem
from recipes.core.config.sources import CONFIG_DIR, config_folders
from recipes.core.errors import UserError
from recipes.core.process.cores import usable_cores
from recipes.core.runs.tracking.wandb_tracker import is_tracked
from recipes.core.storage import assets
from recipes.core.storage.cache import entries, home, problems, stopped_builds
from recipes.core.storage.checksums import files_below

GIGABYTE = 1e9
OLDEST_PYTHON = (3, 11)
SMALL_DISK_GB, SMALL_MEMORY_GB = 2.0, 4.0


@dataclass(frozen=True)
class Check:
    """One thing looked at. `advice` says what to do about a problem; `fatal`: nothing can run until then."""

    what: str
    state: str
    advice: str = ""
    fatal: bool = False


_CACHES = typer.Option(False, "--caches", help="Hash every file of the cache and of the assets, large ones as well.")


def doctor(outputs: Path = OUTPUTS_PLACE, caches: bool = _CACHES, as_json: bool = JSON) -> None:
    """Say what this machine can do, and how to mend what it cannot.

    Ends with exit code 1 only if nothing can run on this machine.
    """
    checks = [_python(), *_torch(), _cores(), _memory(), _disk("disk at outputs", outputs)]
    checks += [_disk("disk at STEELYARD_HOME", home()), _wandb(), *_cache(caches), *_assets(caches)]
    checks += [*_outside_recipes(), *_config_dir()]
    fatal = any(check.fatal for check in checks)
    if as_json:
        rows = [asdict(check) | {"mark": _mark(check)} for check in checks]
        print_result("doctor", {"can_run": not fatal, "checks": rows})
    else:
        _show(checks)
    if fatal:
        raise typer.Exit(1)


def _show(checks: Sequence[Check]) -> None:
    table([{"": _mark(check), "what": check.what, "found": check.state} for check in checks])
    problems = [check for check in checks if check.advice]
    say()
    for check in problems:
        say(f"{check.what}: {check.advice}")
    if not any(check.fatal for check in checks):
        say("this machine can run the recipes" + (", with what is said above" if problems else ""))


def _mark(check: Check) -> str:
    return "FAIL" if check.fatal else "note" if check.advice else "ok"


def _python() -> Check:
    old = sys.version_info < OLDEST_PYTHON
    return Check("Python", sys.version.split()[0], "install Python 3.11 or newer" if old else "", fatal=old)


def _torch() -> list[Check]:
    """torch and its devices with their number types; the only place here that imports torch."""
    try:
        import torch
    except ImportError as error:
        return [Check("torch", f"cannot be imported: {error}", "install the project again: pip install -e .", True)]
    checks = [Check("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")]
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        advice = "torch is built for CUDA but sees no device: check the driver with nvidia-smi" if built else ""
        return [*checks, Check("CUDA", "no device; runs use the CPU in fp32", advice)]
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        native = (device.major, device.minor) >= (8, 0)  # older ones only emulate bf16
        dtypes = "fp32, fp16, bf16" if native else "fp32, fp16"
        advice = "" if native else "bf16 is not native here; type trainer.precision=fp32"
        memory = device.total_memory / GIGABYTE
        checks.append(Check(f"CUDA device {index}", f"{device.name}, {memory:.0f} GB, {dtypes}", advice))
    return checks


def _cores() -> Check:
    threads = os.environ.get("OMP_NUM_THREADS")
    return Check("cores", f"{usable_cores()} usable" + (f", OMP_NUM_THREADS={threads}" if threads else ""))


def _memory() -> Check:
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIGABYTE
    small = gigabytes < SMALL_MEMORY_GB
    advice = "type budget=smoke, or a small trainer.micro_batch_size" if small else ""
    return Check("memory", f"{gigabytes:.1f} GB", advice)


def _disk(what: str, folder: Path) -> Check:
    """Free space and the right to write at a folder, or at the nearest parent that exists."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        variable = "STEELYARD_HOME" if "HOME" in what else "STEELYARD_OUTPUTS"
        return Check(what, f"{there} cannot be written", f"set {variable} to a folder of yours", fatal=True)
    free = shutil.disk_usage(there).free / GIGABYTE
    few = free < SMALL_DISK_GB
    return Check(what, f"{free:.1f} GB free at {folder}", f"free {SMALL_DISK_GB:.0f} GB" if few else "")


def _wandb() -> Check:
    """Where W&B would find a key; looks at neither the key nor the network."""
    if not is_tracked():
        return Check("W&B", "WANDB_DISABLED is set: runs are not tracked")
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return Check("W&B", f"WANDB_MODE={mode}")
    if os.environ.get("WANDB_API_KEY"):
        return Check("W&B", "logged in by WANDB_API_KEY; runs are tracked online")
    server = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    if _in_netrc(server):
        return Check("W&B", f"logged in at {server}; runs are tracked online")
    return Check("W&B", "not logged in; runs are tracked offline", "to track online, type: wandb login")


def _in_netrc(server: str) -> bool:
    path = Path(os.environ.get("NETRC") or os.path.expanduser("~/.netrc"))
    try:
        return server in netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError):
        return False


def _cache(hashed: bool) -> list[Check]:
    """The cache, if all of it is asked for; and what was left of builds that were stopped."""
    checks = []
    if hashed:
        folders = entries()
        damaged = [folder for folder in folders if problems(folder, hashed=True)]
        state = f"{len(folders):,} entries, {len(damaged):,} damaged"
        places = ", ".join(str(folder) for folder in damaged[:3])
        checks.append(Check("cache", state, f"{places}: a run that needs it builds it again" if damaged else ""))
    if stopped := stopped_builds():
        gigabytes = sum(path.stat().st_blocks * 512 for folder in stopped for path in files_below(folder)) / GIGABYTE
        advice = f"the run that was stopped goes on from there; or remove {stopped[0]}"
        checks.append(Check("stopped builds", f"{len(stopped)} in the cache, {gigabytes:.1f} GB", advice))
    return checks


def _outside_recipes() -> list[Check]:
    """The recipes outside the checkout, their classes too: torch is imported by now."""
    what = "recipes outside"
    checks = [Check(what, f"{error.where}: {error.what}", error.hint) for error in registry.outside_problems()]
    for name in sorted({*registry.recipe_names()} - {*registry.recipe_names(outside=False)}):
        problem = recipe_problem(name) or _class_problem(name)
        advice = f"{problem.where}: {problem.what}\n{problem.hint}".lstrip(": ").rstrip() if problem else ""
        checks.append(Check(f"recipe {name}", "cannot be used" if problem else str(registry.source(name)), advice))
    return checks


def _class_problem(name: str) -> UserError | None:
    try:
        registry.recipe_class(name)
    except UserError as error:
        return error
    return None


def _config_dir() -> list[Check]:
    """The folders of further options that a variable names."""
    names = os.environ.get(CONFIG_DIR)
    if not names:
        return []
    try:
        folders = config_folders()
    except UserError as error:
        return [Check(CONFIG_DIR, f"{error.where}: {error.what}", error.hint)]
    return [Check(CONFIG_DIR, ", ".join(map(str, folders)))]


def _assets(hashed: bool) -> list[Check]:
    checks = []
    for name in assets.ASSETS:
        state = assets.status(name, hashed).state
        advice = "" if state == "ready" else f"type: steelyard assets fetch {name} (a run that needs it does so itself)"
        checks.append(Check(f"asset {name}", state, advice))
    return checks
