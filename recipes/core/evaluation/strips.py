"""Strips: examples in a row as images with a line above and below, to be put below those of other runs."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.storage.files import write_json

FILE = "strips.json"


@dataclass(frozen=True)
class Shot:
    """One example.

    Attributes:
        id: The same in every run that shows the example.
        title: Above the image; the same in every run (a question).
        note: Below it (what was answered).
        image: A data URI.
    """

    id: str
    title: str
    note: str
    image: str


@dataclass(frozen=True)
class Strip:
    """Examples as one run treats them.

    Attributes:
        name: Unique in the run.
        label: What sets it off from the other strips of the run (a keep ratio).
        shots: The examples.
        compared: Whether a trial shows it below that of the other arms.
        hint: What its images show, in a sentence.
    """

    name: str
    label: str
    shots: Sequence[Shot]
    compared: bool = False
    hint: str = ""


def data_uri(image: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    """An image [height, width, 3] as a PNG that a page can hold."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write_strips(folder: Path, strips: Sequence[Strip]) -> None:
    """Write `strips.json`."""
    write_json(folder / FILE, {"strips": [asdict(strip) for strip in strips]})


def read_strips(folder: Path) -> list[Strip]:
    """The strips of a run; empty if it has none."""
    path = folder / FILE
    if not path.exists():
        return []
    trees = json.loads(path.read_text(encoding="utf-8"))["strips"]
    return [Strip(**tree | {"shots": tuple(Shot(**shot) for shot in tree["shots"])}) for tree in trees]
