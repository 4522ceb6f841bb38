"""From what was typed to a checked config: Hydra composes, then presets, then the user's keys, then the schema.

Order, later wins: the config files < the recipe's `budgets` preset < its `when` presets (for a data set, model or
setting) < the arm < what the user typed. Imports Hydra inside the functions, so that `--help` stays fast, and
never torch.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from recipes.core import registry
from recipes.core.arm_keys import Settings, label_problems
from recipes.core.config import RunConfig
from recipes.core.errors import UserError
from recipes.core.files import sha256_json
from recipes.core.schema import Problem, build, did_you_mean, raise_problems
from recipes.core.shorthands import no_option, written_out

CONF = registry.ROOT / "conf"
NOT_KEY_VALUE = "is not KEY=VALUE; quote values that hold spaces, commas or braces: key='a b'"
ONE_VALUE = "a run takes one value for each key; quote a value that holds a comma, or type `steelyard sweep`"
LIST_VALUES = "type key=1,2 or key=range(3), or --sweeper optuna for key=interval(0,1)"
LARGEST_CONFIG = 2**20  # bytes
PRESETS = ("arms", "budgets", "when", "implied", "folders")
# Cannot change the result, so they are not part of a run's identity.
NOT_IDENTITY = ("outputs", "label", "tracker", "trainer.save_steps", "trainer.log_steps")


@dataclass(frozen=True)
class SettingInfo:
    """One config key of a recipe, as `steelyard list` and the shell completion show it."""

    key: str
    type: str
    default: Any
    help: str
    unit: str
    origin: str
    choices: tuple[Any, ...] | None


def compose(recipe: str, overrides: list[str]) -> Any:
    """The checked config of one run.

    Args:
        recipe: Name of the recipe.
        overrides: `KEY=VALUE` in Hydra's syntax, group choices (`data=easy-vqa`) included.

    Returns:
        The recipe's frozen config dataclass.

    Raises:
        UserError: with *all* problems of syntax, keys, types, ranges and cross-field rules.
    """
    kind = registry.config_class(recipe)
    choices, keys, problems = _typed(recipe, overrides)
    tree, more = _composed(recipe, choices)
    problems += more
    presets = {name: tree.pop(name, {}) or {} for name in PRESETS}
    typed = dict(keys)
    problems += _apply_presets(tree, presets, typed, choices)
    known = _flat_types(kind, tree)
    for key, value in keys:
        if key in known:
            _set(tree, key, value)
        else:
            problems.append(Problem(key, value, f"unknown key; {_nearest_key(key, list(known))}"))
    config, found = build(kind, _resolved(tree))
    problems += found
    arm = str(typed.get("arm", tree["arm"]))
    wrong = {problem.key for problem in problems}
    unnamed = label_problems(recipe, overrides, keys, arm, arm_settings(recipe))
    raise_problems(problems + [problem for problem in unnamed if problem.key not in wrong])
    return config


def sweep_choices(overrides: list[str]) -> tuple[list[str], list[list[str]]]:
    """Split overrides into those with one value, and for each key with several the `KEY=VALUE` of every value.

    Raises:
        UserError: with all problems of syntax.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, fixed, swept = OverridesParser.create(), [], []
    problems = []
    for text in overrides:
        try:
            parsed = parser.parse_override(text)
        except HydraException:
            problems.append(Problem(text, None, f"{NOT_KEY_VALUE}, and several values as key=1,2 or key=range(3)"))
            continue
        if not parsed.is_sweep_override() or parsed.is_delete():
            fixed.append(text)
            continue
        try:
            values = [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]
        except HydraException:  # interval() and glob()
            problems.append(Problem(text, None, f"has no values to go through; {LIST_VALUES}"))
            continue
        swept.append(values)
        if not values:
            problems.append(Problem(text, None, f"is an empty range; {LIST_VALUES}"))
    raise_problems(problems)
    return fixed, swept


def applying(recipe: str, overrides: Sequence[str] = ()) -> Callable[[str], bool]:
    """A test of the `only` of an arm or a claim: whether it is for what `overrides` choose."""
    choices, keys, _ = _typed(recipe, overrides)
    tree, _ = _composed(recipe, choices)
    return lambda only: _applies(tree, dict(keys) | choices, only)


def arms(recipe: str, overrides: Sequence[str] = ()) -> dict[str, str]:
    """Arms of a recipe that apply to what `overrides` choose, with descriptions, the default arm first."""
    applies, every = applying(recipe, overrides), _hydra_tree(recipe, ())["arms"]
    return {name: arm["description"] for name, arm in every.items() if applies(arm.get("only", ""))}


def every_arm(recipe: str) -> dict[str, str]:
    """All arms of a recipe with descriptions, whatever they apply to."""
    return {name: arm["description"] for name, arm in _hydra_tree(recipe, ())["arms"].items()}


def arm_settings(recipe: str) -> dict[str, Settings]:
    """The keys that every arm of a recipe sets, with their values."""
    return {name: arm.get("set") or {} for name, arm in _hydra_tree(recipe, ())["arms"].items()}


def typed_keys(recipe: str, overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """What was typed as (key, value): group choices, keys with their shorthands written out, and keys that hold others.

    What cannot be read is left out; `compose` says what is wrong with it.
    """
    choices, keys, _ = _typed(recipe, overrides)
    words = [word.lstrip("+~").partition("=") for word in overrides]
    read = {key for key, _ in keys}
    return [*choices.items(), *keys, *((key, value) for key, _, value in words if key not in read | choices.keys())]


def groups() -> dict[str, list[str]]:
    """Config groups of a run with their options, from the folders below `conf`."""
    return {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in sorted(CONF.iterdir())
        if folder.is_dir() and folder.name not in ("recipe", "launcher")
    }


@cache
def kinds(recipe: str) -> dict[str, list[str]]:
    """Keys that hold one of several kinds of config and are no group, with the names of the kinds."""
    hints = typing.get_type_hints(registry.config_class(recipe))
    unions = {key: _dataclasses(hint) for key, hint in hints.items() if key not in groups()}
    return {key: [name for kind in found for name in _names(kind)] for key, found in unions.items() if len(found) > 1}


@cache
def options(recipe: str) -> dict[str, list[str]]:
    """Config groups with those of their options that a recipe takes."""
    hints = typing.get_type_hints(registry.config_class(recipe))
    found = {}
    for group, names in groups().items():
        accepted = {name for kind in _dataclasses(hints.get(group)) for name in _names(kind)}
        found[group] = [
            name for name in names if not accepted or read_yaml(CONF / group / f"{name}.yaml").get("name") in accepted
        ]
    return found


def config_keys(recipe: str, overrides: list[str] | None = None) -> dict[str, SettingInfo]:
    """Every key of a recipe (for the data and model that `overrides` choose) with type, default and help."""
    choices, keys, _ = _typed(recipe, overrides or [])
    tree, _ = _composed(recipe, choices)
    presets = {name: tree.pop(name, {}) or {} for name in PRESETS}
    _apply_presets(tree, presets, dict(keys), choices)
    fields = _flat_types(registry.config_class(recipe), tree)
    return {
        key: SettingInfo(
            key,
            type_name,
            _get(_resolved(tree), key, metadata_default),
            meta["help"],
            meta["unit"],
            meta["origin"],
            meta["choices"],
        )
        for key, (type_name, meta, metadata_default) in fields.items()
    }


def to_tree(config: RunConfig) -> dict[str, Any]:
    """A config as plain dicts, lists and scalars."""
    return typing.cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def from_tree(tree: dict[str, Any]) -> RunConfig:
    """The config whose tree this is, as a run folder's `config.yaml` holds it. Raises UserError if it is none."""
    config, problems = build(registry.config_class(tree["recipe"]), tree)
    raise_problems(problems)
    return typing.cast(RunConfig, config)


def to_yaml(config: RunConfig) -> str:
    """A config as YAML, the text of a run folder's `config.yaml`."""
    import yaml

    return yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)


def config_hash(config: RunConfig) -> str:
    """Ten hex digits that name a run: all that can change its result, with the version of the recipe."""
    tree = to_tree(config)
    for key in NOT_IDENTITY:
        node, _, last = key.rpartition(".")
        (_get(tree, node, {}) if node else tree).pop(last, None)
    tree.pop("seed")
    return sha256_json({"config": tree, "version": registry.card(config.recipe).version})[:10]


def _typed(recipe: str, overrides: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, Any]], list[Problem]]:
    """What `_split` returns, with the shorthands that the recipe allows written out."""
    choices, keys, problems = _split(overrides)
    rules = _hydra_tree(recipe, ())
    return *written_out(choices, keys, options=options(recipe), unions=kinds(recipe), rules=rules), problems


def _split(overrides: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, Any]], list[Problem]]:
    """Typed overrides as group choices, (key, value) pairs and problems of syntax."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    choices: dict[str, str] = {}
    keys: list[tuple[str, Any]] = []
    problems = []
    group_names = groups()
    for text in overrides:
        try:
            parsed = parser.parse_override(text)
        except HydraException:
            problems.append(Problem(text, None, NOT_KEY_VALUE))
            continue
        key = str(parsed.key_or_group)
        if parsed.is_delete():
            problems.append(Problem(text, None, "keys cannot be deleted; type key=null"))
        elif parsed.is_sweep_override():
            problems.append(Problem(text, None, ONE_VALUE))
        elif key.partition(".")[0] == "launcher":
            problems.append(Problem(text, None, "one run has no launcher; type it with `steelyard trial` or `sweep`"))
        elif key == "recipe":
            problems.append(Problem(text, None, "the recipe is the first word after `run`"))
        elif key in group_names and not isinstance(parsed.value(), dict):
            choices[key] = str(parsed.value())
        else:
            keys += _flattened(key, parsed.value())
    return choices, keys, problems


def _composed(recipe: str, choices: dict[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    """The tree of the config files for these group choices; a choice that does not exist becomes a problem."""
    known = options(recipe)
    wrong = [key for key, value in choices.items() if value not in known[key]]
    problems = [Problem(key, choices[key], no_option(key, choices[key], known[key])) for key in wrong]
    right = tuple(f"{key}={value}" for key, value in choices.items() if key not in wrong)
    return _plain(_hydra_tree(recipe, right)), problems


@cache
def _hydra_tree(recipe: str, choices: tuple[str, ...]) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            config = hydra_compose("config", overrides=[f"recipe={recipe}", *choices])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"the config files do not compose: {error}", where=f"conf/recipe/{recipe}.yaml") from error
    return typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))


def _apply_presets(
    tree: dict[str, Any], presets: dict[str, Any], typed: dict[str, Any], choices: dict[str, str]
) -> list[Problem]:
    """Apply budget, `when` and arm presets; each may be chosen by what the user typed."""
    problems = []
    budget, arm = str(typed.get("budget", tree["budget"])), str(typed.get("arm", tree["arm"]))
    for key, value in presets["budgets"].get(budget, {}).items():
        _set(tree, key, value)
    for condition, values in presets["when"].items():
        if all(_holds(tree, typed | choices, part) for part in condition.split(" ")):
            for key, value in values.items():
                _set(tree, key, value)
    preset = presets["arms"].get(arm)
    if preset is None:
        problems.append(Problem("arm", arm, did_you_mean(arm, list(presets["arms"]))))
    elif not _applies(tree, typed | choices, preset.get("only", "")):
        problems.append(Problem("arm", arm, f"needs {preset['only']}"))
    else:
        for key, value in (preset.get("set") or {}).items():
            _set(tree, key, value)
    return problems


def _applies(tree: dict[str, Any], typed: dict[str, Any], conditions: str) -> bool:
    """Whether an arm or a claim is for what the config holds: one of the conditions of its `only`, if any, is true."""
    return not conditions or any(_holds(tree, typed, condition) for condition in conditions.split(" or "))


def _holds(tree: dict[str, Any], typed: dict[str, Any], condition: str) -> bool:
    """Whether `key=value` of a `when` preset holds; of a group, `value` is the typed option or the `name` in it."""
    key, _, value = condition.partition("=")
    node = _get(tree, key, None)
    if isinstance(node, dict):
        return value in (typed.get(key), node.get("name"))
    return str(typed.get(key, node)) == value


def _nearest_key(key: str, known: list[str]) -> str:
    from recipes.core.schema import nearest

    close = nearest(key, known)
    return f"did you mean {close}?" if close else "steelyard list RECIPE shows all keys"


def _flat_types(kind: type, tree: dict[str, Any], path: str = "") -> dict[str, tuple[str, Any, Any]]:
    """Dotted key -> (type name, metadata, default) of every leaf below a config dataclass."""
    hints = typing.get_type_hints(kind)
    flat: dict[str, tuple[str, Any, Any]] = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        union = _union(hint)
        nested = _dataclasses(hint)
        key = f"{path}.{field.name}" if path else field.name
        if nested:
            node = tree.get(field.name) or {}
            names = {next((f.default for f in dataclasses.fields(n) if f.name == "name"), None): n for n in nested}
            chosen = names.get(node.get("name"), nested[0])
            flat |= _flat_types(typing.cast(type, chosen), node, key)
        else:
            default = None if field.default is dataclasses.MISSING else field.default
            flat[key] = (
                " | ".join(getattr(option, "__name__", str(option)) for option in union),
                field.metadata,
                default,
            )
    return flat


def _union(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _dataclasses(hint: Any) -> list[Any]:
    return [option for option in _union(hint) if dataclasses.is_dataclass(option)]


def _names(kind: Any) -> tuple[str, ...]:
    """What the `name` of a config dataclass may be; empty if it has none."""
    return next((field.metadata["choices"] for field in dataclasses.fields(kind) if field.name == "name"), None) or ()


def _flattened(key: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(key, plain_value(value))]
    return [pair for name, item in value.items() for pair in _flattened(f"{key}.{name}", item)]


def quoted(text: str) -> str:
    """A text as a value in Hydra's override syntax."""
    # A backslash stands for itself, but for those right before a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), text)
    return f"'{escaped}'"


def plain_value(value: Any) -> Any:
    """Hydra's parsed value without its quoting wrapper."""
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    return value if isinstance(value, int | float | str | bool | None) else str(value.text)


def _plain(value: Any) -> Any:
    """A copy of a tree with tuples as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _resolved(tree: dict[str, Any]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return typing.cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(tree), resolve=True))


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value


def _get(tree: dict[str, Any], key: str, default: Any) -> Any:
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return default
        node = node[part]
    return node


def read_yaml(path: Path) -> dict[str, Any]:
    """A run folder's `config.yaml` as a tree.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than any config, not UTF-8, or names a node twice (`&a`, `*a`) as ours never do.
        yaml.YAMLError: it is no YAML, or one with tags.
    """
    import yaml

    if path.stat().st_size > LARGEST_CONFIG:
        raise ValueError(f"{path} is no config: it has {path.stat().st_size:,} bytes")

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError(f"{path} is no config of ours: it has aliases")
            return super().compose_node(parent, index)

    return typing.cast(dict[str, Any], yaml.load(path.read_bytes().decode("utf-8"), Loader))  # noqa: S506
