"""Arithmetic with its steps written down: long addition and multiplication. Imports no torch."""

from collections.abc import Callable, Sequence
from functools import partial

from recipes.decoding.questions import Questions, Random, draw

# How a step may be written behind the one before: the steps are the same, whichever it is.
STYLES = (";", ",", "/", " ")


def addition_steps(first: str, second: str) -> list[str]:
    """The sum of each column with its carry, from the right, in two digits; then the whole sum.

    Args:
        first: Digits of a number.
        second: As many of the other.
    """
    steps, carry = list[str](), 0
    for a, b in zip(reversed(first), reversed(second), strict=True):
        steps.append(f"{int(a) + int(b) + carry:02d}")
        carry = int(steps[-1]) // 10
    return [*steps, str(int(first) + int(second))]


def multiplication_steps(first: str, digit: str) -> list[str]:
    """The product of each digit with its carry, from the right, in two digits; then the whole product."""
    steps, carry = list[str](), 0
    for a in reversed(first):
        steps.append(f"{int(a) * int(digit) + carry:02d}")
        carry = int(steps[-1]) // 10
    return [*steps, str(int(first) * int(digit))]


def final_answer(text: str) -> str:
    """What stands behind the last step."""
    for style in STYLES:
        text = text.rpartition(style)[2]
    return text


def _number(random: Random, digits: int) -> str:
    return f"{int(random.integers(10**digits)):0{digits}d}"


def _add(random: Random, digits: int) -> tuple[str, list[str]]:
    first, second = _number(random, digits), _number(random, digits)
    return f"{first}+{second}", addition_steps(first, second)


def _multiply(random: Random, digits: int) -> tuple[str, list[str]]:
    first, digit = _number(random, digits), str(int(random.integers(2, 6)))
    return f"{first}*{digit}", multiplication_steps(first, digit)


TASKS: dict[str, Callable[[Random, int], tuple[str, list[str]]]] = {"add": _add, "multiply": _multiply}


def different_questions(tasks: Sequence[str], digits: int) -> int:
    """How many different questions there are of tasks with numbers of so many digits."""
    return sum({"add": 10 ** (2 * digits), "multiply": 4 * 10**digits}[task] for task in tasks)


def _written(random: Random, task: str, digits: int, styles: int) -> tuple[str, str]:
    asked, steps = TASKS[task](random, digits)
    text = steps[0]
    for step in steps[1:]:
        text += STYLES[int(random.integers(styles))] + step
    return asked, text


def draw_questions(
    tasks: Sequence[str], digits: int, styles: int, train: int, validation: int, test: int, seed: int
) -> Questions:
    """Questions of several tasks in equal shares, answered with steps.

    Args:
        tasks: Names in `TASKS`.
        digits: Most digits of a number, at least 2.
        styles: How many ways to write a step there are; each step takes one at random.
        train: As in `draw`, with the arguments behind it.
        validation: How many for routers and thresholds.
        test: How many to measure on.
        seed: Decides all of them.

    Raises:
        ValueError: a task has not so many different prompts.
    """
    kinds = {task: partial(_written, task=task, digits=digits, styles=styles) for task in tasks}
    return draw(kinds, train, validation, test, seed)
