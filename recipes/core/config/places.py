"""Where a key that was not typed is set: file and line, of files outside the checkout."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from recipes.core.config import registry
from recipes.core.config.sources import composed, config_file, option_files, option_keys, recipe_file
from recipes.core.config.yaml_file import Entry


def key_places(
    recipe: str, path: tuple[Path, ...], choices: Mapping[str, str], chosen: Mapping[str, str]
) -> dict[str, str]:
    """Dotted key -> file and line of its last value, of the options that are chosen and of a recipe outside.

    Args:
        recipe: Name of the recipe.
        path: The folders of config files.
        choices: Options of groups that were typed.
        chosen: `arm` and `budget`, if they were typed.
    """
    files, entries = option_files(path), config_file(recipe_file(recipe)).entries
    places: dict[str, str] = {}
    for group, option in {**_defaults(entries), **choices}.items():
        if option in files.get(group, {}):
            places |= option_keys(group, option, files[group])
    if registry.source(recipe):
        defaults = composed(recipe, (), path)
        arm, budget = (str(chosen.get(name, defaults.get(name))) for name in ("arm", "budget"))
        places |= _of_recipe(entries, arm, budget)
    return places | _groups(places)


def _of_recipe(entries: list[Entry], arm: str, budget: str) -> dict[str, str]:
    """Keys of a recipe's file, then of its presets in the order in which they are applied."""
    plain = {entry.key: entry.where for entry in entries}
    budgets, arms = f"budgets.{budget}.", f"arms.{arm}.set."
    # `when` has conditions, as in `when.model=gpt2-small.trainer.threads`.
    when = {key.rpartition("=")[2].partition(".")[2]: plain[key] for key in plain if key.startswith("when.")}
    return (
        plain
        | {key.removeprefix(budgets): line for key, line in plain.items() if key.startswith(budgets)}
        | when
        | {key.removeprefix(arms): line for key, line in plain.items() if key.startswith(arms)}
    )


def _defaults(entries: list[Entry]) -> dict[str, str]:
    """Group -> option that a recipe's list of defaults chooses."""
    items = next((entry.value for entry in entries if entry.key == "defaults"), None) or []
    words = [pair for item in items if isinstance(item, dict) for pair in item.items()]
    return {key.removeprefix("override").strip().lstrip("/"): option for key, option in words}


def _groups(places: Mapping[str, str]) -> dict[str, str]:
    """Every group of keys -> where its first key stands."""

    def above(key: str) -> Iterator[str]:
        while key := key.rpartition(".")[0]:
            yield key

    return {group: line for key, line in reversed([*places.items()]) for group in above(key) if group not in places}
