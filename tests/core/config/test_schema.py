"""The schema collects every problem and names the nearest key."""

from dataclasses import dataclass

import pytest

from recipes.core.config.schema import build, raise_problems
from recipes.core.config.settings import setting
from recipes.core.errors import UserError
from recipes.core.spelling import nearest


@dataclass(frozen=True)
class Inner:
    name: str = setting("inner", help="kind")
    rate: float = setting(0.5, help="rate", ge=0, le=1)
    steps: int | None = setting(None, help="steps", ge=1)


@dataclass(frozen=True)
class Other:
    name: str = setting("other", help="kind")
    sizes: tuple[int, ...] = setting((1, 2), help="sizes", gt=0)
    parts: tuple[str, ...] = setting(("a",), help="parts", choices=("a", "b"))


@dataclass(frozen=True)
class Outer:
    part: Inner | Other = setting(help="part")
    mode: str = setting("fast", help="mode", choices=("fast", "exact"))
    flag: bool = setting(False, help="flag")

    def check(self) -> list[tuple[str, str]]:
        return [("flag", "needs mode=exact")] if self.flag and self.mode == "fast" else []


def problems(tree: dict) -> list[str]:
    return [str(problem) for problem in build(Outer, tree)[1]]


def test_a_right_tree_becomes_the_dataclass() -> None:
    config, wrong = build(Outer, {"part": {"name": "other", "sizes": [3, 4]}, "mode": "exact"})
    assert not wrong
    assert config == Outer(part=Other(sizes=(3, 4)), mode="exact")


def test_all_problems_are_collected_at_once() -> None:
    tree = {"part": {"name": "inner", "rate": 2, "stepz": 3, "steps": 0}, "mode": "fats", "flag": "yes", "mod": 1}
    assert problems(tree) == [
        "mod = 1: unknown key; did you mean mode?",
        "part.stepz = 3: unknown key; did you mean steps?",
        "part.rate = 2.0: must be >= 0 and <= 1",
        "part.steps = 0: must be >= 1",
        "mode = fats: did you mean fast?",
        "flag = 'yes': must be true or false",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "must be a number"),
        (True, "must be a number"),
        (float("nan"), "must be a number"),
        (None, "must be a number"),
    ],
)
def test_wrong_numbers_are_named(value: object, text: str) -> None:
    assert text in problems({"part": {"name": "inner", "rate": value}})[0]


def test_null_is_allowed_where_the_type_says_so() -> None:
    assert problems({"part": {"name": "inner", "steps": None}}) == []


def test_a_union_is_chosen_by_name() -> None:
    assert problems({"part": {"name": "othr"}}) == ["part.name = othr: did you mean other?"]
    assert problems({"part": 3}) == ["part = 3: must be a group of keys"]


def test_elements_of_a_list_are_bounded() -> None:
    assert problems({"part": {"name": "other", "sizes": [1, -2]}}) == ["part.sizes = -2: must be > 0"]


def test_of_choices_none_is_named_twice_and_numbers_may_be() -> None:
    wrong = problems({"part": {"name": "other", "parts": ["a", "b", "a"], "sizes": [1, 1]}})
    assert wrong == ["part.parts = a: is named twice; leave one out"]


def test_a_list_of_one_needs_no_brackets() -> None:
    config, wrong = build(Outer, {"part": {"name": "other", "sizes": 3}})
    assert not wrong and config.part.sizes == (3,)
    assert problems({"part": {"name": "other", "sizes": -3}}) == ["part.sizes = -3: must be > 0"]
    assert problems({"part": {"name": "other", "sizes": 0.5}}) == ["part.sizes = 0.5: must be a list"]


def test_cross_field_rules_are_checked_last() -> None:
    assert problems({"part": {"name": "inner"}, "flag": True}) == ["flag: needs mode=exact"]


def test_a_missing_key_says_what_to_type() -> None:
    assert problems({}) == ["part: is missing; type part=VALUE"]


def test_nearest_finds_the_last_part_of_a_dotted_key() -> None:
    assert nearest("max_step", ["trainer.max_steps", "seed"]) == "trainer.max_steps"
    assert nearest("zzz", ["trainer.max_steps"]) is None


def test_what_a_word_begins_wins_over_what_is_spelled_alike() -> None:
    assert nearest("smollm", ["llava", "small", "smollm2-135m"]) == "smollm2-135m"
    assert nearest("s", ["small", "smoke", "seed"]) is None


def test_problems_become_one_error_with_exit_code_2() -> None:
    _, wrong = build(Outer, {"part": {"name": "inner", "rate": 2}, "mode": "x"})
    with pytest.raises(UserError) as caught:
        raise_problems(wrong)
    assert caught.value.exit_code == 2
    assert str(caught.value).splitlines()[0] == "2 problems in the config"
    assert len(str(caught.value).splitlines()) == 3
