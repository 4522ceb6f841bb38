"""Configs of many cells are those that composing each of them as a whole makes, errors included."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes.core.config import compose, registry
from recipes.core.config.alike import Composer
from recipes.core.config.overrides import FileWord
from recipes.core.errors import UserError
from recipes.core.storage.fingerprints import look_once

RECIPE = "rag-importance"
FIXED = ["budget=smoke", "tracker=none"]


def outcome(work: Any, words: Sequence[str]) -> str:
    """The config with all types of its values, or the error."""
    try:
        return repr(work(list(words)))
    except UserError as error:
        return f"{error.what} {error.where} {error.hint}"


def check_alike(recipe: str, cells: Sequence[Sequence[str]]) -> None:
    composer = Composer(recipe)
    with look_once():
        fast = [outcome(composer.compose, words) for words in cells]
        assert fast == [outcome(lambda words: compose.compose(recipe, words), words) for words in cells]


@pytest.fixture
def drafts(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was composed as a whole."""
    calls: list[list[str]] = []
    draft = compose.draft

    def counted(recipe: str, overrides: list[str]) -> Any:
        calls.append(overrides)
        return draft(recipe, overrides)

    monkeypatch.setattr(compose, "draft", counted)
    return calls


WRONG = ("null", "true", "x", "'a b'", "${seed}", "[1,2]", "{a: 1}", "1,2", "", "???", "-1", "nan", "1_0", "007")
NUMBERS = ("1", "2", "3", "0", "0.5", "1.0", "0.25", "-0.0", "1e-3", "8")


def values_of(info: compose.SettingInfo) -> st.SearchStrategy[str]:
    """Values of a key as they are typed: right ones, and of the wrong type, out of bounds, interpolations."""
    right = [str(choice) for choice in info.choices or ()] or (NUMBERS if info.type != "str" else ["x", "a/b", "~/c"])
    right = ["true", "false"] if info.type == "bool" else right
    return st.integers(0, 9).flatmap(lambda number: st.sampled_from(right if number else WRONG))


@st.composite
def sweeps(draw: st.DrawFn, recipe: str, keys: dict[str, compose.SettingInfo]) -> list[list[str]]:
    """Cells of some keys, behind some that decide about others."""
    chosen = draw(st.lists(st.sampled_from(sorted(keys)), min_size=1, max_size=2, unique=True))
    arms = st.sampled_from([f"arm={arm}" for arm in compose.every_arm(recipe)] + ["budget=smoke", "label=mine"])
    groups = st.sampled_from([f"{group}={name}" for group, names in compose.options(recipe).items() for name in names])
    fixed = draw(st.lists(st.one_of(arms, arms, groups), max_size=1))
    cells = st.tuples(*(values_of(keys[key]).map(lambda value, key=key: f"{key}={value}") for key in chosen))
    return [[*fixed, f"seed={seed}", *cell] for seed, cell in enumerate(draw(st.lists(cells, min_size=3, max_size=3)))]


@pytest.mark.parametrize("recipe", registry.recipe_names(outside=False))
def test_configs_and_errors_of_any_sweep_are_those_of_composing_each_cell(recipe: str) -> None:
    keys = compose.config_keys(recipe)

    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(sweeps(recipe, keys))
    def check(cells: list[list[str]]) -> None:
        check_alike(recipe, cells)

    check()


def test_cells_that_differ_in_plain_values_are_composed_once(drafts: list[list[str]]) -> None:
    composer = Composer(RECIPE)
    configs = [
        composer.compose([*FIXED, f"seed={n}", f"weights.rate={n}.5", f"data.texts={n + 500}"]) for n in range(9)
    ]
    assert len(drafts) == 1 and [config.seed for config in configs] == list(range(9))
    assert [config.weights.rate for config in configs] == [n + 0.5 for n in range(9)]


@pytest.mark.parametrize(
    "key, values",
    [
        ("arm", ["prune", "none", "loo"]),
        ("budget", ["smoke", "small", "full"]),
        ("tracker", ["none", "wandb"]),
        ("weights.rate", ["'${seed}'", "'${questions.test}'"]),  # what another key says
        ("retrieval.name", ["tfidf", "bm25"]),
    ],
)
def test_a_key_that_decides_about_others_is_composed_each_time(
    drafts: list[list[str]], key: str, values: list[str]
) -> None:
    composer = Composer(RECIPE)
    for value in values:
        for seed in range(3):
            words = [f"{key}={value}", f"seed={seed}"]
            assert outcome(composer.compose, words) == outcome(lambda one: compose.compose(RECIPE, one), words)
    assert len({tuple(words[:1]) for words in drafts}) == len(values)


def test_a_key_that_another_one_reads_is_not_plain() -> None:
    words = ["weights.steps='${questions.test}'"]
    check_alike(RECIPE, [[*words, f"questions.test={number}"] for number in (10, 20)])


def test_a_key_of_a_condition_is_not_plain() -> None:
    cells = [[f"data.path={path}", f"seed={seed}"] for path in ("a.jsonl", "b.jsonl") for seed in (0, 1)]
    check_alike(RECIPE, cells)  # data.path implies data=labelled-texts


def test_a_key_that_the_arm_sets_needs_a_label_in_each_cell() -> None:
    arm = ["arm=shared"]
    check_alike(RECIPE, [[*arm, f"weights.rate={rate}"] for rate in (0.5, 0.4, 0.5)])
    check_alike(RECIPE, [[*arm, "label=mine", f"weights.rate={rate}"] for rate in (0.5, 0.4)])
    check_alike(RECIPE, [[f"arm={arm}", f"weights.rate={rate}"] for arm in ("prune", "shared") for rate in (0.5, 0.4)])


def test_rules_between_settings_are_checked_in_each_cell() -> None:
    check_alike(RECIPE, [[f"retrieval.used={used}"] for used in (10, 60, 50)])
    check_alike(RECIPE, [[f"retrieval.used={used}", f"retrieval.items={used + 9}"] for used in (10, 60, 50)])
    check_alike("prior", [[f"trainer.max_steps={steps}", "trainer.max_flops=1e12"] for steps in (10, 20, 600)])
    check_alike("prior", [[f"trainer.batch_size={size}", "trainer.nproc=2"] for size in (2, 3, 4)])


def test_whole_numbers_fractions_and_truth_stay_what_they_are() -> None:
    for key in ("weights.rate", "weights.steps", "trainer.compile", "data.texts", "trainer.micro_batch_size"):
        check_alike(RECIPE, [[f"{key}={value}"] for value in ("1", "1.0", "true", "0", "-0.0", "0.0", "false", "null")])


def test_words_of_a_file_count_with_their_place() -> None:
    cells = [[FileWord("weights.steps=0", 0, f"my.yaml, line {line}"), f"seed={line}"] for line in (1, 2, 2)]
    check_alike(RECIPE, cells)
