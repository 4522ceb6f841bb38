"""Seeds: the same draws again, other draws for another seed, and what is recorded."""

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from recipes.core.process.cores import usable_cores
from recipes.core.training.seeds import seed_everything


@pytest.fixture(autouse=True)
def settings_of_torch() -> Iterator[None]:
    """Leave torch's own settings as they were."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def draws(seed: int) -> tuple[float, ...]:
    """One draw of each generator that a run may use."""
    seed_everything(seed, 1)
    return (random.random(), float(np.random.rand()), float(torch.rand(())))


def test_a_seed_decides_every_generator() -> None:
    first = draws(3)
    assert draws(3) == first
    assert all(left != right for left, right in zip(first, draws(4), strict=True))


def test_the_generators_are_those_of_their_libraries() -> None:
    generator = torch.Generator().manual_seed(3)
    assert draws(3) == (
        random.Random(3).random(),
        np.random.RandomState(3).rand(),
        float(torch.rand((), generator=generator)),
    )


def test_deterministic_kernels_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seed_everything(0, 1)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_workspace_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    seed_everything(0, 1)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_what_was_set_is_told() -> None:
    assert seed_everything(7, 2) == {"seed": 7, "threads": 2, "deterministic": True}
    assert torch.get_num_threads() == 2
    assert seed_everything(7, None)["threads"] == usable_cores()


def test_a_run_without_torch_leaves_its_settings_alone() -> None:
    seed_everything(5, 1)
    before = torch.random.get_rng_state()
    assert seed_everything(7, 3, needs_torch=False) == {"seed": 7, "threads": 3, "deterministic": True}
    assert torch.get_num_threads() == 1 and torch.equal(torch.random.get_rng_state(), before)
    assert random.random() == random.Random(7).random()
