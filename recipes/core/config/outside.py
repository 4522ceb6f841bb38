"""What is wrong with a recipe outside the checkout, as far as its card and its config files show. Imports no torch."""

from recipes.core.config import compose, registry
from recipes.core.config.schema import ConfigError, Problem
from recipes.core.config.settings import FULL, SMALL, SMOKE
from recipes.core.errors import UserError


def recipe_problem(name: str) -> UserError | None:
    """Why a recipe cannot be used as it is; None if nothing speaks against it.

    A key that the user is to type is no fault of its files.
    """
    problems: dict[str, Problem] = {}
    try:
        registry.card(name)
        arms = [f"arm={arm}" for arm in compose.arm_settings(name)]
        for word in (*arms, *(f"budget={budget}" for budget in (SMOKE, SMALL, FULL))):
            problems |= {str(one): one for one in _problems_in_files(name, word)}
    except UserError as error:
        return error
    return ConfigError(list(problems.values())) if problems else None


def _problems_in_files(name: str, word: str) -> list[Problem]:
    try:
        compose.compose(name, [word])
    except ConfigError as error:
        return [problem for problem in error.problems if problem.where]
    return []
