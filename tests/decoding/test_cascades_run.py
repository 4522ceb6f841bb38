"""`cascades` from its config to its report, on two small models that the run trains, and on a user's questions."""

import json
from pathlib import Path

import numpy as np
import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics
from recipes.decoding.cascades.config import RuleConfig
from recipes.decoding.cascades.method import areas, ranks
from recipes.decoding.cascades.post_hoc import fit_rule, targets
from tests.core import tokenizer_kinds
from tests.decoding.conftest import tiny

SMOKE = ("budget=smoke", "tracker=none", "trainer.threads=1")
TINY = ("data.tasks=[copy,words]", "model.steps=30", "small.steps=10", "evaluation.max_new_tokens=8",
        "data.train=200", "data.validation=40", "data.test=40")  # fmt: skip


def final(outputs: Path, *words: str) -> dict[str, float]:
    config = compose.compose("cascades", [*SMOKE, *words, f"outputs={outputs}"])
    return final_metrics(runner.run(config, False, "steelyard run cascades", page=False).folder)


def model_folder(folder: Path, seed: int) -> Path:
    tokenizer = tokenizer_kinds.byte_level(False, False)
    tiny("llama", seed, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_every_rule_runs_on_the_same_answers(tmp_path: Path) -> None:
    metrics = {arm: final(tmp_path, *TINY, f"arm={arm}") for arm in compose.arms("cascades")}
    assert len({(each["accuracy/small"], each["accuracy/large"]) for each in metrics.values()}) == 1
    assert all(each["auc"] <= metrics["oracle"]["auc"] + 1e-12 for each in metrics.values())
    assert metrics["length"]["length/deferred"] >= metrics["length"]["length/kept"]


def test_a_users_two_models_answer_a_users_questions(tmp_path: Path) -> None:
    paths = [model_folder(tmp_path / name, seed) for name, seed in (("small", 0), ("large", 1))]
    rows = [{"prompt": f"{number} and", "answer": str(number)} for number in range(12)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = [f"model={paths[1]}", "small=causal-lm", f"small.path={paths[0]}", f"data.path={tmp_path / 'mine.jsonl'}"]
    metrics = final(tmp_path, *words, "evaluation.max_new_tokens=3", "data.match=contains")
    assert {"auc", "accuracy/small", "accuracy/large"} <= metrics.keys()
    with pytest.raises(UserError, match="500 new ones do not fit the context of 128 of the small model"):
        final(tmp_path, *words, "evaluation.max_new_tokens=500")
    rows[3].pop("answer")
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(UserError, match="its answer is no text: null"):
        final(tmp_path, *words)


def test_models_and_questions_have_to_belong_together() -> None:
    for words, message in (
        (["small=causal-lm", "small.path=x"], "small: causal-lm is not for data=transductions"),
        (["data=answers", "data.path=x.jsonl"], "model: transducer is not for data=answers; type model=/folder"),
    ):
        with pytest.raises(UserError) as refused:
            compose.compose("cascades", words)
        assert message in refused.value.hint


def test_a_learned_rule_finds_what_is_there_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(600, 5))
    large, small = np.ones(600), (features[:, 2] > 0).astype(float)
    fitted, test = slice(0, 300), slice(300, 600)

    def gain(wanted: np.ndarray) -> float:
        def area(numbers: np.ndarray, scores: np.ndarray) -> float:
            return float(areas(small[fitted][numbers], large[fitted][numbers], ranks(scores, 0)).mean())

        rule = fit_rule(features[fitted], wanted, RuleConfig(name="post_hoc_quantile"), 0, area)
        order = ranks(rule(features[test]), 0)
        return float(areas(small[test], large[test], order).mean()) - float(small[test].mean() + 1) / 2

    wanted = targets(small, large, "diff01")[fitted]
    assert gain(wanted) > 0.1
    assert targets(small, large, "diff").tolist() == (large - small).tolist()
    assert targets(small, large, "small_wrong").tolist() == (1 - small).tolist()
