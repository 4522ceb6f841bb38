"""TensorBoard: event files in `tensorboard/` of the run folder. `tensorboard --logdir outputs` shows all runs."""

import html
from pathlib import Path
from typing import Any

from recipes.core.runs.tracking.tracker import Tracked, Tracker, flat


class TensorBoardTracker(Tracker):
    """Scalars by step, pictures, tables as text.

    Args:
        tracked: What is tracked.
    """

    def __init__(self, tracked: Tracked) -> None:
        self._folder = tracked.folder / "tensorboard"
        self._about = {"name": tracked.name, "tags": ", ".join(tracked.config.tags), "notes": tracked.config.notes}
        self._about |= flat(tracked.about)
        self._step = 0
        self._open: Any = None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of one step."""
        writer = self._writer(step)
        self._step = step
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    def summary(self, metrics: dict[str, float]) -> None:
        """Final metrics, at the last step."""
        for name, value in metrics.items():
            self._writer().add_scalar(f"final/{name}", value, self._step)

    def image(self, name: str, path: Path) -> None:
        """A picture."""
        import numpy as np
        from PIL import Image

        pixels = np.asarray(Image.open(path).convert("RGB"))
        self._writer().add_image(name, pixels, self._step, dataformats="HWC")

    def heatmap(self, name: str, heatmap: dict[str, Any]) -> None:
        """Texts, each token followed by its weight."""
        for example in heatmap["examples"]:
            words = " ".join(f"{token['text']}`{token['weight']:.2f}`" for token in example["tokens"])
            self._writer().add_text(f"{name}/{example['id']}", words, self._step)

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """A table in Markdown."""
        self._writer().add_text(name, markdown(columns, rows), self._step)

    def finish(self, success: bool) -> None:
        """Flush and close."""
        self._writer().add_text("state", "finished" if success else "not finished", self._step)
        self._writer().close()

    def _writer(self, step: int = 0) -> Any:
        """The writer. Its first step is where the run goes on: what was logged behind the last checkpoint is void."""
        if self._open is None:
            from torch.utils.tensorboard import SummaryWriter

            resumed = step if self._folder.exists() else None
            self._open = SummaryWriter(str(self._folder), purge_step=resumed)  # type: ignore[no-untyped-call]
            self._open.add_text("config", markdown(["key", "value"], [[*item] for item in self._about.items()]), 0)
        return self._open


def markdown(columns: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown; what a cell holds is text."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return html.escape("" if value is None else str(value), quote=False).replace("|", "&#124;").replace("\n", " ")
