"""The board: every system that a recipe covers, with the verdicts on its claims, on one whole page."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from recipes.core.config import registry
from recipes.core.config.settings import Card, Claim, System
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.pages.stored import StoredTrial, setting_of, trials_of
from recipes.core.report.page import MINUS, render
from recipes.core.runs.folder import RunFolder
from recipes.core.statistics.price import price_in_verdict
from recipes.core.statistics.texts import interval_text, number_text, subject
from recipes.core.trial import manifest as manifests
from recipes.core.trial.result import RESULTS, Judged, read_results

NAME = "board.html"
UNMEASURED = "not measured"
ORDER = ("supported", "inconclusive", "contradicted", "not judged", UNMEASURED)  # of verdicts
ELSEWHERE = "not in this checkout"  # family of recipes that are known by their trials only


@dataclass(frozen=True)
class BoardTrial:
    """A trial with its answers.

    Attributes:
        recipe: Name of the recipe.
        command: What was typed.
        date: Day on which the last run ended, ISO; empty if no run says.
        judged: Every claim with its verdict and price.
        link: Its report, seen from the board; empty without one.
        setting: The keys that all its runs share; empty for the defaults.
    """

    recipe: str
    command: str
    date: str
    judged: tuple[Judged, ...]
    link: str = ""
    setting: str = ""


@dataclass(frozen=True)
class BoardRow:
    """One claim about one system, in one trial or not measured.

    Attributes:
        family: Of the recipe.
        system: The published method.
        paper: Where it was published.
        recipe: The recipe that covers it.
        claim: What the paper says.
        trial: Where it was judged; None: nowhere.
        judged: The answer; None: not measured.
        page: The recipe's page, seen from the board; empty without one.
    """

    family: str
    system: str
    paper: str
    recipe: str
    claim: Claim
    trial: BoardTrial | None = None
    judged: Judged | None = None
    page: str = ""

    @property
    def word(self) -> str:
        """The verdict."""
        return self.judged.verdict.word if self.judged else UNMEASURED

    @property
    def priced(self) -> bool:
        """Whether the verdict itself says that there is a price: it is supported, at a price."""
        return bool(self.judged and price_in_verdict(self.word, self.judged.prices))

    @property
    def rank(self) -> int:
        """Place of the verdict when rows are sorted by it: supported first, of these those without a price."""
        place = ORDER.index(self.word) if self.word in ORDER else len(ORDER)
        return 2 * place + self.priced

    @property
    def kind(self) -> str:
        """The verdict as the name of a style."""
        return {"not judged": "inconclusive", UNMEASURED: "inconclusive"}.get(self.word, self.word)

    @property
    def subject(self) -> str:
        """What was compared: `prior minus ntp on grounded/auc`."""
        return subject(self.claim)

    @property
    def estimate(self) -> float | None:
        """The measured difference."""
        interval = self.judged.verdict.interval if self.judged else None
        return interval.estimate if interval else None

    @property
    def difference(self) -> str:
        """The difference with its interval."""
        interval = self.judged.verdict.interval if self.judged else None
        if interval is None:
            return ""
        return f"{number_text(interval.estimate, True)} {interval_text(interval)}".replace("-", MINUS)

    @property
    def price(self) -> list[str]:
        """The side effects that are worse; "none", or nothing where none was measured."""
        if not self.judged or not self.judged.prices:
            return []
        return [effect.text.replace("-", MINUS) for effect in self.judged.prices if effect.worse] or ["none"]

    @property
    def over(self) -> str:
        """What the interval is over: `3 seeds`, `800 items of 3 seeds`."""
        if not self.judged or not self.judged.verdict.seeds:
            return ""
        seeds, items = self.judged.verdict.seeds, self.judged.verdict.items
        text = f"{seeds} seed{'s' * (seeds != 1)}"
        return f"{items:,} items of {text}" if items else text

    @property
    def plain(self) -> dict[str, Any]:
        """All of it as plain values, for programs."""
        verdict, trial = (self.judged.verdict if self.judged else None), self.trial
        return {
            "family": self.family,
            "system": self.system,
            "recipe": self.recipe,
            "paper": self.paper,
            "claim": asdict(self.claim),
            "verdict": asdict(verdict) if verdict else None,
            "price": [asdict(effect) for effect in self.judged.prices] if self.judged else [],
            "date": trial.date if trial else None,
            "command": trial.command if trial else None,
            "report": trial.link if trial else None,
        }


def board_rows(trials: Sequence[BoardTrial], pages: str = "") -> list[BoardRow]:
    """Every system by family and recipe: its claims in each trial, then those that no trial judged.

    Args:
        trials: Of any recipes; of one recipe in the order in which they are shown.
        pages: `folder/` of the recipes' pages, seen from the board; empty: they are not linked.
    """
    names = registry.recipe_names(outside=not pages)
    rows: list[BoardRow] = []
    for name in sorted(names, key=lambda name: (registry.family(name), name)):
        try:
            card = registry.card(name)
        except UserError as error:  # one that is being written does not hide the others
            note(f"warning: {error}")
            continue
        measured = [trial for trial in trials if trial.recipe == name]
        page = f"{pages}{name}.md" if pages else ""
        for system in card.covers:
            rows += _system_rows(registry.family(name), name, card, system, measured, page)
    for trial in trials:
        if trial.recipe not in names:
            rows += [BoardRow(ELSEWHERE, trial.recipe, "", trial.recipe, one.claim, trial, one) for one in trial.judged]
    return rows


def _system_rows(
    family: str, recipe: str, card: Card, system: System, trials: Sequence[BoardTrial], page: str
) -> list[BoardRow]:
    """The rows of one system: one at least."""
    judged = [(trial, one) for trial in trials for one in trial.judged if system.has(one.claim)]
    tested = {_test(one.claim) for _, one in judged}
    left = [claim for claim in (card.claim, *card.claims) if system.has(claim) and _test(claim) not in tested]
    names = (family, system.name, system.paper, recipe)
    return [BoardRow(*names, one.claim, trial, one, page) for trial, one in judged] + [
        BoardRow(*names, claim, page=page) for claim in left
    ]


def _test(claim: Claim) -> tuple[str, ...]:
    return claim.kind, claim.metric, claim.arm, claim.baseline


def stored_board(trials: Sequence[StoredTrial]) -> str:
    """The page of docs/results, `docs/board.html`."""
    ordered = [trial for name in registry.recipe_names(outside=False) for trial in trials_of(name, trials)]
    shown = [
        BoardTrial(one.recipe, one.command, one.date, one.judged, f"results/{one.name}.json", one.setting)
        for one in ordered
    ]
    return board_page(board_rows(shown, "recipes/"), "the trials stored in docs/results")


def board_page(rows: Sequence[BoardRow], source: str) -> str:
    """The page of some rows.

    Args:
        rows: As from `board_rows`.
        source: Where they come from, in words.
    """
    words = [row.word for row in rows]
    counts = [(word, words.count(word)) for word in ORDER if word in words]
    systems = len({(row.recipe, row.system) for row in rows})
    return render("board.html.j2", {"rows": rows, "counts": counts, "systems": systems, "source": source})


def measured_trials(outputs: Iterable[Path], board: Path) -> tuple[list[BoardTrial], int]:
    """The trials of this machine.

    Args:
        outputs: Folders of runs.
        board: Where the board will lie, for links.

    Returns:
        Those with an answer, by recipe, the newest first; and how many have none yet.
    """
    trials, unanswered = [], 0
    folders = {path.parent.resolve(): path.parent for one in outputs for path in one.glob("*/trials/*/manifest.json")}
    for folder in folders.values():
        if not (folder / RESULTS).exists():
            unanswered += 1
            continue
        try:
            trials.append(_read(folder, board))
        except (OSError, UserError) as error:
            note(f"warning: {folder} is left out: {error}")
    newest = sorted(trials, key=lambda trial: trial.date, reverse=True)
    by_recipe = groupby(sorted(newest, key=lambda trial: trial.recipe), key=lambda trial: trial.recipe)
    return [trial for _, group in by_recipe for trial in group], unanswered


def _read(folder: Path, board: Path) -> BoardTrial:
    manifest, (judged, _) = manifests.read(folder), read_results(folder)
    ends = [RunFolder(manifests.outputs_of(folder) / cell.folder).status().get("finished") for cell in manifest.cells]
    date = max((end for end in ends if end), default=manifest.created)[:10]
    report = folder / "report.html"
    link = quote(os.path.relpath(report, board.absolute().parent)) if report.exists() else ""
    shared = [word for word in manifest.cells[0].overrides if all(word in cell.overrides for cell in manifest.cells)]
    return BoardTrial(manifest.recipe, manifest.command, date, judged, link, setting_of(shared))
