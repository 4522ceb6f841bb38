"""Sums: problems as text, no problem on two sides, what an answer ends in, its first wrong token."""

import numpy as np
import pytest

from recipes.core.data.tasks.arithmetic import ExactJudge, answer, question, split_sums, total
from recipes.core.data.tasks.prompts import Prompt

PIECES = ["", *"0123456789,", "1,2"]
EOS = 0
JUDGE = ExactJudge(PIECES, EOS)


def ids(text: str, ended: bool = True) -> np.ndarray:
    return np.array([PIECES.index(character) for character in text] + [EOS] * ended, np.int32)


def test_problems_as_text() -> None:
    assert question((12, 34, 45)) == "12+34+45=" and answer((12, 34, 45), 3) == "046,091"
    assert total("12+34+45=") == 91


def test_no_problem_stands_on_two_sides() -> None:
    sums = split_sums(1, 5, 20, 10, 0)
    parts = [sums.learned, sums.questions, sums.test]
    assert [len(part) for part in parts] == [95, 20, 10]
    assert len({terms for part in parts for terms in part}) == 125 and sums.digits == 2
    assert split_sums(1, 5, 20, 10, 1).test != sums.test


@pytest.mark.parametrize(
    ("said", "final"),
    [
        (ids("046,091"), 91),
        (ids("91"), 91),
        (ids("046,"), None),
        (ids(""), None),
        (ids("046,091", ended=False), None),
        (ids("1,2,3"), 3),
    ],
)
def test_what_an_answer_ends_in(said: np.ndarray, final: int | None) -> None:
    assert JUDGE.final(said) == final


def test_the_judge_reads_the_prompt() -> None:
    prompts = [Prompt("a", "12+34+45=", ids("1")), Prompt("b", "12+34+46=", ids("1"))]
    assert JUDGE.measure(prompts, [ids("046,091")] * 2)["accuracy"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        (ids("046,091"), None),
        (ids("047,092"), 2),
        (ids("046,081"), 5),
        (ids("046"), 3),  # ends too early
        (ids("046,0911"), 7),  # goes on
        (np.array([1, 12, EOS], np.int32), 1),  # a token of several characters
    ],
)
def test_the_first_wrong_token(said: np.ndarray, wrong: int | None) -> None:
    assert np.flatnonzero(JUDGE.first_wrong(said, "046,091")).tolist() == ([] if wrong is None else [wrong])
