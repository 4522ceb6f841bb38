"""Benchmarks run by hand: what they import must still be there when somebody does."""

import importlib
import pkgutil

import pytest

import benchmarks

NAMES = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name != "__main__"]


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_finds_all_that_it_imports_at_its_top(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")
