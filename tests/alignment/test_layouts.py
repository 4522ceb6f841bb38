"""Public data sets of preferences, two rows of each in its own layout, from JSONL and from Parquet."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes.alignment.config import PreferencesConfig
from recipes.alignment.examples import example
from recipes.alignment.preferences import load_preferences
from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.models.tokenizer import train_bpe
from tests.alignment.rows import rows_of
from tests.alignment.test_preferences import TEMPLATE, texts, turn


def reddit(subreddit: str, title: str, post: str) -> str:
    return f"SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"


def comparison(choice: int, texts: list[str], **info: str | None) -> dict[str, Any]:
    summaries = [{"text": text, "policy": "sup1", "note": None} for text in texts]
    shared = {"id": "t3_1", "site": None, "article": None, "post": None, "title": None, "subreddit": None}
    return {
        "info": shared | info,
        "summaries": summaries,
        "choice": choice,
        "worker": "w1",
        "batch": "batch3",
        "split": "train",
        "extra": {"confidence": None},
    }


def chat(question: str, answer: str) -> list[dict[str, str]]:
    return [turn("user", question), turn("assistant", answer)]


HUMAN = "\n\nHuman: Hi there\n\nAssistant: Hello\n\nHuman: Which?\n\nAssistant:"
# Name -> two rows as published, and (prompt, chosen, rejected) of each.
LAYOUTS: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str, str]]]] = {
    "hh-rlhf": (
        [
            {"chosen": f"{HUMAN} I think this.", "rejected": f"{HUMAN} I think that one."},
            {"chosen": f"{HUMAN} No.", "rejected": f"{HUMAN} No. Why?\n\nHuman: So\n\nAssistant: Bye."},
        ],
        [(HUMAN, " I think this.", " I think that one."), (HUMAN, " No.", " No. Why?\n\nHuman: So\n\nAssistant: Bye.")],
    ),
    "ultrafeedback_binarized": (
        [
            {
                "prompt": question,
                "prompt_id": "ab12",
                "chosen": chat(question, "This"),
                "rejected": chat(question, "That"),
                "messages": chat(question, "This"),
                "score_chosen": 8.5,
                "score_rejected": 8.0,
            }
            for question in ("Which?", "Who?")
        ],
        [(f"[user] {question}[assistant] ", "This<eos>", "That<eos>") for question in ("Which?", "Who?")],
    ),
    "tldr-preference": (
        [
            {"prompt": reddit("a", "b", post), "chosen": " Short.", "rejected": " Too long."}
            for post in ("One.", "Two.\nThree.")
        ],
        [(reddit("a", "b", post), " Short.", " Too long.") for post in ("One.", "Two.\nThree.")],
    ),
    "summarize_from_feedback": (
        [
            comparison(1, [" Worse.", " Better."], subreddit="tifu", title="I ran", post="Far away."),
            comparison(0, [" Better.", " Worse."], title="News", article="It rained."),
        ],
        [
            (reddit("tifu", "I ran", "Far away."), " Better.", " Worse."),
            ("TITLE: News\n\nPOST: It rained.\n\nTL;DR:", " Better.", " Worse."),
        ],
    ),
    "trl conversational": (
        [
            {
                "prompt": [turn("system", "Be kind"), turn("user", question)],
                "chosen": [turn("assistant", "This")],
                "rejected": [turn("assistant", "That")],
            }
            for question in ("Which?", "Who?")
        ],
        [(f"[system] Be kind[user] {q}[assistant] ", "This<eos>", "That<eos>") for q in ("Which?", "Who?")],
    ),
    "trl conversational, implicit prompt": (
        [{"chosen": chat(q, "This"), "rejected": chat(q, "That")} for q in ("Which?", "Who?")],
        [(f"[user] {q}[assistant] ", "This<eos>", "That<eos>") for q in ("Which?", "Who?")],
    ),
    "trl unpaired": (
        [
            {"prompt": "Which?", "completion": " This.", "label": True},
            {"prompt": "Who?", "completion": " Nobody.", "label": False},
            {"prompt": "Who?", "completion": " Me.", "label": True},
            {"prompt": "Which?", "completion": " That.", "label": False},
        ],
        [("Who?", " Me.", " Nobody."), ("Which?", " This.", " That.")],
    ),
    "trl unpaired, conversational": (
        [
            {"prompt": [turn("user", q)], "completion": [turn("assistant", answer)], "label": label}
            for q in ("Which?", "Who?")
            for answer, label in (("This", True), ("That", False))
        ],
        [(f"[user] {q}[assistant] ", "This<eos>", "That<eos>") for q in ("Which?", "Who?")],
    ),
}


@pytest.fixture(scope="module")
def tokenizer(session_home: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        made = train_bpe(["which one is it, this or that one"], "layouts", 300, begin=True)
    made.chat_template = TEMPLATE
    return made


def stored(rows: list[Any], folder: Path, kind: str) -> PreferencesConfig:
    path = folder / f"pairs.{kind}"
    text = "\n".join(json.dumps(row) for row in rows)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return PreferencesConfig(path=str(path))


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_public_layouts(name: str, kind: str, tmp_path: Path, tokenizer: Any) -> None:
    rows, expected = LAYOUTS[name]
    config = stored(rows, tmp_path, kind)
    loaded, _ = rows_of(config)
    wholes = [(prompt, prompt + chosen, prompt + rejected) for prompt, chosen, rejected in expected]
    assert [texts(example(row, TextIds(tokenizer))) for row in loaded] == wholes
    data = load_preferences(config, tokenizer)
    assert (len(data.train), len(data.test)) == (1, 1) and data.facts["data/dropped"][2] == 0


def test_unpaired_rows_without_a_partner_are_counted_and_wrong_labels_stop(tmp_path: Path, tokenizer: Any) -> None:
    rows, _ = LAYOUTS["trl unpaired"]
    lonely = [*rows, {"prompt": "Why?", "completion": " So.", "label": True}]
    config = stored(lonely, tmp_path, "jsonl")
    data = load_preferences(config, tokenizer)
    assert len(data.train) + len(data.test) == 2 and data.facts["data/dropped"][2] == 1
    config = stored([*rows, {"prompt": "Why?", "completion": " So.", "label": "good"}], tmp_path, "jsonl")
    with pytest.raises(UserError, match="1 of 3 rows cannot be used") as raised:
        load_preferences(config, tokenizer)
    assert "label is neither true nor false (first: pairs.jsonl:5)" in raised.value.hint
    with pytest.raises(UserError, match="there are no rows") as raised:
        load_preferences(stored(rows[:1], tmp_path, "jsonl"), tokenizer)
    assert "no other row answers the same prompt with the other label" in raised.value.hint


@pytest.mark.parametrize(
    "broken", [{"choice": 2}, {"summaries": [{"text": "a"}]}, {"info": {"id": "1"}}, {"choice": -1}]
)
def test_a_malformed_comparison_is_told(broken: dict[str, Any], tmp_path: Path, tokenizer: Any) -> None:
    rows, _ = LAYOUTS["summarize_from_feedback"]
    config = stored([*rows, rows[0] | broken], tmp_path, "jsonl")
    with pytest.raises(UserError, match="1 of 3 rows cannot be used") as raised:
        load_preferences(config, tokenizer)
    assert "is no comparison of two summaries (first: pairs.jsonl:3)" in raised.value.hint
