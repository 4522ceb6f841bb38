"""What a trial runs where nobody typed it: arms and seeds by budget."""

from collections.abc import Sequence

from recipes.core.config import compose
from recipes.core.config.settings import FULL, SMALL, SMOKE
from recipes.core.statistics.claims import card_for

# A trial of `smoke` shows that everything runs, one of `small` answers on a laptop, one of `full` is as published.
SEEDS = {SMOKE: 2, SMALL: 3, FULL: 5}


def arms_of(recipe: str, overrides: Sequence[str]) -> list[str]:
    """The claim's arms (smoke), and the card's control (small), or all that apply (full), in the recipe's order."""
    every, budget = list(compose.arms(recipe, overrides)), compose.budget(recipe, overrides)
    card = card_for(recipe, overrides)
    short = [*card.claim.needed_arms, *([card.control] if budget != SMOKE else [])]
    return [arm for arm in every if budget == FULL or arm in short] or every


def seeds_of(recipe: str, overrides: Sequence[str]) -> str:
    """How many seeds, as `--seeds` takes them."""
    return str(SEEDS.get(compose.budget(recipe, overrides), SEEDS[SMALL]))
