"""What every recipe owes its users, as checks that fail with a sentence. Ours pass them all; so should one outside.

import pytest
from recipes.core.contract import CHECKS

@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, tmp_path):
    check("my-method", tmp_path)
"""

from collections.abc import Callable
from pathlib import Path

from recipes.core.config import compose, registry
from recipes.core.config.settings import FULL, SMALL, SMOKE
from recipes.core.config.unread import with_parents
from recipes.core.runs.folder import RunFolder
from recipes.core.runs.identity import identify
from recipes.core.runs.records import final_metrics, read_info

# The smallest run, in no tracker.
QUICK = (f"budget={SMOKE}", "tracker=none", "trainer.threads=1")


def claim_is_about_its_arms(recipe: str, _: Path) -> None:
    """The card's claim compares two arms that a trial runs, the first of them the default."""
    claim, arms = registry.card(recipe).claim, compose.arms(recipe)
    assert {claim.arm, claim.baseline} <= set(arms), f"the claim's arms are not among {', '.join(arms)}"
    assert claim.arm != claim.baseline, "the claim compares an arm with itself"
    assert claim.direction in (-1, 1) and claim.minimal_effect > 0, "the claim has no direction or no minimal effect"
    assert claim.published, "the claim does not say what the paper reports"
    assert next(iter(arms)) == claim.arm == compose.compose(recipe, []).arm, "the claim's arm is not the default arm"


def claims_are_about_its_metrics(recipe: str, _: Path) -> None:
    """All claims of the card are about arms and metrics that the recipe has."""
    card = registry.card(recipe)
    for claim in (card.claim, *card.claims):
        assert claim.needed_arms <= set(compose.every_arm(recipe)), f"a claim is about other arms: {claim.statement}"
        missing = [metric for metric in (claim.metric, claim.beside) if metric and not card.measures(metric)]
        assert not missing, f"no run measures {' or '.join(missing)}"


def every_arm_composes_at_every_budget(recipe: str, _: Path) -> None:
    """Each arm is another run, at each budget."""
    for budget in (SMOKE, SMALL, FULL):
        words = [[f"budget={budget}", f"arm={arm}"] for arm in compose.arms(recipe)]
        hashes = {identify(compose.compose(recipe, one)).hash for one in words}
        assert len(hashes) == len(words), f"two arms are the same run at budget={budget}"


def arms_differ_where_the_card_says(recipe: str, _: Path) -> None:
    """Arms differ in the keys of the card's `pair_keys` and in no others."""
    keys = registry.card(recipe).pair_keys
    trees = {arm: compose.to_tree(compose.compose(recipe, [f"arm={arm}"])) for arm in compose.arms(recipe)}
    shared = {arm: {key: value for key, value in tree.items() if key not in keys} for arm, tree in trees.items()}
    unknown = set(keys) - compose.to_tree(compose.compose(recipe, [])).keys()
    assert not unknown, f"the card's `pair_keys` are no keys: {', '.join(sorted(unknown))}"
    first = next(iter(shared.values()))
    others = [arm for arm, tree in shared.items() if tree != first]
    assert not others, f"{', '.join(others)} set keys beside {', '.join(keys)}"


def every_key_is_explained(recipe: str, _: Path) -> None:
    """Each key has its help."""
    bare = [key for key, info in compose.config_keys(recipe).items() if not info.help]
    assert not bare, f"without help: {', '.join(bare)}"


def an_arm_reads_what_it_sets(recipe: str, _: Path) -> None:
    """What a config says it does not read are keys of the recipe, and none that its own arm sets."""
    settings = compose.arm_settings(recipe)
    for arm in compose.arms(recipe):
        unread = dict(compose.compose(recipe, [f"arm={arm}"]).unread())
        known = {name for key in compose.config_keys(recipe, [f"arm={arm}"]) for name in with_parents(key)}
        unknown = unread.keys() - known
        assert not unknown, f"arm {arm}: `unread` names what is no key: {', '.join(sorted(unknown))}"
        idle = [key for key in settings[arm] if not unread.keys().isdisjoint(with_parents(key))]
        assert not idle, f"arm {arm} sets what it does not read: {', '.join(idle)}"


def it_has_a_page(recipe: str, _: Path) -> None:
    """Its page begins with its name."""
    page = registry.page(recipe)
    assert page.read_text(encoding="utf-8").startswith(f"# {recipe}: "), f"{page} does not begin with # {recipe}: "


def its_card_says_what_it_weights(recipe: str, _: Path) -> None:
    """The card names what is weighted."""
    assert registry.card(recipe).weights, "the card's `weights` is empty"


def it_runs_to_the_report_and_is_reused(recipe: str, folder: Path) -> None:
    """The smallest run ends with the claim's metric and a report; the same again computes nothing."""
    from recipes.core import runner

    config = compose.compose(recipe, [*QUICK, f"outputs={folder}"])
    outcome = runner.run(config, fresh=False, command=f"steelyard run {recipe}")
    assert outcome.status == "done" and not outcome.reused
    metrics, card = final_metrics(outcome.folder), registry.card(recipe)
    assert card.claim.metric in metrics, f"the run does not measure {card.claim.metric}"
    unknown = [name for name in metrics if not card.measures(name)]
    assert not unknown, f"the card's `metrics` leave out {', '.join(unknown)}"
    measured = {name for _, values in RunFolder(outcome.folder).read_metrics("eval") for name in values}
    unwatched = sorted(name for name in measured if not card.watches(name))
    assert not unwatched, f"the card's `watched` leave out {', '.join(unwatched)}"
    nameless = metrics.keys() - read_info(outcome.folder).keys()
    assert not nameless, f"not defined: {', '.join(sorted(nameless))}"
    assert "<h1>" in (outcome.folder / "report.html").read_text(encoding="utf-8")
    assert runner.run(config, fresh=False, command="").reused


def it_runs_on_another_device(recipe: str, folder: Path) -> None:
    """The smallest run ends where models and batches lie on another device than the CPU, as they do on a GPU."""
    from recipes.core import runner
    from recipes.core.other_device import other_device

    with other_device():
        outcome = runner.run(compose.compose(recipe, [*QUICK, f"outputs={folder}"]), False, f"steelyard run {recipe}")
    assert outcome.status == "done" and not outcome.reused


QUICK_CHECKS: tuple[Callable[[str, Path], None], ...] = (
    claim_is_about_its_arms,
    claims_are_about_its_metrics,
    every_arm_composes_at_every_budget,
    arms_differ_where_the_card_says,
    every_key_is_explained,
    an_arm_reads_what_it_sets,
    it_has_a_page,
    its_card_says_what_it_weights,
)
CHECKS = (*QUICK_CHECKS, it_runs_to_the_report_and_is_reused, it_runs_on_another_device)
