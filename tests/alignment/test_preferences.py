"""Users' own pairs: every form of a row, what is dropped, what is refused and how it is said."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from recipes.alignment import preferences
from recipes.alignment.config import PreferencesConfig
from recipes.alignment.examples import Example, example, example_ids
from recipes.alignment.pairs import PairSet
from recipes.alignment.preferences import load_preferences
from recipes.alignment.rows import Row, row_texts
from recipes.core.data.files.records import BadRow
from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.models.tokenizer import train_bpe
from recipes.core.scoring.rows import row_lengths, row_offsets
from tests.alignment.rows import rows_of

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token if m['role'] == 'assistant' else '' }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(session_home: Path) -> PreTrainedTokenizerFast:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        return train_bpe(["which one is it, this or that one"], "preferences", 300, begin=True)


def texts(parsed: Example) -> tuple[str, str, str]:
    """The prompt alone and with each answer, as they are tokenised."""
    if parsed.chat is None:
        return parsed.prompt, parsed.prompt + parsed.chosen, parsed.prompt + parsed.rejected
    first, second = (parsed.chat.text([*parsed.prompt, *answer]) for answer in (parsed.chosen, parsed.rejected))
    return parsed.chat.text(parsed.prompt, ask=True), first, second


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def write(folder: Path, rows: list[Any]) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(path)


def pair(number: int) -> dict[str, str]:
    return {"prompt": f"Which, {number}?", "chosen": f" This {number}.", "rejected": " That."}


def test_plain_rows_stay_as_they_are(tokenizer: Any) -> None:
    parsed = example(Row("1", "Which?", " This.", " That."), TextIds(tokenizer))
    assert (parsed.prompt, parsed.chosen, parsed.rejected, parsed.chat) == ("Which?", " This.", " That.", None)


def test_without_a_prompt_it_is_what_both_begin_with(tokenizer: Any) -> None:
    parsed = example(
        Row("1", None, "Human: Which?\n\nAssistant: this", "Human: Which?\n\nAssistant: that"), TextIds(tokenizer)
    )
    assert (parsed.prompt, parsed.chosen, parsed.rejected) == ("Human: Which?\n\nAssistant:", " this", " that")


@pytest.mark.parametrize(
    ("prompt", "lead"),
    [
        ([turn("user", "Which?")], []),
        (None, [turn("user", "Which?")]),
        ("Which?", [turn("user", "Which?")]),
        ("Which?", []),
    ],
)
def test_chats_of_every_form_are_the_same(prompt: Any, lead: list[Any], tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)
    row = Row("1", prompt, [*lead, turn("assistant", "This")], [*lead, turn("assistant", "That")])
    head = "[user] Which?[assistant] "
    assert texts(example(row, TextIds(tokenizer))) == (head, f"{head}This<eos>", f"{head}That<eos>")


DATED = "{% set date_string = date_string or strftime_now('%d %b %Y') %}Today: {{ date_string }}" + TEMPLATE


def test_a_template_that_writes_the_date_writes_the_same_on_every_day(
    tmp_path: Path, tokenizer: Any, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", DATED)
    chat = ([turn("user", "Which?")], [turn("assistant", "This")], [turn("assistant", "That")])
    plain = example(Row("1", *chat), TextIds(tokenizer))
    assert texts(plain)[0].startswith("Today: 26 Jul 2024[user] Which?")
    typed = example(Row("1", *chat), TextIds(tokenizer), "2025-01-02")
    assert texts(typed)[0].startswith("Today: 02 Jan 2025[user] Which?")
    given = example(Row("1", *chat, variables={"date_string": "then"}), TextIds(tokenizer))
    assert texts(given)[0].startswith("Today: then[user] Which?")
    own = Row("1", *chat, variables={"chat_template": "\n  {{ strftime_now('%-d.%m.%y, %H') }}" + TEMPLATE})
    assert texts(example(own, TextIds(tokenizer)))[0].startswith("\n  26.07.24, 00[user] Which?")
    rows = [{"prompt": [turn("user", f"Which {n}?")], "chosen": chat[1], "rejected": chat[2]} for n in range(4)]
    config = PreferencesConfig(path=write(tmp_path, rows), chat_date="2025-01-02")
    load_preferences(config, tokenizer)
    assert capsys.readouterr().err.count("writes today's date: here always 2025-01-02 (data.chat_date)") == 1


@pytest.mark.parametrize("day", ["today", "2025-02-30", "20250102", "2025-W01-1"])
def test_a_date_of_chats_is_a_day(day: str) -> None:
    [(key, message)] = PreferencesConfig(path="a", chat_date=day).check()
    assert (key, message) == ("chat_date", f"{day!r} is no day; type one as in 2024-07-26")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (Row("1", " ", "a", "b"), "the prompt is empty"),
        (Row("1", "Which?", "", "b"), "the chosen answer is empty"),
        (Row("1", "Which?", "a", None), "rejected is no text and no list of messages"),
        (Row("1", 7, "a", "b"), "prompt is no text and no list of messages"),
        (Row("1", None, "yes", "no"), "the prompt is empty"),
        (Row("1", "Which?", [{"role": "assistant"}], [turn("assistant", "b")]), "a message of chosen has no content"),
        (
            Row("1", "Which?", [turn("assistant", "a")], ["b"]),
            "a message of rejected is no object with role and content",
        ),
        (Row("1", "Which?", [turn("assistant", "a")], [turn("assistant", "b")]), "has no chat template"),
        (Row("1", "Which?", "a", " \n"), "the rejected answer is empty"),
        (
            Row("1", [turn("user", "Which?")], [turn("user", "a")], [turn("assistant", "b")]),
            "the chosen answer begins with a message of 'user', not of 'assistant'",
        ),
        (Row("1", "Which?", [{"role": "assistant", "content": None}], [turn("assistant", "b")]), "has no content"),
        (Row("1", [], [turn("assistant", "a")], [turn("assistant", "b")]), "prompt holds no messages"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row: Row, why: str, tokenizer: Any) -> None:
    with pytest.raises(BadRow, match=why):
        example(row, TextIds(tokenizer))


def test_what_a_chat_template_refuses_is_told(tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        tokenizer, "chat_template", "{{ raise_exception('System role not supported') if messages[0].role == 'system' }}"
    )
    row = Row(
        "1", [turn("system", "Be kind"), turn("user", "Which?")], [turn("assistant", "a")], [turn("assistant", "b")]
    )
    with pytest.raises(BadRow, match="the chat template refuses it: System role not supported"):
        example_ids(example(row, TextIds(tokenizer)), TextIds(tokenizer))
    monkeypatch.setattr(tokenizer, "chat_template", "{{ 1 / (messages | length - 3) }}")
    with pytest.raises(BadRow, match="the chat template refuses it: division by zero"):
        example_ids(example(row, TextIds(tokenizer)), TextIds(tokenizer))


def test_pairs_end_once_and_are_split(tmp_path: Path, tokenizer: Any) -> None:
    config = PreferencesConfig(path=write(tmp_path, [pair(number) for number in range(10)]), test_fraction=0.2)
    data = load_preferences(config, tokenizer)
    assert (len(data.train), len(data.test), data.judges) == (8, 2, None)
    first = data.train.pairs[0]
    assert first.prompt[0] == tokenizer.bos_token_id and first.id.startswith("pairs.jsonl:")
    for ids in (first.chosen, first.rejected):
        assert ids[-1] == tokenizer.eos_token_id and (ids == tokenizer.eos_token_id).sum() == 1
    assert tokenizer.decode(first.rejected[:-1]) == " That."
    assert not {p.id for p in data.train.pairs} & {p.id for p in data.test.pairs}


def test_ties_and_copies_are_dropped_and_counted(
    tmp_path: Path, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tie = {"prompt": "Which?", "chosen": " This.", "rejected": " This."}
    config = PreferencesConfig(path=write(tmp_path, [pair(1), tie, pair(2), pair(1)]))
    data = load_preferences(config, tokenizer)
    assert len(data.train) + len(data.test) == 2
    assert data.facts["data/dropped"][2] == 2 and data.facts["data/ties"][2] == 1
    said = capsys.readouterr().err
    assert "1 rows: chosen and rejected are the same (first: pairs.jsonl:2)" in said
    assert "1 rows: is the same as an earlier row (first: pairs.jsonl:4)" in said


def test_bad_rows_stop_the_run_with_all_reasons_or_are_left_out(tmp_path: Path, tokenizer: Any) -> None:
    long = {"prompt": "word " * 100, "chosen": "a", "rejected": "b"}
    rows = [pair(1), {**pair(2), "prompt": ""}, "{broken", pair(3), {**pair(4), "prompt": ""}, long]
    path = write(tmp_path, rows)
    config = PreferencesConfig(path=path, max_tokens=64)
    with pytest.raises(UserError, match="4 of 6 rows cannot be used") as raised:
        load_preferences(config, tokenizer)
    assert raised.value.hint.splitlines() == [
        "2 rows: the prompt is empty (first: pairs.jsonl:2)",
        "1 rows: is no JSON (first: pairs.jsonl:3, Expecting property name enclosed in double quotes at column 2: "
        "{broken)",
        "1 rows: the prompt leaves no room for an answer in data.max_tokens=64 (first: pairs.jsonl:6)",
        "mend them, or type data.on_error=skip to leave them out",
    ]
    skipping = PreferencesConfig(path=path, max_tokens=64, on_error="skip")
    data = load_preferences(skipping, tokenizer)
    assert len(data.train) + len(data.test) == 2 and data.facts["data/dropped"][2] == 4


def test_a_published_split_is_tested_on(tmp_path: Path, tokenizer: Any) -> None:
    rows = [pair(number) for number in range(9)]
    for name, part in (("train_prefs", rows[:5]), ("test_prefs", [rows[0], *rows[5:]]), ("train_sft", rows)):
        folder = tmp_path / "hub" / "data"
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}-00000-of-00001.jsonl").write_text(text, encoding="utf-8")
    path = str(tmp_path / "hub")
    config = PreferencesConfig(path=path, split="train_prefs", limit=4)
    data = load_preferences(config, tokenizer)
    # The first held-out row is one of those that are trained on.
    assert (len(data.train), len(data.test)) == (4, 3) and data.facts["data/dropped"][2] == 1
    assert all("test_prefs" in pair.id for pair in data.test.pairs)
    assert not any("test_prefs" in pair.id for pair in data.train.pairs)
    config = PreferencesConfig(path=path, split="train_sft", test_split="test_prefs")
    with pytest.raises(UserError, match="9 pairs are left to train on and 0 to test on"):
        load_preferences(config, tokenizer)
    config = PreferencesConfig(path=path, split="train_sft", test_fraction=0.4)
    data = load_preferences(config, tokenizer)
    assert (len(data.train), len(data.test)) == (5, 4)
    with pytest.raises(UserError, match="there is no split 'train'; the data has test_prefs, train_prefs, train_sft"):
        load_preferences(PreferencesConfig(path=path), tokenizer)


def test_long_answers_are_cut(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": "Which?", "chosen": f"{i}" + " this" * 99, "rejected": " that"} for i in range(2)]
    config = PreferencesConfig(path=write(tmp_path, rows), max_tokens=20)
    data = load_preferences(config, tokenizer)
    first = data.train.pairs[0]
    assert len(first.prompt) + len(first.chosen) == 20 and first.chosen[-1] != tokenizer.eos_token_id


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path, [{"prompt": "a", "chosn": "b", "rejected": "c"}])
    with pytest.raises(UserError, match="no column 'chosen'; its columns are prompt, chosn, rejected") as raised:
        load_preferences(PreferencesConfig(path=path), tokenizer)
    assert "type data.chosen_column=NAME; did you mean chosn?" in raised.value.hint
    assert len(rows_of(PreferencesConfig(path=path, chosen_column="chosn"))[0]) == 1


@pytest.mark.parametrize(("name", "what"), [("no/such/pairs.jsonl", "no such file"), ("pairs.xlsx", "is no .jsonl")])
def test_a_wrong_path_is_refused(name: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.xlsx").touch()
    with pytest.raises(UserError, match=what):
        list(row_texts(PreferencesConfig(path=str(tmp_path / name))))


def test_parquet_holds_the_same_rows(tmp_path: Path, tokenizer: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [pair(number) for number in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    stored = PreferencesConfig(path=str(tmp_path / "pairs.parquet"))
    plain = PreferencesConfig(path=write(tmp_path, rows))
    sets = [load_preferences(config, tokenizer) for config in (stored, plain)]
    assert sets[0].train.fingerprint == sets[1].train.fingerprint


def test_too_few_pairs_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    config = PreferencesConfig(path=write(tmp_path, [pair(1)]))
    with pytest.raises(UserError, match="1 pairs are left, too few"):
        load_preferences(config, tokenizer)


def test_pairs_are_tokenised_once_and_made_when_they_are_asked_for(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [pair(number) for number in range(40)]
    config = PreferencesConfig(path=write(tmp_path, [*rows, rows[3], "{broken"]), on_error="skip", test_fraction=0.1)
    first = load_preferences(config, tokenizer)
    said = capsys.readouterr().err
    monkeypatch.setattr(preferences, "read_rows", None)  # the file is not read again
    again = load_preferences(replace(config, test_fraction=0.5), tokenizer)
    assert capsys.readouterr().err == said and "1 rows: is the same as an earlier row" in said
    assert again.facts["data/dropped"] == first.facts["data/dropped"] and len(again.train) == len(again.test) == 20
    for data in (first, again):
        listed = PairSet(list(data.train.pairs))
        assert (listed.lengths == data.train.lengths).all() and (listed.offsets == data.train.offsets).all()
        rows, expected = data.train.rows(), listed.rows()
        assert (row_lengths(rows) == row_lengths(expected)).all() and (row_offsets(rows) == listed.offsets).all()
        assert all(
            np.array_equal(ids, other)
            for i in range(len(rows))
            for ids, other in zip(rows[i], expected[i], strict=False)
        )
        assert [each.id for each in data.train.pairs] == [listed.pairs[i].id for i in range(len(listed))]
    copy = pickle.dumps(first.train.pairs)
    assert len(copy) < 2000 and pickle.loads(copy)[5].chosen.tolist() == first.train.pairs[5].chosen.tolist()


def test_pairs_that_are_read_in_another_way_are_other_pairs(tmp_path: Path, tokenizer: Any) -> None:
    config = PreferencesConfig(path=write(tmp_path, [pair(number) for number in range(40)]))
    sides = [load_preferences(each, tokenizer).train for each in (config, replace(config, limit=20))]
    assert [len(side) for side in sides] == [36, 18] and sides[0].fingerprint != sides[1].fingerprint
    seeds = [load_preferences(replace(config, seed=seed), tokenizer).train.fingerprint for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
