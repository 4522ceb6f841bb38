"""What every recipe owes its users, asked of each recipe that is found: this is the contract of a new one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import registry
from recipes.core.config.compose import compose
from recipes.core.contract import QUICK, QUICK_CHECKS
from recipes.core.other_device import DEVICE, other_device
from tests.cli.conftest import Ended

Steelyard = Callable[..., Ended]
pytestmark = pytest.mark.parametrize("recipe", registry.recipe_names())


@pytest.mark.parametrize("check", QUICK_CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[str, Path], None], recipe: str, tmp_path: Path) -> None:
    check(recipe, tmp_path)


def test_a_dry_run_tells_and_writes_nothing(recipe: str, tmp_path: Path, steelyard: Steelyard) -> None:
    ended = steelyard("run", recipe, *QUICK, f"outputs={tmp_path}", "--dry-run")
    assert ended.code == 0 and "run folder" in ended.out and "data" in ended.out
    assert list(tmp_path.iterdir()) == []


def test_from_the_command_line_to_the_report_and_reused(recipe: str, tmp_path: Path, steelyard: Steelyard) -> None:
    """On a device that is not the CPU, where a tensor made in the wrong place fails as it would on a GPU."""
    with other_device():
        ended = steelyard("run", recipe, *QUICK, f"outputs={tmp_path}")
    assert ended.code == 0, ended.err
    metric = registry.card(recipe).claim.metric
    assert metric in ended.out
    [status] = tmp_path.glob("*/*/*/status.json")
    folder = status.parent
    assert json.loads(status.read_text())["state"] == "done"
    info = json.loads((folder / "metrics_info.json").read_text())
    final = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert final["kind"] == "final" and final["metrics"].keys() <= info.keys() and metric in final["metrics"]
    assert all(registry.card(recipe).measures(name) for name in final["metrics"])
    assert "<h1>" in (folder / "report.html").read_text()
    written = (folder / "metrics.jsonl").stat().st_mtime_ns
    again = steelyard("run", recipe, *QUICK, f"outputs={tmp_path}")
    assert again.code == 0 and (folder / "metrics.jsonl").stat().st_mtime_ns == written


@pytest.mark.gpu
@pytest.mark.parametrize("side", ["arm", "baseline"])
def test_the_pair_of_the_claim_runs_on_a_gpu(side: str, recipe: str, device: str, tmp_path: Path) -> None:
    """In bf16, as `trainer.precision=auto` trains on a GPU; rehearsed on a device that casts and refuses like one."""
    claim = registry.card(recipe).claim
    words = [*QUICK, f"arm={getattr(claim, side)}", "trainer.precision=bf16", f"outputs={tmp_path}"]
    if device == "cpu":
        with other_device():
            outcome = runner.run(compose(recipe, words), fresh=False, command=f"steelyard run {recipe}")
    else:
        words.append(f"trainer.device={device}")
        outcome = runner.run(compose(recipe, words), fresh=False, command=f"steelyard run {recipe}")
    assert outcome.status == "done" and claim.metric in outcome.metrics
    used = json.loads((outcome.folder / "env.json").read_text())["device"]
    assert used == (DEVICE if device == "cpu" and compose(recipe, words).needs_torch else device)
