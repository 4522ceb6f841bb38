"""`dual-process` end to end: what is refused, and what a run leaves."""

import json
from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError

SMALL = ("budget=smoke", "trainer.max_steps=8", "evaluation.watch_every=4", "tracker=none", "trainer.threads=1")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("forget.until=9",), "would reset after the last step, 8"),
        (("forget.every=8",), "the first reset would come after the last step"),
        (("arm=active", "forget.every=9"), "the first reset would come after the last step"),
        (("forget.every=4", "forget.until=3"), "no reset comes before it with k = 4"),
        (("arm=drift", "trainer.nproc=2"), "type trainer.nproc=1"),
        (("trainer.parallel=fsdp",), "type ddp"),
        (("data.vocabulary=150",), "is no multiple of 100"),
        (("data.ambiguity=0.5", "seed=39"), "none is unambiguous"),
    ],
)
def test_refused(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        runner.run(compose.compose("dual-process", [*SMALL, *overrides, f"outputs={tmp_path}"]), False, "run")
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.parametrize(("arm", "resets"), [("every_batch", 7), ("probabilistic", 0)])
def test_a_run_and_what_it_leaves(arm: str, resets: int, tmp_path: Path) -> None:
    outcome = runner.run(compose.compose("dual-process", [*SMALL, f"arm={arm}", f"outputs={tmp_path}"]), False, "run")
    metrics = outcome.metrics
    assert metrics["resets"] == resets  # the one due behind the last step is never done
    sets = {"unseen", "unseen_matched", "tail", "head_switch", "class/head_switch", "switch/bin_5", "late/tail_switch"}
    assert sets <= metrics.keys()
    lines = [json.loads(line) for line in (outcome.folder / "predictions.jsonl").read_text("utf-8").splitlines()]
    for by, metric in (("slot", "head_switch"), ("class", "class/head_switch")):
        right = [line["model"] == line[by] for line in lines if line["set"] == "head_switch"]
        assert len(right) == 40 and sum(right) / 40 == pytest.approx(metrics[metric])
