"""Where pretrained weights come from: a local folder or a hub name, safetensors only, never pickled, no remote code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from recipes.core.errors import UserError

R = TypeVar("R")


def load_pretrained(load: Callable[..., R], path: str, key: str, **options: Any) -> R:
    """Call a `from_pretrained` of a model class on a folder or hub name, safetensors only.

    Args:
        load: The `from_pretrained`.
        path: Local folder or hub name.
        key: The config key it came from, for messages.
        options: Passed on.

    Raises:
        UserError: nothing is there, it cannot be fetched, or its weights are pickled.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        _refuse_pickles(folder, key)
    return load_files(load, path, key, use_safetensors=True, **options)


def load_files(load: Callable[..., R], path: str, key: str, **options: Any) -> R:
    """Call any `from_pretrained` on a folder or hub name; arguments as in `load_pretrained`.

    Raises:
        UserError: nothing is there, or it cannot be fetched.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir() and (folder.is_absolute() or path.startswith(".")):
        raise UserError("there is no such folder", where=f"{key}={path}", hint=f"type {key}=FOLDER or a hub name")
    try:
        return load(str(folder) if folder.is_dir() else path, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the model cannot be loaded: {str(error).splitlines()[0]}",
            where=f"{key}={path}",
            hint=f"without network, type {key}=FOLDER with config.json and *.safetensors in it",
        ) from error


def preprocessing(path: str) -> dict[str, Any]:
    """A checkpoint's `preprocessor_config.json`; empty if it has none."""
    from transformers.utils import cached_file

    found = cached_file(path, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    return dict(json.loads(Path(found).read_text(encoding="utf-8"))) if found else {}


def _refuse_pickles(folder: Path, key: str) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"refused: {pickles[0]} is pickled, and loading it could run any code",
            where=f"{key}={folder}",
            hint="convert it where you trust it: AutoModel.from_pretrained(F).save_pretrained(F) writes safetensors",
        )
    raise UserError(
        "the folder holds no *.safetensors", where=f"{key}={folder}", hint=f"type {key}=FOLDER of a saved model"
    )
