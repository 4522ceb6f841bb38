"""Lists of all recipes: what each weights, what it claims, and what came out where a trial is stored."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from recipes.core.config import registry
from recipes.core.pages.stored import StoredTrial, trials_of
from recipes.core.pages.tables import capital, markdown_rows, price_text, verdict_line

BREAK = "<br>"


def index(trials: Sequence[StoredTrial], options: Mapping[str, Any]) -> str:
    """Every recipe by family, with the verdict and the price of each of its stored trials.

    Args:
        trials: All stored trials.
        options: Of the marker; `folder/` of the recipes' pages, seen from the page that shows the list.
    """
    names = sorted(registry.recipe_names(outside=False), key=lambda name: (registry.family(name), name))
    heads = ["recipe", "what it weights", "its claim", "verdict here", "its price"]
    return "\n".join(
        f"### {capital(family)}\n\n{markdown_rows(heads, [_row(name, trials, options) for name in members])}"
        for family, members in groupby(names, key=registry.family)
    )


def short_index(trials: Sequence[StoredTrial], options: Mapping[str, Any]) -> str:
    """Recipes in one line each: what it weights, and verdict and price of its claim at its defaults.

    Args:
        trials: All stored trials.
        options: Of the marker; `folder` as for `index`, and `names` of the recipes (default: all).

    Raises:
        UserError: a name of no recipe.
    """
    rows = []
    for name in options.get("names", registry.recipe_names(outside=False)):
        lead = trials_of(name, trials)[:1]
        shown = "; ".join(_verdict(trial) for trial in lead) or _link_to_page(name, options)
        rows.append([_link(name, options), registry.card(name).weights, shown])
    return markdown_rows(["recipe", "what it weights", "verdict on its claim, as measured here"], rows)


def _row(name: str, trials: Sequence[StoredTrial], options: Mapping[str, Any]) -> list[str]:
    card, stored = registry.card(name), trials_of(name, trials)
    lines = [
        (_verdict(trial).partition("; price:")[0], _setting(trial) + price_text(trial.judged[0])) for trial in stored
    ]
    lines = list(dict.fromkeys(lines))  # trials of other arms say the same of the leading claim: once is enough
    shown, prices = (BREAK.join(line[column] for line in lines) for column in (0, 1))
    return [_link(name, options), card.weights, card.claim.statement, shown or _link_to_page(name, options), prices]


def _verdict(trial: StoredTrial) -> str:
    """The verdict on the claim that leads, behind the keys that were typed; its arms where they are not the card's."""
    lead = trial.judged[0]
    usual = registry.card(trial.recipe).claim
    pair = f"`{lead.claim.arm}` to `{lead.claim.baseline}`: "
    same = (lead.claim.arm, lead.claim.baseline) == (usual.arm, usual.baseline)
    return f"{_setting(trial)}{'' if same else pair}{verdict_line(trial, lead)}"


def _setting(trial: StoredTrial) -> str:
    return f"`{trial.setting}`: " if trial.setting else ""


def _link_to_page(name: str, options: Mapping[str, Any]) -> str:
    """What stands where no trial is stored: nothing is measured, or only the page has it."""
    return f"see [its page]({_page(name, options)})"


def _link(name: str, options: Mapping[str, Any]) -> str:
    return f"[{name}]({_page(name, options)})"


def _page(name: str, options: Mapping[str, Any]) -> str:
    return f"{options.get('folder', '')}{name}.md"
