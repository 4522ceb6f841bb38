"""A trial as docs/results keeps it: what its tables, verdicts and the line about how it was measured need."""

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.config.registry import ROOT
from recipes.core.config.settings import Claim
from recipes.core.errors import UserError
from recipes.core.spelling import did_you_mean
from recipes.core.statistics.intervals import paired_t
from recipes.core.storage.files import finite, read_json, write_text
from recipes.core.trial.result import Judged, read_judged

RESULTS = ROOT / "docs" / "results"
# Words that change no result, or differ between cells. Threads are added to every cell.
NO_SETTING = ("-", "launcher", "tracker", "outputs=", "arm=", "label=", "seed=", "trainer.threads=")


@dataclass(frozen=True)
class StoredTrial:
    """A measured trial.

    Attributes:
        name: `RECIPE/NAME`: where it lies below docs/results, without ".json".
        recipe: Name of the recipe.
        version: Version of the recipe that was measured.
        command: What was typed, without paths of the machine.
        commits: Of the checkout, of all runs; "+changes" where files differed from it.
        date: Day on which the last run ended, ISO.
        seconds: From the start of the first run to the end of the last.
        runs: Number of runs.
        machines: What the runs were measured on: device, GPU, processor, cores, threads, torch, python.
        seeds: Of every arm.
        rows: The claim's metric of every arm as texts by column: `answer_rows`.
        judged: Every claim with its verdict and price; the first one leads.
        metrics: Metric -> {"title", "higher_is_better"}.
        values: Arm -> metric -> value of each seed; None where a seed has no finite one.
        differences: Arm -> metric -> [estimate, low, high] beside the baseline of the claim that leads.
    """

    name: str
    recipe: str
    version: int
    command: str
    commits: tuple[str, ...]
    date: str
    seconds: float
    runs: int
    machines: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]
    rows: tuple[dict[str, str], ...]
    judged: tuple[Judged, ...]
    metrics: dict[str, dict[str, Any]]
    values: dict[str, dict[str, list[float | None]]]
    differences: dict[str, dict[str, list[float]]]

    @property
    def claim(self) -> Claim:
        """The claim that leads."""
        return self.judged[0].claim

    @cached_property
    def setting(self) -> str:
        """The keys that were typed, `data=question-canvases`; empty for the defaults."""
        return setting_of(shlex.split(self.command))

    def check(self, arm: str, metric: str) -> None:
        """Raises UserError if the trial has no such arm or metric."""
        for what, name, names in (("arm", arm, list(self.values)), ("metric", metric, list(self.metrics))):
            if name not in names:
                raise UserError(f"the stored trial has no {what} {name!r}", self.name, did_you_mean(name, names))

    def seed_values(self, arm: str, metric: str) -> np.ndarray:
        """[seeds measured], the finite values."""
        self.check(arm, metric)
        return np.array([value for value in self.values[arm].get(metric, []) if value is not None])

    def difference(self, arm: str, metric: str, baseline: str) -> tuple[float, float, float] | None:
        """Arm minus baseline with the ends of its interval; None for the baseline itself and where one is not measured.

        Beside the claim's baseline it is that of the trial's report, beside others the paired t interval over seeds.
        """
        self.check(arm, metric)
        self.check(baseline, metric)
        if arm == baseline:
            return None
        if baseline == self.claim.baseline:
            stored = self.differences.get(arm, {}).get(metric)
            return (stored[0], stored[1], stored[2]) if stored else None
        unmeasured = [None] * len(self.seeds)
        mine, theirs = (self.values[name].get(metric, unmeasured) for name in (arm, baseline))
        pairs = np.array([pair for pair in zip(mine, theirs, strict=True) if None not in pair], dtype=float)
        if len(pairs) < 2:
            return None
        interval = paired_t(pairs[:, 0] - pairs[:, 1])
        return interval.estimate, interval.low, interval.high


def setting_of(words: Iterable[str]) -> str:
    """What the words of a command, or the keys of cells, choose: `data=question-canvases`; empty for the defaults."""
    return " ".join(word for word in words if "=" in word and not word.startswith(NO_SETTING))


def write_trial(trial: StoredTrial, folder: Path = RESULTS) -> Path:
    """Write a trial to `folder/RECIPE/NAME.json`, lists of numbers on one line."""
    tree = asdict(trial)
    del tree["name"]
    text = json.dumps(finite(tree), indent=1, ensure_ascii=False, allow_nan=False)
    text = re.sub(r"\[([^\[\]{}\"]*)\]", lambda match: f"[{' '.join(match[1].split())}]", text)
    path = folder / f"{trial.name}.json"
    write_text(path, text + "\n")
    return path


def read_trial(name: str, folder: Path = RESULTS) -> StoredTrial:
    """The trial that is stored as `folder/NAME.json`.

    Raises:
        UserError: there is none, or it is not what `write_trial` writes.
    """
    path = folder / f"{name}.json"
    try:
        tree = read_json(path)
        tree["judged"] = tuple(read_judged(one) for one in tree["judged"])
        for key in ("commits", "machines", "seeds", "rows"):
            tree[key] = tuple(tree[key])
        return StoredTrial(name=name, **tree)
    except FileNotFoundError as error:
        hint = did_you_mean(name, trial_names(folder))
        raise UserError(f"there is no stored trial {name!r}", str(path), hint) from error
    except (KeyError, TypeError) as error:
        raise UserError("is no stored trial", str(path), "store it again: docs/results/README.md") from error


def trial_names(folder: Path = RESULTS) -> list[str]:
    """Names of all stored trials, sorted."""
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.json"))


def trials_of(recipe: str, trials: Sequence[StoredTrial]) -> list[StoredTrial]:
    """The trials of a recipe: that of its defaults first, the others by name."""
    return sorted((one for one in trials if one.recipe == recipe), key=lambda one: (one.setting != "", one.name))
