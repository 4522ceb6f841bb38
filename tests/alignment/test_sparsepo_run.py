"""`sparsepo` end to end on a few made-up reviews: every arm, what is cached, resuming, what is refused."""

import math
from itertools import product
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import LlamaModel

from recipes.alignment.config import LOSSES
from recipes.alignment.sparsepo.recipe import SparsePORecipe
from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.evaluation.plots import read_plots
from recipes.core.models import causal
from tests.alignment.tiny import TINY, logged

pytestmark = pytest.mark.usefixtures("made_up_reviews")


def run(outputs: Path, *overrides: str) -> runner.RunOutcome:
    config = compose.compose("sparsepo", [*TINY, f"outputs={outputs}", *overrides])
    return runner.run(config, False, "steelyard run sparsepo " + " ".join(overrides))


@pytest.mark.parametrize("arm", compose.arms("sparsepo"))
def test_every_arm(arm: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, f"arm={arm}")
    metrics = outcome.metrics
    assert outcome.status == "done"
    assert metrics["kl"] > 0 and 0 < metrics["frontier/kl"] <= 1 and -1 <= metrics["frontier/reward"] <= 1
    assert {"pairs/accuracy", "pairs/chosen", "reward_human", "mask/surprisal_auroc", "data/ties"} < metrics.keys()
    has_masks = arm not in ("dpo", "tdpo1", "tdpo2", "simpo", "sft")
    assert ("mask/reward" in metrics) == has_masks == (outcome.folder / "heatmap.json").exists()
    assert [plot.name for plot in read_plots(outcome.folder)] == ["frontier", "masks"][: 1 + has_masks]
    if arm not in ("simpo", "sft"):  # before the first step policy and reference are one
        first = logged(outcome.folder)[0]
        assert abs(first["margin"]) < 1e-5 and first.get("answer_kl", 0) < 1e-5


def test_five_arms_and_two_seeds_pay_for_the_reference_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for check in ("check_causal", "check_head"):  # a few tokens whenever a model is loaded
        monkeypatch.setattr(causal, check, lambda model, where: None)
    forwards = []
    hook = register_module_forward_pre_hook(
        lambda module, _: forwards.append(module) if isinstance(module, LlamaModel) else None
    )
    counts = []
    try:
        # A reference that no other test has, so that nothing of it lies in the cache.
        for seed, arm in product((0, 1), ("sparsepo_common", "sparsepo_indep", "dpo", "tdpo2", "random")):
            config = compose.compose("sparsepo", [*TINY, "reference.seed=11", f"arm={arm}", f"seed={seed}"])
            SparsePORecipe().prepare(config, "cpu")
            counts.append(len(forwards))
    finally:
        hook.remove()
    assert counts[0] > 0 and counts == counts[:1] * 10


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"dpo", "tdpo1", "tdpo2", "simpo", "sft"}))
def test_every_loss_that_is_no_arm_trains(loss: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, "arm=dpo", f"preference.loss={loss}", "label=another", "evaluation.watch_every=4")
    assert outcome.status == "done" and outcome.metrics["kl"] > 0
    lines = logged(outcome.folder)
    assert all(math.isfinite(line["loss"]) for line in lines) and len({line["loss"] for line in lines}) > 1
    if loss == "kto":  # before the first step nothing has drifted and nothing was learnt
        assert lines[0]["loss"] == pytest.approx(0.5, abs=1e-5) and abs(lines[0]["mismatched"]) < 1e-4
        assert any(line["mismatched"] != 0 for line in lines[1:])


def test_uniform_masks_are_tdpo(tmp_path: Path) -> None:
    uniform, plain = (run(tmp_path, f"arm={arm}").metrics for arm in ("uniform", "tdpo1"))
    assert uniform["mask/reward"] == 1 and uniform["mask/reward_auroc"] == 0.5
    for name in ("reward", "kl", "pairs/margin"):
        assert uniform[name] == pytest.approx(plain[name], rel=1e-4)


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    whole = run(tmp_path / "a", "arm=sparsepo_indep", "trainer.batch_size=8")
    parts = run(tmp_path / "b", "arm=sparsepo_indep", "trainer.batch_size=8", "trainer.micro_batch_size=2")
    assert parts.metrics["pairs/margin"] == pytest.approx(whole.metrics["pairs/margin"], rel=1e-3)


def test_masks_are_in_the_checkpoint(tmp_path: Path) -> None:
    outcome = run(tmp_path, "arm=sparsepo_indep")
    [*_, last] = sorted((outcome.folder / "checkpoints").glob("*/model.safetensors"))
    assert {"masks.reward.weight", "masks.kl.mixer"} < load_file(last).keys()


@pytest.mark.parametrize("live", [False, True])
def test_a_file_of_the_users(live: bool, pairs: Path, tmp_path: Path) -> None:
    keys = [key for key in TINY if not key.startswith("data.")] + ["reference.store=never"] * live
    config = compose.compose("sparsepo", [*keys, f"outputs={tmp_path}", "data=preferences", f"data.path={pairs}"])
    metrics = runner.run(config, False, "steelyard run sparsepo").metrics
    assert {"kl", "length", "pairs/accuracy", "mask/reward", "data/dropped"} < metrics.keys()
    assert "reward" not in metrics and metrics["data/pairs"] == 22
    assert metrics["mask/reward_before"] == pytest.approx(1, abs=0.1)


def test_a_kept_reference_and_one_beside_the_step_train_alike(pairs: Path, tmp_path: Path) -> None:
    keys = [*(key for key in TINY if not key.startswith("data.")), "data=preferences", f"data.path={pairs}"]
    margins = []
    for store in ("always", "never"):
        config = compose.compose("sparsepo", [*keys, f"outputs={tmp_path / store}", f"reference.store={store}"])
        margins.append(runner.run(config, False, "steelyard run sparsepo").metrics["pairs/margin"])
    assert margins[0] == pytest.approx(margins[1], rel=1e-3)


def test_a_dead_mask_stops_the_run_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.alignment.sparsepo.masks.is_dead", lambda *_: True)
    with pytest.raises(UserError, match="nothing could ever move"):
        run(tmp_path)
    assert not list(tmp_path.glob("*/*/*/status.json"))


def test_samples_without_a_difference_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no couple of samples differs") as raised:
        run(tmp_path, "data.min_gap=2.5")
    assert "data.min_gap=2.5" in str(raised.value) and not list(tmp_path.glob("*/*/*/*"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["preference.beta=0"], "preference.beta = 0.0: must be > 0"),
        (["arm=dpo", "mask.kind=learned"], "dpo has no terms to mask; type preference.loss=tdpo1, or mask.kind=none"),
        (["reference.steps=0"], "0 leaves a model that nobody trained"),
        (["mask.hooks=[mlp,mlp]"], "mask.hooks = mlp: is named twice"),
        (["mask.hooks=[mpl]"], "mask.hooks"),
        (["data.pairs=9999"], "2500 prompts cannot make 9999 pairs"),
        (["preference.loss=kot"], "did you mean"),
        (["arm=dpo", "preference.loss=kto", "trainer.batch_size=1"], "one pair is no mean; type 2 or more"),
        (["data.path=pairs.jsonl"], "for your own file type data=preferences as well"),
        (["model=smollm2-135m"], "is missing; type data.path=FILE or a name on the hub"),
        (["data=preferences", "data.path=x.jsonl", "arm=oracle"], "oracle needs data whose judge looks at known words"),
        (
            ["data=preferences", "data.path=x.jsonl", "arm=dpo", "preference.loss=odpo"],
            "odpo needs answers with scores",
        ),
    ],
)
def test_a_wrong_config_is_explained(keys: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        compose.compose("sparsepo", keys)
    assert message in raised.value.hint
