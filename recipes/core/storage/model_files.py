"""What the files of a model's folder must be before a library reads them. Imports no torch."""

import json
import re
from pathlib import Path
from typing import Any

from recipes.core.errors import UserError
from recipes.core.storage.files import LFS_POINTER

WEIGHTS, INDEX, ADAPTERS = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
REALS, WHOLE = ("F16", "BF16", "F32", "F64"), ("BOOL", "U8", "I8", "I16", "I32", "I64")  # as safetensors names them
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
SENTENCEPIECE = ("sentencepiece.bpe.model", "*.tiktoken", "tokenizer.model.v*")
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "merges.txt")
AGAIN = "download or save it again"


def read_json(file: Path, where: str) -> dict[str, Any]:
    """The object in a JSON file of a model's folder.

    Args:
        file: The file.
        where: Key and value that named the folder, for messages.

    Raises:
        UserError: it is missing or damaged, or holds something else.
    """
    _check_file(file, where)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.name} is no JSON: {first_line(error)}", where, AGAIN) from error
    if not isinstance(content, dict):
        raise UserError(f"{file.name} holds no JSON object", where, AGAIN)
    return content


def check_weight_files(folder: Path, where: str) -> None:
    """Refuse a folder whose weights are not whole safetensors.

    Raises:
        UserError: they are absent, pickled, adapters only, cut short, pointers, or shards without one another.
    """
    files = weight_files(folder, where)
    if not files:
        _refuse_without_weights(folder, where)
    for file in files:
        _check_safetensors(file, where)
    if (folder / ADAPTERS).exists():
        raise UserError(
            f"the folder holds adapters beside a model ({ADAPTERS}), and which of the two is meant is not clear",
            where,
            "merge them (merge_and_unload) and save the model, or move the adapters elsewhere",
        )


def weight_files(folder: Path, where: str) -> list[Path]:
    """The files that hold a folder's weights: one, or the shards that its index names; empty if it has neither.

    Raises:
        UserError: the index is damaged, or names what is no safetensors file of the folder.
    """
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        return [folder / name for name in _shards(read_json(folder / INDEX, where), where)]
    return []


def check_tokenizer_files(folder: Path, where: str) -> str:
    """Refuse a folder without the files of a tokenizer, or with damaged ones.

    Returns:
        Name of the file that holds the vocabulary.

    Raises:
        UserError: as said.
    """
    names = [name for name in TOKENIZERS if (folder / name).exists()]
    names += sorted(path.name for pattern in SENTENCEPIECE for path in folder.glob(pattern))
    if not names:
        raise UserError(
            "the folder holds no tokenizer (tokenizer.json, tokenizer.model, vocab.json, vocab.txt)",
            where,
            "put the files there that tokenizer.save_pretrained writes",
        )
    for name in (*names, *_BESIDE):
        if not (folder / name).exists():
            continue
        if name.endswith(".json"):
            read_json(folder / name, where)
        else:
            _check_file(folder / name, where)
    return names[0]


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, without control characters, cut to 200 characters."""
    lines = [re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", line).strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line] or [type(error).__name__]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _check_file(file: Path, where: str) -> None:
    """Refuse what is no readable file with content of its own."""
    name = file.name
    if not file.exists():
        link = "a link to nothing" if file.is_symlink() else "missing"
        raise UserError(f"{name} is {link}", where, "give the folder that save_pretrained has written")
    if not file.is_file():
        raise UserError(f"{name} is a folder, not a file", where, AGAIN)
    try:
        with file.open("rb") as opened:
            start = opened.read(len(LFS_POINTER))
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}", where, "allow it with chmod") from error
    if not start:
        raise UserError(f"{name} is empty (0 bytes)", where, AGAIN)
    if start == LFS_POINTER:
        raise UserError(
            f"{name} is a pointer of git-lfs, not the file itself", where, "type git lfs pull in the folder"
        )


def _check_safetensors(file: Path, where: str) -> None:
    from safetensors import SafetensorError, safe_open

    _check_file(file, where)
    try:
        with safe_open(file, framework="np") as opened:
            kinds = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        text = f"{file.name} ({file.stat().st_size:,} bytes) is cut short or damaged: {first_line(error)}"
        raise UserError(text, where, AGAIN) from error
    if not kinds:
        raise UserError(f"{file.name} holds no tensors", where, AGAIN)
    # Whole numbers are fine in buffers; weights of them are codes of a quantisation that config.json does not describe.
    for name, kind in kinds.items():
        if kind not in REALS and (name.endswith(".weight") or kind not in WHOLE):
            hint = "give the folder of the model in float16, bfloat16 or float32"
            raise UserError(f"{file.name} holds {name} as {kind}, and a model's weights are real numbers", where, hint)


def _shards(index: dict[str, Any], where: str) -> list[str]:
    """The files that an index names, each once."""
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{INDEX} names no files (weight_map)", where, AGAIN)
    for name in names.values():
        if any(Path(name).match(pattern) for pattern in PICKLES):
            raise _pickle_error(name, where, f" ({INDEX} names it)")
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(f"{INDEX} names {name!r}, which is no safetensors file of this folder", where, AGAIN)
    return sorted(set(names.values()))


def _refuse_without_weights(folder: Path, where: str) -> None:
    if (folder / ADAPTERS).exists():
        hint = "put them onto their model (peft: merge_and_unload), save that, and give its folder"
        raise UserError(f"the folder holds adapters ({ADAPTERS}), not a model", where, hint)
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise _pickle_error(pickles[0], where)
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        text = f"the folder holds {others[0]}, but neither {WEIGHTS} nor {INDEX}, which says what it is a part of"
        raise UserError(text, where, "give the folder that save_pretrained has written")
    raise UserError("the folder holds no *.safetensors", where, "give the folder of a saved model")


def _pickle_error(name: str, where: str, how: str = "") -> UserError:
    return UserError(
        f"refused: {name} is pickled{how}, and loading it could run any code",
        where,
        "convert it where you trust it: AutoModel.from_pretrained(F).save_pretrained(F) writes safetensors",
    )
