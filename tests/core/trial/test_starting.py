"""Which configs are looked at before cells start: each that differs in more than arm, label and seed, once."""

from collections.abc import Sequence

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.config.alike import Composer
from recipes.core.config.settings import RunConfig
from recipes.core.trial.launch import Launcher
from recipes.core.trial.starting import check_configs

RECIPE = "rag-importance"


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configs that are looked at."""
    configs: list[RunConfig] = []
    monkeypatch.setattr(runner, "check", lambda config, here: configs.append(config))
    return configs


def cells() -> list[list[str]]:
    return [[f"weights.rate={rate}", f"seed={seed}"] for rate in (0.5, 1, 2) for seed in range(4)]


@pytest.mark.parametrize("shared", [True, False])
def test_a_check_is_made_once_for_all_seeds(checked: list[RunConfig], shared: bool) -> None:
    composer = Composer(RECIPE)
    configs: Sequence[RunConfig] = [
        composer.compose(words) if shared else compose.compose(RECIPE, words) for words in cells()
    ]
    check_configs(iter(configs), Launcher("local", 1, []))
    assert [config.weights.rate for config in checked] == [0.5, 1.0, 2.0]  # type: ignore[attr-defined]


def test_what_is_made_on_the_way_is_no_other_config(checked: list[RunConfig]) -> None:
    configs = (compose.compose(RECIPE, [f"questions.test={number}"]) for number in range(1, 30))
    check_configs(configs, Launcher("local", 1, []))  # each is gone when the next is made, and its ids are free again
    assert [config.questions.test for config in checked] == list(range(1, 30))  # type: ignore[attr-defined]
