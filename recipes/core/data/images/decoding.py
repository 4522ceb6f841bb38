"""Images of users decoded alike everywhere: upright, on white, RGB, with the range that their values have."""

import io
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.storage.files import home_path

# Pillow's warnings (palettes, metadata, sizes below its own limit) help nobody who reads the output of a run.
warnings.filterwarnings("ignore", module=r"PIL\.")
ENOUGH = 2  # a JPEG is decoded at no less than this many times the size it is needed in
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def decode(content: Path | bytes | None, size: int | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode an image to RGB: upright by its EXIF tag, transparent parts white, the first frame of several.

    Values of 16 bits are divided by 257. Other wide values (32-bit integers, floats) are read by the smallest of the
    usual scales that holds them: 0 to 1 (floats), 0 to 255, 0 to 65535; where none does, the smallest value becomes
    black and the largest white.

    Args:
        content: File or bytes.
        size: Side in pixels that the image will be resized to; a JPEG of more than twice that is decoded smaller.

    Returns:
        uint8 [height, width, 3].

    Raises:
        Exception: whatever Pillow's decoders raise on damaged files.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:  # type: ignore[arg-type]
        if size is not None:
            image.draft(image.mode, (ENOUGH * size, ENOUGH * size))
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I", "F")):
            grey = Image.fromarray(_eight_bits(np.asarray(upright), upright.mode, image.info.get("transparency")))
            return np.asarray(grey.convert("RGB"))
        if upright.has_transparency_data:
            colored = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", colored.size, "white"), colored)
        return np.asarray(upright.convert("RGB"))


def _eight_bits(values: np.ndarray, mode: str, clear: Any = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Wide grey values as 0 to 255; those equal to `clear` are transparent, hence white."""
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("it holds values that are no numbers")
    low, high = float(wide.min()), float(wide.max())
    scales = (65535.0,) if mode.startswith("I;16") else (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
    scale = next((scale for scale in scales if low >= 0 and high <= scale), None)
    start, width = (0.0, scale) if scale is not None else (low, (high - low) or 1.0)
    narrow = ((wide - start) / width * 255).round().astype(np.uint8)
    return np.where(values == clear, 255, narrow).astype(np.uint8) if isinstance(clear, int) else narrow


def image_content(value: Any, root: Path) -> Path | bytes | None:
    """The image in a cell: its file or its bytes; None if the cell names none.

    Args:
        value: Path, bytes, or {"path", "bytes"} as `datasets` stores images.
        root: Folder that relative paths start from.

    Raises:
        ValueError: it is something else.
    """
    cell = image_cell(value)
    return root / home_path(cell) if isinstance(cell, str) else cell


def image_cell(value: Any) -> str | bytes | None:
    """The name or the bytes of an image in a cell; None and errors as of `image_content`."""
    if isinstance(value, dict) and {"bytes", "path"} & set(value):
        value = value.get("bytes") or value.get("path")
    if value is None or value == "" or value == b"":
        return None
    if isinstance(value, bytes | str):
        return value
    raise ValueError(f"its image is no path and no bytes but {type(value).__name__}")


def inspect_image(content: Path | bytes) -> tuple[str, str | None]:
    """Hash of an image's bytes, and what is wrong with it.

    Args:
        content: File or bytes.

    Returns:
        SHA-256 as hex, empty if there is no such file; None if nothing is wrong.
    """
    from PIL import Image

    if isinstance(content, Path):
        try:
            content = content.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return "", "no such file"
        except (OSError, ValueError) as error:
            return "", f"cannot be read ({getattr(error, 'strerror', None) or error})"
    digest = sha256(content).hexdigest()
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.verify()  # checksums, where the format has them
        decode(content, size=1)
    except Image.UnidentifiedImageError:
        return digest, "not an image"
    except Exception as error:  # Pillow's decoders raise whatever they like on damaged files
        return digest, f"damaged image ({error})"
    return digest, None
