"""A plugin of pytest that writes down how each test ended as soon as it has: a run that is cut off leaves what it has.

STEELYARD_TEST_DEVICE=cuda python -m pytest -m gpu -p benchmarks.gpu_outcomes
"""

import os
from collections.abc import Iterable
from typing import Any

import pytest

from benchmarks.gpu import OUTCOMES
from benchmarks.record import RESULTS
from recipes.core.storage.files import write_json


class Outcomes:
    """How tests ended, in the process that hears of all of them."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, Any]] = {"passed": {}, "failed": {}, "skipped": {}}
        self.collected: set[str] = set()

    def collect(self, names: Iterable[str]) -> None:
        """Remember which tests there are."""
        self.collected |= set(names)
        self._write()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tests of this process."""
        self.collect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Tests of several processes; each has collected all."""
        self.collect(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One of setup, call and teardown has ended; a test passes with its call, and fails with any."""
        if report.passed and report.when != "call":
            return
        value = round(report.duration, 1) if report.passed else _last_line(report)
        if report.failed:
            self.known["passed"].pop(report.nodeid, None)
        self.known[report.outcome][report.nodeid] = value
        self._write()

    def _write(self) -> None:
        ended = {name for group in self.known.values() for name in group}
        device = os.environ.get("STEELYARD_TEST_DEVICE", "cuda")
        result = {"device": device, **self.known, "not_run": sorted(self.collected - ended)}
        write_json(RESULTS / f"{OUTCOMES}-{device}.json", result, durable=False)


def pytest_configure(config: pytest.Config) -> None:
    """Listen, unless this is one of several processes that another hears of."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes())


def _last_line(report: pytest.TestReport) -> str:
    """The error of a test, or why it was skipped."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    return next((line for line in text.splitlines() if line.strip()), "")
