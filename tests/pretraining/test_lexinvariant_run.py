"""Lexinvariant models on a user's text: what is refused, and arms from the shell's words to their files."""

import json
from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError

QUICK = ("budget=smoke", "trainer.max_steps=4", "evaluation.watch_every=4", "tracker=none", "trainer.threads=1")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.architecture=gpt2",), "model.architecture=llama"),
        (("model.tokenizer=bpe",), "type alphabet=all with pieces"),
        (("lookups.fewest_pairs=7",), "is less than lookups.fewest_pairs=7"),
        (("lookups.symbols=20",), "type 24 or more"),
        (("data.length=20",), "6 pairs and a question are 21 tokens"),
        (("evaluation.buckets=48",), "more than the predicted tokens"),
        (("lexicon.permute=0.5",), "adds nothing to vectors that are drawn anew"),
        (("data.domains=[wiki-korean-of-none]",), "there is no wiki-korean-of-none"),
    ],
)
def test_refused(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        runner.run(compose.compose("lexinvariant", [*QUICK, *overrides, f"outputs={tmp_path}"]), False, "run")
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.parametrize(
    ("arm", "more"),
    [
        ("lexinvariant", ("alphabet=all", "model.tokenizer=bpe", "model.vocabulary=300")),
        ("gaussian_per_batch", ("evaluation.num_samples=2",)),
        ("regularised", ()),
    ],
)
def test_arms_on_a_file_of_the_users(arm: str, more: tuple[str, ...], tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"Sentence {n} of a text that goes on for a while. " * 9}) for n in range(60)]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines), encoding="utf-8")
    words = [*QUICK, f"arm={arm}", *more, f"data.path={tmp_path}/mine.jsonl", "data.near_duplicates=null"]
    words += ["model.width=16", "data.test_fraction=0.3", f"outputs={tmp_path / 'runs'}"]
    outcome = runner.run(compose.compose("lexinvariant", words), False, "steelyard run lexinvariant")
    metrics = outcome.metrics
    assert {"loss", "fall", "cipher_rise", "lookup/held_out"} <= metrics.keys()
    assert ("key/all" in metrics) == ("alphabet=all" not in more)
    shown = [json.loads(line) for line in (outcome.folder / "lookups.jsonl").read_text(encoding="utf-8").splitlines()]
    right = [row["answer"] == row["model"] for row in shown if row["example"].startswith("lookup/held_out")]
    assert sum(right) / len(right) == pytest.approx(metrics["lookup/held_out"])
