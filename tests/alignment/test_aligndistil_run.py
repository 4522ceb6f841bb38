"""`aligndistil` end to end on a few made-up reviews: every arm, cached teachers, resuming, what is refused."""

import json
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from safetensors.torch import load_file

from recipes.alignment.aligndistil.evaluation import add_half
from recipes.alignment.aligndistil.recipe import AlignDistilRecipe
from recipes.alignment.trained import SwappedItems, train_policy
from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.evaluation.plots import read_plots
from recipes.core.evaluation.scores import Scores
from recipes.core.scoring.fingerprints import weights_hash
from tests.alignment.tiny import TINY, logged

pytestmark = pytest.mark.usefixtures("made_up_reviews")
KEYS = (*TINY, "teacher.steps=4", "teacher.batch_size=8", "teacher.learning_rate=3e-3")


def run(outputs: Path, *overrides: str) -> runner.RunOutcome:
    config = compose.compose("aligndistil", [*KEYS, f"outputs={outputs}", *overrides])
    return runner.run(config, False, "steelyard run aligndistil " + " ".join(overrides))


@pytest.mark.parametrize("arm", compose.arms("aligndistil"))
def test_every_arm(arm: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, f"arm={arm}")
    metrics, first = outcome.metrics, logged(outcome.folder)[0]
    assert outcome.status == "done" and metrics["kl"] > 0 and -1 <= metrics["frontier/reward"] <= 1
    names = {"reward/half", "kl/half", "expected_reward", "teacher/reverse_reward", "pairs/accuracy", "kl/dpo"}
    assert names < metrics.keys() and metrics["teacher/reference_kl"] == 0 < metrics["teacher/dpo_kl"]
    distils = arm != "dpo"
    assert ("alpha" in metrics) == distils == (outcome.folder / "heatmap.json").exists()
    assert len(read_plots(outcome.folder)) == (3 if distils else 1)
    if distils:
        assert 0 < first["distance"] < 2 and sum(first[f"share/q{i}"] for i in (1, 2, 3, 4)) == pytest.approx(1)
    if arm in ("aligndistil", "forward"):  # r is set so that alpha is 1 on average
        assert metrics["alpha"] == pytest.approx(1, abs=0.3) and first["alpha"] == pytest.approx(1, abs=0.3)
    if arm == "r10":
        assert metrics["alpha"] == pytest.approx(10 * metrics["distance"] + 1e-3, rel=1e-4)
    if arm == "gkd":
        assert metrics["alpha"] == 0


def test_the_dpo_arm_is_the_dpo_model(tmp_path: Path) -> None:
    """Same pairs, steps, rate and seed: what the run trains is what was trained before it."""
    metrics = run(tmp_path, "arm=dpo", "trainer.learning_rate=3e-3").metrics
    assert metrics["kl/dpo"] < 1e-9 < metrics["kl/reverse"]
    assert metrics["reward"] == metrics["teacher/dpo_reward"]


def test_training_on_swapped_pairs_is_the_reverse_model(tmp_path: Path) -> None:
    config: Any = compose.compose("aligndistil", [*KEYS, f"outputs={tmp_path}"])
    prepared = AlignDistilRecipe().prepare(config, "cpu")
    again = train_policy(
        prepared.ground, SwappedItems(prepared.train), config.preference, config.teacher, config.trainer
    )()
    hashes = {weights_hash(model) for model in (again, prepared.models["reverse"], prepared.models["dpo"])}
    assert weights_hash(again) == weights_hash(prepared.models["reverse"]) and len(hashes) == 2


def test_teachers_are_trained_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = "teacher.seed=7"
    run(tmp_path, own)
    first = capsys.readouterr().err
    run(tmp_path, own, "arm=gkd", "seed=1")
    assert first.count("training a policy on") == 2 and "(dpo, swapped)" in first
    assert "training a policy on" not in capsys.readouterr().err


@pytest.mark.parametrize("arm", ["aligndistil", "aligndistil_on"])
def test_a_resumed_run_ends_as_one_that_was_not_cut_off(arm: str, tmp_path: Path) -> None:
    keys = (f"arm={arm}", "trainer.save_steps=2")
    whole = run(tmp_path, *keys)
    store = whole.folder / "checkpoints"
    [middle, last] = sorted(store.iterdir())
    expected, lines = load_file(last / "model.safetensors"), logged(whole.folder)
    rmtree(last)
    status = json.loads((whole.folder / "status.json").read_text())
    (whole.folder / "status.json").write_text(json.dumps(status | {"state": "interrupted", "step": 2}))
    resumed = run(tmp_path, *keys)
    assert resumed.resumed_from == 2 and resumed.metrics == whole.metrics
    weights = load_file(last / "model.safetensors")
    assert all(weights[name].equal(values) for name, values in expected.items()) and logged(whole.folder) == lines


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    for arm in ("aligndistil", "aligndistil_on"):
        whole = run(tmp_path / "a", f"arm={arm}")
        parts = run(tmp_path / "b", f"arm={arm}", "trainer.micro_batch_size=2")
        assert parts.metrics["pairs/margin"] == pytest.approx(whole.metrics["pairs/margin"], rel=2e-3)


def test_a_file_of_the_users(pairs: Path, tmp_path: Path) -> None:
    keys = [key for key in KEYS if not key.startswith("data.")]
    for arm in ("aligndistil", "aligndistil_on", "theorem1"):
        own = [*keys, f"arm={arm}", f"outputs={tmp_path}", "data=preferences", f"data.path={pairs}"]
        metrics = runner.run(compose.compose("aligndistil", own), False, "steelyard run aligndistil").metrics
        assert {"kl", "length", "pairs/accuracy", "alpha", "expected_reward", "kl/half"} < metrics.keys()
        assert "reward" not in metrics and "teacher/dpo_reward" not in metrics and metrics["teacher/dpo_kl"] > 0


@pytest.mark.parametrize("store", ["always", "never"])
def test_a_teacher_may_have_bf16_weights_and_the_other_not(store: str, tmp_path: Path) -> None:
    """The reference has the dtype of the policy; what is trained before the run stays in fp32."""
    keys = ("distil.mode=theorem1_adaptive", "label=bf16", f"reference.store={store}")
    plain, cast = (run(tmp_path, *keys, f"trainer.dtype={dtype}") for dtype in ("float32", "bfloat16"))
    for name in ("alpha", "distance", "distil/r"):
        assert cast.metrics[name] == pytest.approx(plain.metrics[name], rel=0.05)
    assert logged(cast.folder)[0]["kl"] == pytest.approx(logged(plain.folder)[0]["kl"], rel=0.2)


def test_half_of_the_steps_is_half_of_those_that_were_done() -> None:
    curve = {}
    for step in (2, 4, 6):  # of twenty, ended early
        curve[step] = Scores()
        curve[step].define("reward", "reward", True)
        curve[step].add("reward", "0", "0", float(step))
    scores = Scores()
    add_half(scores, curve, ["reward"])
    assert scores.overall() == {"reward/half": 2.0}


def test_models_that_are_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="agree on every token") as raised:
        run(tmp_path, "teacher.learning_rate=1e-12")
    assert "distil.r=auto" in str(raised.value) and not list(tmp_path.glob("*/*/*/status.json"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["distil.r=much"], "much is no number; type one, or auto"),
        (["distil.r=0"], "distil.r = 0.0: must be > 0"),
        (["distil.mode=theorem"], "did you mean theorem1"),
        (["teacher.steps=0"], "teacher.steps = 0: must be >= 1"),
        (["reference.steps=0"], "0 leaves a model that nobody trained"),
        (["model=smollm2-135m"], "is missing; type data.path=FILE or a name on the hub"),
        (
            ["data=preferences", "data.path=x.jsonl", "arm=dpo", "preference.loss=odpo"],
            "odpo needs answers with scores",
        ),
        (
            ["arm=aligndistil_on", "trainer.nproc=2", "trainer.parallel=fsdp"],
            "no samples can be drawn from a shared-out policy",
        ),
    ],
)
def test_a_wrong_config_is_explained(keys: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        compose.compose("aligndistil", keys)
    assert message in raised.value.hint
