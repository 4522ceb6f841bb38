"""Every budget of every data set and model that ships is a config that can run."""

import dataclasses
import itertools
import re
import types
import typing

import pytest

from recipes.core.config import compose, registry
from recipes.core.errors import UserError

BUDGETS = ("smoke", "small", "full")
# What the user has to give.
PATHS = ("data.path", "model.path")


def names(recipe: str, group: str) -> list[str]:
    """Names of the kinds of data or model that a recipe takes."""
    hint = typing.get_type_hints(registry.config_class(recipe)).get(group)
    if hint is None:  # a recipe without a model
        return []
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    fields = [field for kind in kinds for field in dataclasses.fields(kind) if field.name == "name"]
    return [str(field.default) for field in fields]


def refusal(recipe: str, words: list[str]) -> str:
    """Why a config is refused, once the paths are given that it asks for; empty if it is right."""
    try:
        compose.compose(recipe, words)
    except UserError as error:
        asked = [f"{path}=given" for path in PATHS if f"{path}: is missing" in error.hint]
        return refusal(recipe, [*words, *asked]) if asked else error.hint
    return ""


@pytest.mark.parametrize("recipe", registry.recipe_names())
def test_every_budget_of_every_choice(recipe: str) -> None:
    data, models = ([None, *names(recipe, group)] for group in ("data", "model"))
    for one, other in itertools.product(data, models):
        words = [f"{key}={value}" for key, value in (("data", one), ("model", other)) if value]
        # A choice that does not fit the other is refused whatever the budget.
        refused = {budget: refusal(recipe, [*words, f"budget={budget}"]) for budget in BUDGETS}
        assert len({not lines for lines in refused.values()}) == 1, (words, refused)
        assert words or not refused["small"], refused


@pytest.mark.parametrize("recipe", registry.recipe_names())
def test_a_shorter_run_than_any_budget(recipe: str) -> None:
    for model in names(recipe, "model"):
        words = [f"model={model}"]
        short = refusal(recipe, [*words, "trainer.max_steps=1"])
        # A schedule of several stages wants a step for each, and says no more than that.
        assert short == refusal(recipe, words) or re.fullmatch(r"trainer\.max_steps: stage .*", short), model


@pytest.mark.parametrize("recipe", registry.recipe_names())
def test_every_seed_is_one_that_numpy_takes(recipe: str) -> None:
    keys = [key for key in compose.config_keys(recipe) if key.split(".")[-1] == "seed"]
    assert "seed" in keys
    for key in keys:
        assert refusal(recipe, [f"{key}={2**32 - 1}"]) == ""
        for value in (2**32, -1):
            assert refusal(recipe, [f"{key}={value}"]) == f"{key} = {value}: must be >= 0 and < 4294967296"
