"""`awrs` from its config to its report, on a small model that the run trains and on a user's."""

import json
from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics
from tests.core import tokenizer_kinds
from tests.decoding.conftest import tiny

SMOKE = ("budget=smoke", "tracker=none", "trainer.threads=1")
TINY = ("model.steps=8", "model.characters=20000", "generation.max_new_tokens=5", "worlds.count=1", "worlds.draws=40",
        "worlds.particles=[1]")  # fmt: skip
Lines = list[dict[str, object]]


def run(folder: Path, *words: str, page: bool = False) -> tuple[dict[str, float], Lines]:
    config = compose.compose("awrs", [*SMOKE, *words, f"outputs={folder}"])
    outcome = runner.run(config, False, "steelyard run awrs", page=page)
    lines = (outcome.folder / "generations.jsonl").read_text("utf-8").splitlines()
    return final_metrics(outcome.folder), [json.loads(line) for line in lines]


def test_every_arm_answers_and_is_compared_with_known_posteriors(tmp_path: Path) -> None:
    metrics = {}
    for arm in compose.arms("awrs"):
        words = [*TINY, "data.tasks=[ending,sum]", "data.limit=2", f"arm={arm}"]
        metrics[arm], lines = run(tmp_path, *words, page=arm == "awrs_smc")
        assert [line["id"] for line in lines] == ["ending-1", "sum-1"]
    masks = [name for name, each in metrics.items() if "walked_per_token" in each]
    assert masks == ["lcd_mask", "mask_smc"] and all(metrics[name]["tests_share"] > 0.8 for name in masks)
    assert metrics["awrs_smc"]["tests_share"] < 0.5 and metrics["base_lm"]["tests_per_token"] == 0
    assert all(0 <= each[name] < 1 + 1e-9 for name in ("valid", "tv") for each in metrics.values())
    assert {name for name, each in metrics.items() if "probability_ratio" not in each} == {
        "lcd", "lcd_10", "lcd_mask", "base_lm"}  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_users_model_prompts_and_patterns(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tokenizer_kinds.byte_level(False, False)
    tiny(kind, 0, len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [
        {"prompt": "the cat", "pattern": " ?[a-c]{3}", "id": "letters"},
        {"prompt": "a dog", "pattern": "\u20ac+(?!.)x"},  # begins, but nothing ends it
        {"prompt": "a house sat on", "pattern": "( the| cat)+"},
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = [f"data.path={path}", f"model={tmp_path / 'model'}", "generation.max_new_tokens=6"]
    metrics, lines = run(tmp_path, *words)
    assert [line["id"] for line in lines] == ["letters", "row-1", "row-2"] and "tv" not in metrics
    assert "no answer to 1 of 3 prompts, see dead_end in generations.jsonl: row-1" in capsys.readouterr().err
    assert lines[0]["valid"] and str(lines[0]["text"]).strip().isalpha() and len(str(lines[0]["text"]).strip()) == 3
    assert lines[1]["dead_end"] is not None and lines[1]["text"] == "" and not lines[1]["valid"]
    assert lines[2]["valid"] and metrics["valid"] == pytest.approx(2 / 3)
    _, lines = run(tmp_path, *words, "constraint=regex", "constraint.pattern=[0-9]+")
    assert all(str(line["text"]).isdigit() for line in lines)


def test_what_cannot_be_is_refused_in_a_line(tmp_path: Path) -> None:
    def refusal(*words: str) -> str:
        with pytest.raises(UserError) as refused:
            run(tmp_path, *TINY, "worlds.count=0", *words)
        return f"{refused.value} {refused.value.hint}"

    regex = "constraint=regex"
    assert "no text satisfies it: dead end before the first token" in refusal(regex, "constraint.pattern=(?!)")
    said = refusal(regex, "constraint.pattern=[ ]ab(?!.)x")
    assert "all 5 particles ended behind ' ab': no token of the vocabulary goes on there" in said
    assert "constraint.pattern=[ ]ab" in said and "type more smc.particles" in said
    limits = ("smc.estimator=geometric", "smc.max_rejects=1", "smc.particles=1", "constraint.pattern=q{4}", "label=one")
    said = refusal(regex, *limits)
    assert "the particle ended behind '" in said and "at the most rejections of a draw" in said
    assert "type more smc.max_rejects" in said and "vocabulary" not in said
    assert "pattern: is missing" in refusal(regex) and "path: is missing" in refusal("constraint=code")
    assert "a character says nothing of its bytes" in refusal("model.tokenizer=characters")
    assert "generation.temperature = 0.0: must be > 0" in refusal("generation.temperature=0")
    assert "the instructions that ship have none" in refusal("data=prompts", "constraint=task")
    assert "worlds.spread = 0: must be > 0" in refusal("worlds.spread=0").replace("0.0", "0")
    assert "5000 new ones do not fit the context of 4096" in refusal("generation.max_new_tokens=5000")
    code = tmp_path / "mine.py"
    code.write_text("def viable(text): return 'a' not in text or 1 / 0\ndef complete(text): return True")
    said = refusal("constraint=code", f"constraint.path={code}")
    assert "the constraint raised ZeroDivisionError" in said and str(code) in said
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text('{"prompt": "a"}')
    assert "has no column pattern" in refusal(f"data.path={prompts}")
    prompts.write_text('{"prompt": "a", "pattern": "[0-9]{2}"}\n{"prompt": "b", "pattern": "("}')
    said = refusal(f"data.path={prompts}")
    assert "1 of 2 rows cannot be used" in said and "2: pattern (: is no regular expression" in said


def test_rows_whose_pattern_is_of_no_use_are_left_out_and_lose_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "mine.jsonl"
    patterns = ["(", "[0-9]{2}", "(?!)", "(ja|n\u00f6)", ".{0}"]
    prompts.write_text("\n".join(json.dumps({"prompt": "a", "pattern": each}) for each in patterns))
    _, lines = run(
        tmp_path, *TINY, f"data.path={prompts}", "data.on_error=skip", "smc.particles=9", "smc.rows=4", "label=nine"
    )
    assert "2 of 5 rows were left out" in capsys.readouterr().err
    assert [line["valid"] for line in lines] == [True] * 3 and lines[1]["text"] in ("ja", "n\u00f6")
    assert lines[2]["text"] == "" and "dead_end" not in lines[2]
