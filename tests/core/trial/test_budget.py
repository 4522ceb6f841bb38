"""What a trial runs by budget, and how long that is expected to take."""

from pathlib import Path

import pytest

from recipes.core.config import compose, registry
from recipes.core.runs.folder import RunFolder
from recipes.core.runs.records import find_runs
from recipes.core.trial.budget import arms_of
from recipes.core.trial.estimate import time_words
from tests.finished import finished_run


@pytest.mark.parametrize("recipe", registry.recipe_names())
def test_a_short_trial_has_the_claims_arms_and_a_control_of_the_recipe(recipe):
    card = registry.card(recipe)
    pair = {card.claim.arm, card.claim.baseline}
    assert not card.control or card.control in compose.every_arm(recipe)
    assert set(arms_of(recipe, ["budget=smoke"])) == pair
    assert set(arms_of(recipe, [])) == pair | ({card.control} if card.control else set())
    assert arms_of(recipe, ["budget=full"]) == list(compose.arms(recipe, ["budget=full"]))


def test_time_is_that_of_finished_runs_by_steps_batch_and_parameters(tmp_path: Path):
    def config(*words: str):
        return compose.compose("prior", [f"outputs={tmp_path}", "tracker=none", "trainer.max_steps=10", *words])

    assert "cannot be told before a run of prior" in time_words("prior", [config()], [])
    for arm, second in (("prior", 20), ("ntp", 10)):
        folder = RunFolder(finished_run(config(f"arm={arm}"), 0))
        folder.finish(started="2026-01-01T00:00:00+00:00", finished=f"2026-01-01T00:00:{second}+00:00")
    runs = find_runs(tmp_path, "prior", warn=False)
    cells = [config("trainer.max_steps=30"), config("arm=ntp"), config("arm=random", "trainer.batch_size=64")]
    # 20 x 3 of prior, 10 of ntp, and the mean of both, 15, twice.
    assert time_words("prior", cells, runs).startswith(
        "about 1 min 40 s of computing, by the pace of 2 finished runs here"
    )
