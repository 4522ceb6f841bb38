"""Trackers: W&B beside the run folder. A tracker never breaks a run: it fails once, says so, and is gone."""

import base64
import html
import io
import netrc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from recipes.core.config.settings import TrackerConfig
from recipes.core.messages import note

NO = ("", "0", "false", "f", "no", "n", "off")
WANDB_HOST = "https://api.wandb.ai"
# Where the user wants W&B to stage the files of tables, read before a run sets its own.
DATA_DIR = os.environ.get("WANDB_DATA_DIR")


class Tracker(Protocol):
    """Where metrics go besides the run folder."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of one step."""

    def summary(self, metrics: dict[str, float]) -> None:
        """Final metrics."""

    def image(self, name: str, path: Path) -> None:
        """A picture."""

    def heatmap(self, name: str, heatmap: dict[str, Any]) -> None:
        """Texts with one weight a token (content of `heatmap.json`), as a table with images."""

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """A table of texts and numbers."""

    def finish(self, success: bool) -> None:
        """Flush and close; records whether the run came to its end."""


class NullTracker:
    """The tracker of a run that has none: takes everything, does nothing."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Nothing."""

    def summary(self, metrics: dict[str, float]) -> None:
        """Nothing."""

    def image(self, name: str, path: Path) -> None:
        """Nothing."""

    def heatmap(self, name: str, heatmap: dict[str, Any]) -> None:
        """Nothing."""

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Nothing."""

    def finish(self, success: bool) -> None:
        """Nothing."""


class WandbTracker:
    """W&B, guarded: the first failure is reported once on stderr, after which nothing more is sent.

    Args:
        start: Starts the W&B run and returns it.
    """

    def __init__(self, start: Callable[[], Any]) -> None:
        self._run: Any = None
        self._failed = False
        self._guard(lambda: setattr(self, "_run", start()))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of one step."""
        self._guard(lambda: self._run.log({**metrics, "step": step}))

    def summary(self, metrics: dict[str, float]) -> None:
        """Final metrics."""
        self._guard(lambda: self._run.summary.update({f"final/{k}": v for k, v in metrics.items()}))

    def image(self, name: str, path: Path) -> None:
        """A picture."""

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Image(str(path))})

        self._guard(send)

    def heatmap(self, name: str, heatmap: dict[str, Any]) -> None:
        """Texts beside their images, each token shaded by its weight."""

        def send() -> None:
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

        self._guard(send)

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """A table of texts and numbers."""

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Table(columns=[*columns], data=rows)})

        self._guard(send)

    def finish(self, success: bool) -> None:
        """Flush and close; W&B shows a run without success as failed."""
        self._guard(lambda: self._run.finish(exit_code=0 if success else 1))

    def _guard(self, action: Callable[[], Any]) -> None:
        if self._failed:
            return
        try:
            action()
        # Whatever a tracker raises (its own errors, a dead service's OSError), the run is worth more.
        except Exception as error:
            self._failed = True
            first = (str(error).splitlines() or [""])[0]
            note(
                f"warning: W&B failed ({type(error).__name__}: {first}); the run goes on without it, "
                "metrics.jsonl has everything"
            )


def open_tracker(config: TrackerConfig, folder: Path, name: str, group: str, run_config: dict[str, Any]) -> Tracker:
    """The tracker that the config asks for.

    Args:
        config: Tracker settings.
        folder: Run folder; W&B's own files go to `wandb/` in it.
        name: Name of the run.
        group: What it is shown with unless the config says so.
        run_config: The resolved config, shown beside the run.
    """
    mode = wandb_mode(config)
    if mode == "disabled":
        return NullTracker()

    def start() -> Any:
        """The W&B run, started or gone on with."""
        os.environ.setdefault("WANDB_SILENT", "true")
        # An offline run can be synced as long as its folder stands: what tables show lies in it, not in the home.
        os.environ["WANDB_DATA_DIR"] = DATA_DIR or str(folder.resolve() / "wandb")
        import wandb

        return wandb.init(
            project=config.project,
            entity=config.entity,
            name=name,
            # One W&B run a folder: a resumed run goes on in it.
            id=name.replace("/", "-"),
            resume="allow" if mode == "online" else None,
            group=config.group or group,
            mode="online" if mode == "online" else "offline",
            dir=str(folder),
            config=run_config,
            settings=wandb.Settings(silent=True, console="off", init_timeout=30),
        )

    return WandbTracker(start)


def wandb_mode(config: TrackerConfig) -> str:
    """ "online", "offline" or "disabled"; `auto` follows W&B's variables, else is online where a login is found."""
    if config.name == "none":
        return "disabled"
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
