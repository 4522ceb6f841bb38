"""Questions with one right answer each, drawn from tasks. Imports no torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recipes.core.storage.files import sha256_json

Random = np.random.Generator
Task = Callable[[Random], tuple[str, str]]  # what is asked, and the answer


@dataclass(frozen=True)
class Question:
    """A prompt and its only right answer."""

    id: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Questions:
    """Questions by what they are for; no prompt stands in two of them.

    Attributes:
        train: What both models learn from.
        validation: What learned rules, and what is chosen for the others, are fitted on.
        test: What everything is measured on.
    """

    train: Sequence[Question]
    validation: Sequence[Question]
    test: Sequence[Question]

    @property
    def fingerprint(self) -> str:
        """Hash of what the models learn from."""
        return sha256_json([[each.prompt, each.answer] for each in self.train])


def draw(tasks: Mapping[str, Task], train: int, validation: int, test: int, seed: int) -> Questions:
    """Questions of several tasks in equal shares.

    Args:
        tasks: Name -> what draws a question of it and its answer.
        train: How many to learn from.
        validation: How many to fit on what is learned of the models.
        test: How many to measure on.
        seed: Decides all of them.

    Raises:
        ValueError: a task has not so many different prompts.
    """
    random, wanted = np.random.default_rng(seed), train + validation + test
    each, drawn = -(-wanted // len(tasks)), list[Question]()
    for task, ask in tasks.items():
        answers: dict[str, str] = {}
        for _ in range(40 * each):
            asked, answer = ask(random)
            answers[f"{task} {asked}="] = answer
            if len(answers) == each:
                break
        # What there is less of than asked for comes as often as there is: small tasks are small.
        drawn += [Question(prompt, prompt, answer) for prompt, answer in answers.items()]
    order = random.permutation(len(drawn))
    if len(drawn) < validation + test + len(tasks):
        raise ValueError(f"{len(drawn)} different questions for {validation + test} to validate and test on")
    shuffled = [drawn[i] for i in order]
    return Questions(shuffled[validation + test :], shuffled[:validation], shuffled[validation : validation + test])
