"""What every recipe owes its users, asked of each recipe that is found: this is the contract of a new one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.core.config import compose, registry
from recipes.core.config.registry import ROOT
from recipes.core.runs.identity import identify
from tests.cli.conftest import Ended

Steelyard = Callable[..., Ended]
QUICK = ("budget=smoke", "tracker=none", "trainer.threads=1")
pytestmark = pytest.mark.parametrize("recipe", registry.recipe_names())


def test_its_claim_is_about_arms_it_has(recipe: str) -> None:
    claim, arms = registry.card(recipe).claim, compose.arms(recipe)
    assert {claim.arm, claim.baseline} <= set(arms) and claim.arm != claim.baseline
    assert claim.direction in (-1, 1) and claim.minimal_effect > 0 and claim.published
    assert next(iter(arms)) == claim.arm == compose.compose(recipe, []).arm


def test_all_its_claims_are_about_arms_and_metrics_it_has(recipe: str) -> None:
    card = registry.card(recipe)
    for claim in (card.claim, *card.claims):
        assert claim.needed_arms <= set(compose.every_arm(recipe))
        assert all(card.measures(metric) for metric in (claim.metric, claim.beside) if metric)


def test_every_arm_composes_at_every_budget(recipe: str) -> None:
    for budget in ("smoke", "small", "full"):
        hashes = {
            identify(compose.compose(recipe, [f"budget={budget}", f"arm={arm}"])).hash for arm in compose.arms(recipe)
        }
        assert len(hashes) == len(compose.arms(recipe))


def test_arms_differ_only_where_the_card_says(recipe: str) -> None:
    keys = registry.card(recipe).pair_keys
    trees = [compose.to_tree(compose.compose(recipe, [f"arm={arm}"])) for arm in compose.arms(recipe)]
    for tree in trees:
        for key in keys:
            tree.pop(key)
    assert all(tree == trees[0] for tree in trees)


def test_every_key_is_explained(recipe: str) -> None:
    for key, info in compose.config_keys(recipe).items():
        assert info.help, key


def test_it_has_a_page(recipe: str) -> None:
    page = (ROOT / "docs" / "recipes" / f"{recipe}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {recipe}: ")


def test_its_card_says_what_it_weights(recipe: str) -> None:
    assert registry.card(recipe).weights


def test_a_dry_run_tells_and_writes_nothing(recipe: str, tmp_path: Path, steelyard: Steelyard) -> None:
    ended = steelyard("run", recipe, *QUICK, f"outputs={tmp_path}", "--dry-run")
    assert ended.code == 0 and "run folder" in ended.out and "data" in ended.out
    assert list(tmp_path.iterdir()) == []


def test_from_the_command_line_to_the_report_and_reused(recipe: str, tmp_path: Path, steelyard: Steelyard) -> None:
    ended = steelyard("run", recipe, *QUICK, f"outputs={tmp_path}")
    assert ended.code == 0, ended.err
    metric = registry.card(recipe).claim.metric
    assert metric in ended.out
    [status] = tmp_path.glob("*/*/*/status.json")
    folder = status.parent
    assert json.loads(status.read_text())["state"] == "done"
    info = json.loads((folder / "metrics_info.json").read_text())
    final = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert final["kind"] == "final" and final["metrics"].keys() <= info.keys() and metric in final["metrics"]
    assert all(registry.card(recipe).measures(name) for name in final["metrics"])
    assert "<h1>" in (folder / "report.html").read_text()
    written = (folder / "metrics.jsonl").stat().st_mtime_ns
    again = steelyard("run", recipe, *QUICK, f"outputs={tmp_path}")
    assert again.code == 0 and (folder / "metrics.jsonl").stat().st_mtime_ns == written
