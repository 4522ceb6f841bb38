"""Configs of many cells: one that differs from another in plain values alone is built from it.

To compose a config takes milliseconds, most of them for what all cells of a sweep share: Hydra's tree, presets, types.
A key is *plain* where its value decides about nothing but itself: no preset, shorthand, arm, kind or interpolation asks
for it. A config in which only such values differ has the same tree but for them, so that they are converted and
checked in their place, and so is every rule of the nodes above them. Whatever else differs, and whatever has a problem,
is composed as a whole, so that configs and error messages are those of `compose.compose`.
"""

import dataclasses
import re
import typing
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Any

from recipes.core.config import compose, registry
from recipes.core.config.arm_keys import overlap
from recipes.core.config.compose import Draft
from recipes.core.config.flops import FLOPS, STEPS
from recipes.core.config.overrides import SIMPLE, Override, read_overrides
from recipes.core.config.schema import convert, joined
from recipes.core.config.settings import Card, RunConfig
from recipes.core.config.trees import set_key

DECIDING = ("recipe", "arm", "label", "budget")
NAMES = ("name", "kind")  # of a kind of config: which other keys there are
REFERENCE = re.compile(r"\$\{([^${}]*)\}")
ENVIRONMENT = "oc.env:"  # reads no key

Words = Sequence[str]
Values = dict[str, Any]
Shape = tuple[Any, ...]  # of overrides: all that is typed, but for the values of some keys


class Composer:
    """Composes the configs of one recipe's cells.

    Args:
        recipe: Name of the recipe.
    """

    def __init__(self, recipe: str) -> None:
        self._recipe, self._groups = recipe, frozenset(compose.groups())
        self._card: Card | None = None
        self._words: dict[str, Override | None] = {}
        self._plain: dict[Shape, frozenset[str]] = {}
        self._known: dict[Shape, RunConfig] = {}
        self._nodes: dict[tuple[int, str], Any] = {}  # cells of equal values share the nodes that hold them

    def compose(self, overrides: list[str]) -> RunConfig:
        """The checked config of one cell; arguments and errors as of `compose.compose`."""
        values = self._typed_values(overrides)
        plain = self._plain.get(_shape(overrides, values.keys()))
        if plain is not None:
            values = {key: value for key, value in values.items() if key in plain}
            known = self._known.get(_shape(overrides, values.keys()))
            if known is not None and (config := self._with_values(known, values)) is not None:
                return config
        return self._compose_whole(overrides, values)

    def _compose_whole(self, overrides: list[str], values: Values) -> RunConfig:
        """Compose it as a whole, and keep it for those that are alike."""
        shape = _shape(overrides, values.keys())
        draft = compose.draft(self._recipe, overrides)
        config: RunConfig = compose.check_draft(self._recipe, overrides, draft)
        plain = self._plain.setdefault(shape, _plain_keys(self._recipe, config, draft, values))
        self._known.setdefault(_shape(overrides, plain), config)
        return config

    def _typed_values(self, overrides: Words) -> Values:
        """The keys of words that hold one scalar each, with these; a key that is typed twice with the last."""
        words = [word for word in overrides if type(word) is str]  # a word of a file has its place in messages
        for word in words:
            if word not in self._words:
                self._words[word] = self._read(word)
        read = (self._words[word] for word in words)
        return {override.key: override.value for override in read if override is not None}

    def _read(self, word: str) -> Override | None:
        """A word that sets one key to a scalar which stays what it is; None of any other."""
        (override,) = read_overrides([word], compose.texts(self._recipe), self._groups)
        if not isinstance(override, Override) or override.key in (*DECIDING, *self._groups):
            return None
        value, last = override.value, override.key.rpartition(".")[2]
        plain = SIMPLE.fullmatch(value) if isinstance(value, str) else value is None or isinstance(value, int | float)
        return override if plain and last not in NAMES else None

    def _with_values(self, config: RunConfig, values: Values) -> RunConfig | None:
        """A config with other values of some keys, checked as a whole one is; None if it has a problem."""
        tree: dict[str, Any] = {}
        for key, value in values.items():
            set_key(tree, key, value)
        changed = self._changed(config, tree, "")
        self._card = self._card or registry.card(self._recipe)
        return None if changed is None or compose.rule_problems(changed, self._card) else changed

    def _changed(self, node: Any, tree: dict[str, Any], path: str) -> Any:
        """A config dataclass with the values of a tree; None if one is refused, or a rule of the node is broken."""
        kind: Any = type(node)
        values: Values = {}
        hints, fields = _hints(kind)
        for name, value in tree.items():
            key = joined(path, name)
            if isinstance(value, dict):
                values[name] = self._changed_once(getattr(node, name), value, key)
                if values[name] is None:
                    return None
            else:
                values[name], problems = convert(hints[name], value, key, fields[name].metadata)
                if problems:
                    return None
        changed = dataclasses.replace(node, **values)
        check = getattr(kind, "check", None)
        return None if check and check(changed) else changed

    def _changed_once(self, node: Any, tree: dict[str, Any], path: str) -> Any:
        asked = id(node), repr(tree)  # nodes are those of configs that are kept
        if asked not in self._nodes:
            self._nodes[asked] = self._changed(node, tree, path)
        return self._nodes[asked]


def _shape(overrides: Words, keys: Collection[str]) -> Shape:
    """The words, of those of some keys the key alone; words of a file count with their place."""
    return tuple(
        (name,) if (name := word.partition("=")[0]) in keys else (word, getattr(word, "where", ""))
        for word in overrides
    )


def _plain_keys(recipe: str, config: RunConfig, draft: Draft, values: Values) -> frozenset[str]:
    """Those of the keys with these values that are plain in a config."""
    asked = _asked_keys(recipe, draft)
    if asked is None:
        return frozenset()
    typed = [key for key, _ in draft.keys]
    settings = compose.arm_settings(recipe).get(config.arm, {})
    if STEPS in typed and FLOPS in typed:
        asked |= {STEPS, FLOPS}
    return frozenset(
        key
        for key in values
        if key in draft.known
        and sum(overlap(key, other) for other in typed) == 1
        and not any(key == other or other.startswith(f"{key}.") for other in asked)
        and not any(overlap(key, other) for other in settings)
    )


def _asked_keys(recipe: str, draft: Draft) -> set[str] | None:
    """Keys for whose values conditions, kinds and interpolations ask; None if that cannot be told.

    Of a group, a condition asks for its choice and its name, and for no other key of it.
    """
    arms = (arm.get("only", "").replace(" or ", " ") for arm in draft.presets["arms"].values())
    parts = [part for text in [*arms, *draft.presets["when"]] for part in text.split()]
    asked = {part.partition("=")[0] for part in parts}
    asked |= {*compose.groups(), *compose.kinds(recipe), *compose.shorthand_keys(recipe)}
    for text in _texts(draft.tree):
        references = [name for name in REFERENCE.findall(text) if not name.startswith(ENVIRONMENT)]
        if len(REFERENCE.findall(text)) != text.count("${") or not all(map(_is_key, references)):
            return None
        asked |= {part for name in references for part in _with_below(name, draft.known)}
    return asked


def _is_key(text: str) -> bool:
    return re.fullmatch(r"\w+(\.\w+)*", text) is not None


def _with_below(name: str, known: Collection[str]) -> Iterator[str]:
    """A key and all below it."""
    yield name
    yield from (key for key in known if key.startswith(f"{name}."))


def _texts(value: Any) -> Iterator[str]:
    """All texts with an interpolation in a tree."""
    if isinstance(value, str):
        yield from [value] if "${" in value else ()
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


@cache
def _hints(kind: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Types and fields of a config dataclass by name."""
    return typing.get_type_hints(kind), {field.name: field for field in dataclasses.fields(kind)}
