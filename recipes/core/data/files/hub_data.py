"""Data sets of the Hugging Face hub: which commit a name means, so that a run's identity can cover it."""

from functools import cache
from pathlib import Path

from recipes.core.data.files.sources import HUB_HINT, reason
from recipes.core.errors import UserError

SECONDS = 10.0


@cache
def commit(name: str, key: str) -> str:
    """The commit that the name of a data set means now; without network the one that was downloaded last.

    Args:
        name: `owner/name` or `name`.
        key: The config key that it came from, for messages.

    Raises:
        UserError: the hub has no such data set, or cannot be reached and nothing was downloaded before.
    """
    if online := pinned(name):
        return online
    if last := _downloaded(name):
        return last
    raise UserError(
        f"is no file or folder here, and the hub does not know it or cannot be reached: {_trouble.get(name, '')}",
        f"{key}={name}",
        HUB_HINT,
    )


_trouble: dict[str, str] = {}


@cache
def pinned(name: str) -> str | None:
    """The commit as the hub says it, to be asked for when the data is read; None if the hub does not answer."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(name, timeout=SECONDS).sha)
    except Exception as error:  # of the network and of the hub's answers
        _trouble[name] = reason(error)
        return None


def _downloaded(name: str) -> str | None:
    """The commit that lies in the local caches of the hub or of `datasets`."""
    import datasets.config
    import huggingface_hub.constants

    reference = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}" / "refs" / "main"
    if reference.is_file():
        return reference.read_text(encoding="utf-8").strip()
    folder = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")
    commits = sorted((path.stat().st_mtime, path.name) for path in folder.glob("*/*/*") if path.is_dir())
    return commits[-1][1] if commits else None
