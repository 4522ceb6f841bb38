"""Transductions with one right answer each, whose answers are of very different lengths. Imports no torch."""

from collections.abc import Callable, Sequence

from recipes.decoding.questions import Questions, Random, Task, draw

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
EQUAL_DIGITS = 6


def number_words(number: int) -> str:
    """A number below 1,000 in words: `three hundred forty-two`."""
    if number >= 100:
        rest = f" {number_words(number % 100)}" if number % 100 else ""
        return f"{ONES[number // 100]} hundred{rest}"
    if number < 20:
        return ONES[number]
    return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")


def column_sums(first: int, second: int) -> str:
    """Addition as it is written down: the sum of each column with its carry, from the right, then the whole sum."""
    steps, carry, a, b = list[int](), 0, first, second
    while a or b:
        steps.append(a % 10 + b % 10 + carry)
        carry, a, b = steps[-1] // 10, a // 10, b // 10
    return ";".join(map(str, [*steps, first + second]))


def _digits(random: Random, equal: bool) -> str:
    return "".join(map(str, random.integers(0, 10, EQUAL_DIGITS if equal else int(random.integers(1, 13)))))


def _copy(random: Random, equal: bool) -> tuple[str, str]:
    digits = _digits(random, equal)
    return digits, digits


def _reverse(random: Random, equal: bool) -> tuple[str, str]:
    digits = _digits(random, equal)
    return digits, digits[::-1]


def _sort(random: Random, equal: bool) -> tuple[str, str]:
    digits = _digits(random, equal)
    return digits, "".join(sorted(digits))


def _add(random: Random, equal: bool) -> tuple[str, str]:
    first, second = (int(random.integers(1, 10 ** int(random.integers(1, 5)))) for _ in range(2))
    return f"{first}+{second}", column_sums(first, second)


def _date(random: Random, equal: bool) -> tuple[str, str]:
    year, month, day = int(random.integers(1900, 2100)), int(random.integers(12)), int(random.integers(1, 29))
    return f"{year}-{month + 1:02d}-{day:02d}", f"{day} {MONTHS[month]} {year}"


def _words(random: Random, equal: bool) -> tuple[str, str]:
    number = int(random.integers(1, 1000))
    return str(number), number_words(number)


TASKS: dict[str, Callable[[Random, bool], tuple[str, str]]] = {
    "copy": _copy,
    "reverse": _reverse,
    "sort": _sort,
    "add": _add,
    "date": _date,
    "words": _words,
}
EQUAL = ("copy", "reverse", "sort")  # that can be asked with answers of one length


def draw_questions(tasks: Sequence[str], train: int, validation: int, test: int, equal: bool, seed: int) -> Questions:
    """Questions of several tasks in equal shares.

    Args:
        tasks: Names in `TASKS`.
        train: As in `draw`, with the arguments behind it.
        validation: How many to fit rules on.
        test: How many to measure on.
        equal: Whether all answers have `EQUAL_DIGITS` characters.
        seed: Decides all of them.

    Raises:
        ValueError: a task has not so many different prompts.
    """

    def asks(name: str) -> Task:
        return lambda random: TASKS[name](random, equal)

    return draw({name: asks(name) for name in tasks}, train, validation, test, seed)
