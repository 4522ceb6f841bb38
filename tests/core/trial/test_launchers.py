"""One trial through every launcher: the same numbers, a failing cell that stops nothing, logs, options, silence."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra_plugins.hydra_ray_launcher import _core as ray_plugin
from hydra_plugins.hydra_ray_launcher import _launcher_util as ray_start
from hydra_plugins.hydra_submitit_launcher import submitit_launcher

from recipes.core.config.registry import ROOT
from recipes.core.errors import RunFailed, UserError
from recipes.core.trial import cells, worker
from recipes.core.trial.launch import Launcher
from tests.cli.conftest import Ended
from tests.core.trial.processes import (
    LONG,
    PATIENCE_SECONDS,
    SHORT,
    Driver,
    assert_done_once,
    endings,
    final_metrics,
    ray_head,
    signal_training,
    trains,
    undisturbed,
    wait_until,
)

ARMS = ["--arms", "ntp,prior,random", "--seeds", "1"]  # more cells than processes at a time
NAMES = ["ntp-s0", "prior-s0", "random-s0"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> dict[str, Any]:
    """Metrics of every cell, done without any launcher."""
    driver = Driver(tmp_path_factory.mktemp("expected"), [*SHORT, *ARMS], {"STEELYARD_HOME": str(session_home)})
    undisturbed(driver)
    return final_metrics(driver)


@pytest.mark.slow
class LauncherSuite:
    """What every launcher has to do; one cell is broken at first, as a folder stands where it writes its config."""

    words: list[str]
    environment: dict[str, str] = {}

    @pytest.fixture(scope="class")
    def driver(self, session_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Driver:
        """A trial typed in a folder that holds other packages of our names."""
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        (elsewhere / "recipes").mkdir()
        (elsewhere / "recipes" / "__init__.py").write_text("raise ImportError('of the folder it was typed in')")
        home = str(tmp_path_factory.mktemp("user"))  # Ray writes there
        environment = {"STEELYARD_HOME": str(session_home), "PYTHONSAFEPATH": "1", "HOME": home, **self.environment}
        return Driver(tmp_path_factory.mktemp("outputs"), [*SHORT, *ARMS, *self.words], environment, elsewhere)

    @pytest.fixture(scope="class")
    def ended(self, driver: Driver) -> Iterator[Ended]:
        """How it ends while a cell is broken, which is mended then."""
        (cell,) = cells.trial_cells("prior", SHORT, ["ntp"], [0])
        obstacle = driver.outputs / cell.folder / "config.yaml"
        obstacle.mkdir(parents=True)
        yield driver.run()
        driver.kill_all()

    def test_a_failing_cell_stops_no_other(self, driver: Driver, ended: Ended) -> None:
        assert ended.code == 1, ended.err
        assert "config.yaml: a folder stands where a file should be" in ended.err
        assert "1 of 3 cells failed" in ended.err and "--retry" in ended.err
        assert [state.state for state in driver.states()] == ["failed", "done", "done"]
        assert ended.err.count(": done") == 2

    def test_no_process_is_left(self, driver: Driver, ended: Ended) -> None:
        wait_until(lambda: not driver.processes(), "all processes are gone")

    def test_with_the_cell_mended_it_ends_with_the_metrics_of_any_other_launcher(
        self, driver: Driver, ended: Ended, expected: dict[str, Any]
    ) -> None:
        for obstacle in driver.outputs.glob("prior/ntp/*/config.yaml"):
            if obstacle.is_dir():
                obstacle.rmdir()
        undisturbed(driver, "--retry")
        assert_done_once(driver)
        assert final_metrics(driver) == expected
        assert {state.cell.name: state.attempts for state in driver.states()} == dict(
            zip(NAMES, [2, 1, 1], strict=True)
        )

    def test_what_a_cell_prints_is_in_its_log_and_nowhere_else(self, driver: Driver, ended: Ended) -> None:
        logs = {path.stem: path.read_text() for path in (driver.folder / "logs").iterdir()}
        assert set(logs) == set(NAMES)
        assert "Traceback" in logs["ntp-s0"] and "IsADirectoryError" in logs["ntp-s0"]
        assert [name for name, text in logs.items() if "Traceback" in text] == ["ntp-s0"]
        expected = re.compile(
            r"\w+-s\d: (done|failed)|3 runs of prior, steps: |cells of prior: |"
            r"1 of 3 cells failed|  steelyard trial |no verdict: (a trial at budget=smoke |one seed has no interval )"
        )
        assert [line for line in ended.err.splitlines() if not expected.match(line)] == []


class TestLocal(LauncherSuite):
    words = ["--launcher", "local"]


class TestJoblib(LauncherSuite):
    words = ["--launcher", "joblib", "--jobs", "2"]


class TestSubmitit(LauncherSuite):
    words = ["--launcher", "submitit", "--jobs", "2", "launcher.timeout_min=77"]


class TestRay(LauncherSuite):
    words = ["--launcher", "ray", "--jobs", "2", "launcher.ray.init.num_cpus=2"]
    environment = {"RAY_raylet_start_wait_time_s": "300"}


@pytest.mark.slow
def test_a_signal_to_a_job_of_a_queue_saves_its_run_and_it_goes_on(tmp_path: Path, session_home: Path) -> None:
    """SIGTERM comes at pre-emption; submitit alone ignores it. The job queues itself again."""
    home = {"STEELYARD_HOME": str(session_home)}
    driver = Driver(tmp_path / "outputs", [*LONG, "--arms", "ntp", "--seeds", "1"], home)
    plain = Driver(tmp_path / "plain", driver.words, home)
    undisturbed(plain)
    driver.words = [*driver.words, "--launcher", "submitit", "--jobs", "2"]
    with driver.started() as process:
        wait_until(trains(driver, cells=1), "the cell trains", process)
        signal_training(driver, signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
    assert_done_once(driver)
    assert endings(driver) == endings(plain)
    assert driver.logs().count("stopping: the run is saved after this step") == 1
    (cell,) = driver.states()
    assert cell.attempts == 2 and cell.resumed_from > 0
    queue = [path.read_text() for path in driver.folder.rglob("*_log.out")]
    assert len(queue) == 1 and queue[0].count("Requeued job") == 1  # by itself, and not by the driver


@pytest.mark.slow
def test_a_ray_cluster_that_runs_elsewhere_is_joined(
    tmp_path: Path, session_home: Path, expected: dict[str, Any]
) -> None:
    """Its workers know neither this checkout nor the caches until the driver tells them."""
    address = "127.0.0.1:26379"
    environment = {"STEELYARD_HOME": str(session_home), "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    words = ["--arms", "ntp", "--seeds", "1", "--launcher", "ray", f"launcher.ray.init.address={address}"]
    driver = Driver(tmp_path / "outputs", [*SHORT, *words], environment)
    with ray_head(tmp_path, address, driver.mark):
        ended = driver.run()
    assert ended.code == 0, ended.err
    assert final_metrics(driver) == {"ntp-s0": expected["ntp-s0"]}


def test_options_of_the_user_reach_ray_and_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        ray_plugin, "launch", lambda launcher, job_overrides, initial_job_idx: seen.update(ray=launcher)
    )
    monkeypatch.setattr(ray_start, "start_ray", lambda init: seen.update(init=init))
    options = ["ray.init.address=10.0.0.1:6379", "ray.remote.num_gpus=0.5", "ray.init.runtime_env.env_vars.MINE=1"]
    Launcher("ray", 2, options)(tmp_path, ["a", "b"], threads=3)
    assert seen["init"].address == "10.0.0.1:6379" and seen["init"].object_store_memory is None
    assert seen["init"].runtime_env.env_vars.MINE == 1
    assert str(ROOT) in seen["init"].runtime_env.env_vars.PYTHONPATH
    assert (seen["ray"].ray_cfg.remote.num_cpus, seen["ray"].ray_cfg.remote.num_gpus) == (3, 0.5)

    def launch(launcher: Any, job_overrides: Any, initial_job_idx: int) -> None:
        seen.setdefault("chunks", []).append(len(job_overrides))
        seen["submitit"] = launcher.params

    monkeypatch.setattr(submitit_launcher.BaseSubmititLauncher, "launch", launch)
    Launcher("slurm", 2, ["partition=gpu", "additional_parameters.reservation=mine"])(tmp_path, ["a", "b", "c"], 3)
    assert {key: seen["submitit"][key] for key in ("partition", "cpus_per_task", "array_parallelism")} == {
        "partition": "gpu",
        "cpus_per_task": 3,
        "array_parallelism": 2,
    }
    assert seen["submitit"]["additional_parameters"] == {"reservation": "mine"}
    Launcher("submitit", 2, [])(tmp_path, ["a", "b", "c"], 1)
    assert seen["chunks"] == [3, 2, 1]


@pytest.mark.parametrize("typed", [True, False])
def test_more_cells_than_an_array_may_have_are_several_and_a_cell_has_its_machines(
    typed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the key, or by what Slurm says."""
    launches: list[tuple[int, Any]] = []

    def launch(launcher: Any, job_overrides: Any, initial_job_idx: int) -> None:
        launches.append((len(job_overrides), launcher.params))

    monkeypatch.setattr(submitit_launcher.BaseSubmititLauncher, "launch", launch)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho 'Licenses = none'; echo 'MaxArraySize            = {9 if typed else 2}'")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    Launcher("slurm", 2, ["max_array_size=2"] if typed else [])(tmp_path, ["a", "b", "c", "d", "e"], 8, 2)
    assert [count for count, _ in launches] == [2, 2, 1]
    asked = launches[0][1]
    assert (asked["nodes"], asked["tasks_per_node"], asked["cpus_per_task"]) == (
        2,
        1,
        8,
    ) and "max_array_size" not in asked


@pytest.mark.parametrize(
    ("name", "option", "told"),
    [
        ("slurm", "partitoin=gpu", "launcher.partitoin: did you mean partition?"),
        ("slurm", "nodes=2", "launcher.nodes: type trainer.nodes=N"),
        ("slurm", "max_array_size=many", "launcher.max_array_size=many: is no number of jobs above 0"),
        ("joblib", "n_jobs=4", "launcher.n_jobs: type --jobs N"),
        ("local", "n_jobs=4", "n_jobs=4: the local launcher runs one cell after another and has no keys"),
    ],
)
def test_a_wrong_option_is_told_before_anything_starts(name: str, option: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        Launcher(name, 1, [option])
    assert told in str(caught.value)


def test_without_slurm_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="srun"):
        Launcher("slurm", 2, [])(tmp_path, ["a"], 1)


def test_a_job_left_in_a_queue_by_an_earlier_launch_does_nothing(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    (tmp_path / worker.LAUNCH).write_text("the second")
    config = OmegaConf.create({"folder": str(tmp_path), "cell": "ntp-s0", "launch": "the first", "cwd": "/"})
    assert worker.task(config) == "queued"
    assert [path.name for path in tmp_path.iterdir()] == [worker.LAUNCH]


def test_a_child_that_dies_is_told_with_its_signal(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(RunFailed, match="ended by signal 9"):
            Launcher("local", 1, [])(tmp_path, ["a"], 1)
