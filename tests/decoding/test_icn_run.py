"""`icn` from its config to its report, on a small model that the run trains, and on a user's lists and models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics
from recipes.decoding.icn.config import ListsConfig, ProbeConfig
from recipes.decoding.icn.lists import LISTS, plurals
from recipes.decoding.icn.method import normalise
from recipes.decoding.icn.results import Judged, score
from recipes.decoding.icn.topics import Topic, load_topics
from recipes.decoding.icn.writer import Item, Listing
from tests.core import tokenizer_kinds
from tests.decoding.conftest import tiny

SMOKE = ("budget=smoke", "tracker=none", "trainer.threads=1")
TINY = ("model.steps=8", "model.characters=20000", "data.limit=2", "navigation.items=10", "navigation.n_tol=5",
        "clusters.number=16", "prompt.item_tokens=4")  # fmt: skip
SMALL = ("navigation.items=4", "navigation.n_tol=2", "clusters.number=8", "prompt.item_tokens=4")
ROWS: list[dict[str, Any]] = [
    {"instruction": "Small words:", "items": ["the", ["a", "an"]], "id": "words"},
    {"instruction": "Animals:", "items": ["cat", "dog", "mouse"]},
]


def run(outputs: Path, *words: str, page: bool = False) -> Path:
    config = compose.compose("icn", [*SMOKE, *words, f"outputs={outputs}"])
    return runner.run(config, False, "steelyard run icn", page=page).folder


def read_lists(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "generations.jsonl").read_text("utf-8").splitlines()]


def test_runs_write_their_lists(tmp_path: Path) -> None:
    metrics, lists = {}, {}
    for arm in ("icn", "rank", "chance", "cluster_ban", "sample", "no_repeat"):
        folder = run(tmp_path, *TINY, f"arm={arm}", page=arm == "icn")
        metrics[arm], lists[arm] = final_metrics(folder), read_lists(folder)
        assert [each["id"] for each in lists[arm]] == ["us-states", "fruits"]
        assert all(len(each["items"]) == 10 for each in lists[arm]) or arm == "cluster_ban"
        assert {item["mark"] for each in lists[arm] for item in each["items"]} <= {"right", "wrong", "repeat"}
    firsts = {arm: [[item["first"] for item in each["items"]] for each in many] for arm, many in lists.items()}
    assert firsts["icn"][0][:5] == firsts["rank"][0][:5] and firsts["rank"] == firsts["chance"]
    assert all(item["rank"] == rank for rank, item in enumerate(lists["rank"][0]["items"], 1))
    assert metrics["rank"]["cluster_share"] > metrics["chance"]["cluster_share"]
    assert metrics["rank"]["read_per_item"] < metrics["icn"]["read_per_item"]
    assert "precision/other" not in metrics["icn"]


def user_model(folder: Path, kind: str) -> Path:
    tokenizer = tokenizer_kinds.byte_level(False, False)
    tiny(kind, 0, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def user_lists(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return f"data.path={path}"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_users_model_writes_a_users_lists(kind: str, tmp_path: Path) -> None:
    words = (f"model={user_model(tmp_path / kind, kind)}", user_lists(tmp_path / "mine.jsonl", ROWS), *SMALL)
    folder = run(tmp_path, *words, "arm=icn_noreg")
    assert [(each["id"], each["instruction"]) for each in read_lists(folder)] == [
        ("words", "Small words:"), ("row-1", "Animals:")
    ]  # fmt: skip
    assert final_metrics(folder).keys() >= {"distinct", "cluster_share", "mass", "mass_near"}
    refused = "a list of 100 items may have .* tokens, and the model's context is 128"
    with pytest.raises(UserError, match=f"list words, model.path={tmp_path / kind}: {refused}"):
        run(tmp_path, *words, "navigation.items=100")
    with pytest.raises(UserError, match="clusters.number=1000, .*: there are more clusters than the model's"):
        run(tmp_path, *words, "clusters.number=1000")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"items": ["a"]}, "its instruction is no text: null"),
        ({"instruction": " ", "items": ["a"]}, "its instruction is empty"),
        ({"instruction": "x", "items": "a"}, "its items are no list: a"),
        ({"instruction": "x", "items": []}, "its items are an empty list"),
        ({"instruction": "x", "items": ["a", 3]}, "item 2 is no text and no list of names: 3"),
        ({"instruction": "x", "items": ["a", []]}, "item 2 is no text and no list of names"),
        ({"instruction": "x", "items": ["a", ["b", "A."]]}, "item 2 is item 1 again: A."),
        ({"instruction": "x", "items": ["..."]}, "item 1 has neither letters nor digits"),
        ({"instruction": "x", "items": ["a"], "id": "words"}, "has the id 'words' of"),
    ],
    ids=str,
)
def test_rows_that_are_no_lists_are_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = user_lists(tmp_path / "mine.jsonl", [*ROWS, row]).partition("=")[2]
    with pytest.raises(UserError) as refused:
        load_topics(ListsConfig(path=path), "plain")
    assert message in refused.value.hint and "1 of 3 rows" in refused.value.what
    assert len(load_topics(ListsConfig(path=path, on_error="skip"), "plain")) == 2


def test_rows_without_a_column_are_refused(tmp_path: Path) -> None:
    path = user_lists(tmp_path / "mine.jsonl", [{"instruction": "x"}]).partition("=")[2]
    with pytest.raises(UserError, match="has no column items, but instruction"):
        load_topics(ListsConfig(path=path), "plain")


def test_keys_that_do_not_fit_are_refused_before_anything_loads() -> None:
    for words, message in (
        (["navigation.n_tol=7"], "navigation.n_tol: items=100 does not divide by it"),
        (["navigation.name=sample"], "navigation.listed: what is drawn is drawn from one distribution"),
        (
            ["navigation.name=no_repeat", "navigation.reg=false", "arm=rank"],
            "navigation.listed: the model writes on behind its own list",
        ),
        (["navigation.temperature=0"], "navigation.temperature"),
        (["navigation.ngram=1"], "navigation.ngram"),
        (["probe.top=100"], "probe.top: leaves none of ranks=100"),
        (["data.topics=[fruit]"], "data.topics: there is no fruit"),
        (["data.topics=[fruits,fruits]"], "names a list twice"),
        (["data.topics=[fruits]", "data.path=x.jsonl"], "is for the lists that ship"),
    ):
        with pytest.raises(UserError) as refused:
            compose.compose("icn", [*words, "label=x"])
        assert message in refused.value.hint, refused.value.hint


def test_lists_that_ship_have_every_answer_once() -> None:
    sizes = {each.id: len(each.answers) for each in LISTS}
    assert len(LISTS) >= 12 and sizes["us-states"] == 50 and sizes["chemical-elements"] == 118
    assert (sizes["months"], sizes["weekdays"], sizes["planets"], sizes["greek-letters"]) == (12, 7, 8, 24)
    assert (sizes["african-countries"], sizes["zodiac-signs"]) == (54, 12)
    for each in LISTS:
        owner: dict[str, str] = {}
        for names in each.answers:
            for name in names:
                assert owner.setdefault(normalise(name), names[0]) == names[0], f"{each.id}: {name} is two answers"
    assert [plurals(word) for word in ("cherry", "peach", "apple", "monkey", "tomato")] == [
        ["cherries"], ["peaches"], ["apples"], ["monkeys"], ["tomatos", "tomatoes"]
    ]  # fmt: skip


def test_instructions_fit_their_format() -> None:
    plain, quoted = (load_topics(ListsConfig(topics=("fruits",)), form)[0] for form in ("plain", "quoted"))
    assert plain.instruction == "A numbered list of different fruits, one per line, no repeats:"
    assert quoted.instruction == "Please show me some fruits."
    assert plain.judge("**Apples**") == plain.judge("apple") == "apple" and plain.judge("car") is None


def judged(texts: list[str], tokens: list[int], order: list[int]) -> Judged:
    items = tuple(Item(text, token, 1.0) for text, token in zip(texts, tokens, strict=True))
    answers = {"cat": "cat", "dog": "dog", "red fox": "red fox", "fox": "red fox", "hen": "hen"}
    return Judged(Topic("pets", "", answers), Listing(items, 12), np.array(order), 0.5, 0.25)


def test_scores_of_a_list_worked_out_by_hand() -> None:
    one = judged(["Cat", "fox", "car", "red fox", "car", "dog"], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6, 7])
    clusters = np.array([0, 1, 0, 2, 1, 3, 0, 2])
    assert one.marks == ["right", "right", "wrong", "repeat", "repeat", "right"]
    values = score([one], 8, clusters, ProbeConfig(top=2, ranks=6), True).overall()
    assert values["distinct"] == 3 and values["coverage"] == 3 / 4
    assert values["precision"] == 4 / 8  # two of eight items are missing
    assert values["duplicates"] == 2 / 6 and values["read_per_item"] == 2
    assert values["cluster_share"] == 2 / 4 and values["cluster_chance"] == 3 / 6
    assert values["precision/main"] == 0 and values["precision/other"] == 1 == values["precision/gap"]
    assert values["rank/main"] == 4 and values["rank/other"] == 5
    assert (values["mass"], values["mass_near"]) == (0.5, 0.25)


def test_by_chance_as_many_items_count_as_in_the_main_clusters() -> None:
    one = judged(["cat"] * 30 + ["car"] * 30, list(range(60)), list(range(60)))
    clusters, probe = np.array([0] * 35 + list(range(1, 26))), ProbeConfig(top=10, ranks=60)
    plainly = score([one], 60, clusters, probe, True)
    drawn = [score([one], 60, clusters, probe, True, np.random.default_rng(seed)) for seed in range(40)]
    assert plainly.overall()["precision/gap"] == pytest.approx(-20 / 25)
    assert np.mean([each.overall()["precision/gap"] for each in drawn]) == pytest.approx(0, abs=0.06)
    counts = {row[4] for each in (plainly, *drawn) for row in each.rows if row[0] == "precision/main"}
    assert counts == {25.0}
