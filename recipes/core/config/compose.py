"""From what was typed to a checked config: Hydra composes, then presets, then the user's keys, then the schema.

Order, later wins: the config files < the recipe's `budgets` preset < its `when` presets (for a data set, model or
setting) < the arm < what the user typed. Imports Hydra inside the functions, so that `--help` stays fast, and
never torch.
"""

import dataclasses
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from recipes.core.config import registry
from recipes.core.config.arm_keys import Settings, label_problems
from recipes.core.config.fields import dataclasses_of, flat_types, names_of, union_of
from recipes.core.config.flops import flops_problems, steps_or_flops
from recipes.core.config.overrides import located, read_overrides
from recipes.core.config.places import key_places
from recipes.core.config.presets import applies, apply_presets
from recipes.core.config.schema import ConfigError, Problem, build, raise_problems
from recipes.core.config.settings import Card, RunConfig
from recipes.core.config.shorthands import no_option, write_out
from recipes.core.config.sources import composed, names_in_files, option_files, search_path
from recipes.core.config.stopping import stopping_problems
from recipes.core.config.synonyms import nearest_key
from recipes.core.config.trees import flatten, get_key, plain, resolve, set_key
from recipes.core.storage.fingerprints import look_once

PRESETS = ("arms", "budgets", "when", "implied", "folders")


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


@dataclass(frozen=True)
class Draft:
    """What was typed in the tree of the config files, before interpolations are replaced and values are checked.

    Attributes:
        tree: The tree.
        keys: (dotted key, value) as typed, with shorthands written out.
        choices: Typed options of groups.
        presets: Of the recipe's file: what it sets for budgets, arms and conditions.
        known: Dotted keys of all leaves that the config has.
        problems: What is wrong with words and keys.
    """

    tree: dict[str, Any]
    keys: list[tuple[str, Any]]
    choices: dict[str, str]
    presets: dict[str, Any]
    known: Collection[str]
    problems: list[Problem]


@look_once()
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
    return check_draft(recipe, overrides, draft(recipe, overrides))


def draft(recipe: str, overrides: list[str]) -> Draft:
    """The tree of what was typed. Raises UserError if the config files do not compose; other problems are collected."""
    kind = registry.config_class(recipe)
    choices, keys, problems = _expand(recipe, overrides)
    tree, more = _config_tree(recipe, choices)
    problems += more
    presets = {name: tree.pop(name, {}) or {} for name in PRESETS}
    typed = dict(keys)
    problems += apply_presets(tree, presets, typed, choices)
    for key in kinds(recipe):  # a kind that was typed has keys of its own
        name = typed.get(f"{key}.name")
        if name is not None and name != get_key(tree, f"{key}.name", None):
            tree[key] = {"name": name}
    known = flat_types(kind, tree)
    problems += steps_or_flops(tree, typed)
    for key, value in keys:
        if key in known:
            set_key(tree, key, value)
        else:
            problems.append(Problem(key, value, _unknown_key(recipe, key, list(known), tree)))
    return Draft(tree, keys, choices, presets, known, problems)


def check_draft(recipe: str, overrides: list[str], draft: Draft) -> Any:
    """The checked config of a draft; arguments and errors as of `compose`."""
    typed, problems = dict(draft.keys), list(draft.problems)
    try:
        resolved = resolve(draft.tree)
    except ConfigError as error:
        problems += error.problems
        raise_problems(_located(recipe, overrides, problems, typed, draft.choices))
        raise AssertionError("unreachable") from error
    config, value_problems = build(registry.config_class(recipe), resolved)
    arm = str(typed.get("arm", draft.tree["arm"]))
    unnamed = label_problems(recipe, overrides, draft.keys, arm, arm_settings(recipe))
    if config is not None:
        value_problems += rule_problems(config)
    reported = {problem.key.partition("=")[0] for problem in problems}
    problems += [problem for problem in [*value_problems, *unnamed] if problem.key not in reported]
    raise_problems(_located(recipe, overrides, problems, typed, draft.choices))
    return config


def rule_problems(config: RunConfig, card: Card | None = None) -> list[Problem]:
    """What rules between settings and the recipe's card say against a config; the card, if it is at hand."""
    return stopping_problems(config, card or registry.card(config.recipe)) + flops_problems(config)


def shorthand_keys(recipe: str) -> set[str]:
    """Dotted keys from whose values group choices or the arm follow where none were typed."""
    rules = _hydra_tree(recipe, ())
    implied = {condition.partition("=")[0] for condition in rules.get("implied") or ()}
    return implied | {f"{group}.path" for group in rules.get("folders") or ()}


@look_once()
def applying(recipe: str, overrides: Sequence[str] = ()) -> Callable[[str], bool]:
    """A test of the `only` of an arm or a claim: whether it is for what `overrides` choose."""
    choices, keys, _ = _expand(recipe, overrides)
    tree, _ = _config_tree(recipe, choices)
    apply_presets(tree, {name: tree.get(name) or {} for name in PRESETS}, dict(keys), choices)
    return lambda only: applies(tree, dict(keys) | choices, only)


def arms(recipe: str, overrides: Sequence[str] = ()) -> dict[str, str]:
    """Arms of a recipe that apply to what `overrides` choose, with descriptions, the default arm first."""
    applies, every = applying(recipe, overrides), _hydra_tree(recipe, ())["arms"]
    return {name: arm["description"] for name, arm in every.items() if applies(arm.get("only", ""))}


def budget(recipe: str, overrides: Sequence[str] = ()) -> str:
    """The budget that `overrides` choose, as it was typed; `compose` says whether there is one of that name."""
    _, keys, _ = _expand(recipe, overrides)
    return str(dict(keys).get("budget", _hydra_tree(recipe, ())["budget"]))


def every_arm(recipe: str) -> dict[str, str]:
    """All arms of a recipe with descriptions, whatever they apply to."""
    return {name: arm["description"] for name, arm in _hydra_tree(recipe, ())["arms"].items()}


def arm_settings(recipe: str) -> dict[str, Settings]:
    """The keys that every arm of a recipe sets, with their values."""
    return {name: arm.get("set") or {} for name, arm in _hydra_tree(recipe, ())["arms"].items()}


def arm_keys(recipe: str, arm: str) -> set[str]:
    """Dotted keys in which an arm of a recipe may differ from others: those that it sets, or that follow from it.

    Of a key that holds one of several kinds of config, all that is below it.
    """
    tree, unions = _hydra_tree(recipe, ()), kinds(recipe)
    keys = set(tree["arms"][arm].get("set") or {})
    for condition, settings in (tree.get("when") or {}).items():
        keys |= set(settings or {}) if f"arm={arm}" in condition.split() else set()
    return keys | {key.removesuffix(".name") for key in keys if key.removesuffix(".name") in unions}


def typed_keys(recipe: str, overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """What was typed as (key, value): group choices, keys with their shorthands written out, and keys that hold others.

    What cannot be read is left out; `compose` says what is wrong with it.
    """
    choices, keys, _ = _expand(recipe, overrides)
    words = [word.lstrip("+~").partition("=") for word in overrides]
    read = {key for key, _ in keys}
    return [*choices.items(), *keys, *((key, value) for key, _, value in words if key not in read | choices.keys())]


def groups() -> dict[str, list[str]]:
    """Config groups of a run with their options, from the folders below `conf` and in folders of --config-dir."""
    return {group: sorted(files) for group, files in option_files(search_path("")).items()}


@cache
def kinds(recipe: str) -> dict[str, list[str]]:
    """Keys that hold one of several kinds of config and are no group, with the names of the kinds."""
    hints = typing.get_type_hints(registry.config_class(recipe))
    unions = {key: dataclasses_of(hint) for key, hint in hints.items() if key not in groups()}
    return {
        key: [name for kind in members for name in names_of(kind)]
        for key, members in unions.items()
        if len(members) > 1
    }


def options(recipe: str) -> dict[str, list[str]]:
    """Config groups with those of their options that a recipe takes."""
    hints = typing.get_type_hints(registry.config_class(recipe))
    by_group = {}
    for group, names in _names_of_options(recipe).items():
        accepted = {name for kind in dataclasses_of(hints.get(group)) for name in names_of(kind)}
        by_group[group] = [option for option, name in names.items() if not accepted or name in accepted]
    return by_group


def _names_of_options(recipe: str) -> dict[str, dict[str, Any]]:
    """Config groups with the `name` that stands in each option's file: that of its kind of config."""
    return names_in_files(search_path(recipe))


@cache
def choosers(recipe: str) -> dict[str, str]:
    """Keys that say which option of a group a config has (`data.name`, `tracker.kind`), with the group."""
    keys = {}
    for group, hint in typing.get_type_hints(registry.config_class(recipe)).items():
        fields = [field for kind in dataclasses_of(hint) for field in dataclasses.fields(kind)]
        named = {field.name for field in fields if field.metadata.get("choices")}
        if group in groups() and (chooser := next((name for name in ("name", "kind") if name in named), "")):
            keys[f"{group}.{chooser}"] = group
    return keys


def options_named(recipe: str, group: str, name: str) -> list[str]:
    """Options of a group that a value in a config may stand for: that of its name, or of its kind of config."""
    names = _names_of_options(recipe).get(group, {})
    fitting = [option for option in options(recipe).get(group, []) if name in (option, names[option])]
    return sorted(fitting, key=lambda option: option != name)


def _located(
    recipe: str, overrides: list[str], problems: list[Problem], typed: dict[str, Any], choices: dict[str, str]
) -> list[Problem]:
    """The problems, those that stand in a file of the user's with its name and line."""
    free = {problem.key.partition("=")[0] for problem in problems} - typed.keys()
    chosen: dict[str, str] = {name: str(typed[name]) for name in ("arm", "budget") if name in typed}
    places = key_places(recipe, search_path(recipe), choices, chosen) if free else {}
    lines = {key: places[key] for key in free & places.keys()}
    return located([replace(one, where=one.where or lines.get(one.key, "")) for one in problems], overrides)


def _unknown_key(recipe: str, key: str, known: list[str], tree: dict[str, Any]) -> str:
    """What is wrong with a key that a config lacks: it belongs to what could be chosen instead, or another is near."""
    group = key.partition(".")[0]
    if owners := _owners(recipe, key):
        return f"unknown key of {group}={get_key(tree, f'{group}.name', '')}; it belongs to {group}={', '.join(owners)}"
    return f"unknown key; {nearest_key(key, known, list(groups()))}"


def _owners(recipe: str, key: str) -> list[str]:
    """Options of a key's group (or kinds of its union) that have the key; those that others build on come first."""
    group = key.partition(".")[0]
    hint = typing.get_type_hints(registry.config_class(recipe)).get(group)
    names = {name for kind in dataclasses_of(hint) if key in flat_types(kind, {}, group) for name in names_of(kind)}
    if group not in groups():
        return sorted(names)
    by_option = _names_of_options(recipe)[group]
    owners = [option for option in options(recipe)[group] if by_option[option] in names]
    return sorted(owners, key=lambda option: (option != by_option[option], option))


@look_once()
def config_keys(recipe: str, overrides: list[str] | None = None) -> dict[str, SettingInfo]:
    """Every key of a recipe (for the data and model that `overrides` choose) with type, default and help."""
    choices, keys, _ = _expand(recipe, overrides or [])
    tree, _ = _config_tree(recipe, choices)
    presets = {name: tree.pop(name, {}) or {} for name in PRESETS}
    apply_presets(tree, presets, dict(keys), choices)
    fields, resolved = flat_types(registry.config_class(recipe), tree), resolve(tree)
    return {
        key: SettingInfo(
            key,
            type_name,
            get_key(resolved, key, metadata_default),
            meta["help"],
            meta["unit"],
            meta["origin"],
            meta["choices"],
        )
        for key, (type_name, meta, metadata_default) in fields.items()
    }


def to_tree(config: RunConfig) -> dict[str, Any]:
    """A config as plain dicts, lists and scalars."""
    return typing.cast(dict[str, Any], plain(dataclasses.asdict(config)))


def from_tree(tree: dict[str, Any]) -> RunConfig:
    """The config whose tree this is, as a run folder's `config.yaml` holds it. Raises UserError if it is none."""
    tracker = tree.get("tracker")
    if isinstance(tracker, dict) and "name" in tracker and "kind" not in tracker:  # of an old run
        tree = tree | {"tracker": {**tracker, "kind": tracker["name"], "name": None}}
    config, problems = build(registry.config_class(tree["recipe"]), tree)
    raise_problems(problems)
    return typing.cast(RunConfig, config)


def to_yaml(config: RunConfig) -> str:
    """A config as YAML, the text of a run folder's `config.yaml`."""
    return tree_yaml(to_tree(config))


def tree_yaml(tree: dict[str, Any]) -> str:
    """A tree of plain values as YAML."""
    import yaml

    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _expand(recipe: str, overrides: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, Any]], list[Problem]]:
    """What `_split` returns, with the shorthands that the recipe allows written out."""
    choices, keys, problems = _split(recipe, overrides)
    rules = _hydra_tree(recipe, ())
    names = _names_of_options(recipe)
    written = write_out(choices, keys, options=options(recipe), names=names, unions=kinds(recipe), rules=rules)
    return *written, problems


def _split(recipe: str, overrides: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, Any]], list[Problem]]:
    """Typed overrides as group choices, (key, value) pairs and problems of syntax."""
    choices: dict[str, str] = {}
    keys: list[tuple[str, Any]] = []
    problems = []
    group_names = groups()
    for word, override in zip(overrides, read_overrides(overrides, texts(recipe), group_names), strict=True):
        if isinstance(override, Problem):
            problems.append(override)
        elif override.key.partition(".")[0] == "launcher":
            problems.append(Problem(word, None, "one run has no launcher; type it with `steelyard trial` or `sweep`"))
        elif override.key == "recipe":
            problems.append(Problem(word, None, "the recipe is the first word after `run`"))
        elif override.key in group_names and not isinstance(override.value, dict):
            choices[override.key] = override.value
        elif override.key.endswith(".name") and override.key in choosers(recipe):
            problems.append(Problem(word, None, f"type {choosers(recipe)[override.key]}={override.value}"))
        else:
            keys += flatten(override.key, override.value)
    return choices, keys, problems


@cache
def texts(recipe: str) -> dict[str, bool]:
    """Every key of a recipe that holds a text (False) or a list of texts (True), whatever data and model are chosen."""
    return _texts(registry.config_class(recipe), "") | dict.fromkeys(kinds(recipe), False)


def _texts(kind: Any, path: str) -> dict[str, bool]:
    hints = typing.get_type_hints(kind)
    texts: dict[str, bool] = {}
    for field in dataclasses.fields(kind):
        key, options = f"{path}{field.name}", union_of(hints[field.name])
        for nested in dataclasses_of(hints[field.name]):
            texts |= _texts(nested, f"{key}.")
        if str in options and not {int, float} & set(options):
            texts[key] = False
        elif any(typing.get_origin(option) is tuple and str in typing.get_args(option) for option in options):
            texts[key] = True
    return texts


@cache
def content_keys(recipe: str) -> frozenset[str]:
    """Every key of a recipe that may name files or folders, whatever data and model are chosen."""
    return frozenset(_content_keys(registry.config_class(recipe), ""))


def _content_keys(kind: Any, path: str) -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        for nested in dataclasses_of(hints[field.name]):
            yield from _content_keys(nested, f"{path}{field.name}.")
        if field.metadata.get("content"):
            yield f"{path}{field.name}"


def _config_tree(recipe: str, choices: dict[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    """The tree of the config files for these group choices; a choice that does not exist becomes a problem."""
    known = options(recipe)
    wrong = [key for key, value in choices.items() if value not in known[key]]
    folders = (_hydra_tree(recipe, ()).get("folders") or {}) if wrong else {}
    problems = [Problem(key, choices[key], no_option(key, choices[key], known[key], key in folders)) for key in wrong]
    right = tuple(f"{key}={value}" for key, value in choices.items() if key not in wrong)
    return plain(_hydra_tree(recipe, right)), problems


def _hydra_tree(recipe: str, choices: tuple[str, ...]) -> dict[str, Any]:
    return composed(recipe, choices, search_path(recipe))
