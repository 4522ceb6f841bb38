"""Commands that compute nothing start without torch, and read nothing twice."""

import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli import app
from recipes.core.config import compose, registry
from recipes.core.runs import records
from recipes.core.statistics import claims
from recipes.core.trial import cells
from recipes.core.trial import manifest as manifests
from recipes.core.trial.conclude import conclude
from tests.cli.conftest import Ended, in_process
from tests.finished import finished_run

KEYS = ("budget=smoke", "tracker=none", "trainer.device=cpu", "trainer.threads=1")
# An import of what is None in `sys.modules` is an ImportError.
CODE = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from cli.app import main
print([main(words.split()) for words in sys.argv[1:]], file=sys.stderr)
"""


def without_torch(*commands: str) -> str:
    return in_process("-c", CODE, *commands, environment=dict(os.environ)).stderr.splitlines()[-1]


def test_what_was_measured_is_shown_and_a_finished_run_reused_without_torch(tmp_path: Path) -> None:
    keys = [*KEYS, f"outputs={tmp_path}"]
    for arm in ("prior", "ntp"):
        finished_run(compose.compose("prior", [*keys, f"arm={arm}"]), 0)
    run = f"run prior {' '.join(keys)} arm=prior"
    trial = f"trial prior {' '.join(keys)} --arms prior,ntp --seeds 1 --launcher local"
    commands = [
        f"{run} --dry-run",
        run,
        run,
        f"{trial} --dry-run",
        f"runs --outputs {tmp_path}",
        f"compare prior --outputs {tmp_path}",
        f"report prior --outputs {tmp_path}",
        "list prior",
    ]
    assert without_torch(*commands) == str([0] * len(commands))
    assert "prior minus ntp" in next(tmp_path.glob("prior/prior/*/report.html")).read_text()


def test_every_recipe_is_planned_without_torch(tmp_path: Path) -> None:
    commands = [f"run {name} trainer.device=cpu outputs={tmp_path} --dry-run" for name in registry.recipe_names()]
    assert without_torch(*commands) == str([0] * len(commands))
    assert not list(tmp_path.iterdir())


def test_a_selection_of_documents_is_made_without_torch(tmp_path: Path) -> None:
    (tmp_path / "pool.jsonl").write_text(
        "".join(f'{{"text": "sea wave {n}"}}\n{{"text": "hill {n}"}}\n' for n in range(9))
    )
    (tmp_path / "target.jsonl").write_text('{"text": "sea wave"}\n')
    data = f"data.source={tmp_path}/pool.jsonl data.target={tmp_path}/target.jsonl data.split=all"
    run = f"run dsir {data} select.n=5 budget=smoke tracker=none outputs={tmp_path}/runs"
    assert without_torch(run, run, f"run dsir {data} arm=dsir_topk select.n=5 tracker=none outputs={tmp_path}") == str(
        [0] * 3
    )
    assert len(next(tmp_path.glob("runs/dsir/dsir/*/selection.jsonl")).read_text().splitlines()) == 5


def test_a_report_is_drawn_again_only_beside_a_newer_baseline(tmp_path: Path) -> None:
    keys = [*KEYS, f"outputs={tmp_path}"]
    folder = finished_run(compose.compose("prior", keys), 0)
    assert app.main(["run", "prior", *keys]) == 0
    page = folder / "report.html"
    page.write_text("of before")
    assert app.main(["run", "prior", *keys]) == 0 and page.read_text() == "of before"
    finished_run(compose.compose("prior", [*keys, "arm=ntp"]), 0)
    assert app.main(["run", "prior", *keys]) == 0 and "prior minus ntp" in page.read_text()


def test_the_pages_of_a_trial_are_drawn_when_somebody_asks(tmp_path: Path, steelyard: Callable[..., Ended]) -> None:
    keys = [*KEYS, f"outputs={tmp_path}"]
    planned = cells.trial_cells("prior", keys, ["prior", "ntp"], [0, 1])
    folder, manifest, _ = manifests.plan("trial", "prior", planned, "steelyard trial prior", 1)
    manifests.write(folder, manifest)
    for cell in manifest.cells:
        finished_run(compose.compose("prior", [*cell.overrides]), cell.seed)
    conclude(folder)
    page = folder / "report.html"
    assert f"steelyard report {folder}" in page.read_text() and "report.html" not in page.read_text()
    assert "pages of runs  4" in steelyard("report", str(folder)).out
    links = re.findall(r'href="(\.\./[^"]*)"', page.read_text())
    assert len(links) == 4 and all(link.endswith("/report.html") and (folder / link).is_file() for link in links)
    assert "prior minus ntp" in (folder / links[0]).read_text()


def test_what_a_run_left_is_read_once(
    tmp_path: Path, steelyard: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished run beside its baseline: the config composed once, each of the two folders read once."""
    keys = [*KEYS, f"outputs={tmp_path}"]
    for arm in ("prior", "ntp", "random"):
        finished_run(compose.compose("prior", [*keys, f"arm={arm}"]), 0)
    counts = count_calls(monkeypatch, compose.compose, records.read_identity, records.final_metrics, claims.card_of)
    ended = steelyard("run", "prior", *keys)
    assert ended.code == 0 and "arm ntp" in ended.out
    assert counts == {"compose": 1, "read_identity": 2, "final_metrics": 2, "card_of": 1}


def test_the_cells_of_an_arm_are_composed_once(
    tmp_path: Path, steelyard: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of further seeds differ in a plain value, and are built from the first."""
    counts = count_calls(monkeypatch, compose.draft)
    words = ("trial", "prior", *KEYS, f"outputs={tmp_path}", "--arms", "prior,ntp,random", "--seeds", "2", "--dry-run")
    assert steelyard(*words).code == 0
    assert counts == {"draft": 3}


def count_calls(monkeypatch: pytest.MonkeyPatch, *functions: Callable[..., Any]) -> Counter[str]:
    """How often functions are called from now on, by name, wherever they were imported."""
    counts: Counter[str] = Counter()
    for function in functions:

        def counted(*args: Any, function: Callable[..., Any] = function, **kwargs: Any) -> Any:
            counts[function.__name__] += 1
            return function(*args, **kwargs)

        for module in [one for name, one in sys.modules.items() if name.partition(".")[0] in ("cli", "recipes")]:
            for name in [name for name, value in vars(module).items() if value is function]:
                monkeypatch.setattr(module, name, counted)
    return counts
