"""Images keep the range of their values in every mode that Pillow knows; large JPEGs are decoded smaller, and close."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recipes.core.data.images.decoding import decode, image_content, inspect_image

RAMP = np.arange(256).reshape(16, 16)


def stored(image: Image.Image, kind: str, **words: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **words)
    return buffer.getvalue()


def palette() -> Image.Image:
    image = Image.fromarray((255 - RAMP).astype(np.uint8)).convert("P")
    image.putpalette([255 - value for value in range(256) for _ in range(3)])
    return image


WIDE = {
    "16 bits": stored(Image.fromarray((RAMP * 257).astype(np.uint16)), "PNG"),
    "16 bits, TIFF": stored(Image.fromarray((RAMP * 257).astype(np.uint16)), "TIFF"),
    "16 bits, big-endian": stored(Image.fromarray((RAMP * 257).astype(">u2")), "TIFF"),
    "32 bits of 16": stored(Image.fromarray((RAMP * 257).astype(np.int32)), "TIFF"),
    "32 bits of 8": stored(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
    "32 bits": stored(Image.fromarray((RAMP * (2**31 // 256)).astype(np.int32)), "TIFF"),
    "float to 1": stored(Image.fromarray((RAMP / 255).astype(np.float32)), "TIFF"),
    "float to 255": stored(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
    "float to 65535": stored(Image.fromarray((RAMP * 257).astype(np.float32)), "TIFF"),
    "float around 0": stored(Image.fromarray((RAMP / 127.5 - 1).astype(np.float32)), "TIFF"),
    "8 bits": stored(Image.fromarray(RAMP.astype(np.uint8)), "PNG"),
    "palette": stored(palette(), "PNG"),
    "palette, GIF": stored(palette(), "GIF"),
    "grey and alpha": stored(Image.fromarray(RAMP.astype(np.uint8)).convert("LA"), "PNG"),
    "colour and alpha": stored(Image.fromarray(RAMP.astype(np.uint8)).convert("RGBA"), "PNG"),
    "CMYK": stored(Image.fromarray(RAMP.astype(np.uint8)).convert("RGB").convert("CMYK"), "TIFF"),
}


@pytest.mark.parametrize("name", WIDE)
def test_a_ramp_stays_a_ramp(name: str) -> None:
    image = decode(WIDE[name])
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    assert (image == image[:, :, :1]).all() and inspect_image(WIDE[name])[1] is None
    assert np.abs(image[:, :, 0].astype(int) - RAMP).max() <= (1 if name == "32 bits" else 0)


def test_colour_of_16_bits_keeps_its_range() -> None:
    import struct
    import zlib

    values = np.stack([RAMP * 257, RAMP[::-1] * 257, np.full_like(RAMP, 65535)], axis=2).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    image = decode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert image[:, :, 0].tolist() == RAMP.tolist() and (image[:, :, 2] == 255).all()


def test_one_bit_transparency_and_the_first_frame() -> None:
    assert decode(stored(Image.fromarray(RAMP > 100), "PNG"))[:, :, 0].tolist() == ((RAMP > 100) * 255).tolist()
    clear = stored(palette(), "PNG", transparency=255)
    assert decode(clear)[0, 0].tolist() == [255] * 3
    wide = stored(Image.fromarray((RAMP * 257).astype(np.uint16)), "PNG", transparency=0)
    assert decode(wide)[0, 0].tolist() == [255] * 3 and decode(wide)[0, 1].tolist() == [1] * 3
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    assert decode(stored(frames[0], "GIF", save_all=True, append_images=frames[1:]))[0, 0].tolist() == [255, 0, 0]


def test_what_is_no_picture_is_told(tmp_path: Path) -> None:
    holes = np.full((4, 4), np.nan, np.float32)
    assert "values that are no numbers" in str(inspect_image(stored(Image.fromarray(holes), "TIFF"))[1])
    assert inspect_image(b"")[1] == inspect_image(b"text")[1] == "not an image"
    assert "cannot be read (File name too long)" in str(inspect_image(tmp_path / ("n" * 300))[1])
    assert inspect_image(tmp_path)[1] is not None and inspect_image(tmp_path / "absent.png") == ("", "no such file")


def test_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    problem = inspect_image(stored(Image.new("L", (64, 64)), "PNG"))[1]
    assert problem is not None and "exceeds limit" in problem
    assert inspect_image(stored(Image.new("L", (12, 12)), "PNG"))[1] is None  # Pillow warns up to twice the limit


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_large_jpegs_are_decoded_smaller_and_close(mode: str) -> None:
    y, x = np.mgrid[0:800, 0:1200] / 800
    waves = np.stack([np.sin(5 * x + y), np.cos(3 * y), np.sin(7 * x * y)], axis=2) * 127 + 128
    content = stored(Image.fromarray(waves.clip(0, 255).astype(np.uint8)).convert(mode), "JPEG", quality=95)
    small, whole = decode(content, 64), decode(content)
    assert whole.shape == (800, 1200, 3) and small.shape == (200, 300, 3)
    pair = [np.asarray(Image.fromarray(each).resize((64, 64), Image.Resampling.BILINEAR)) for each in (small, whole)]
    assert np.abs(pair[0].astype(int) - pair[1]).max() <= 4
    assert decode(content, 600).shape == (800, 1200, 3)


@pytest.mark.parametrize(
    ("cell", "content"),
    [
        ("a.png", Path("/data/a.png")), ("/b.png", Path("/b.png")), (b"x", b"x"), ({"bytes": b"x", "path": "a"}, b"x"),
        ({"bytes": None, "path": "a.png"}, Path("/data/a.png")), (None, None), ("", None), ({"bytes": None}, None),
    ],
)  # fmt: skip
def test_an_image_is_a_path_or_bytes(cell: Any, content: Any) -> None:
    assert image_content(cell, Path("/data")) == content


@pytest.mark.parametrize("cell", [3, 1.5, True, ["a.png"], {"url": "x"}])
def test_another_cell_is_no_image(cell: Any) -> None:
    with pytest.raises(ValueError, match="its image is no path and no bytes but"):
        image_content(cell, Path())
