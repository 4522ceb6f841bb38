"""Which of a recipe's claims can be judged: those meant for the config, whose arms are present."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from recipes.core.config import compose, registry
from recipes.core.config.settings import EXACT, SEED_UNIT, Card
from recipes.core.runs.folder import DONE
from recipes.core.runs.records import RunRecord, find_baseline, find_runs

TOO_SMALL = "a trial at budget=smoke shows that everything runs, and is too small to judge by; run without it"


def card_for(recipe: str, overrides: Sequence[str] = (), arms: Collection[str] | None = None) -> Card:
    """The recipe's card with the claims that can be judged for what `overrides` choose; the first is the main one.

    Args:
        recipe: Name of the recipe.
        overrides: `KEY=VALUE`, as for `compose`.
        arms: The arms that exist; None: all that apply.

    Returns:
        A card whose `claim` is the recipe's own if none can be judged.
    """
    card, applies = registry.card(recipe), compose.applying(recipe, overrides)
    there = set(compose.arms(recipe, overrides) if arms is None else arms)
    fitting = [claim for claim in (card.claim, *card.claims) if claim.needed_arms <= there and applies(claim.only)]
    return replace(card, claim=fitting[0] if fitting else card.claim, claims=tuple(fitting[1:]))


def no_verdict(card: Card, arms: Collection[str], seeds: int, budget: str, applies: Callable[[str], bool]) -> str:
    """Why a trial of these arms, so many seeds and this budget will give no verdict; empty if it can.

    Args:
        card: From `card_for`.
        arms: Those of the trial.
        seeds: How many.
        budget: As typed.
        applies: Whether an `only` is for the trial's config: `compose.applying`.
    """
    if not applies(card.claim.only):
        return f"no verdict: {card.claim.metric}, which the claim is about, is measured with {card.claim.only} only"
    needed = dict.fromkeys((card.claim.arm, *card.claim.arms, card.claim.baseline))
    missing = [name for name in needed if name not in arms]
    if missing:
        compared = " with ".join(needed) if len(needed) == 2 else ", ".join(needed)
        return f"no verdict: the claim compares {compared}, and the trial's arms leave out {' and '.join(missing)}"
    if seeds < 2 and card.claim.unit == SEED_UNIT and card.claim.kind != EXACT:
        return "no verdict: one seed has no interval over seeds; type --seeds 2 or more"
    return f"no verdict: {TOO_SMALL}" if budget == "smoke" else ""


def free_keys(recipe: str, arms: Collection[str], card: Card) -> set[str]:
    """Dotted prefixes in which runs of these arms may differ and still be compared.

    They are what the arms themselves set: a key beside it that was typed for one run and not for the other is another
    experiment. A run with a label, or of an arm of a user's file, may differ in all that arms are free to change.
    """
    if not set(arms) <= compose.arm_settings(recipe).keys():
        return set(card.pair_keys)
    return {"arm"}.union(*(compose.arm_keys(recipe, arm) for arm in arms))


def baseline_of(run: RunRecord, card: Card, outputs: Path, warn: bool = True) -> RunRecord | None:
    """The newest finished run of the claim's baseline that a finished run can be paired with; None for the baseline.

    Args:
        run: The run.
        card: The card of the run.
        outputs: Folder of runs in which to look.
        warn: Name damaged runs of the baseline there, if the caller has not done so.
    """
    if run.state != DONE or run.arm == card.claim.baseline:
        return None
    baseline = card.claim.baseline
    runs = find_runs(outputs, run.recipe, warn, arm=baseline)
    return find_baseline(run, runs, baseline, free_keys(run.recipe, (run.arm, baseline), card))


def card_of(run: RunRecord) -> Card:
    """`card_for` the data and model of a run."""
    settings = {group: run.config.get(group) for group in compose.options(run.recipe)}
    return card_for(
        run.recipe, [f"{group}={config['name']}" for group, config in settings.items() if config and "name" in config]
    )
