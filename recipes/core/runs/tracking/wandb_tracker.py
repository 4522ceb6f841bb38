"""W&B: online, offline or disabled; its own files lie in `wandb/` of the run folder."""

import base64
import html
import io
import netrc
import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from recipes.core.config.settings import TrackerConfig
from recipes.core.runs.tracking.tracker import Tracked, Tracker, run_id

KIND = "wandb"
NO = ("", "0", "false", "f", "no", "n", "off")
WANDB_HOST = "https://api.wandb.ai"
# Where the user wants W&B to stage the files of tables, read before a run sets its own.
DATA_DIR = os.environ.get("WANDB_DATA_DIR")


class WandbTracker(Tracker):
    """A W&B run.

    Args:
        run: What `wandb.init` returned.
    """

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of one step; W&B leaves out steps that it has, so a resumed run goes on in its curve."""
        self._run.log({**metrics, "step": step}, step=step)

    def summary(self, metrics: dict[str, float]) -> None:
        """Final metrics."""
        self._run.summary.update({f"final/{k}": v for k, v in metrics.items()})

    def image(self, name: str, path: Path) -> None:
        """A picture."""
        import wandb

        self._run.log({name: wandb.Image(str(path))})

    def heatmap(self, name: str, heatmap: dict[str, Any]) -> None:
        """Texts beside their images, each token shaded by its weight."""
        import wandb
        from PIL import Image

        table = wandb.Table(columns=["id", "image", "text", "largest weight", "share below 0.05"])
        for example in heatmap["examples"]:
            png = base64.b64decode(example["image"].partition(",")[2])
            image = wandb.Image(Image.open(io.BytesIO(png))) if png else None  # texts have none
            weights = [token["weight"] for token in example["tokens"]]
            low = sum(weight < 0.05 for weight in weights) / len(weights)
            shaded = wandb.Html(text_html(example["tokens"]))
            table.add_data(example["id"], image, shaded, max(weights), low)
        self._run.log({name: table})

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """A table of texts and numbers."""
        import wandb

        self._run.log({name: wandb.Table(columns=[*columns], data=rows)})

    def finish(self, success: bool) -> None:
        """Flush and close; W&B shows a run without success as failed."""
        self._run.finish(exit_code=0 if success else 1)


def start(tracked: Tracked) -> WandbTracker:
    """The W&B run of a folder, started or gone on with; its files go to `wandb/` in the folder."""
    config, folder = tracked.config, tracked.folder
    os.environ.setdefault("WANDB_SILENT", "true")
    # An offline run can be synced as long as its folder stands: what tables show lies in it, not in the home.
    os.environ["WANDB_DATA_DIR"] = DATA_DIR or str(folder.resolve() / "wandb")
    import wandb

    mode: Literal["online", "offline"] = "online" if wandb_mode(config) == "online" else "offline"
    name, _ = run_id(folder, KIND)
    run = wandb.init(
        project=config.project,
        entity=config.entity,
        name=tracked.name,
        notes=config.notes,
        tags=list(config.tags),
        id=name,
        resume="allow" if mode == "online" else None,
        group=config.group or tracked.group,
        mode=mode,
        dir=str(folder),
        config=tracked.about,
        settings=wandb.Settings(silent=True, console="off", init_timeout=30),
    )
    return WandbTracker(run)


def wandb_mode(config: TrackerConfig) -> str:
    """ "online", "offline" or "disabled"; `auto` follows W&B's variables, else is online where a login is found."""
    if config.mode != "auto":
        return config.mode
    if not is_tracked():
        return "disabled"
    if (asked := os.environ.get("WANDB_MODE")) in ("online", "offline", "disabled"):
        return asked
    return "online" if has_login() else "offline"


def is_tracked() -> bool:
    """Whether W&B may be used at all: not where `WANDB_DISABLED` says yes."""
    return os.environ.get("WANDB_DISABLED", "").strip().lower() in NO


def has_login() -> bool:
    """Whether an API key is at hand: in the environment or in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", WANDB_HOST)).netloc
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def text_html(tokens: list[dict[str, Any]]) -> str:
    """A text as HTML, each token's background as strong as its weight."""
    top = max(token["weight"] for token in tokens) or 1.0
    spans = []
    for token in tokens:
        shade = f"background: rgba(230, 150, 30, {token['weight'] / top:.2f})"
        text = html.escape(token["text"])
        spans.append(f'<span title="weight {token["weight"]:.2f}" style="{shade}">{text}</span>')
    return f'<div style="font-family: monospace">{"".join(spans)}</div>'
