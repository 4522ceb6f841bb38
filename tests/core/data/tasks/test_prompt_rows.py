"""Prompts as token ids, and rows that are none."""

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.core.data.tasks.instructions import INSTRUCTIONS
from recipes.core.data.tasks.prompt_rows import load_prompts
from recipes.core.data.tasks.prompts_config import OpeningsConfig, PromptsConfig
from recipes.core.errors import UserError
from tests.core import tokenizer_kinds

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[answer]{% endif %}"
)
CHAT = [{"role": "user", "content": "hello"}]


@pytest.fixture
def tokenizer() -> Any:
    tokenizer = tokenizer_kinds.byte_level(False, False)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def load(folder: Path, tokenizer: Any, rows: list[Any], **options: Any) -> list[Any]:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return load_prompts(PromptsConfig(path=str(path), **options), tokenizer)


def test_texts_stay_as_they_are_and_conversations_go_through_the_template(tmp_path: Path, tokenizer: Any) -> None:
    text, chat = load(tmp_path, tokenizer, [{"prompt": "hello", "id": "one"}, {"messages": CHAT}])
    assert (text.id, chat.id) == ("one", "row-1") and text.text == chat.text == "hello"
    assert tokenizer.decode(text.ids) == "hello" and tokenizer.decode(chat.ids) == "[user]hello[answer]"


@pytest.mark.parametrize(("template", "says"), [("chat", "[user]hello[answer]"), ("none", "hello")])
def test_the_template_is_used_where_asked_for(tmp_path: Path, tokenizer: Any, template: str, says: str) -> None:
    row = {"prompt": "hello"} if template == "chat" else {"messages": CHAT}
    (prompt,) = load(tmp_path, tokenizer, [row], template=template)
    assert tokenizer.decode(prompt.ids) == says


def test_a_prompt_that_is_a_conversation_is_one(tmp_path: Path, tokenizer: Any) -> None:
    (prompt,) = load(tmp_path, tokenizer, [{"prompt": CHAT}])
    assert tokenizer.decode(prompt.ids) == "[user]hello[answer]"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": ""}, "its prompt is empty"),
        ({"prompt": 5}, "its prompt is no text: 5"),
        ({"prompt": "a", "messages": CHAT}, "has a prompt and messages"),
        ({"prompt": None}, "has no prompt"),
        ({"messages": []}, "messages holds no messages"),
        ({"prompt": "again", "id": "first"}, "has the id 'first' of prompts.jsonl:1"),
    ],
)
def test_rows_that_are_no_prompts_are_refused_or_counted(tmp_path: Path, tokenizer: Any, row: Any, why: str) -> None:
    rows = [{"prompt": "good", "id": "first"}, row]
    with pytest.raises(UserError) as refused:
        load(tmp_path, tokenizer, rows)
    assert f"prompts.jsonl:2: {why}" in str(refused.value)
    assert [each.id for each in load(tmp_path, tokenizer, rows, on_error="skip")] == ["first"]


def test_tools_and_variables_of_a_row_reach_the_template_or_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    row = {"messages": CHAT, "tools": [{"name": "f"}], "chat_template_kwargs": {"mood": "calm"}}
    with pytest.raises(UserError) as refused:
        load(tmp_path, tokenizer, [row])
    assert "its tools and mood would be lost: the chat template never reads them" in refused.value.hint
    tokenizer.chat_template = "{{ tools | length }}{{ mood }}" + TEMPLATE
    assert tokenizer.decode(load(tmp_path, tokenizer, [row])[0].ids) == "1calm[user]hello[answer]"
    for other in ({**row, "prompt": "hello", "messages": None}, row):
        with pytest.raises(UserError) as refused:
            load(tmp_path, tokenizer, [other], template="none")
        assert "are for what goes through a chat template" in refused.value.hint


def test_a_file_of_which_nothing_can_be_read_names_its_first_row(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "caf\u00e9"}\n'.encode("latin-1"))
    with pytest.raises(UserError, match="none of its 1 records can be used: .*latin.jsonl:1 is not UTF-8"):
        load_prompts(PromptsConfig(path=str(tmp_path / "latin.jsonl")), tokenizer)


def test_a_chat_without_a_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        load(tmp_path, tokenizer_kinds.byte_level(False, False), [{"messages": CHAT}])


def test_a_file_without_prompts_says_what_is_expected(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match="has no column prompt or messages, but text"):
        load(tmp_path, tokenizer, [{"text": "hello"}])


def test_the_instructions_that_ship_take_turns(tokenizer: Any) -> None:
    prompts = load_prompts(PromptsConfig(limit=7), tokenizer)
    assert [prompt.id for prompt in prompts][:2] == ["maths-1", "question-1"] and prompts[6].id == "maths-2"
    assert tokenizer.decode(prompts[0].ids) == f"[user]{INSTRUCTIONS[0][1]}[answer]"
    assert len({text for _, text in INSTRUCTIONS}) == len(INSTRUCTIONS)


def test_openings_are_cut_from_held_out_documents_in_turns(tokenizer: Any) -> None:
    prompts = load_prompts(OpeningsConfig(domains=("python-reference", "python-source"), tokens=9, limit=5), tokenizer)
    assert [prompt.id.partition("/")[0] for prompt in prompts] == ["python-reference", "python-source"] * 2 + [
        "python-reference"
    ]
    assert {len(prompt.ids) for prompt in prompts} == {9} and len({prompt.id for prompt in prompts}) == 5
