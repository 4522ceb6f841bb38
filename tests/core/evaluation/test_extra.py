"""A user's own questions: what a row may be, how texts become tokens, and what is measured, by brute force."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.core.config import compose, registry
from recipes.core.errors import UserError
from recipes.core.evaluation.extra import (
    Question,
    Questions,
    _measures,
    ask,
    check_length,
    load_questions,
    read_questions,
)
from recipes.core.models.tokenizer import character_tokenizer
from recipes.core.runs.identity import hash_of, identify
from tests.core import tokenizer_kinds
from tests.core.scoring.models import CountingModel

MIXED = [
    {"prompt": "the cat", "answer": "sat"},
    {"id": 7, "group": "dogs", "prompt": "the dog ", "choices": ["ran", "sat fast"], "answer": 1},
    {"id": "last", "prompt": "", "choices": ["a", "b c", "d"], "answer": "d"},
]


def write(folder: Path, rows: list, name: str = "my own.v2.jsonl") -> str:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def read(path: str, tokenizer: Any) -> Questions:
    return read_questions(path, load_questions(path), tokenizer)


def test_rows_with_answers_and_with_choices(tmp_path):
    questions = load_questions(write(tmp_path, MIXED))
    assert [(one.id, one.group, one.texts, one.right) for one in questions] == [
        ("row 1", "row 1", ("sat",), 0),
        ("7", "dogs", ("ran", "sat fast"), 1),
        ("last", "last", ("a", "b c", "d"), 2),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "x"}, "has no prompt"),
        ({"prompt": ["x"], "answer": "x"}, "prompt is no text"),
        ({"prompt": "x"}, "has no answer"),
        ({"prompt": "x", "answer": 3}, "answer is no text: 3"),
        ({"prompt": "x", "answer": " "}, "answer is empty"),
        ({"prompt": "x", "choices": "ab", "answer": 0}, "choices are no list of texts"),
        ({"prompt": "x", "choices": ["a", ""], "answer": 0}, "choices are no list of texts"),
        ({"prompt": "x", "choices": ["a"], "answer": 0}, "choices are fewer than two, or the same twice"),
        ({"prompt": "x", "choices": ["a", "a"], "answer": 0}, "choices are fewer than two, or the same twice"),
        ({"prompt": "x", "choices": ["a", "b"], "answer": 2}, "nor a number from 0 to 1: 2"),
        ({"prompt": "x", "choices": ["a", "b"], "answer": True}, "nor a number from 0 to 1: true"),
        ({"prompt": "x", "choices": ["a", "b"]}, "answer is none of the choices"),
        ({"prompt": "x", "answer": "y", "id": 1.5}, "id is neither a text nor a whole number: 1.5"),
        ({"prompt": "x", "answer": "y", "group": ""}, "group is neither a text nor a whole number"),
        ({"prompt": "x", "answer": "y", "id": "row 1"}, "has the id 'row 1' of mine.jsonl:1"),
        ('{"prompt": "x"', "is no JSON"),
        ("[1]", "is no JSON object"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_what_is_expected(row, message, tmp_path):
    with pytest.raises(UserError) as refused:
        load_questions(write(tmp_path, [MIXED[0], row], "mine.jsonl"))
    lines = refused.value.hint.split("\n")
    assert refused.value.what == "1 of 2 rows cannot be used" and refused.value.exit_code == 2
    assert lines[0].startswith("mine.jsonl:2: ") and message in lines[0], lines
    assert lines[-1].startswith('a row is {"prompt": TEXT, "answer": TEXT} or')


@pytest.mark.parametrize(("name", "what"), [("x.txt", "is no file of questions"), ("x.jsonl", "has no rows")])
def test_what_is_no_file_of_questions(name, what, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"{what}|is empty"):
        load_questions(str(tmp_path / name))


@pytest.mark.parametrize("kind", ["byte_level", "with_bos", "word_mark"])
def test_texts_become_the_tokens_that_the_evaluation_harness_makes_of_them(kind, tmp_path):
    models = pytest.importorskip("lm_eval.api.model")
    with_bos = kind == "with_bos"
    tokenizer = tokenizer_kinds.byte_level(with_bos, with_bos) if kind != "word_mark" else tokenizer_kinds.word_mark()

    class Peer(models.TemplateLM):
        eot_token_id = tokenizer.eos_token_id

        def tok_encode(self, string, add_special_tokens=None, **_):
            return tokenizer(string)["input_ids"]

        def loglikelihood_rolling(self, requests): ...
        def generate_until(self, requests): ...
        def _loglikelihood_tokens(self, requests): ...

    rows = [
        {"prompt": "the cat", "choices": ["sat", "ran fast"], "answer": 0},
        {"prompt": "what is the dog ", "choices": ["sat", "ran fast"], "answer": 0},
        {"prompt": "why  " if kind == "word_mark" else "why\n", "choices": ["we", "they are"], "answer": 0},
    ]
    questions = read(write(tmp_path, rows), tokenizer)
    pairs = [(q.prompt, text) for q in questions.questions for text in q.texts]
    blanks = ["" if prompt[-1].isspace() else " " for prompt, _ in pairs]
    theirs = [Peer()._encode_pair(prompt, blank + text) for (prompt, text), blank in zip(pairs, blanks, strict=True)]
    assert [(list(a), list(b)) for a, b in questions.rows] == [(list(pair[0]), list(pair[1])) for pair in theirs]


@pytest.mark.parametrize(
    ("file", "name"),
    [("my.v1.jsonl", "my.v1"), ("my.v2.jsonl", "my.v2"), ("my.v2.jsonl.gz", "my.v2"), ("my own.json", "my-own")],
)
def test_metrics_are_named_after_the_file_without_its_ending(file, name, tmp_path):
    path = write(tmp_path, MIXED, file)
    if file.endswith(".gz"):
        Path(path).write_bytes(gzip.compress(Path(path).read_bytes()))
    assert read(path, tokenizer_kinds.byte_level(False, False)).name == name


def test_a_token_over_the_end_of_the_prompt_counts_for_the_text(tmp_path):
    tokenizer = tokenizer_kinds.byte_level(False, False)
    rows = [{"prompt": "why\n", "answer": "\nwe"}]
    ((before, after),) = read(write(tmp_path, rows), tokenizer).rows
    assert tokenizer.decode(before).endswith("why") and tokenizer.decode(after) == "\n\nwe"


def test_text_that_the_tokenizer_does_not_know_is_refused(tmp_path):
    rows = [MIXED[0], {"prompt": "the", "answer": "zebra"}]
    with pytest.raises(UserError, match="own.v2.jsonl:2: .*zebra.* holds what the model's tokenizer does not know"):
        read(write(tmp_path, rows), tokenizer_kinds.words())


def test_a_tokenizer_without_blanks_joins_without_one(tmp_path):
    tokenizer = character_tokenizer(["1+2=3"], "digits", 64)
    rows = [{"prompt": "1+2=", "answer": "3"}]
    (row,) = read(write(tmp_path, rows), tokenizer).rows
    assert tokenizer.convert_ids_to_tokens(row[0])[-4:] == list("1+2=") and tokenizer.decode(row[1]) == "3"


def test_worked_numbers():
    logs = [np.log([0.5, 0.5]), np.log([0.2])]
    nll = ("nll", pytest.approx(np.log(2)), 2.0)
    # log .25 = -1.39 > log .2 = -1.61; by character of "abcd" and "x" -.35 > -1.61, of "a" and "abcdefgh" -1.39 < -.20
    both, other, alone = (Question("q", "q", "p", texts, 0) for texts in (("abcd", "x"), ("a", "abcdefgh"), ("abcd",)))
    assert _measures(both, logs, True) == [nll, ("acc", 1.0, 1.0), ("acc_norm", 1.0, 1.0)]
    assert _measures(other, logs, True) == [nll, ("acc", 1.0, 1.0), ("acc_norm", 0.0, 1.0)]
    assert _measures(alone, logs[:1], False) == [nll, ("exact", 0.0, 1.0)]


def test_scores_are_those_of_a_plain_forward():
    model = CountingModel()
    choices = Question("c", "g", "", ("xx", "y"), 1)
    answer = Question("a", "a", "", ("z",), 0)
    rows = (([3, 4], [5, 6]), ([3, 4], [7]), ([8], [9, 10, 11]))
    scores = ask(Questions("mine", (choices, answer), rows), model, "cpu")
    logs = []
    for context, text in rows:
        with torch.no_grad():
            logits = model.language_model.eval()(torch.tensor([[*context, *text]])).logits[0]
        logs.append(logits.log_softmax(1)[len(context) - 1 : -1].gather(1, torch.tensor(text)[:, None])[:, 0].numpy())
    overall = scores.overall()
    tokens = np.concatenate([logs[1], logs[2]])
    assert overall["extra/mine/nll"] == pytest.approx(-tokens.mean(), abs=1e-5)
    assert overall["extra/mine/acc"] == float(logs[1].sum() > logs[0].sum())
    assert overall["extra/mine/acc_norm"] == float(logs[1].sum() > logs[0].sum() / 2)
    assert scores.values("extra/mine/nll").keys() == {"c", "a"} and {row[2] for row in scores.rows} == {"g", "a"}
    assert set(scores.values("extra/mine/exact")) == {"a"}


def test_a_greedy_answer_is_exact():
    model = CountingModel()
    with torch.no_grad():
        first = int(model.language_model.eval()(torch.tensor([[3, 4]])).logits[0, -1].argmax())
    question = Question("a", "a", "", ("z",), 0)
    for text, exact in (([first], 1.0), ([(first + 1) % 32], 0.0)):
        scores = ask(Questions("mine", (question,), (([3, 4], text),)), model, "cpu")
        assert scores.overall()["extra/mine/exact"] == exact


def test_a_question_longer_than_the_context_is_refused():
    asked = tuple(Question(name, name, "", ("x",), 0) for name in ("short", "long"))
    questions = Questions("mine", asked, (([1], [2]), ([1] * 7, [2, 3])))
    with pytest.raises(UserError, match="question 'long' has 9 tokens, and the model's context 8"):
        check_length(questions, 8)


def test_content_counts_for_identity_where_it_is_set_and_nothing_does_elsewhere(tmp_path):
    plain = compose.compose("rho-1", [])
    tree = compose.to_tree(plain)
    before = dict(tree, evaluation={key: value for key, value in tree["evaluation"].items() if key != "extra"})
    assert identify(plain).hash == hash_of(before, identify(plain).content, identify(plain).version)
    hashes = []
    for name, rows in (("a.jsonl", MIXED), ("b.jsonl", MIXED), ("c.jsonl", MIXED[:1])):
        path = write(tmp_path, rows, name)
        hashes.append(identify(compose.compose("rho-1", [f"evaluation.extra={path}"])).hash)
    assert hashes[0] == hashes[1] != hashes[2] and identify(plain).hash not in hashes


@pytest.mark.parametrize(
    ("recipe", "words"), [("sample-reweighting", ["data=linear-regression"]), ("dsir", ["downstream=none"])]
)
def test_where_no_language_model_is_trained_there_is_nobody_to_ask(recipe, words):
    with pytest.raises(UserError, match="evaluation.extra: is asked of a language model"):
        compose.compose(recipe, [*words, "evaluation.extra=mine.jsonl"])


def test_models_of_every_recipe_that_takes_questions_say_so():
    for name in ("rho-1", "sample-reweighting", "dsir", "cdpo", "sparsepo", "t-reg", "aligndistil"):
        assert "evaluation.extra" in compose.config_keys(name) and registry.card(name).measures("extra/mine/acc")
        assert callable(registry.recipe_class(name).answering)


@pytest.mark.slow
def test_training_stays_the_same_to_the_bit_and_arms_are_compared_question_by_question(tmp_path):
    from recipes.core import runner
    from recipes.core.statistics.compare import compare_beside

    extra = f"evaluation.extra={write(tmp_path, MIXED, 'mine.jsonl')}"
    words = ["budget=smoke", "tracker=none", "trainer.max_steps=3", "reference.steps=2", f"outputs={tmp_path}"]
    runs = [
        runner.run(compose.compose("rho-1", [*words, *more]), fresh=False, command="")
        for more in (["arm=uniform"], ["arm=uniform", extra], ["arm=random", extra])
    ]
    plain, asked = (one.folder for one in runs[:2])
    assert (plain / "hf" / "model.safetensors").read_bytes() == (asked / "hf" / "model.safetensors").read_bytes()
    shared = {name: value for name, value in runs[1].metrics.items() if not name.startswith("extra/")}
    assert shared == runs[0].metrics and set(runs[1].metrics) - set(shared) == {
        f"extra/mine/{name}" for name in ("nll", "exact", "acc", "acc_norm")
    }
    row = compare_beside(runs[2].record, runs[1].record, runs[2].card).row("extra/mine/nll")
    assert row is not None and row.number == 3
