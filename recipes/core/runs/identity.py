"""What tells a run from every other: its config, the version of its recipe, and the content of what it reads.

Settings that name files or hub names say so (`setting(content=...)`); in the hash their value is replaced by what it
stands for: a fingerprint of the files, the commit of a hub name, the seal of a run folder. So the same data under
another name is the same run, and one changed line another. Imports no torch.
"""

import dataclasses
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from recipes.core.config import registry
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
UNCOUNTED = frozenset((*NOT_IDENTITY, "seed"))
Known = dict[Hashable, Any] | None
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
    """The identity of a config, from the files that it names as they are now; cells that share nodes share the work.

    Raises:
        UserError: a file or folder is not there, or a hub name cannot be looked up; names the key.
    """
    known = memo()
    if known is None:
        return _identify(config, None)
    kind: Any = type(config)
    values = (getattr(config, name) for name in _names(kind) if name not in UNCOUNTED)
    asked = ("identity", *(id(value) if dataclasses.is_dataclass(value) else repr(value) for value in values))
    if asked not in known:
        known[asked] = config, _identify(config, known)  # an id is that of a node which is kept
    return cast(Identity, known[asked][1])


def _identify(config: RunConfig, known: Known) -> Identity:
    version, later = registry.card(config.recipe).version, _later(config.recipe)
    content = {key: _content(kind, value, node, key) for key, kind, value, node in _content_settings(config, "", known)}
    tree = _decisive(config, "", content, later, UNCOUNTED, known)
    return Identity(_hash(tree, version), version, content)


def hash_of(tree: dict[str, Any], content: dict[str, str], version: int) -> str:
    """The hash of a config tree whose settings in `content` stood for what it says."""
    return _hash(_decisive(tree, "", content, _later(str(tree.get("recipe"))), UNCOUNTED), version)


def _hash(tree: Any, version: int) -> str:
    return sha256_json({"config": tree, "version": version})[:10]


@cache
def _later(recipe: str) -> Mapping[str, Any]:
    """Keys of a recipe that came after its first runs, with the values at which they are as if they had not."""
    earlier = EARLIER_KEYS.get(recipe, ())
    return {key: value for key, value in LATER_KEYS.items() if key not in earlier}


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
    path = f"{key}." if key else ""
    content = {name: _content(kind, value, owner, name) for name, kind, value, owner in _content_settings(node, path)}
    return _decisive(node, path, content, LATER_KEYS) or {}


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


def _content_settings(config: Any, path: str, known: Known = None) -> Iterator[tuple[str, str, Any, Any]]:
    """(key, kind of content, value, node) of every setting below a config that names content and is set."""
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), f"{path}{field.name}"
        if dataclasses.is_dataclass(value):
            below = partial(_content_settings, value, f"{key}.", known)
            yield from _once(known, ("content", id(value), key), value, partial(_as_tuple, below))
        elif value is not None and (kind := field.metadata.get("content")):
            yield key, kind, value, config


def _once(known: Known, asked: tuple[Any, ...], node: Any, compute: Callable[[], Any]) -> Any:
    """What follows from a node of config, computed once where what is known is kept; `asked` holds the node's id."""
    if known is None:
        return compute()
    if asked not in known:
        known[asked] = node, compute()
    return known[asked][1]


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


def _decisive(
    node: Any,
    path: str,
    content: Mapping[str, str],
    later: Mapping[str, Any],
    uncounted: Collection[str] = (),
    known: Known = None,
) -> dict[str, Any] | None:
    """A node of config, a tree or a dataclass, as plain values: what it is recognised by.

    Args:
        node: The node.
        path: Its dotted key with a dot behind it; empty of a whole config.
        content: Dotted key of each setting that names content -> what it stood for.
        later: Keys that came later, with the values at which they are as if they had not.
        uncounted: Keys that are left out.
        known: Where the answers for nodes are kept, if the content is that of now.

    Returns:
        None of a node that holds nothing but what came later.
    """
    plain: dict[str, Any] = {}
    came_later = False
    for name, value in _items(node):
        key = f"{path}{name}"
        if key in uncounted:
            continue
        if key in later and later[key] in (value, _as_list(value)):
            came_later = True
        elif key in content:
            plain[name] = {"content": content[key]} if content[key] else None
        elif not isinstance(value, dict) and not dataclasses.is_dataclass(value):
            plain[name] = value
        else:
            below = partial(_decisive, value, f"{key}.", content, later, uncounted, known)
            plain[name] = _once(known, ("decisive", id(value), key, id(later)), value, below)
            if plain[name] is None:
                came_later = True
                del plain[name]
    return None if came_later and not plain and path else plain


def _items(node: Any) -> Iterable[tuple[str, Any]]:
    """(name, value) of the entries of a tree, or of the fields of a dataclass."""
    kind: Any = type(node)
    return node.items() if isinstance(node, dict) else ((name, getattr(node, name)) for name in _names(kind))


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _as_tuple(values: Callable[[], Iterable[Any]]) -> tuple[Any, ...]:
    return tuple(values())


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
