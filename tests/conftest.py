"""Every test works in its own outputs folder; the cache is shared by the session and never the user's."""

import gc
import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

CHECKOUT = Path(__file__).parents[1]
TINY_RUN = ("tracker=none", "trainer.threads=1", "budget=smoke", "trainer.max_steps=2", "trainer.batch_size=4")
TINY_RUN += ("reweight.warmup_steps=0",)
TEXT_RUN = (*TINY_RUN, "data.length=16", "evaluation.test_sequences=4", "model=small-lm", "model.width=16")
# A shell that starts the tests in the background ignores Ctrl-C for them and their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` ignores it
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "offline"
# Our modules are compiled once, not in each of the processes that tests start, and tests are rewritten once.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
for name in ("STEELYARD_OUTPUTS", "STEELYARD_RECIPES", "STEELYARD_CONFIG_DIR"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_in_the_checkout() -> Iterator[None]:
    """Tests write below their own folders: a relative path typed in one would leave files beside the code."""
    before = set(os.listdir(CHECKOUT))
    yield
    left = {name for name in os.listdir(CHECKOUT) if not name.startswith(".")} - before
    assert not left, f"tests left {sorted(left)} in the checkout"


@pytest.fixture(scope="session", autouse=True)
def no_power_is_lost() -> Iterator[None]:
    """What a killed process has written is there without fsync, which a run would wait for forty times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def session_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the session and all its workers, so that references, tokenizers and assets are made once."""
    if named := os.environ.get("STEELYARD_TEST_HOME"):
        return Path(named)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return tmp_path_factory.mktemp("home")
    home = tmp_path_factory.getbasetemp().parent / "home"  # a worker's own folder lies in that of the session
    home.mkdir(exist_ok=True)
    return home


@pytest.fixture(scope="module", autouse=True)
def only_new_objects_are_looked_through() -> None:
    """Every training collects garbage: a second among the million objects that libraries and other tests hold."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def steelyard_home(session_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`STEELYARD_HOME` of every test; a test that needs an empty one sets its own."""
    monkeypatch.setenv("STEELYARD_HOME", str(session_home))
    yield session_home


@pytest.fixture(scope="session")
def finished_text_run(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> Path:
    """A run that trained a small language model, two steps; `texts.jsonl` lies in its outputs. Copy it to spoil it."""
    from recipes.core import runner
    from recipes.core.config import compose

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        folder = tmp_path_factory.mktemp("outputs")
        texts = [{"text": f"It is this or that, {number} or {number + 1}; nobody knows which."} for number in range(80)]
        (folder / "texts.jsonl").write_text("\n".join(json.dumps(row) for row in texts), encoding="utf-8")
        words = [*TEXT_RUN, f"data.path={folder / 'texts.jsonl'}", f"outputs={folder}"]
        command = "steelyard run sample-reweighting budget=smoke"
        return runner.run(compose.compose("sample-reweighting", words), False, command, page=False).folder


@pytest.fixture(autouse=True)
def fixed_draws() -> None:
    """What a test draws does not depend on the tests before it. Torch is not loaded for those that do without."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def device() -> str:
    """Where tests marked `gpu` compute: on CUDA, or where `make gpu DEVICE=cpu` rehearses them."""
    return os.environ.get("STEELYARD_TEST_DEVICE", "cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests need a GPU, or somebody who rehearses them without one."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked or "STEELYARD_TEST_DEVICE" in os.environ:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
