"""Softplus attention on a user's text: what is refused, and that all lengths read the same stretches."""

import json
from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import read_rows

SMALL = ("budget=smoke", "trainer.max_steps=4", "evaluation.watch_every=2", "tracker=none", "trainer.threads=1")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("evaluation.multiples=[1,3,4]",), "each a divisor of the last"),
        (("evaluation.multiples=[2,4]",), "are 1 and more"),
        (("arm=lssa", "attention.apply=eval_only"), "nothing to measure with"),
        (("arm=alibi", "attention.stretch=ntk"), "of rotary positions"),
        (("arm=softmax", "attention.divide=false", "label=x"), "exp has no bound"),
        (("model.architecture=gpt2",), "model.architecture=llama"),
        (("evaluation.multiples=[1,100000]",), "held-out tokens, less than a stretch of 1,600,000"),
    ],
)
def test_refused(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        runner.run(compose.compose("softplus-attention", [*SMALL, *overrides, f"outputs={tmp_path}"]), False, "run")
    assert not list(tmp_path.rglob("config.yaml"))


def test_own_text_at_every_length(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"Sentence {n} of a text that goes on for a while. " * 12}) for n in range(60)]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines), encoding="utf-8")
    own = [f"data.path={tmp_path}/mine.jsonl", "evaluation.multiples=[1,2,4]", "data.near_duplicates=null"]
    overrides = [*SMALL, *own, "data.test_fraction=0.3", f"outputs={tmp_path}"]
    runner.run(compose.compose("softplus-attention", overrides), False, "run")
    (table,) = tmp_path.glob("softplus-attention/lssar/*/examples.parquet")
    rows = read_rows(table)
    assert {f"loss/{k}x" for k in (1, 2, 4)} | {"rise/2x", "rise/4x"} == set(rows.metrics)
    stretches = [set(rows.values(f"loss/{k}x")) for k in (1, 2, 4)]
    assert len(stretches[0]) > 1 and stretches[0] == stretches[1] == stretches[2]
