"""What tells a run from every other: its config, the version of its recipe, and the content of what it reads.

Settings that name files or hub names say so (`setting(content=...)`); in the hash their value is replaced by what it
stands for: a fingerprint of the files, the commit of a hub name, the seal of a run folder. So the same data under
another name is the same run, and one changed line another. Imports no torch.
"""

import dataclasses
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.config import registry
from recipes.core.config.compose import to_tree
from recipes.core.config.identity_keys import EARLIER_KEYS, LATER_KEYS, NOT_IDENTITY
from recipes.core.config.settings import COVERED, DATA_CONTENT, TOKENIZER_CONTENT, RunConfig
from recipes.core.errors import RunFailed, UserError
from recipes.core.storage.cache import home
from recipes.core.storage.files import home_path, read_json, sha256_json
from recipes.core.storage.fingerprints import fingerprint, memo
from recipes.core.storage.places import run_of
from recipes.core.storage.seals import SEAL, seal_digest, seal_problem

FILE = "identity.json"
VOCABULARIES = (".spm", ".codes", ".bpe")  # of tokenizers in Python
# What `from_pretrained` reads of a folder; checkpoints of a trainer that lie in it are other models.
MODEL_FILES = (".json", ".safetensors", ".gguf", ".model", ".txt", ".jinja", ".tiktoken", ".vocab", *VOCABULARIES)
OTHER_MODELS = "checkpoint-"
READING = ("format", "image_column", "images")  # keys beside a path that decide which images count with it


@dataclass(frozen=True)
class Identity:
    """What names a run.

    Attributes:
        hash: Ten hex digits over all that can change the result, but for the seed.
        version: Version of the recipe.
        content: Dotted key of each setting that names content -> what it stood for.
    """

    hash: str
    version: int
    content: dict[str, str]


def identify(config: RunConfig) -> Identity:
    """The identity of a config, from the files that it names as they are now.

    Raises:
        UserError: a file or folder is not there, or a hub name cannot be looked up; names the key.
    """
    content, version = content_of(config), registry.card(config.recipe).version
    return Identity(hash_of(to_tree(config), content, version), version, content)


def hash_of(tree: dict[str, Any], content: dict[str, str], version: int) -> str:
    """The hash of a config tree whose settings in `content` stood for what it says."""
    tree = typing.cast(dict[str, Any], _copy(tree))
    for key in (*NOT_IDENTITY, "seed"):
        _remove(tree, key)
    earlier = EARLIER_KEYS.get(str(tree.get("recipe")), ())
    _remove_later(tree, "", [key for key in LATER_KEYS if key not in earlier])
    for key, value in content.items():
        _replace(tree, key, {"content": value} if value else None)
    return sha256_json({"config": tree, "version": version})[:10]


def content_of(config: RunConfig) -> dict[str, str]:
    """What each setting that names content stands for now; empty text where another setting covers it.

    Raises:
        UserError: as in `identify`.
    """
    return {key: _content(kind, value, node, key) for key, kind, value, node in _content_settings(config, "")}


def content_tree(node: Any, key: str) -> dict[str, Any]:
    """A part of a config as plain values, in which what names files stands for what they hold: for keys of the cache.

    Args:
        node: A config dataclass.
        key: Its dotted key, for messages.

    Raises:
        UserError: as in `identify`.
    """
    tree: dict[str, Any] = dataclasses.asdict(node)
    for name, kind, value, owner in _content_settings(node, ""):
        content = _content(kind, value, owner, f"{key}.{name}" if key else name)
        _replace(tree, name, {"content": content} if content else None)
    _remove_later(tree, f"{key}." if key else "", LATER_KEYS)
    return tree


def read_identity(folder: Path) -> Identity | None:
    """The identity that a run folder's `identity.json` holds; None if there is none that can be read."""
    try:
        tree = read_json(folder / FILE)
    except (OSError, UserError):
        return None
    content = tree.get("content")
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        return None
    if not isinstance(tree.get("hash"), str) or not isinstance(tree.get("version"), int):
        return None
    return Identity(tree["hash"], tree["version"], content)


def read_content(folder: Path) -> dict[str, str]:
    """`content_of` as it was when the run in a folder began; empty if it cannot be read."""
    identity = read_identity(folder)
    return identity.content if identity else {}


def check_unchanged(config: RunConfig, content: dict[str, str]) -> None:
    """Refuse to finish a run whose data or model changed while it ran: nobody could say what it measured.

    Args:
        config: Its config.
        content: What `content_of` said when the run began.

    Raises:
        RunFailed: something changed, or is gone.
    """
    try:
        now = content_of(config)
    except UserError as error:
        raise RunFailed(f"{error.what} (it was there when the run began)", where=error.where) from error
    for key, value in now.items():
        if value != content.get(key):
            raise RunFailed(
                "has changed since the run began, so its results belong to no data",
                where=key,
                hint="type the same command again when nobody writes to it: it starts a new run",
            )


def _content_settings(config: Any, path: str) -> Iterator[tuple[str, str, Any, Any]]:
    """(key, kind of content, value, node) of every setting below a config that names content and is set."""
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), f"{path}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _content_settings(value, f"{key}.")
        elif value is not None and (kind := field.metadata.get("content")):
            yield key, kind, value, config


def _content(kind: str, value: str | tuple[str, ...], node: Any, key: str) -> str:
    if kind == COVERED:
        return ""
    if isinstance(value, tuple):  # NAME:PATH each
        named = [(name, path) for name, _, path in (each.partition(":") for each in value)]
        return f"sha256 {sha256_json([[name, _content(kind, path, node, key)] for name, path in named])}"
    path, known = home_path(value), memo()
    asked = (kind, path, *(getattr(node, name, None) for name in READING))
    if known is not None and asked in known:
        return known[asked]
    try:
        if kind == TOKENIZER_CONTENT and path.is_file():
            content = f"sha256 {fingerprint({'': path}, home())}"
        else:
            content = _data(value, path, node, key) if kind == DATA_CONTENT else _model(value, path, key)
    except UserError as error:
        raise UserError(error.what, error.where or f"{key}={value}", error.hint) from error
    if known is not None:
        known[asked] = content
    return content


def _data(value: str, path: Path, node: Any, key: str) -> str:
    from recipes.core.data.files.data_files import TABLES, is_hub_name, no_such_path, walk
    from recipes.core.storage import hub

    if not path.exists():
        if is_hub_name(value, path, TABLES):
            return f"commit {hub.commit(value, key, hub.DATA).id}"
        raise no_such_path(value, path, key)
    files = {file.relative_to(path).as_posix(): file for file in walk(path)} if path.is_dir() else {"": path}
    if hasattr(node, "image_column"):
        from recipes.core.data.images.names import find_images

        form, start = getattr(node, "format", "auto"), getattr(node, "images", None)
        files |= find_images(value, key, format=form, column=node.image_column, start=start)
    return f"sha256 {fingerprint(files, home())}"


def _model(value: str, path: Path, key: str) -> str:
    from recipes.core.storage import hub

    where = f"{key}={value}"
    if not path.exists():
        if hub.is_name(value) and not value.startswith((".", "~", "/")):
            return f"commit {hub.commit(value, key).id}"
        raise UserError("there is no such folder", where, f"type {key}=FOLDER or a hub name")
    if not path.is_dir():
        raise UserError("is a file, not the folder of a model", where, f"type {key}={path.parent}")
    run = run_of(path) or path
    if (run / SEAL).exists():
        if problem := seal_problem(run):
            raise UserError(f"the run is damaged: {problem}", where, "type its command again with --fresh")
        return f"run {seal_digest(run)}"
    from recipes.core.data.files.data_files import walk

    names = {file.relative_to(path).as_posix(): file for file in walk(path) if file.suffix.lower() in MODEL_FILES}
    return f"sha256 {fingerprint({name: file for name, file in names.items() if _is_own(name)}, home())}"


def _is_own(name: str) -> bool:
    return not any(part.startswith(OTHER_MODELS) for part in Path(name).parts[:-1])


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value


def _replace(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set what stands at a dotted key; nothing if it is not there."""
    node, last = _parent(tree, key)
    if last in node:
        node[last] = value


def _remove_later(tree: dict[str, Any], start: str, keys: Iterable[str]) -> None:
    """Remove of the keys that begin with `start` those that came later and are as if they had not."""
    for key in keys:
        node, last = _parent(tree, key.removeprefix(start))
        if key.startswith(start) and last in node and LATER_KEYS[key] in (node[last], _as_list(node[last])):
            _remove_with_parents(tree, key.removeprefix(start))


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _remove_with_parents(tree: dict[str, Any], key: str) -> None:
    """Remove what stands at a dotted key, and the nodes that held nothing else."""
    while key:
        _remove(tree, key)
        key = key.rpartition(".")[0]
        node, last = _parent(tree, key)
        if node.get(last) != {}:
            return


def _remove(tree: dict[str, Any], key: str) -> None:
    node, last = _parent(tree, key)
    node.pop(last, None)


def _parent(tree: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The node that a dotted key lies in, empty if there is none, and its last word."""
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.get(parent, {})
        if not isinstance(tree, dict):
            return {}, last
    return tree, last
