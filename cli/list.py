"""`steelyard list`: the recipes, and what one of them is and takes."""

from dataclasses import asdict
from itertools import groupby
from typing import Any

import typer

from cli import completion
from cli.console import heading, pairs, say, table
from cli.keys import CONFIG_FOLDER
from cli.results import JSON, print_result
from recipes.core.config import compose, registry
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.statistics.claims import card_for
from recipes.core.statistics.texts import expectation


def list_recipes(
    recipe: str = typer.Argument(
        None, metavar="RECIPE", help="Show one recipe in full.", autocompletion=completion.recipes
    ),
    overrides: list[str] = typer.Argument(
        None,
        metavar="KEY=VALUE",
        help="Show the keys for this choice: data=easy-vqa model=smollm2-135m.",
        autocompletion=completion.overrides,
    ),
    config_dir: str = CONFIG_FOLDER,
    as_json: bool = JSON,
) -> None:
    """List the recipes; with a name: its paper, claim, arms and keys.

    Keys are shown with default, unit and where the default comes from.
    """
    if as_json:
        print_result("list", _recipe(recipe, list(overrides or [])) if recipe else _recipes())
    elif recipe is None:
        _show_families()
    else:
        _show_recipe(recipe, list(overrides or []))


def _recipes() -> list[dict[str, Any]]:
    """Every recipe as plain values; one that is being written has an error in place of a card."""
    entries: list[dict[str, Any]] = []
    for name in registry.recipe_names():
        source = registry.source(name)
        entry: dict[str, Any] = {"recipe": name, "family": registry.family(name)}
        entry["outside"] = str(source) if source else None
        if problem := _problem(name):
            entries.append(entry | {"error": str(problem)})
            continue
        card = registry.card(name)
        texts = {"title": card.title, "paper": card.paper, "weights": card.weights, "version": card.version}
        entries.append(entry | texts | {"claim": card.claim.statement, "metric": card.claim.metric})
    for problem in registry.outside_problems():
        note(f"warning: {problem}")
    return entries


def _recipe(recipe: str, overrides: list[str]) -> dict[str, Any]:
    """One recipe as plain values: its card, arms, groups and keys."""
    keys = [
        {
            "key": info.key,
            "default": info.default,
            "unit": info.unit,
            "origin": info.origin,
            "help": info.help,
            "choices": list(info.choices) if info.choices else None,
        }
        for info in compose.config_keys(recipe, overrides).values()
        if info.key != "recipe"
    ]
    return {
        "recipe": recipe,
        "family": registry.family(recipe),
        "card": asdict(card_for(recipe, overrides)),
        "arms": compose.arms(recipe, overrides),
        "groups": compose.options(recipe) | compose.kinds(recipe),
        "keys": keys,
    }


def _show_families() -> None:
    names = sorted(registry.recipe_names(), key=lambda name: (*_home(name), name))
    for (source, family), members in groupby(names, key=_home):
        heading(f"{family} (outside, from {source})" if source else family)
        table([{"recipe": name, "title": _title(name)} for name in members])
        say()
    for problem in registry.outside_problems():
        note(f"warning: {problem}")
    say("steelyard list RECIPE shows its arms and keys")


def _home(name: str) -> tuple[str, str]:
    """The folder outside the checkout that a recipe comes from, empty of ours, and its family."""
    return str(registry.source(name) or ""), registry.family(name)


def _title(name: str) -> str:
    if problem := _problem(name):  # one that is being written does not hide the others
        note(f"warning: {problem}" if name in problem.where else f"warning: recipe {name}: {problem}")
        return "cannot be used: see the warning"
    return registry.card(name).title


def _problem(name: str) -> UserError | None:
    """Why a recipe cannot be used; config files are looked at of those outside, ours are right."""
    if registry.source(name):
        from recipes.core.config.outside import recipe_problem

        return recipe_problem(name)
    try:
        registry.card(name)
    except UserError as error:
        return error
    return None


def _show_recipe(recipe: str, overrides: list[str]) -> None:
    card = card_for(recipe, overrides)
    claim = card.claim
    heading(card.title)
    pairs(
        [
            ("recipe", f"{recipe} ({registry.family(recipe)})"),
            *([("from", f"outside: {source}")] if (source := registry.source(recipe)) else []),
            ("paper", card.paper),
            *(("covers", f"{system.name}, {system.paper}") for system in card.systems),
            ("method", card.summary),
            *([("weights", card.weights)] if card.weights else []),
            ("claim", claim.statement),
            ("measured as", expectation(claim)),
            ("published", claim.published),
            *(("further claim", f"{further.statement}: {expectation(further)}") for further in card.claims),
            *([("may pay with", ", ".join(card.price))] if card.price else []),
            ("cost", card.cost),
        ]
    )
    say()
    heading("Arms")
    table([{"arm": f"arm={name}", "what it is": text} for name, text in compose.arms(recipe, overrides).items()])
    say()
    heading("Groups")
    choices = compose.options(recipe) | compose.kinds(recipe)
    table([{"group": f"{name}=", "one of": ", ".join(options)} for name, options in choices.items()])
    say()
    heading("Keys")
    table([_key_row(info) for info in compose.config_keys(recipe, overrides).values() if info.key != "recipe"])


def _key_row(info: compose.SettingInfo) -> dict[str, str]:
    choices = f" ({' | '.join(map(completion.text_of, info.choices))})" if info.choices else ""
    return {
        "key": info.key,
        "default": completion.text_of(info.default),
        "unit": info.unit,
        "origin": info.origin,
        "meaning": info.help + choices,
    }
