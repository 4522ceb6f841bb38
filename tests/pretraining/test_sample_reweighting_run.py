"""`sample-reweighting` end to end: every arm, both kinds of experiment, a user's file, what is refused."""

import json
from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.evaluation.plots import read_plots
from tests.core.data.text.test_mixture import write_corpus

SMOKE = ("budget=smoke", "tracker=none", "trainer.threads=1")
TINY = ("model=small-lm", "model.width=16", "model.vocabulary=300", "data.length=16", "trainer.batch_size=8")


def run(outputs: Path, *overrides: str) -> runner.RunOutcome:
    config = compose.compose("sample-reweighting", [*SMOKE, f"outputs={outputs}", *overrides])
    return runner.run(config, False, "steelyard run sample-reweighting " + " ".join(overrides))


@pytest.mark.parametrize("arm", compose.arms("sample-reweighting"))
def test_every_arm_of_the_regression(arm: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, f"arm={arm}")
    assert outcome.status == "done"
    assert outcome.metrics["descent/over_bound"] == 0
    # Raw losses have no cap on the weight of a sample, and the step that uniform weights allow is too large for them.
    assert (outcome.metrics["log_loss"] < 2) == (arm != "kl_dro")
    assert {"log_loss/auc", "log_loss/isotropic", "log_loss/auc/corrupted"} < outcome.metrics.keys()


def test_the_regimes_of_a_seed_are_the_same_for_every_arm(tmp_path: Path) -> None:
    first = [run(tmp_path, f"arm={arm}", "trainer.max_steps=1") for arm in ("uniform", "kl_dro")]
    assert first[0].metrics["log_loss"] != first[1].metrics["log_loss"]
    assert first[0].metrics["descent/bound"] == first[1].metrics["descent/bound"]


@pytest.mark.parametrize("arm", ["linupper", "uniform"])
def test_a_language_model_on_a_file_of_the_users(arm: str, tmp_path: Path) -> None:
    path = write_corpus(tmp_path)
    outcome = run(tmp_path / "runs", *TINY, f"data.path={path}", f"arm={arm}", "data.duplicates=0.5")
    assert {"log_ppl/sea", "log_ppl/land", "log_loss", "log_loss/auc", "worst_domain"} <= outcome.metrics.keys()
    assert outcome.metrics["worst_domain"] == max(outcome.metrics["log_ppl/sea"], outcome.metrics["log_ppl/land"])
    names = [plot.name for plot in read_plots(outcome.folder)]
    assert names == ["weights", "loss-weight", "weight-domain", "weight-duplicate", "domains"]
    assert "Weights of training sequences over training" in (outcome.folder / "report.html").read_text()
    lines = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    train = [line["metrics"] for line in lines if line["kind"] == "train"]
    assert {"weight/sea", "weight/duplicate", "effective_share", "relative_weight_max", "nll"} < train[-1].keys()


@pytest.mark.parametrize(
    "extra", [["model.architecture=gpt2"], ["trainer.micro_batch_size=4", "reweight.scope=global"]]
)
def test_other_language_models(extra: list[str], tmp_path: Path) -> None:
    outcome = run(tmp_path / "runs", *TINY, f"data.path={write_corpus(tmp_path)}", "trainer.max_steps=6", *extra)
    assert outcome.metrics["log_loss"] > 0


def test_a_saved_model_is_trained_on(tmp_path: Path) -> None:
    from tests.pretraining.reweighting import tiny_model

    corpus = write_corpus(tmp_path)
    from recipes.core.data.config import DomainsConfig
    from recipes.core.data.text.mixture import DomainCorpus
    from recipes.core.models.config import SmallLMConfig
    from recipes.core.models.text import build_text_tokenizer

    texts = DomainCorpus(DomainsConfig(path=corpus))
    tokenizer = build_text_tokenizer(SmallLMConfig(vocabulary=300), texts.texts(), texts.fingerprint)
    model = tiny_model().language_model
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    keys = ["model=causal-lm", f"model.path={tmp_path / 'model'}", f"data.path={corpus}", "data.length=16"]
    outcome = run(tmp_path / "runs", *keys, "trainer.max_steps=5", "trainer.batch_size=8")
    assert outcome.metrics["log_loss"] > 0


def test_a_context_that_is_too_short_is_refused(tmp_path: Path) -> None:
    keys = [
        *TINY,
        f"data.path={write_corpus(tmp_path, 400)}",
        "model.architecture=gpt2",
        "data.length=1100",
        "data.test_fraction=0.5",
    ]
    with pytest.raises(UserError, match="do not fit the model's context of 1024"):
        run(tmp_path / "runs", *keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["reweight.r=0"], "reweight.r = 0.0: must be > 0"),
        (["reweight.alpha=-1"], "reweight.alpha = -1.0: must be > 0"),
        (["reweight.warmup_steps=500"], "is longer than the run, trainer.max_steps=40"),
        (["trainer.micro_batch_size=2"], "2 sequences are weighed together, too few to tell"),
        (["model=small-lm", "data=linear-regression"], "data=linear-regression needs model=linear"),
        (["data.regimes=[isotropic,isotropic]"], "data.regimes = isotropic: is named twice"),
        (["reweight.strategy=upper"], "did you mean"),
    ],
)
def test_a_wrong_config_is_explained(keys: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        compose.compose("sample-reweighting", [*SMOKE, *keys])
    assert message in raised.value.hint


def test_choosing_a_model_chooses_its_data_and_the_other_way_round() -> None:
    by_model = compose.compose("sample-reweighting", ["model=small-lm"])
    by_data = compose.compose("sample-reweighting", ["data=domains"])
    assert by_model == by_data
    shape = compose.compose("sample-reweighting", ["model=gpt2-small"])
    assert (shape.model.layers, shape.data.name, shape.trainer.optimizer) == (12, "domains", "adamw")
