"""Requests that ship, each with the constraint that its answer has to satisfy. Imports no torch."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from recipes.decoding.awrs.constraints import Constraint, Python, RightSum, json_constraint, regex_constraint

PATTERNS = {
    "date": "(1[0-9]|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
    "ending": "[A-Z][A-Za-z ,']{8,60} in the garden\\.",
    "ipv4": "((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\\.){3}(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])",
    "email": "[a-z0-9]+(\\.[a-z0-9]+)*@[a-z0-9]+(-[a-z0-9]+)*(\\.[a-z]{2,6}){1,2}",
}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "city": {"type": "string", "maxLength": 30},
    },
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
REQUESTS: dict[str, tuple[str, ...]] = {
    "date": tuple(
        f"When {what}? Answer with the date only, in the form YYYY-MM-DD."
        for what in ("did the first human walk on the Moon", "did World War II end in Europe", "was Mozart born",
                     "did the Berlin Wall fall", "did the Titanic sink")
    ),
    "ending": tuple(
        f"Write one short sentence about {what}. It must end with the words 'in the garden.'"
        for what in ("a cat", "an old man", "two children", "a lost ball", "the rain")
    ),
    "ipv4": tuple(
        f"Give an example of {what}. Answer with the address only."
        for what in ("a private IPv4 address", "a public IPv4 address", "the IPv4 address of a home router",
                     "an IPv4 loopback address", "an IPv4 address of a DNS server")
    ),
    "email": tuple(
        f"Invent an e-mail address for {what}. Answer with the address only."
        for what in ("a teacher called Ann Miller", "a flower shop", "the support of a bank", "a student called Tom",
                     "a small bakery in Vienna")
    ),
    "sum": tuple(
        f"Write an addition of two numbers {what}, with its result, in the form a+b=c."
        for what in ("below 10", "between 10 and 99", "between 100 and 999", "that are both even", "whose sum is 100")
    ),
    "json": tuple(
        f'Describe {what} as a JSON object with the keys "name", "age" and "city". Answer with the JSON only.'
        for what in ("a nurse from London", "a boy from Madrid", "a retired sailor", "a famous painter",
                     "your neighbour")
    ),
    "python": tuple(
        f"Write a short Python function that {what}. Answer with the code only, without a comment."
        for what in ("adds two numbers", "returns the last element of a list", "counts the vowels of a string",
                     "tells whether a number is even", "doubles all numbers of a list")
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What is asked, and what the answer has to be."""

    id: str
    text: str
    constraint: Constraint


def requests(tasks: tuple[str, ...], limit: int) -> list[Request]:
    """The first requests of some tasks, which take turns; those of a task share its constraint."""
    builders: dict[str, Any] = {
        **{task: partial(regex_constraint, pattern) for task, pattern in PATTERNS.items()},
        "sum": partial(Constraint, RightSum()),
        "json": partial(json_constraint, PERSON, spaces=None),
        "python": partial(Constraint, Python()),
    }
    constraints = {task: builders[task](f"task {task}") for task in tasks}
    rounds = range(max(len(REQUESTS[task]) for task in tasks))
    each = [
        Request(f"{task}-{number + 1}", REQUESTS[task][number], constraints[task])
        for number in rounds
        for task in tasks
        if number < len(REQUESTS[task])
    ]
    return each[:limit]
