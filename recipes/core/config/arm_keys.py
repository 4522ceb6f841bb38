"""Keys that arms set. Typed over, two arms would become one, and a run would be filed under what it is not.

In a trial such a key is refused; a run with one needs `label=NAME` and is filed under that name.
"""

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recipes.core.config.overrides import FileWord, place_of
from recipes.core.config.schema import Problem
from recipes.core.errors import UserError

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
TAKEN = ("trials", "sweeps")  # folders beside those of the arms
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class UserArm:
    """An arm of a user's file: a recipe's arm with some keys changed, whose runs are filed under its name.

    Attributes:
        name: Its name.
        base: The recipe's arm that it changes.
        description: What it is, for people.
        settings: What it sets.
        words: The same as `KEY=VALUE` words.
    """

    name: str
    base: str
    description: str
    settings: Settings
    words: tuple[str, ...]

    @property
    def cell(self) -> list[str]:
        """What chooses it, as would be typed without the file."""
        return [f"arm={self.base}", *self.words, f"label={self.name}"]


def overlap(key: str, other: str) -> bool:
    """Whether two dotted keys are the same or one holds the other."""
    return key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")


def arm_conflicts(keys: Sequence[tuple[str, Any]], settings: Settings) -> dict[str, tuple[Any, Any]]:
    """Typed keys that change what an arm sets.

    Args:
        keys: (dotted key, value) as typed.
        settings: What the arm sets.

    Returns:
        key -> (typed value, the arm's value); a key typed as the arm has it is left out.
    """
    return {
        key: (value, theirs)
        for key, value in keys
        for name, theirs in settings.items()
        if overlap(key, name) and not (key == name and value == theirs)
    }


def label_problems(
    recipe: str, overrides: Sequence[str], keys: Sequence[tuple[str, Any]], arm: str, arms: Mapping[str, Settings]
) -> list[Problem]:
    """What is wrong with the label of a run, or with its having none.

    Args:
        recipe: Name of the recipe.
        overrides: What was typed.
        keys: The typed (dotted key, value).
        arm: The run's arm.
        arms: What every arm of the recipe sets.
    """
    label = dict(keys).get("label")
    if label is not None:
        return _name_problems(str(label), arms)
    problems = []
    wrong = arm_conflicts(keys, arms.get(arm, {}))
    result = {**arms.get(arm, {}), **{key: value for key, (value, _) in wrong.items()}}
    same = [name for name, settings in arms.items() if settings == result]
    other = f"type arm={same[0]}, or " if same else ""
    typed = [word for word in overrides if not isinstance(word, FileWord)]
    files = dict.fromkeys(f"--config={word.file}" for word in overrides if isinstance(word, FileWord))
    command = shlex.join(["steelyard", "run", recipe, *files, *typed, f"label=my-{arm}"])
    for key, (value, theirs) in wrong.items():
        message = f"arm {arm} sets it to {theirs}; {other}give the run a name of its own with label=NAME: {command}"
        problems.append(Problem(key, value, message))
    return problems


def refuse_in_trial(
    recipe: str,
    keys: Sequence[tuple[str, Any]],
    arms: Mapping[str, Settings],
    chosen: Collection[str],
    words: Sequence[str] = (),
) -> None:
    """Refuse keys that an arm of a trial sets, and a label.

    Args:
        recipe: Name of the recipe.
        keys: The typed (dotted key, value); the value of a key that holds others may be anything.
        arms: What every arm of the recipe sets.
        chosen: Arms of the trial.
        words: What the keys were read from, some of them perhaps in a file.

    Raises:
        UserError: says which arms set the key, and what to type instead.
    """
    if _is_typed(keys, "label"):
        raise UserError(
            "a trial files its runs under the names of their arms",
            where=f"label={dict(keys)['label']}",
            hint="leave label away, or type `steelyard run` for a run of your own",
        )
    setters = {key: [name for name in chosen if any(overlap(key, one) for one in arms[name])] for key, _ in keys}
    wrong = {key: names for key, names in setters.items() if names}
    if not wrong:
        return
    keys_text = " and ".join(wrong)
    raise UserError(
        f"{keys_text} {'is' if len(wrong) == 1 else 'are'} what arms choose",
        where=", ".join(_word_with_place(key, value, words) for key, value in keys if key in wrong),
        hint=_instead(recipe, keys, arms, chosen, wrong),
    )


def _instead(
    recipe: str,
    keys: Sequence[tuple[str, Any]],
    arms: Mapping[str, Settings],
    chosen: Collection[str],
    wrong: Mapping[str, Sequence[str]],
) -> str:
    """What to type in place of a key that arms set."""
    setting = [name for name in chosen if any(name in names for names in wrong.values())]
    lines = [f"set by {_list_text(setting)}"]
    typed = [(key, value) for key, value in keys if key in wrong]
    same = [name for name, one in arms.items() if one == dict(typed)]  # one that sets more would be another run
    if same:
        lines.append(f"arms that have it so: {_list_text(same)}; choose arms with --arms")
    left = [name for name in chosen if name not in setting]
    if len(left) > 1:
        lines.append(f"without the arms that set it: --arms {','.join(left)}")
    words = [_word(key, value) for key, value in keys if key in wrong]
    lines.append(f"one run with it: {shlex.join(['steelyard', 'run', recipe, *words, 'label=NAME'])}")
    return "\n".join(lines)


def _word(key: str, value: Any) -> str:
    """A key as it is typed."""
    return f"{key}={value}".replace(" ", "")


def _word_with_place(key: str, value: Any, words: Sequence[str]) -> str:
    place = place_of(key, words)
    return f"{place}: {_word(key, value)}" if place else _word(key, value)


def _name_problems(label: str, arms: Collection[str]) -> list[Problem]:
    if label in arms:
        return [Problem("label", label, f"is the name of an arm; type arm={label}, or another label")]
    if problem := name_problem(label):
        return [Problem("label", label if PLAIN_NAME.fullmatch(label) else repr(label), problem)]
    return []


def name_problem(name: str) -> str:
    """Why runs cannot be filed under a name; empty if they can."""
    if name in TAKEN:
        return "is a folder of trials and sweeps; choose another name"
    if not PLAIN_NAME.fullmatch(name):
        return "must be a plain file name: letters, digits, dots, hyphens, at most 80"
    return ""


def _is_typed(keys: Sequence[tuple[str, Any]], key: str) -> bool:
    return any(name == key for name, _ in keys)


def _list_text(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
