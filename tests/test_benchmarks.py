"""Benchmarks run by hand: what they import must still be there, and a contender that fails costs the others nothing."""

import argparse
import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks
from benchmarks import contenders, cross_entropy_steps
from benchmarks.contenders import taking_turns
from benchmarks.cross_entropy_steps import COMPILED, PLAIN, measure_time
from benchmarks.gpu import ROOT, marked_files

NAMES = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name != "__main__"]
# Speaks as `benchmarks.alignment_trainer` does; the system "trl" dies in its second step.
TRAINER = """#!{python}
import json, sys
system = next(word.partition("=")[2] for word in sys.argv if word.startswith("--system"))
send = lambda what: print(json.dumps(what), flush=True)
send({{"ready": True}})
for number in range(3):
    sys.stdin.readline()
    if system == "trl" and number:
        raise ValueError("no kernel for this device")
    send({{"seconds": 1.0, "bytes": number}})
send({{"losses": [0.5], "batches": [], "version": "1"}})
"""
TESTS = """
import os, pytest
def test_good(): pass
def test_bad(): assert 1 == 2
def test_left(): pytest.skip("no such thing here")
def test_killed(): os._exit(9)
def test_never(): pass
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_finds_all_that_it_imports_at_its_top(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def tiny() -> argparse.Namespace:
    sizes = {"vocabulary": 40, "sequences": 1, "length": 12, "width": 8, "chunk": 4, "repetitions": 2, "threads": 1}
    return argparse.Namespace(device="cpu", dtype="float32", **sizes)


def test_losses_that_a_machine_lacks_are_named_and_the_others_measured(tiny: argparse.Namespace) -> None:
    without, joined = measure_time(tiny)
    assert set(PLAIN) - {"torch"} <= without["seconds"].keys() == without["differences"].keys()
    assert without["seconds"].keys().isdisjoint(COMPILED) and set(COMPILED) <= without["absent"].keys()
    assert all(joined["absent"][name] != cross_entropy_steps.LATER for name in COMPILED if name in joined["absent"])
    assert joined["seconds"].keys() | joined["absent"].keys() == {*PLAIN, *COMPILED}
    assert all(len(seconds) == 2 for seconds in joined["seconds"].values())


def test_a_loss_that_fails_later_leaves_what_was_measured(
    tiny: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def breaks(peer: str, *_: object) -> None:
        calls.append(peer)
        if peer == "liger":
            raise RuntimeError("an illegal memory access was encountered\nsecond line")
        raise TimeoutError

    monkeypatch.setattr(cross_entropy_steps, "_peer_losses", breaks)
    without, joined = measure_time(tiny)
    assert calls == ["torch", "liger", "cce"]
    assert joined["seconds"] == without["seconds"] and len(without["seconds"]) == 4
    assert joined["absent"]["liger"] == "RuntimeError: an illegal memory access was encountered"


def test_a_trainer_that_dies_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(TRAINER.format(python=sys.executable), encoding="utf-8")
    python.chmod(0o755)
    options = argparse.Namespace(
        device="cpu", threads=1, steps=3, batch=1, precision="fp32", peer_python=str(python)
    )  # fmt: skip
    outcomes, absent = taking_turns(["trl", "trl-checkpointing"], tmp_path, options)
    assert absent == {"trl": "trl ended with 1: ValueError: no kernel for this device"}
    assert [step["bytes"] for step in outcomes["trl-checkpointing"]["steps"]] == [0, 1, 2]


def test_a_trainer_that_says_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contenders.WAIT_SECONDS, "cpu", 0)
    options = argparse.Namespace(
        device="cpu", threads=1, steps=1, batch=1, precision="fp32", peer_python=sys.executable
    )  # fmt: skip
    assert taking_turns(["trl"], tmp_path, options) == ({}, {"trl": "trl said nothing for 0 seconds"})


def test_tests_that_are_cut_off_leave_what_they_have(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
    variables = {"STEELYARD_BENCHMARK_RESULTS": str(tmp_path), "STEELYARD_TEST_DEVICE": "cpu", "PYTHONPATH": str(ROOT)}
    words = ["pytest", "-q", "-p", "benchmarks.gpu_outcomes", "-p", "no:cacheprovider", "test_some.py"]
    subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, env={**os.environ, **variables}, capture_output=True)
    known = json.loads((tmp_path / "gpu_tests-cpu.json").read_text(encoding="utf-8"))
    assert list(known["passed"]) == ["test_some.py::test_good"]
    assert known["failed"] == {"test_some.py::test_bad": "assert 1 == 2"}
    assert known["skipped"] == {"test_some.py::test_left": "Skipped: no such thing here"}
    assert known["not_run"] == ["test_some.py::test_killed", "test_some.py::test_never"]


def test_files_with_tests_for_a_gpu_are_found() -> None:
    assert {"tests/cli/test_recipes.py", "tests/core/training/test_gpu.py"} <= set(marked_files())
