"""How a vision model's checkpoint says that pixels are normalised."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.models.sources import source_folder
from recipes.core.storage.model_files import read_json


class Normalisation(NamedTuple):
    """Mean and standard deviation of values in [0, 1], one a channel."""

    mean: list[float]
    std: list[float]


def normalisation(
    path: str, key: str, channels: int, default: tuple[Sequence[float], Sequence[float]]
) -> Normalisation:
    """What pixels of [0, 1] are shifted and divided by, from a checkpoint's image processor.

    Args:
        path: Local folder or hub name.
        key: The config key it came from, for messages.
        channels: Of the model's images.
        default: Mean and std of a checkpoint that says nothing; a note says that they are taken.

    Raises:
        UserError: the files are damaged, or the processor does not scale 8 bits to [0, 1].
    """
    where, settings = f"{key}={path}", image_processor(path, key)
    if not settings:
        mean, std = (_channels(values, channels, "", where) for values in default)
        note(f"{where}: has no image processor; pixels are normalised by mean {mean} and std {std}")
        return Normalisation(mean, std)
    scale = settings.get("rescale_factor", 1 / 255)
    if (
        settings.get("do_rescale") is False
        or not isinstance(scale, float)
        or not math.isclose(scale, 1 / 255, rel_tol=1e-4)
    ):
        text = "its image processor does not scale pixels from 0...255 to 0...1, and nothing else is known here"
        raise UserError(text, where, "give a model whose rescale_factor is 1/255")
    if settings.get("do_normalize") is False:
        return Normalisation([0.0] * channels, [1.0] * channels)
    mean, std = (
        _channels(settings.get(name, values), channels, name, where)
        for name, values in zip(("image_mean", "image_std"), default, strict=True)
    )
    if min(std) <= 0:
        raise UserError(f"image_std of its image processor is {std}", where, "it must be above 0")
    return Normalisation(mean, std)


def image_processor(path: str, key: str) -> dict[str, Any]:
    """The settings of a checkpoint's image processor; empty if it has none.

    Older versions of transformers write them into a file of their own, newer ones into that of the whole processor.

    Raises:
        UserError: the files are damaged.
    """
    where, folder = f"{key}={path}", source_folder(path, key, weights=False)
    alone, whole = folder / "preprocessor_config.json", folder / "processor_config.json"
    if alone.exists():
        return read_json(alone, where)
    part = read_json(whole, where).get("image_processor") if whole.exists() else None
    return part if isinstance(part, dict) else {}


def _channels(values: Any, channels: int, name: str, where: str) -> list[float]:
    """One number a channel."""
    numbers = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [values]
    known = all(isinstance(value, int | float) and math.isfinite(value) for value in numbers)
    if not known or len(numbers) not in (1, channels):
        raise UserError(
            f"{name} of its image processor is {values}, not a number for each of {channels} channels",
            where,
            "mend its preprocessor_config.json",
        )
    return [float(value) for value in numbers] * (channels if len(numbers) == 1 else 1)
