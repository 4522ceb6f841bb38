"""Names on the Hugging Face hub, `owner/name` or `owner/name@revision`: which commit they mean, and a model's files.

A data set of several subsets is named `owner/name:subset` or `owner/name:subset@revision`.

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
_DATA_NAME = re.compile(_NAME.pattern.replace("(?:@", r"(?::(?P<subset>[\w.-]+))?(?:@"))
_SMALL = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
_WEIGHTS = ("model.safetensors", "model-*.safetensors")
# `original/`, `onnx/`: other forms of the same weights. In folders with a number lies how a sentence encoder pools.
_BELOW = "[!0-9]*/*"
SECONDS = 10.0
MODEL, DATA = "model", "dataset"  # as the hub calls them
_WORDS = {
    MODEL: ("model", "type {key}=FOLDER with config.json and *.safetensors in it"),
    DATA: ("data set", "a hub name needs network; a local file or folder must exist"),
}


class Commit(NamedTuple):
    """What a name means, 40 hex digits; not `online` if only what was downloaded could be asked."""

    id: str
    online: bool


class DataName(NamedTuple):
    """A data set of the hub; without a subset it has only one, or one that is meant where none is named."""

    repo: str
    subset: str | None
    revision: str | None


def data_name(text: str) -> DataName | None:
    """What the name of a data set says; None for what has another form."""
    match = _DATA_NAME.fullmatch(text)
    return DataName(match["repo"], match["subset"], match["revision"]) if match else None


def is_name(text: str) -> bool:
    """Whether a text has the form of a hub name and is no file or folder here."""
    return _NAME.fullmatch(text) is not None and not Path(text).exists()


def commit(name: str, key: str, kind: str = MODEL) -> Commit:
    """The commit that a hub name means now; asked once per process, so that all of a run agrees.

    Without network it is the one that was downloaded last.

    Args:
        name: `owner/name` or `name`, with `@revision` if it is not the newest; of data with `:subset` before it.
        key: The config key that it came from, for messages.
        kind: `MODEL` or `DATA`.

    Raises:
        UserError: the hub has no such thing, or cannot be reached and nothing was downloaded before.
    """
    from huggingface_hub.errors import HFValidationError

    match = (_DATA_NAME if kind == DATA else _NAME).fullmatch(name)
    answer = _commit(match["repo"], match["revision"], kind) if match else HFValidationError()
    if isinstance(answer, Commit):
        return answer
    raise _refusal(answer, name, key, kind) from answer


def download(name: str, key: str, weights: bool) -> Path:
    """The folder of a hub name in the hub's local cache, downloaded first if it is not there.

    Args:
        name: As in `commit`.
        key: The config key that it came from, for messages.
        weights: Fetch its safetensors too, not only configuration and tokenizer.

    Raises:
        UserError: as for `commit`.
    """
    revision = commit(name, key)
    files = (*_SMALL, *(_WEIGHTS if weights else ()))
    try:
        return _snapshot(name.partition("@")[0], revision, files)
    except Exception as error:  # of the network, the hub's answers and the cache's files
        raise _refusal(error, name, key, MODEL) from error


@cache
def _commit(repo: str, revision: str | None, kind: str) -> Commit | Exception:
    """The commit, or why there is none: a hub that cannot be reached is not asked again."""
    from huggingface_hub import HfApi

    try:
        return Commit(str(HfApi().repo_info(repo, repo_type=kind, revision=revision, timeout=SECONDS).sha), True)
    except Exception as error:  # what was downloaded needs neither network nor a token
        last = _local_commit(repo, revision or "main", kind)
        return Commit(last, False) if last else error


def _local_commit(repo: str, revision: str, kind: str) -> str | None:
    """The commit of a revision that lies in the local cache of the hub, or of `datasets`."""
    import huggingface_hub.constants

    folder = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"{kind}s--{repo.replace('/', '--')}"
    if (reference := folder / "refs" / revision).is_file():
        return reference.read_text(encoding="utf-8").strip()
    if (folder / "snapshots" / revision).is_dir():
        return revision
    if kind != DATA:
        return None
    import datasets.config

    folder = Path(datasets.config.HF_DATASETS_CACHE) / repo.replace("/", "___")
    paths = sorted((path for path in folder.glob("*/*/*") if path.is_dir()), key=lambda path: path.stat().st_mtime)
    commits = [path.name for path in paths if revision in ("main", path.name)]
    return commits[-1] if commits else None


def _snapshot(repo: str, commit: Commit, files: Sequence[str]) -> Path:
    """The folder of a model's commit in the hub's cache."""
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    options: dict[str, Any] = {"allow_patterns": list(files), "ignore_patterns": [_BELOW], "etag_timeout": SECONDS}
    options |= {"revision": commit.id, "local_files_only": not commit.online}
    return Path(huggingface_hub.snapshot_download(repo, **options))


def _refusal(error: Exception, name: str, key: str, kind: str) -> UserError:
    noun, hint = _WORDS[kind]
    return UserError(_why(error, noun), f"{key}={name}", hint.format(key=key))


def _why(error: Exception, noun: str) -> str:
    """Why a model or data set cannot be had, in words that say what can be done about it."""
    from huggingface_hub import errors

    offline = f"is no folder here, and without network only a {noun} that was downloaded before can be had"
    kinds: dict[str, tuple[type[Exception], ...]] = {
        f"is a gated {noun} of the hub: accept its terms there, then type `hf auth login`": (errors.GatedRepoError,),
        f"the hub has no such revision of this {noun}": (errors.RevisionNotFoundError,),
        f"is no folder here, and the hub has no such {noun} (or it is private)": (errors.RepositoryNotFoundError,),
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
