"""A YAML file as dotted keys with values, each with its line; all that is wrong with it is collected.

It is a user's file of --config, or a config file of Hydra's: one with a list of defaults, and with presets, whose keys
may have any form.

Scalars are read as Hydra reads them (`3e-3` is a number, `1:30` a text), not as YAML 1.1 has it.
"""

import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from recipes.core.config.overrides import KEY
from recipes.core.config.schema import Problem
from recipes.core.errors import UserError

LARGEST = 2**20  # bytes
MOST_KEYS = 10_000  # a few aliases of aliases would stand for billions
STANDARD = "tag:yaml.org,2002:"
TAGS = ("map", "seq", "str", "int", "float", "bool", "null")
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Entry:
    """One key of a file.

    Attributes:
        key: Dotted.
        value: A scalar or a list.
        raw: A plain scalar as it was written; None of anything else.
        raws: The same of each item of a list.
        where: File and line.
    """

    key: str
    value: typing.Any
    raw: str | None
    where: str
    raws: tuple[str | None, ...] = ()


@dataclass
class YamlFile:
    """What a file holds, and what is wrong with it."""

    path: Path
    of_hydra: bool = False
    entries: list[Entry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def where(self, line: int) -> str:
        """File and line, counted from 0."""
        return f"{self.path}, line {line + 1}"


class _Loader(yaml.SafeLoader):
    """Safe, and without the implicit types of YAML 1.1 that Hydra does not have."""

    yaml_implicit_resolvers: dict[str, list[typing.Any]] = {}


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.?(?:inf|nan)",
        "-+.0123456789in",
    ),
):
    _Loader.add_implicit_resolver(f"{STANDARD}{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def read_yaml_file(path: Path, of_hydra: bool = False) -> YamlFile:
    """The keys of a YAML file.

    Args:
        path: The file.
        of_hydra: Whether it is a config file of Hydra's, not one of --config.

    Returns:
        All keys that can be read, and problems: keys that are set twice or are none, and values that are none.

    Raises:
        UserError: there is no such file, it is no UTF-8, no YAML, empty, or no mapping.
    """
    where = str(path) if of_hydra else f"--config {path}"
    text = _text(path, where)
    try:
        node = yaml.compose(text, Loader=_Loader)
    except (yaml.MarkedYAMLError, yaml.reader.ReaderError, RecursionError, ValueError) as error:
        raise _no_yaml(path, error) from error
    if node is None or (isinstance(node, yaml.ScalarNode) and not node.value.strip()):
        raise UserError("is empty", where, "write keys as in `trainer: {max_steps: 100}`")
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        line = f"{path}, line {node.start_mark.line + 1}"
        raise UserError(f"holds {kind}, not keys with values", line, "write keys as in `seed: 1`")
    file, first = YamlFile(path, of_hydra), dict[str, str]()
    for number, entry in enumerate(_entries(file, node, "", frozenset())):
        if number >= MOST_KEYS:
            raise UserError(f"holds more than {MOST_KEYS:,} keys", str(path), "is it a config?")
        if entry.key in first:
            line = first[entry.key].rpartition(" ")[2]
            file.problems.append(Problem(entry.key, entry.value, f"is set before, in line {line}", entry.where))
        else:
            first[entry.key] = entry.where
            file.entries.append(entry)
    return file


def _entries(file: YamlFile, node: yaml.MappingNode, path: str, above: frozenset[int]) -> Iterator[Entry]:
    """All leaves below a node; what is no key or value is added to the problems."""
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        where = file.where(key_node.start_mark.line)
        name = key_node.value if isinstance(key_node, yaml.ScalarNode) else ""
        key = f"{path}.{name}" if path else str(name)
        if file.of_hydra and name == "<<":
            continue  # what it brings along stands elsewhere in the file
        if not (name if file.of_hydra else KEY.fullmatch(str(name))):
            message = "is no key; << is not read here" if name == "<<" else "is no key, as trainer.max_steps is one"
            file.problems.append(Problem(key, None, message, where))
        elif name in seen:
            file.problems.append(Problem(key, None, f"is set before, in line {seen[name] + 1}", where))
        elif id(value_node) in above:
            file.problems.append(Problem(key, None, "holds itself", where))
        else:
            seen[name] = key_node.start_mark.line
            yield from _leaves(file, value_node, key, above, where)


def _leaves(file: YamlFile, node: yaml.Node, key: str, above: frozenset[int], where: str) -> Iterator[Entry]:
    if node.tag.removeprefix(STANDARD) not in TAGS:
        tag = node.tag.replace(STANDARD, "!!")
        file.problems.append(Problem(key, None, f"has a tag ({tag}); write the value alone", where))
    elif isinstance(node, yaml.MappingNode):
        if not node.value and not file.of_hydra:
            file.problems.append(Problem(key, None, f"sets nothing; write {key}: {{NAME: VALUE}}", where))
        yield from _entries(file, node, key, above | {id(node)})
    elif isinstance(node, yaml.SequenceNode) and file.of_hydra:
        yield Entry(key, [_item(item) for item in node.value], None, where)
    elif isinstance(node, yaml.SequenceNode):
        if all(isinstance(item, yaml.ScalarNode) and item.tag.removeprefix(STANDARD) in TAGS for item in node.value):
            items = [_scalar(item) for item in node.value]
            yield Entry(key, [value for value, _ in items], None, where, tuple(raw for _, raw in items))
        else:
            file.problems.append(Problem(key, None, "is a list of other things than values", where))
    else:
        value, raw = _scalar(typing.cast(yaml.ScalarNode, node))
        yield Entry(key, value, raw, where)


def _item(node: yaml.Node) -> typing.Any:
    """An item of a list of defaults: a text, or one key with a value."""
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)[0]
    if not isinstance(node, yaml.MappingNode):
        return None
    return {key.value: value.value for key, value in node.value if isinstance(value, yaml.ScalarNode)}


def _scalar(node: yaml.ScalarNode) -> tuple[typing.Any, str | None]:
    """The value of a scalar, and how it was written if without quotes."""
    kind, text = node.tag.removeprefix(STANDARD), node.value
    if node.style is not None or kind == "str":
        return text, None if node.style else text
    if kind in ("int", "float"):
        return (int if kind == "int" else float)(text.replace(".inf", "inf").replace(".nan", "nan")), text
    return _BOOLEANS.get(text.lower()), text


def _text(path: Path, where: str) -> str:
    """The text of a file, as `where` in messages; UTF-8 with or without a byte order mark."""
    try:
        if path.is_dir():
            hint = f"type --config {path / 'config.yaml'}" if (path / "config.yaml").is_file() else "type a YAML file"
            raise UserError("is a folder", where, hint)
        size = path.stat().st_size
        if size > LARGEST:
            raise UserError(f"is no config: it has {size:,} bytes", where, f"at most {LARGEST:,} are read")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError("there is no such file", where, "type the path of a YAML file of keys") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        what = f"is not UTF-8: byte 0x{data[error.start]:02x}"
        raise UserError(what, f"{path}, line {line}", "save the file as UTF-8") from None


def _no_yaml(path: Path, error: Exception) -> UserError:
    """What is wrong with a file that YAML's grammar does not fit."""
    if isinstance(error, yaml.reader.ReaderError):
        return UserError(f"holds a character that YAML has not (#x{error.character:04x})", str(path), "take it out")
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return UserError("is nested too deeply, or no YAML", str(path), "write dotted keys: `trainer.max_steps: 100`")
    line = error.problem_mark.line
    where, problem = f"{path}, line {line + 1}", str(error.problem)
    if "'\\t'" in problem:
        return UserError("begins with a tab", where, "YAML is indented with blanks")
    if "single document" in str(error.context):
        return UserError("begins a second document (---)", where, "one file holds one config")
    return UserError(f"is no YAML: {problem}", where, "a key, a colon, a blank and a value: `seed: 1`")
