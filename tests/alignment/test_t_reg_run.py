"""`t-reg` end to end on a few made-up reviews: every arm, sources of rewards, corrupted sentences, what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from recipes.alignment.corrupted import corrupt
from recipes.alignment.data import Ground
from recipes.alignment.t_reg import rewards
from recipes.alignment.t_reg.config import RegConfig, TRegConfig
from recipes.alignment.t_reg.evaluation import add_corrupted
from recipes.alignment.t_reg.recipe import TRegRecipe
from recipes.core import runner
from recipes.core.config import compose
from recipes.core.data.text.text_ids import token_texts
from recipes.core.errors import UserError
from recipes.core.evaluation.plots import read_plots
from recipes.core.evaluation.scores import Scores
from tests.alignment.tiny import TINY, logged

pytestmark = pytest.mark.usefixtures("made_up_reviews")
SMALL = (*TINY, "trained.steps=2", "trained.batch_size=8")


def composed(*overrides: str) -> TRegConfig:
    made: TRegConfig = compose.compose("t-reg", [*SMALL, *overrides])
    return made


def run(outputs: Path, *overrides: str) -> runner.RunOutcome:
    return runner.run(composed(f"outputs={outputs}", *overrides), False, "steelyard run t-reg")


@pytest.fixture
def ground() -> Ground:
    return TRegRecipe().ground(composed(), "cpu")


@pytest.mark.parametrize("arm", compose.arms("t-reg"))
def test_every_arm(arm: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, f"arm={arm}")
    metrics = outcome.metrics
    assert outcome.status == "done" and -1 <= metrics["frontier/reward"] <= 1
    has_rewards = arm not in ("dpo", "simpo")
    assert ("rewards/size" in metrics) == has_rewards == (outcome.folder / "heatmap.json").exists()
    assert [plot.name for plot in read_plots(outcome.folder)] == ["frontier", "rewards"][: 1 + has_rewards]
    first = logged(outcome.folder)[0]
    if has_rewards and not arm.startswith(("static", "simpo")):  # policy and reference are one
        assert first["reg/weight"] == pytest.approx(0.5, abs=1e-6)
    if arm in ("dpo_reg", "random", "flip_quarter"):
        assert 0 < metrics["rewards/size"] <= 0.5 and first["reg/logp_negative"] < 0
    if arm == "dpo_reg":
        assert metrics["rewards/accuracy"] > 0.5


def test_rewards_of_zero_are_dpo(tmp_path: Path) -> None:
    zero, plain = (run(tmp_path, f"arm={arm}").metrics for arm in ("zero", "dpo"))
    assert zero["rewards/size"] == 0
    for name in ("reward", "kl", "pairs/margin"):
        assert zero[name] == pytest.approx(plain[name], rel=1e-6)


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    whole = run(tmp_path / "a", "arm=simpo_reg")
    parts = run(tmp_path / "b", "arm=simpo_reg", "trainer.micro_batch_size=2")
    assert parts.metrics["pairs/margin"] == pytest.approx(whole.metrics["pairs/margin"], rel=1e-3)


def test_the_judges_rewards_stand_on_words_it_knows(ground: Ground) -> None:
    pairs = ground.data.train
    values = rewards.oracle_rewards(ground, pairs)
    assert set(values.tolist()) == {-0.5, 0.0, 0.5}
    marks = pairs.important()
    assert marks is not None and np.array_equal(values != 0, marks)


def test_self_rewards_score_the_answers_own_ids(ground: Ground) -> None:
    pairs, own = ground.data.test, RegConfig()
    rows = rewards.prompt_rows(ground.tokenizer, pairs, own.better)
    assert all(np.array_equal(answer, pairs.answer(number)) for number, (_, answer) in enumerate(rows))
    asked = ground.tokenizer.decode(rows[1][0], skip_special_tokens=True)
    said = ground.tokenizer.decode(pairs.answer(1), skip_special_tokens=True).strip()
    assert pairs.pairs[0].asked in asked and said in asked and "more helpful" in asked and "{x}" not in asked
    better, worse, again = (
        rewards.self_logps(ground, pairs, prompt, "cpu") for prompt in (own.better, own.worse, own.better)
    )
    assert np.array_equal(better, again) and not np.array_equal(better, worse)
    # A row on its own gives the same: neither padding nor the prompt counts.
    prompt, answer = rows[3]
    alone = rewards.score(ground.frozen, [(prompt, answer)], device="cpu")["logprob"]
    assert better[pairs.offsets[3] : pairs.offsets[4]] == pytest.approx(alone, abs=1e-4)


def given(ground: Ground, *overrides: str) -> np.ndarray:
    config, pairs = composed(*overrides), ground.data.test
    said = rewards.AnswerScores(ground.frozen, pairs, "cpu")
    return rewards.compute_rewards(config, ground, pairs, said, "cpu", 0)


def test_exchanging_the_prompts_negates_and_equal_prompts_give_nothing(ground: Ground) -> None:
    self_rewards = given(ground, "arm=self", "treg.better='good {y}'", "treg.worse='bad {y}'")
    exchanged = given(ground, "arm=self", "treg.better='bad {y}'", "treg.worse='good {y}'")
    assert self_rewards.any() and np.array_equal(self_rewards, -exchanged)
    assert not given(ground, "arm=self", "treg.better='a {y}'", "treg.worse='a {y}'").any()


def test_constant_rewards_are_those_of_chosen_answers(ground: Ground) -> None:
    values, pairs = given(ground, "arm=dpo_sft"), ground.data.test
    rejected = np.repeat(np.arange(2 * len(pairs)) % 2 == 1, pairs.lengths)
    assert (values[~rejected] == 0.5).all() and (values[rejected] == 0).all()


def test_prompts_beyond_the_context_are_told_or_left_out(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = []
    for pairs in (ground.data.train, ground.data.test):
        rows = rewards.prompt_rows(ground.tokenizer, pairs, RegConfig().worse)
        longest.append(max(len(prompt) + len(answer) for prompt, answer in rows))
    monkeypatch.setattr(rewards, "context", lambda _: min(longest) - 2)  # some pairs fit, some do not
    with pytest.raises(UserError, match="exceed the model's context of") as raised:
        run(tmp_path, "arm=self")
    assert "type treg.on_long=skip" in str(raised.value) and "first: review" in str(raised.value)
    skipped = run(tmp_path, "arm=self", "treg.on_long=skip").metrics
    assert skipped["data/too_long"] > 0 and skipped["data/pairs"] < len(ground.data.train)
    plain = run(tmp_path, "arm=dpo", "treg.on_long=skip").metrics
    assert plain["data/pairs"] == skipped["data/pairs"] and plain["data/too_long"] == skipped["data/too_long"]
    monkeypatch.setattr(rewards, "context", lambda _: 3)
    with pytest.raises(UserError, match="no pair fits the model's context of 3 tokens"):
        run(tmp_path, "arm=self", "treg.on_long=skip", "seed=1")


def test_small_rewards_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    rewards.warn_if_idle(np.array([0.03, -0.03]))
    assert capsys.readouterr().err == ""
    rewards.warn_if_idle(np.array([0.01, -0.02]))
    assert "token rewards are 0.015 in the mean; below 0.02" in capsys.readouterr().err


def test_corrupted_sentences_end_to_end(tmp_path: Path) -> None:
    keys = [key for key in SMALL if not key.startswith(("data.prompts", "data.pairs"))]
    keys += ["data=corrupted-reviews", "data.pairs=16", "data.test_pairs=8", "arm=self", f"outputs={tmp_path}"]
    outcome = runner.run(compose.compose("t-reg", keys), False, "steelyard run t-reg")
    names = {f"corrupted/auroc_{name}" for name in ("rewards", "better", "surprisal")}
    assert names < outcome.metrics.keys() and "reward" not in outcome.metrics
    assert all(0 <= outcome.metrics[name] <= 1 for name in names)
    info = json.loads((outcome.folder / "metrics_info.json").read_text())
    assert names < info.keys() and outcome.metrics["data/pairs"] == 16


def test_another_recipe_takes_corrupted_sentences(tmp_path: Path) -> None:
    keys = [key for key in TINY if not key.startswith(("data.prompts", "data.pairs"))]
    keys += ["data=corrupted-reviews", "data.pairs=16", "data.test_pairs=8", "arm=dpo", f"outputs={tmp_path}"]
    metrics = runner.run(compose.compose("sparsepo", keys), False, "steelyard run sparsepo").metrics
    assert metrics["data/pairs"] == 16 and "mask/surprisal_auroc" in metrics


@pytest.mark.parametrize("seed", range(5))
def test_words_are_replaced_where_it_is_said(seed: int) -> None:
    text, running = "It was a good, good film - 10 of 10 - go.", ["dull", "Film", "plot"]
    corrupted, places = corrupt(text, 3, running, np.random.default_rng(seed))
    assert len(places) == 3 and all(corrupted[place.start : place.stop] in running for place in places)
    old, new = (re.split(r"[^A-Za-z0-9]+", line) for line in (text, corrupted))
    assert sum(before.lower() != after.lower() for before, after in zip(old, new, strict=True)) == 3
    assert re.sub(r"[A-Za-z]+", "", corrupted) == re.sub(r"[A-Za-z]+", "", text)


def test_the_marks_are_those_of_the_replaced_words() -> None:
    keys = [key for key in SMALL if not key.startswith("data.p")]
    ground = TRegRecipe().ground(compose.compose("t-reg", [*keys, "data=corrupted-reviews", "arm=self"]), "cpu")
    pieces = token_texts(ground.tokenizer)
    for pair in ground.data.test.pairs[:20]:
        assert pair.important is not None and not pair.important[0].any()
        good = "".join(pieces[i] for i in pair.chosen).split()
        bad, marked = "", ""
        for i, mark in zip(pair.rejected, pair.important[1], strict=True):
            bad += pieces[i]
            marked += pieces[i] if mark else ""
        differing = [new for old, new in zip(good, bad.split(), strict=True) if old != new]
        assert len(differing) == 3 and "".join(differing) == marked.replace(" ", "")


def test_auroc_is_that_of_rejected_answers_alone(ground: Ground) -> None:
    pairs = ground.data.test
    marks = pairs.important()
    assert marks is not None
    rejected = np.repeat(np.arange(2 * len(pairs)) % 2 == 1, pairs.lengths)
    values = np.where(rejected, marks.astype(float), 9.0)
    assert add_corrupted(Scores(), pairs, {"surprisal": values}) == {"corrupted/auroc_surprisal": 1.0}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["preference.loss=ipo"], "ipo has no token rewards to regularise; type preference.loss=dpo or simpo"),
        (["treg.flip=1.5"], "treg.flip = 1.5: must be >= 0 and <= 1"),
        (["arm=self", "treg.better=good"], "does not contain {y}, the answer"),
        (["data=preferences", "data.path=x.jsonl"], "oracle needs data whose judge knows words"),
        (["data=preferences", "data.path=x.jsonl", "arm=random"], "oracle needs data whose judge knows words"),
        (["data=corrupted-reviews", "arm=dpo", "preference.loss=odpo"], "odpo needs answers with scores"),
        (["data=corrupted-reviews", "arm=self", "data.words=8"], "would not keep one of its words"),
        (["data=corrupted-reviews", "arm=self", "data.prompt=' '"], "data.prompt"),
        (["reference.steps=0"], "0 leaves a model that nobody trained"),
        (["treg.rewards=slef"], "did you mean"),
    ],
)
def test_a_wrong_config_is_explained(keys: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        compose.compose("t-reg", keys)
    assert message in raised.value.hint


def test_your_own_pairs_take_self_rewards(pairs: Path, tmp_path: Path) -> None:
    keys = [key for key in SMALL if not key.startswith("data.")]
    keys += [f"outputs={tmp_path}", "data=preferences", f"data.path={pairs}", "arm=self"]
    metrics = runner.run(compose.compose("t-reg", keys), False, "steelyard run t-reg").metrics
    assert metrics["rewards/size"] > 0 and "reward" not in metrics and "corrupted/auroc_rewards" not in metrics
