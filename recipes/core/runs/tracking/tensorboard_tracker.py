"""TensorBoard: event files in `tensorboard/` of the run folder. `tensorboard --logdir outputs` shows all runs."""

import html
from pathlib import Path
from typing import Any

from recipes.core.runs.tracking.tracker import Tracked, Tracker, texts


class TensorBoardTracker(Tracker):
    """Scalars by step, pictures, tables as text.

    Args:
        tracked: What is tracked.
    """

    def __init__(self, tracked: Tracked) -> None:
        self._folder = tracked.folder / "tensorboard"
        self._about = {"name": tracked.name, "tags": ", ".join(tracked.config.tags), "notes": tracked.config.notes}
        self._about |= texts(tracked.about)
        self._steps = tracked.steps
        self._open: Any = None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of one step. What a run that is gone on with had logged from its first step on is void."""
        writer = self._writer(purge_step=step)
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    def summary(self, metrics: dict[str, float]) -> None:
        """Final metrics, at the last step."""
        for name, value in metrics.items():
            self._writer().add_scalar(f"final/{name}", value, self._steps)

    def image(self, name: str, path: Path) -> None:
        """A picture."""
        import numpy as np
        from PIL import Image

        pixels = np.asarray(Image.open(path).convert("RGB"))
        self._writer().add_image(name, pixels, self._steps, dataformats="HWC")

    def heatmap(self, name: str, heatmap: dict[str, Any]) -> None:
        """Texts, each token followed by its weight."""
        for example in heatmap["examples"]:
            words = " ".join(f"{token['text']}`{token['weight']:.2f}`" for token in example["tokens"])
            self._writer().add_text(f"{name}/{example['id']}", words, self._steps)

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """A table in Markdown."""
        self._writer().add_text(name, markdown(columns, rows), self._steps)

    def finish(self, success: bool) -> None:
        """Flush and close; what ended before it sent anything leaves what was there."""
        if self._open is not None:
            self._open.add_text("state", "finished" if success else "not finished", self._steps)
            self._open.close()

    def _writer(self, purge_step: int | None = None) -> Any:
        """The writer; one that is opened by metrics of a step in a folder that has some hides those from there on."""
        if self._open is None:
            from torch.utils.tensorboard import SummaryWriter

            purge_step = purge_step if self._folder.exists() else None
            self._open = SummaryWriter(str(self._folder), purge_step=purge_step)  # type: ignore[no-untyped-call]
            self._open.add_text("config", markdown(["key", "value"], [[*item] for item in self._about.items()]), 0)
        return self._open


def markdown(columns: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown; what a cell holds is text."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return html.escape("" if value is None else str(value), quote=False).replace("|", "&#124;").replace("\n", " ")
