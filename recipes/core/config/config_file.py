"""`--config FILE`: a user's keys and arms in a YAML file, read as if they had been typed before what was typed.

The keys become `KEY=VALUE` words that know their line. So a run, a trial's cells and their workers get words only, the
file is read once, and its name is no part of what is computed. A file that states a whole run, as the `config.yaml` in
a run's folder does, becomes the shortest words that make the same config.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from recipes.core.config import compose, registry
from recipes.core.config.arm_keys import UserArm, name_problem, overlap
from recipes.core.config.overrides import FileWord, Override, place_of, read_overrides, sweep_choices, word_of
from recipes.core.config.schema import ConfigError, Problem, raise_problems
from recipes.core.config.shorthands import is_path
from recipes.core.config.yaml_file import Entry, YamlFile, read_yaml_file
from recipes.core.errors import UserError
from recipes.core.spelling import did_you_mean
from recipes.core.storage.files import home_path, read_json
from recipes.core.storage.places import is_run

ARMS, SET = "arms", "set"
OF_AN_ARM = ("arm", "description", SET)
# What a file that states a whole run holds, and what of it a trial chooses anew.
WHOLE = ("recipe", "arm", "label", "seed", "budget", "outputs")
CHOSEN_BY_TRIALS = ("arm", "label", "seed")
NOT_OF_AN_ARM = ("arm", "label", "seed", "budget", "outputs", "recipe", "tracker", "launcher")


@dataclass(frozen=True)
class ConfigFile:
    """What a user's file says.

    Attributes:
        path: The file.
        recipe: What its keys are for.
        words: Its keys as `KEY=VALUE`.
        arms: Its own arms by name.
        problems: What is wrong with it, as far as the file alone shows.
        is_whole: Whether it states all of a run.
        run: The run folder whose config it is; None if it is none's.
    """

    path: Path
    recipe: str
    words: tuple[FileWord, ...]
    arms: dict[str, UserArm]
    problems: tuple[Problem, ...]
    is_whole: bool
    run: Path | None


def read_config_file(path: Path, recipe: str = "") -> ConfigFile:
    """The keys and arms of a file.

    Args:
        path: The file.
        recipe: The recipe that was typed; empty: the file has to name it.

    Raises:
        UserError: it cannot be read, names no recipe or another one.
    """
    file = read_yaml_file(path)
    recipe = _recipe(file, recipe)
    is_whole = set(WHOLE) <= {entry.key for entry in file.entries}
    entries = _with_tracker_kind(file.entries) if is_whole else file.entries
    keys = [entry for entry in entries if entry.key.partition(".")[0] not in ("recipe", ARMS)]
    problems = [*file.problems]
    for entry in file.entries:
        if entry.key.startswith("recipe."):
            problems.append(Problem(entry.key, entry.value, "is no key; write recipe: NAME", entry.where))
    words = [_word(recipe, entry, problems) for entry in keys]
    arms = dict(_arms(file, recipe, problems))
    run = path.absolute().parent if is_whole and path.name == "config.yaml" and is_run(path.parent) else None
    if run is not None:
        words = _where_it_ran(recipe, words, run)
    return ConfigFile(path, recipe, tuple(words), arms, tuple(problems), is_whole, run)


def run_words(file: ConfigFile, typed: Sequence[str]) -> list[str]:
    """The words of one run: those of the file, of its arm if that is one of the file's, and what was typed.

    Raises:
        ConfigError: with all problems of the file and of what was typed.
    """
    words = _merged(file, typed)
    chosen, problems = _text_of("arm", words) or "", [*file.problems]
    if arm := file.arms.get(chosen):
        words, more = _with_user_arm(arm, words)
        problems += more
    problems += _problems_of(file.recipe, words)
    if file.arms and chosen and chosen not in (arms := [*compose.arm_settings(file.recipe), *file.arms]):
        unknown = Problem("arm", chosen, did_you_mean(chosen, arms), place_of("arm", words))
        problems = [unknown if problem.key == "arm" else problem for problem in problems]
    problems += _problems_of_arms(file, typed, leave_out=chosen)
    raise_problems(_distinct(problems))
    return words


def cell_words(file: ConfigFile, typed: Sequence[str], *, chooses_arms: bool) -> list[str]:
    """The words that all cells of a trial or sweep share: those of the file and what was typed, still with all values.

    Args:
        file: The file.
        typed: What was typed; keys may have several values.
        chooses_arms: Whether it is a trial, which chooses arms and seeds itself: those of a whole run are left out.

    Raises:
        ConfigError: with all problems of the file.
    """
    words = _merged(file, typed)
    fixed, swept = sweep_choices([word for word in words if not word.startswith(("launcher", "sweeper="))])
    first = [*fixed, *(values[0] for values in swept)]
    problems = [*file.problems]
    for word in (*fixed, *chain.from_iterable(swept)):
        if _key(word) == "arm" and (arm := _text_of("arm", [word])) in file.arms:
            way = "take the line out and type --arms" if chooses_arms else "type `steelyard trial --arms`"
            message = f"is an arm of the file's own; {way}, or `steelyard run`"
            problems.append(Problem("arm", arm, message, getattr(word, "where", "")))
    shipped = [word for word in first if _key(word) != "arm" or _text_of("arm", [word]) not in file.arms]
    # What arms choose is refused where a trial's cells are planned; with a label it is no problem of a run.
    problems += _problems_of(file.recipe, [*shipped, "label=trial"] if chooses_arms else shipped)
    problems += _problems_of_arms(file, [word for word in first if not isinstance(word, FileWord)])
    raise_problems(_distinct(problems))
    if chooses_arms and file.is_whole:
        words = [word for word in words if not (isinstance(word, FileWord) and _key(word) in CHOSEN_BY_TRIALS)]
    return words


def _recipe(file: YamlFile, typed: str) -> str:
    entry = next((entry for entry in file.entries if entry.key == "recipe"), None)
    if entry is None and not typed:
        hint = "write `recipe: NAME` into it, or type the name: steelyard run NAME --config FILE"
        raise UserError("names no recipe", f"--config {file.path}", hint)
    if entry is not None and typed and entry.value != typed:
        what = f"is a config of {entry.value}, and {typed} was typed"
        raise UserError(what, entry.where, f"type {entry.value}, or take the line out")
    recipe = typed or str(entry.value if entry else "")
    try:
        registry.card(recipe)
    except UserError as error:
        raise UserError(error.what, error.where or (entry.where if entry and not typed else ""), error.hint) from error
    return recipe


def _with_tracker_kind(entries: Sequence[Entry]) -> list[Entry]:
    """The keys of a run's config; an old one calls the kind of tracker `tracker.name`."""
    if any(entry.key == "tracker.kind" for entry in entries):
        return list(entries)
    return [replace(one, key="tracker.kind") if one.key == "tracker.name" else one for one in entries]


def _word(recipe: str, entry: Entry, problems: list[Problem], path: str = "") -> FileWord:
    """An entry as it would be typed. The `name` of a group chooses its option; texts stay as they were written."""
    key, value = entry.key.removeprefix(path), entry.value
    if group := compose.choosers(recipe).get(key):
        key, fitting = group, compose.options_named(recipe, group, str(value))
        value = fitting[0] if fitting else value
    elif key == "defaults":
        problems.append(Problem(key, None, "is Hydra's; write data: NAME to choose from a group", entry.where))
    elif entry.raw is not None and value is not None and compose.texts(recipe).get(key) is False:
        value = entry.raw
    elif isinstance(value, list) and compose.texts(recipe).get(key):
        value = [one if raw is None or one is None else raw for one, raw in zip(value, entry.raws, strict=True)]
    return _file_word(key, value, entry.where)


def _arms(file: YamlFile, recipe: str, problems: list[Problem]) -> Iterator[tuple[str, UserArm]]:
    """The arms of a file that can be read."""
    entries = [entry for entry in file.entries if entry.key.partition(".")[0] == ARMS]
    shipped = compose.arm_settings(recipe)
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        name, _, rest = entry.key.removeprefix(f"{ARMS}.").partition(".")
        if entry.key == ARMS or rest.partition(".")[0] not in OF_AN_ARM or (rest == SET):
            message = "an arm is written NAME: {description: TEXT, set: {KEY: VALUE}}, and arm: NAME of what it changes"
            problems.append(Problem(entry.key, entry.value, message, entry.where))
        else:
            by_name.setdefault(name, []).append(entry)
    for name, members in by_name.items():
        right = len(problems)
        base = _base(recipe, name, members, list(shipped), problems)
        settings = [entry for entry in members if entry.key.startswith(f"{ARMS}.{name}.{SET}.")]
        if not settings and len(problems) == right:
            problems.append(Problem(f"{ARMS}.{name}", None, "sets no key; write set: {KEY: VALUE}", members[0].where))
        words = tuple(_word(recipe, entry, problems, f"{ARMS}.{name}.{SET}.") for entry in settings)
        for word in words:
            if _key(word).partition(".")[0] in NOT_OF_AN_ARM:
                problems.append(Problem(_key(word), None, "is nothing that an arm sets", word.where))
        if len(problems) == right:
            text = next((str(one.value) for one in members if one.key.endswith(".description")), "an arm of the file")
            yield name, UserArm(name, base, text, {_key(word): word.value for word in words}, words)


def _base(recipe: str, name: str, members: Sequence[Entry], shipped: list[str], problems: list[Problem]) -> str:
    """The recipe's arm that an own arm changes: the one it names, or the default."""
    where = members[0].where
    if name in shipped:
        message = f"is an arm of {recipe}, and stays what it is; choose another name, with arm: {name} to change it"
        problems.append(Problem(f"{ARMS}.{name}", None, message, where))
    elif problem := name_problem(name):
        problems.append(Problem(f"{ARMS}.{name}", None, problem, where))
    base = next((one for one in members if one.key == f"{ARMS}.{name}.arm"), None)
    if base is None:
        return shipped[0]
    if base.value not in shipped:
        problems.append(Problem(base.key, base.value, did_you_mean(str(base.value), shipped), base.where))
    return str(base.value)


def _merged(file: ConfigFile, typed: Sequence[str]) -> list[str]:
    """The words of the file that were not typed anew, then those that were.

    The file of a whole run is shortened first: what follows from its budget, arm and options must not stay where others
    are typed. A typed option takes the place of all keys of the run's option.
    """
    _check_filed(file, typed)
    words = _shortest(file) if file.is_whole else list(file.words)
    unions, typed = compose.kinds(file.recipe), _paths_as_options(file.recipe, words, typed)
    values = {_chooser(_key(word), unions): word.partition("=")[2] for word in typed}
    values = {key: value for key, value in values.items() if not value.lstrip().startswith("{")}
    options = {key: value for key, value in values.items() if key in unions or key in compose.groups()}
    folders = {f"{group}.path" for group, value in options.items() if _is_folder(file.recipe, group, value)}

    def is_typed(word: str) -> bool:
        key = _key(word)
        of_old_option = file.is_whole and key.partition(".")[0] in options
        return _chooser(key, unions) in values or key in folders or of_old_option

    return [*(word for word in words if not is_typed(word)), *typed]


def _check_filed(file: ConfigFile, typed: Sequence[str]) -> None:
    """Refuse a run that was moved, unless an outputs folder is typed. Raises UserError."""
    if file.run is None or "outputs" in map(_key, typed) or _is_filed(file.run, file.recipe, file.words):
        return
    what = "this run does not lie where runs are filed (OUTPUTS/RECIPE/ARM/HASH-sSEED)"
    raise UserError(what, str(file.run), "type outputs=FOLDER: it is run again below that folder")


def _paths_as_options(recipe: str, words: Sequence[FileWord], typed: Sequence[str]) -> list[str]:
    """What was typed, `GROUP.path=PATH` as `GROUP=PATH` where the file has a folder for that group."""
    values = {_key(word): str(word.value) for word in words if _key(word) in compose.groups()}
    free = values.keys() - {_key(word) for word in typed}
    folders = {f"{group}.path": group for group in free if _is_folder(recipe, group, values[group])}
    return [f"{folders[_key(word)]}={word.partition('=')[2]}" if _key(word) in folders else word for word in typed]


def _is_folder(recipe: str, group: str, value: str) -> bool:
    """Whether what a group is set to is a folder or hub name, and no option of that name."""
    return is_path(value) and value not in compose.options(recipe).get(group, ())


def _chooser(key: str, unions: Collection[str]) -> str:
    """A key; that of a union for the `name` that says which of its kinds it is."""
    return key.removesuffix(".name") if key.removesuffix(".name") in unions else key


def _with_user_arm(arm: UserArm, words: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """Words in which an own arm is what it stands for; keys that it sets are free only under another label."""
    others = [word for word in words if _key(word) != "arm"]
    if _text_of("label", others) is not None:
        return [f"arm={arm.base}", *arm.words, *others], []
    problems = [
        Problem(_key(word), None, f"arm {arm.name} sets it; give the run a name of its own with label=NAME")
        for word in others
        if any(overlap(_key(word), key) for key in arm.settings)
    ]
    others = [word for word in others if _key(word) != "label"]
    return [f"arm={arm.base}", *arm.words, *others, f"label={arm.name}"], problems


def _problems_of(recipe: str, words: Sequence[str]) -> list[Problem]:
    try:
        compose.compose(recipe, list(words))
    except ConfigError as error:
        return error.problems
    return []


def _problems_of_arms(file: ConfigFile, typed: Sequence[str], leave_out: str = "") -> list[Problem]:
    """Problems of the file's arms that nobody chose: those that stand in their lines."""
    others = [word for word in _merged(file, typed) if _key(word) not in ("arm", "label")]
    problems = []
    for name, arm in file.arms.items():
        if name != leave_out:
            free = [word for word in others if not any(overlap(_key(word), key) for key in arm.settings)]
            wrong = _problems_of(file.recipe, [f"arm={arm.base}", *arm.words, *free, f"label={name}"])
            lines = {getattr(word, "where", "") for word in arm.words}
            problems += [problem for problem in wrong if problem.where in lines]
    return problems


def _shortest(file: ConfigFile) -> list[FileWord]:
    """The words of a whole run's file without those that follow from the others."""
    unions = compose.kinds(file.recipe)
    choices = {*compose.groups(), *unions, "arm", "budget", "outputs"}
    kept = {word for word in file.words if _chooser(_key(word), unions) in choices}
    more = kept
    while more:  # a default may follow from a key that is kept (${...})
        plain = compose.config_keys(file.recipe, [word for word in file.words if word in kept])
        more = {word for word in file.words if word not in kept and _differs(word, plain)}
        kept |= more
    return [word for word in file.words if word in kept]


def _differs(word: FileWord, plain: Mapping[str, compose.SettingInfo]) -> bool:
    """Whether a key would have another value without its word."""
    info = plain.get(_key(word))
    default = info and (list(info.default) if isinstance(info.default, tuple) else info.default)
    return info is None or default != word.value


def _where_it_ran(recipe: str, words: Sequence[FileWord], run: Path) -> list[FileWord]:
    """Words of a run's config whose relative paths are as they were where it ran, and whose outputs are around it."""
    try:
        start = Path(str(read_json(run / "env.json").get("folder", "")))
    except (OSError, UserError):
        start = Path()
    paths, filed = compose.content_keys(recipe), _is_filed(run, recipe, words)

    def absolute(word: FileWord) -> FileWord:
        key, value = _key(word), word.value
        if key == "outputs" and filed:
            value = str(run.parents[2])
        elif key in paths and value is not None:
            many = isinstance(value, list)
            value = [_from_folder(one, start) for one in value] if many else _from_folder(value, start)
        return _file_word(key, value, word.where)

    return [absolute(word) for word in words]


def _from_folder(value: Any, folder: Path) -> Any:
    """A path, or NAME:PATH, from a folder, if there is something; else as it is."""
    name, colon, path = "", "", str(value)
    if not (folder / home_path(path)).exists():
        name, colon, path = path.partition(":")
    place = folder / home_path(path)
    return f"{name}{colon}{os.path.abspath(place)}" if path and place.exists() else value


def _is_filed(run: Path, recipe: str, words: Sequence[FileWord]) -> bool:
    """Whether a run's folder lies where its config says that it is filed."""
    values = {_key(word): word.value for word in words}
    variant = values["arm"] if values["label"] is None else values["label"]
    return run.parts[-3:-1] == (recipe, variant) and run.name.endswith(f"-s{values['seed']}")


def _file_word(key: str, value: Any, where: str) -> FileWord:
    return FileWord(word_of(key, value), value, where)


def _distinct(problems: Sequence[Problem]) -> list[Problem]:
    return list({str(problem): problem for problem in problems}.values())


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _text_of(key: str, words: Sequence[str]) -> str | None:
    """The text that a key is set to (as it stands, where it cannot be read); the last word of the key counts."""
    word = next((word for word in reversed(words) if _key(word) == key), None)
    if word is None:
        return None
    if isinstance(word, FileWord):
        value = word.value
    else:
        [read] = read_overrides([word], {key: False}, ())
        value = read.value if isinstance(read, Override) else word.partition("=")[2]
    return None if value is None else str(value)
