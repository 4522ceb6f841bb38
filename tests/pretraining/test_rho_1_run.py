"""`rho-1` end to end: every arm on a file of the user's, and what the selection does to planted noise."""

from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import compose
from tests.core.data.text.test_mixture import write_corpus

TINY = ("model.width=16", "model.vocabulary=300", "data.length=16", "trainer.batch_size=8", "trainer.max_steps=12")
QUICK = ("budget=smoke", "tracker=none", "trainer.threads=1", "reference.steps=60", "noise.share=0.3", "noise.span=2")


@pytest.mark.parametrize("arm", compose.arms("rho-1", ["data.path=mine.jsonl"]))
def test_every_arm_on_a_file_of_the_users(arm: str, tmp_path: Path) -> None:
    words = [*QUICK, *TINY, f"data.path={write_corpus(tmp_path)}", f"outputs={tmp_path / 'runs'}", f"arm={arm}"]
    outcome = runner.run(compose.compose("rho-1", words), False, "steelyard run rho-1")
    metrics = outcome.metrics
    assert {"log_ppl/sea", "log_ppl/land", "log_loss", "log_loss/auc", "worst_domain"} <= metrics.keys()
    assert ("noise/auroc" in metrics) == (arm != "uniform")
    kept = metrics["kept/noise"]
    # The reference gives up planted tokens; to the model they are those of the highest loss.
    lowest, highest = {"rho1": (0, 0.5), "uniform": (1, 1), "random": (0.5, 0.7), "top_loss": (0.55, 1)}[arm]
    assert lowest <= kept <= highest
    assert "noise" in (outcome.folder / "heatmap.json").read_text()
