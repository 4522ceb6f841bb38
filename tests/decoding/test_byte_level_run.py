"""`byte-level` from its config to its report, on small models that the run trains."""

import json
from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics

SMOKE = ("budget=smoke", "tracker=none", "trainer.threads=1")
TINY = ("model.steps=8", "model.characters=20000", "generation.max_new_bytes=6")
OPENINGS = ("data.limit=2", "data.tokens=40", "cuts.inside=2")


def run(folder: Path, *words: str, page: bool = False) -> tuple[dict[str, float], list[dict[str, object]]]:
    config = compose.compose("byte-level", [*SMOKE, *TINY, *words, f"outputs={folder}"])
    outcome = runner.run(config, False, "steelyard run byte-level", page=page)
    lines = (outcome.folder / "generations.jsonl").read_text("utf-8").splitlines()
    return final_metrics(outcome.folder), [json.loads(line) for line in lines]


def test_every_arm_measures_bits_and_continues(tmp_path: Path) -> None:
    metrics = {}
    for arm in compose.arms("byte-level"):
        metrics[arm], lines = run(tmp_path, *OPENINGS, f"arm={arm}", page=arm == "exact")
        assert len(lines) == 2 and all(len(bytes.fromhex(str(line["hex"]))) <= 6 for line in lines)
    assert metrics["exact"]["forwards_per_cut"] == 1 and metrics["token"]["covers"] == 1
    assert metrics["exact"]["encodings_per_cut"] > metrics["exact_fast"]["encodings_per_cut"]
    assert metrics["ensemble"]["jensen_broken"] == metrics["apart"]["jensen_broken"] == 0
    alone = (metrics["exact"]["bits"] + metrics["second"]["bits"]) / 2
    assert metrics["ensemble"]["bits"] <= metrics["apart"]["bits"] == pytest.approx(alone)


def test_prompts_of_a_file_are_continued_from_where_they_end(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "It is a caf\u00e9, and he plays the guit", "id": "guit"}, {"prompt": "<eos>"}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    metrics, lines = run(tmp_path, f"data.path={path}", "generation.temperature=0.8", "generation.top_p=0.9")
    assert [line["id"] for line in lines] == ["guit", "row-1"] and lines[0]["prompt"] == rows[0]["prompt"]
    assert metrics["bits"] > 0 and "continuation" not in metrics


def test_texts_too_short_for_a_cut_are_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "He plays the gu"}\n', encoding="utf-8")
    metrics, _ = run(tmp_path, f"data.path={path}")
    assert "bits" not in metrics
    assert "no text can be cut inside of a word behind 16 characters: bits is not measured" in capsys.readouterr().err


def test_what_is_wrong_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": ""}\n', encoding="utf-8")
    with pytest.raises(UserError, match="prompts.jsonl:1: its prompt is empty"):
        run(tmp_path, f"data.path={path}")
    with pytest.raises(UserError, match="5000 new bytes do not fit the context of 4096"):
        run(tmp_path, *OPENINGS, "generation.max_new_bytes=5000")
    with pytest.raises(UserError, match="mean needs bytes, and mode=token goes on by tokens"):
        run(tmp_path, "bytes.mode=token", "bytes.models=mean", "label=mine")
