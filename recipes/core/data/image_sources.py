"""The formats that image-caption pairs come in, each opened as rows of a memory-mapped `datasets.Dataset`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.core.cache import home
from recipes.core.data.config import ImageTextConfig
from recipes.core.data.sources import is_saved, load_split, pick_column, reason
from recipes.core.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
IMAGE_COLUMNS = ("image", "file_name")
CAPTION_COLUMNS = ("caption", "text")


@dataclass(frozen=True)
class Source:
    """Rows of image-caption pairs.

    Attributes:
        rows: A `datasets.Dataset` with the two columns and no other.
        image_column: Column of paths, bytes, or {"path", "bytes"}.
        caption_column: Column of texts, or of LLaVA conversations.
        root: Folder that relative image paths start from.
        broken: Rows known to be unusable, with the reason.
    """

    rows: Any
    image_column: str
    caption_column: str
    root: Path
    broken: dict[int, str] = field(default_factory=dict)


def open_sources(config: ImageTextConfig) -> tuple[Source, Source | None]:
    """Open `data.path`: the rows to read, and those of `data.test_split` if there is one.

    Raises:
        UserError: no such path, a format that does not fit, a missing column, or no rows.
    """
    import datasets

    datasets.disable_progress_bars()
    path = Path(config.path or "").expanduser()
    kind = detect_format(path) if config.format == "auto" else config.format
    if config.test_split is not None and kind != "datasets":
        raise UserError(f"data.test_split has no meaning with format={kind}; use data.test_fraction", str(path))
    if kind == "datasets":
        test = None if config.test_split is None else _split(config, path, config.test_split)
        return _split(config, path, config.split), test
    if not path.exists():
        raise UserError("no such file or folder", f"data.path={path}")
    if kind == "folder":
        return _folder(path, config), None
    if kind == "llava":
        return _columns(read_json_rows(path), config, path.parent, ("image",), ("conversations",)), None
    rows = read_json_rows(path) if kind == "jsonl" else read_parquet_rows(path)
    return _columns(rows, config, path if path.is_dir() else path.parent, IMAGE_COLUMNS, CAPTION_COLUMNS), None


def detect_format(path: Path) -> str:
    """The format a path looks like.

    Raises:
        UserError: it looks like none.
    """
    if path.is_dir():
        if is_saved(path):
            return "datasets"
        return "parquet" if any(path.glob("*.parquet")) else "folder"
    suffix = path.suffix.lower()
    if not path.exists() and len(path.parts) <= 2 and suffix not in (".json", ".jsonl", ".parquet"):
        return "datasets"
    if suffix == ".json" and path.is_file():
        with path.open("rb") as file:
            return "llava" if file.read(4096).lstrip()[:1] == b"[" else "jsonl"
    formats = {".json": "llava", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
    if suffix not in formats:
        raise UserError(
            "is no JSONL, Parquet or LLaVA JSON file and no folder" if path.exists() else "no such file or folder",
            f"data.path={path}",
            "if the name hides its format, type data.format=jsonl, parquet, folder, llava or datasets",
        )
    return formats[suffix]


def caption_text(value: Any) -> str | None:
    """The caption in a cell: the text, or what "gpt" first says in a LLaVA conversation; None if there is neither."""
    if isinstance(value, list):
        value = next((turn.get("value") for turn in value if turn.get("from") == "gpt"), None)
    return value.strip() if isinstance(value, str) else None


def image_content(value: Any, root: Path) -> Path | bytes | None:
    """The image in a cell: its file or its bytes; None if the cell is empty."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    return root / value if isinstance(value, str) and value else value or None


def _split(config: ImageTextConfig, path: Path, split: str) -> Source:
    rows = load_split(str(config.path), split, "data.path")
    return _columns(rows, config, path, IMAGE_COLUMNS, CAPTION_COLUMNS)


def _columns(rows: Any, config: ImageTextConfig, root: Path, images: Sequence[str], captions: Sequence[str]) -> Source:
    """Keep the image and caption column, whichever the user named or is there."""
    import datasets

    image = pick_column(rows.column_names, config.image_column, images, "data.image_column")
    caption = pick_column(rows.column_names, config.caption_column, captions, "data.caption_column")
    rows = rows.select_columns([image, caption])
    if isinstance(rows.features[image], datasets.Image):
        rows = rows.cast_column(image, datasets.Image(decode=False))
    if config.limit is not None:
        rows = rows.select(range(min(config.limit, len(rows))))
    if not len(rows):
        raise UserError("there are no examples", f"data.path={config.path}")
    return Source(rows, image, caption, root)


def read_json_rows(path: Path) -> Any:
    """Records of a JSON or JSONL file. Raises UserError if it cannot be read."""
    from datasets import load_dataset

    _check_utf8(path)
    try:
        return load_dataset("json", data_files=str(path), split="train", cache_dir=str(home() / "datasets"))
    except Exception as error:  # the library wraps whatever its parsers raise
        raise _bad_json(path, error) from error


def _check_utf8(path: Path) -> None:
    if path.is_dir():
        raise UserError("is a folder, not a file", f"data.path={path}", "type data.format=folder or parquet")
    if not path.stat().st_size:
        raise UserError("the file is empty", str(path))
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"line {number} is not UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1})",
                    str(path),
                    "convert the file, for example: iconv -f LATIN1 -t UTF-8",
                ) from error


def _bad_json(path: Path, error: Exception) -> UserError:
    """Name the first line that is no JSON object; the library's own message where every line is."""
    if path.suffix.lower() != ".json":
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    good = not line.strip() or isinstance(json.loads(line), dict)
                except ValueError:
                    good = False
                if not good:
                    return UserError(f"line {number} is no JSON object: {line.strip()[:60]}", str(path))
    return UserError(f"cannot be read as JSON: {reason(error)}", str(path))


def read_parquet_rows(path: Path) -> Any:
    """Records of a Parquet file, or of those in a folder. Raises UserError if they cannot be read."""
    from datasets import load_dataset

    files = sorted(str(file) for file in path.glob("*.parquet")) if path.is_dir() else [str(path)]
    if not files:
        raise UserError("the folder holds no .parquet files", str(path))
    try:
        return load_dataset("parquet", data_files=files, split="train", cache_dir=str(home() / "datasets"))
    except Exception as error:  # the library wraps whatever its parsers raise
        raise UserError(f"cannot be read as Parquet: {reason(error)}", str(path)) from error


def _folder(path: Path, config: ImageTextConfig) -> Source:
    """A folder of images with `metadata.jsonl` (column file_name), or with one .txt beside each image."""
    if not path.is_dir():
        raise UserError("is no folder", f"data.path={path}")
    if (path / "metadata.jsonl").is_file():
        return _columns(
            read_json_rows(path / "metadata.jsonl"), config, path, ("file_name", "image"), ("text", "caption")
        )
    images = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise UserError(
            "the folder holds no images",
            f"data.path={path}",
            f"images end in {', '.join(IMAGE_SUFFIXES)};\n"
            "captions stand in NAME.txt beside NAME.png, or in metadata.jsonl",
        )
    return _with_sidecars(path, images[: config.limit])


def _with_sidecars(path: Path, images: Sequence[Path]) -> Source:
    from datasets import Dataset, Features, Value

    captions, broken = [], {}
    for index, image in enumerate(images):
        try:
            captions.append(image.with_suffix(".txt").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            problem = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else "cannot be read or is missing"
            broken[index] = f"{image.relative_to(path)}: its caption {image.with_suffix('.txt').name} {problem}"
            captions.append("")
    table = {"image": [str(image.relative_to(path)) for image in images], "caption": captions}
    features = Features({"image": Value("string"), "caption": Value("string")})
    return Source(Dataset.from_dict(table, features=features), "image", "caption", path, broken)
