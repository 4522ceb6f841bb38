"""An alignment run so small that a test can wait for it."""

import json
from pathlib import Path

TINY = (
    "budget=smoke",
    "tracker=none",
    "trainer.threads=1",
    "model.width=16",
    "model.vocabulary=300",
    "reference.steps=8",
    "data.prompts=150",
    "data.pairs=40",
    "data.test_prompts=10",
    "data.test_fraction=0.2",
    "data.max_new_tokens=8",
    "trainer.max_steps=4",
    "trainer.batch_size=8",
    "trainer.log_steps=1",
    "evaluation.watch_every=2",
)


def logged(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["metrics"] for line in lines if line["kind"] == "train"]
