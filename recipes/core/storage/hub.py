"""Names on the Hugging Face hub, `owner/name` or `owner/name@revision`: which commit they mean, and its files.

Imports no torch, so that the identity of a run can cover the commit.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from recipes.core.errors import UserError
from recipes.core.storage.model_files import first_line

# A name alone ("gpt2") is one of the hub's oldest models. The first character keeps paths out.
_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@(?P<revision>[\w./-]+))?")
_SMALL = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
_WEIGHTS = ("model.safetensors", "model-*.safetensors")
_BELOW = "*/*"  # `original/`, `onnx/`: other forms of the same weights
SECONDS = 10.0


class _Resolved(NamedTuple):
    """A hub name with the commit that it means; not `online` if only the local cache could be asked."""

    repo: str
    commit: str
    online: bool


def is_name(text: str) -> bool:
    """Whether a text has the form of a hub name and is no file or folder here."""
    return _NAME.fullmatch(text) is not None and not Path(text).exists()


def commit(name: str, key: str) -> str:
    """The commit that a hub name means now, 40 hex digits; asked once per process, so that all of a run agrees.

    Without network it is the one that was downloaded last.

    Args:
        name: `owner/name`, with `@revision` if it is not the newest.
        key: The config key that it came from, for messages.

    Raises:
        UserError: the hub has no such model, or cannot be reached and nothing was downloaded before.
    """
    return _resolved(name, key).commit


def download(name: str, key: str, weights: bool) -> Path:
    """The folder of a hub name in the hub's local cache, downloaded first if it is not there.

    Args:
        name: As in `commit`.
        key: The config key that it came from, for messages.
        weights: Fetch its safetensors too, not only configuration and tokenizer.

    Raises:
        UserError: as for `commit`.
    """
    resolved = _resolved(name, key)
    files = (*_SMALL, *(_WEIGHTS if weights else ()))
    try:
        return _snapshot(resolved.repo, resolved.commit, files, resolved.online)
    except Exception as error:  # of the network, the hub's answers and the cache's files
        raise _refusal(error, name, key) from error


@cache
def _resolved(name: str, key: str) -> _Resolved:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    match = _NAME.fullmatch(name)
    if match is None:
        raise _refusal(HFValidationError(), name, key)
    repo, revision = match["repo"], match["revision"]
    try:
        return _Resolved(repo, str(HfApi().model_info(repo, revision=revision, timeout=SECONDS).sha), True)
    except Exception as error:
        try:  # what was downloaded needs neither network nor a token
            return _Resolved(repo, _snapshot(repo, revision, ["config.json"], online=False).name, False)
        except Exception:
            raise _refusal(error, name, key) from error


def _snapshot(repo: str, revision: str | None, files: Sequence[str], online: bool) -> Path:
    """The folder of a revision in the hub's cache; its name is the commit."""
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    options: dict[str, Any] = {"allow_patterns": list(files), "ignore_patterns": [_BELOW], "etag_timeout": SECONDS}
    return Path(huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=not online, **options))


def _refusal(error: Exception, name: str, key: str) -> UserError:
    return UserError(_why(error), f"{key}={name}", f"type {key}=FOLDER with config.json and *.safetensors in it")


def _why(error: Exception) -> str:
    """Why a model cannot be had, in words that say what can be done about it."""
    from huggingface_hub import errors

    offline = "is no folder here, and without network only a model that was downloaded before can be had"
    kinds: dict[str, tuple[type[Exception], ...]] = {
        "is a gated model of the hub: accept its terms there, then type `hf auth login`": (errors.GatedRepoError,),
        "the hub has no such revision of this model": (errors.RevisionNotFoundError,),
        "is no folder here, and the hub has no such model (or it is private)": (errors.RepositoryNotFoundError,),
        "is no folder here and no name that the hub allows": (errors.HFValidationError,),
        offline: (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled),
    }
    for text, types in kinds.items():
        if isinstance(error, types):
            return text
    # The HTTP library behind the hub's client is its own affair; all of them call it so.
    if any(kind.__name__ == "TransportError" for kind in type(error).__mro__):
        return offline
    return f"cannot be fetched from the hub: {first_line(error)}"
