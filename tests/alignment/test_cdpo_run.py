"""`cdpo` end to end: every arm on small sums, what is cached, users' own pairs, what is refused."""

import json
from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.evaluation.plots import read_plots

TINY = (
    "budget=smoke",
    "tracker=none",
    "trainer.threads=1",
    "model.width=16",
    "reference.steps=60",
    "reference.learning_rate=1e-2",
    "contrast.steps=4",
    "data.low=0",
    "data.high=3",
    "data.questions=20",
    "data.test_prompts=12",
    "trainer.max_steps=4",
    "trainer.batch_size=4",
    "trainer.log_steps=1",
    "evaluation.watch_every=2",
)


def run(outputs: Path, *overrides: str) -> runner.RunOutcome:
    config = compose.compose("cdpo", [*TINY, f"outputs={outputs}", *overrides])
    return runner.run(config, False, "steelyard run cdpo " + " ".join(overrides))


def logged(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["metrics"] for line in lines if line["kind"] == "train"]


@pytest.mark.parametrize("arm", compose.arms("cdpo"))
def test_every_arm(arm: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, f"arm={arm}")
    metrics = outcome.metrics
    assert outcome.status == "done" and 0 <= metrics["accuracy"] <= 1 and metrics["kl"] > 0
    assert {"data/accuracy", "data/no_right", "pairs/chosen", "critical/auroc_reference"} < metrics.keys()
    weighed = arm not in ("dpo", "rpo", "tdpo1", "sft")
    assert ("critical/weight" in metrics) == weighed == (outcome.folder / "heatmap.json").exists()
    assert ("critical/auroc_contrast" in metrics) == (weighed and arm != "oracle")
    assert {"frontier", "learning"} == {plot.name for plot in read_plots(outcome.folder)}
    first = logged(outcome.folder)[0]
    if arm in ("cdpo", "dpo", "position"):  # before the first step policy and reference are one, in both forms
        assert first["loss"] == pytest.approx(0.693147, abs=1e-4)


def test_uniform_weights_are_one_number(tmp_path: Path) -> None:
    uniform = run(tmp_path, "arm=uniform")
    weights = [
        token["weight"]
        for example in json.loads((uniform.folder / "heatmap.json").read_text())["examples"]
        for token in example["tokens"]
        if "rejected" in example["id"]
    ]
    assert uniform.metrics["critical/weight"] < 1 and len(weights) > 4


@pytest.mark.parametrize("agg", ["sequence", "position"])
def test_micro_batches_change_nothing(agg: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "a", f"critical.agg={agg}")
    parts = run(tmp_path / "b", f"critical.agg={agg}", "trainer.micro_batch_size=1")
    assert parts.metrics["pairs/margin"] == pytest.approx(whole.metrics["pairs/margin"], rel=1e-3)


def test_both_models_are_trained_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "data.seed=5")
    told = capsys.readouterr().err
    assert told.count("right answers (once, then cached)") == told.count("wrong answers (once, then cached)") == 1
    run(tmp_path, "data.seed=5", "arm=surprisal", "seed=1")
    assert "once, then cached" not in capsys.readouterr().err


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A user's file of 24 pairs."""
    rows = [{"prompt": f"Is it {i} or not?", "chosen": f" It is {i}.", "rejected": " No idea."} for i in range(24)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path / "pairs.jsonl"


def test_a_file_of_the_users(pairs: Path, tmp_path: Path) -> None:
    keys = [key for key in TINY if not key.startswith("data.")]
    config = compose.compose("cdpo", [*keys, f"outputs={tmp_path}", "data=preferences", f"data.path={pairs}"])
    outcome = runner.run(config, False, "steelyard run cdpo")
    metrics = outcome.metrics
    assert {"kl", "pairs/accuracy", "critical/weight", "data/dropped"} < metrics.keys()
    assert "accuracy" not in metrics and metrics["data/pairs"] == 22
    assert (outcome.folder / "heatmap.json").exists() and read_plots(outcome.folder) == []


def test_a_reference_that_knows_nothing_makes_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no problem has both right and wrong answers") as raised:
        run(tmp_path, "reference.steps=1", "data.samples=2", "data.high=9", "data.questions=2", "data.test_prompts=2")
    assert "data.samples=2" in str(raised.value) and not list(tmp_path.glob("*/*/*/*"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["critical.beta_ce=-1"], "critical.beta_ce = -1.0: must be >= 0"),
        (["preference.loss=tdpo1"], "tdpo1 is not weighed by tokens here; type preference.loss=dpo or rpo"),
        (["preference.loss=rpo", "critical.agg=position"], "position is a form of dpo, not of rpo"),
        (["contrast.model=x"], "contrast.model = x: unknown key"),
        (["reference.steps=0"], "0 leaves a model that nobody trained"),
        (["evaluation.samples=2"], "chain-arithmetic is decoded greedily"),
        (["data.low=50"], "49 is less than low=50"),
        (["data.high=15"], "216 problems leave none to train the reference on"),
        (["data.path=pairs.jsonl"], "for your own file type data=preferences as well"),
        (["model=smollm2-135m"], "is missing; type data.path=FILE or a name on the hub"),
        (["data=preferences", "data.path=x.jsonl", "arm=oracle"], "oracle needs answers whose first wrong token"),
        (
            ["data=preferences", "data.path=x.jsonl", "arm=dpo", "preference.loss=odpo"],
            "odpo needs answers with scores",
        ),
    ],
)
def test_a_wrong_config_is_explained(keys: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        compose.compose("cdpo", keys)
    assert message in raised.value.hint
