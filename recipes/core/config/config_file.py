"""`--config FILE`: a user's keys and arms in a YAML file, read as if they had been typed before what was typed.

The keys become `KEY=VALUE` words that know their line. So a run, a trial's cells and their workers get words only, the
file is read once, and its name is no part of what is computed. A file that states a whole run, as the `config.yaml` in
a run's folder does, becomes the shortest words that make the same config.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.config import compose, registry
from recipes.core.config.arm_keys import UserArm, name_problem, overlap
from recipes.core.config.fields import flatten
from recipes.core.config.overrides import FileWord, place_of, sweep_choices, word_of
from recipes.core.config.schema import ConfigError, Problem, raise_problems
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
    keys = [entry for entry in file.entries if entry.key.partition(".")[0] not in ("recipe", ARMS)]
    problems = [*file.problems]
    for entry in file.entries:
        if entry.key.startswith("recipe."):
            problems.append(Problem(entry.key, entry.value, "is no key; write recipe: NAME", entry.where))
    words = [_word(recipe, entry, problems) for entry in keys]
    arms = dict(_arms(file, recipe, problems))
    is_whole = set(WHOLE) <= {entry.key for entry in file.entries}
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
    chosen, problems = _values(words).get("arm", ""), [*file.problems]
    if arm := file.arms.get(chosen):
        words, more = _with_user_arm(arm, words)
        problems += more
    problems += _problems_of(file.recipe, words)
    if file.arms and chosen and chosen not in (arms := [*compose.arm_settings(file.recipe), *file.arms]):
        unknown = Problem("arm", chosen, did_you_mean(chosen, arms), place_of("arm", words))
        problems = [unknown if problem.key == "arm" else problem for problem in problems]
    problems += _problems_of_arms(file, typed, leave_out=chosen)
    raise_problems(_distinct(problems))
    return _shortest(file, words) if file.is_whole else words


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
    if _values(first).get("arm", "") in file.arms:
        where = next(getattr(word, "where", "") for word in first if _key(word) == "arm")
        message = "is an arm of the file's own; type `steelyard trial --arms`, or `steelyard run`"
        problems.append(Problem("arm", _values(first)["arm"], message, where))
    else:
        # What arms choose is refused where a trial's cells are planned; with a label it is no problem of a run.
        problems += _problems_of(file.recipe, [*first, "label=trial"] if chooses_arms else first)
    problems += _problems_of_arms(file, [word for word in first if not isinstance(word, FileWord)])
    raise_problems(_distinct(problems))
    if file.is_whole:
        kept = set(_shortest(file, first))
        words = [word for word in words if word in kept or not isinstance(word, FileWord)]
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
    """The words of the file that were not typed anew, then those that were."""
    keys = {_key(word) for word in typed}
    kept = [word for word in file.words if not {_key(word), _key(word).removesuffix(".name")} & keys]
    if file.run is not None and "outputs" not in keys and not _is_filed(file.run, file.recipe, file.words):
        what = "this run does not lie where runs are filed (OUTPUTS/RECIPE/ARM/HASH-sSEED)"
        raise UserError(what, str(file.run), "type outputs=FOLDER: it is run again below that folder")
    return [*kept, *typed]


def _with_user_arm(arm: UserArm, words: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """Words in which an own arm is what it stands for; keys that it sets are free only under another label."""
    others = [word for word in words if _key(word) != "arm"]
    if _values(others).get("label", "null") != "null":
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


def _shortest(file: ConfigFile, words: list[str]) -> list[str]:
    """The words without those of the file that change nothing, where the config stays the same."""
    config = compose.compose(file.recipe, words)
    choices = {*compose.groups(), *compose.kinds(file.recipe), "arm", "budget", "outputs"}
    needed = [word for word in words if not isinstance(word, FileWord) or _key(word).removesuffix(".name") in choices]
    full, plain = flatten(compose.to_tree(config)), compose.config_keys(file.recipe, needed)
    changes = [word for word in words if (key := _key(word)) in plain and plain[key].default != full[key]]
    kept = [word for word in words if word in needed or word in changes]
    return kept if compose.compose(file.recipe, kept) == config else words


def _where_it_ran(recipe: str, words: Sequence[FileWord], run: Path) -> list[FileWord]:
    """Words of a run's config whose relative paths are as they were where it ran, and whose outputs are around it."""
    try:
        began = Path(str(read_json(run / "env.json").get("folder", "")))
    except (OSError, UserError):
        began = Path()
    paths, filed, placed = compose.content_keys(recipe), _is_filed(run, recipe, words), []
    for word in words:
        key, value = _key(word), word.value
        if key == "outputs" and filed:
            placed.append(_file_word(key, str(run.parents[2]), word.where))
        elif key in paths and value is not None:
            there = (
                [_from_folder(one, began) for one in value] if isinstance(value, list) else _from_folder(value, began)
            )
            placed.append(_file_word(key, there, word.where))
        else:
            placed.append(word)
    return placed


def _from_folder(value: Any, folder: Path) -> Any:
    """A path, or NAME:PATH, from a folder, if there is something; else as it is."""
    name, colon, path = "", "", str(value)
    if not (folder / home_path(path)).exists():
        name, colon, path = path.partition(":")
    place = folder / home_path(path)
    return f"{name}{colon}{os.path.abspath(place)}" if path and place.exists() else value


def _is_filed(run: Path, recipe: str, words: Sequence[str]) -> bool:
    """Whether a run's folder lies where its config says that it is filed."""
    values = _values(words)
    variant = values["arm"] if values["label"] == "null" else values["label"]
    return run.parts[-3:-1] == (recipe, variant) and run.name.endswith(f"-s{values['seed']}")


def _file_word(key: str, value: Any, where: str) -> FileWord:
    return FileWord(word_of(key, value), value, where)


def _distinct(problems: Sequence[Problem]) -> list[Problem]:
    return list({str(problem): problem for problem in problems}.values())


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _values(words: Sequence[str]) -> dict[str, str]:
    """What each key is set to, as typed; the last of a key counts."""
    return {_key(word): word.partition("=")[2] for word in words}
