"""What a folder or hub name holds, as far as its small files show. Imports no torch."""

import json
import os
from pathlib import Path
from typing import Any

from recipes.core.storage import hub
from recipes.core.storage.files import home_path

RUN_FILES = ("config.yaml", "status.json")
# Folder of a run that holds its model as `from_pretrained` takes it; in that, adapters by themselves, and of a caption
# model that no class of transformers is, what it is and its language model.
HF, ADAPTER = "hf", "adapter"
CAPTION_MODEL, LANGUAGE_MODEL = "caption_model.json", "language_model"
PROJECTION = "projection.safetensors"  # beside an encoder: "weight" [width, d] of a linear map of its states
HEAD, CLASSES = "head.safetensors", "classes.json"  # of a classifier, and what its rows stand for


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run of ours."""
    return all((folder / name).is_file() for name in RUN_FILES)


def run_of(folder: Path) -> Path | None:
    """The run that a folder stands for: it is that of the run, or the one in it that holds its model; None for others.

    Both stand for the same model, so whatever asks for one of them asks here.
    """
    if is_run(folder):
        return folder
    folder = Path(os.path.abspath(folder))  # "." may be the one in a run; a link is not resolved
    return folder.parent if folder.name == HF and is_run(folder.parent) else None


def kinds_of(path: str, key: str) -> tuple[str, ...]:
    """What a folder or hub name may be taken for: the `model_type` in its config.json; of a run `run of RECIPE`, then
    the type of the model that it left. Empty if neither is there.

    Args:
        path: Folder or hub name; of the latter the small files are downloaded.
        key: The config key that it came from, for messages.

    Raises:
        UserError: a hub name that cannot be had.
    """
    folder = home_path(path)
    if not folder.exists() and hub.is_name(path):
        folder = hub.download(path, key, weights=False)
    run = run_of(folder)
    kind = str(_read_config(run / HF if run else folder).get("model_type", ""))
    return tuple(one for one in (f"run of {_recipe_of(run)}" if run else "", kind) if one)


def model_config(path: str) -> dict[str, Any]:
    """The config.json of a local folder, or of the model of a run; empty if it cannot be read."""
    return _read_config(model_folder(path))


def model_folder(path: str) -> Path:
    """The folder of a model's files: the one that is named, or where the run that is named has left them."""
    folder = home_path(path)
    return folder / HF if is_run(folder) else folder


def _read_config(folder: Path) -> dict[str, Any]:
    """What a folder's config.json says; empty if it cannot be read, as whoever loads it says what is wrong with it."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _recipe_of(folder: Path) -> str:
    import yaml

    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    return str(content.get("recipe", "")) if isinstance(content, dict) else ""
