"""`sar` from a command to its results: arms on the same answers, a user's questions and model, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from recipes.attribution.sar.fact_model import fact_tokenizer, train_fact_model
from recipes.attribution.sar.questions import load_questions, prompt_ids
from recipes.attribution.sar.recipe import Model
from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.evaluation.importance import FILE
from recipes.core.runs.records import final_metrics
from tests.core import tokenizer_kinds
from tests.decoding.conftest import tiny

WORDS = ("budget=smoke", "tracker=none", "trainer.threads=1")


def run(outputs: Path, *words: str) -> tuple[Path, dict[str, float]]:
    config = compose.compose("sar", [*WORDS, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run sar", page=False).folder
    return folder, final_metrics(folder)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> tuple[Path, Path]:
    """A user's model, which knows half of some facts, and these facts as questions."""
    folder = tmp_path_factory.mktemp("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        config = compose.compose("sar", list(WORDS))
        questions = load_questions(config.data)
        tokenizer = fact_tokenizer(config.model, questions)
        shutil.copytree(train_fact_model(config.model, config.trainer, questions, tokenizer), folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"question": one.text, "answers": list(one.answers), "id": one.id} for one in questions]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder / "model", folder / "questions.jsonl"


def test_arms_rank_the_same_answers(tmp_path: Path) -> None:
    runs = {arm: run(tmp_path, f"arm={arm}") for arm in ("sar", "lnpe", "token_uniform", "se_embed", "sar_k1", "ls")}
    answers = {arm: lines(folder / "answers.jsonl") for arm, (folder, _) in runs.items()}
    for arm, rows in answers.items():
        right, values = (np.array([row[name] for row in rows]) for name in ("right", "uncertainty"))
        assert runs[arm][1]["auroc"] == pytest.approx(roc_auc_score(~right, values))
        assert [row["greedy"] for row in rows] == [row["greedy"] for row in answers["sar"]]
    for row, uniform, one in zip(answers["lnpe"], answers["token_uniform"], answers["sar_k1"], strict=True):
        nlls = [sample["nlls"] for sample in row["sampled"]]
        assert row["uncertainty"] == pytest.approx(np.mean([np.mean(each) for each in nlls]), abs=1e-3)
        assert row["uncertainty"] == pytest.approx(uniform["uncertainty"], abs=1e-6)
        first = one["sampled"][0]
        assert one["uncertainty"] == pytest.approx(np.dot(first["weights"], first["nlls"]), abs=1e-3)
    folder, metrics = runs["sar"]
    assert 0 < metrics["accuracy"] < 1 and 0 < metrics["weight/effective"] <= 1 and metrics["answers/encoded"] > 5
    assert {line["method"] for line in lines(folder / FILE)} == {"weight", "NLL"}
    shown = json.loads((folder / "heatmap.json").read_text(encoding="utf-8"))["examples"]
    assert len(shown) == 8 and {one["title"].rpartition("(")[2] for one in shown} == {"right)", "wrong)"}
    assert not (runs["lnpe"][0] / "heatmap.json").exists() and "weight/copied" not in runs["lnpe"][1]
    plots = json.loads((folder / "plots.json").read_text(encoding="utf-8"))["plots"]
    assert [plot["name"] for plot in plots] == ["samples", "temperature"]
    by_samples = dict(plots[0]["series"]["sar"])
    assert by_samples[1.0] == pytest.approx(runs["sar_k1"][1]["auroc"]) and by_samples[5.0] == pytest.approx(
        metrics["auroc"]
    )


def test_a_users_model_and_questions(tmp_path: Path, mine: tuple[Path, Path]) -> None:
    model, questions = mine
    _, shipped = run(tmp_path, "arm=pe")
    typed = (f"model={model}", f"data.path={questions}", "data.shots=0")
    _, users = run(tmp_path, "arm=pe", *typed)
    assert users["auroc"] == pytest.approx(shipped["auroc"]) and users["accuracy"] == shipped["accuracy"]
    assert "auroc/capital-world" in shipped and "auroc/capital-world" not in users
    _, by_model = run(tmp_path, "arm=sar", "relevance.by=model", *typed)
    assert 0 <= by_model["auroc"] <= 1 and by_model["weight/effective"] > 0


def test_a_model_without_a_begin_of_text_has_a_vector_of_no_text(tmp_path: Path) -> None:
    """Nothing is left of an answer of one token without it."""
    tokenizer = tokenizer_kinds.byte_level()
    tiny("gpt2", 0, len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    vectors = Model(compose.compose("sar", [f"model={tmp_path}"]), [], "cpu").embed(["", "a dog"])
    assert vectors.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_examples_stand_before_questions_and_are_not_asked(mine: tuple[Path, Path]) -> None:
    config = compose.compose("sar", ["data.relations=[plural]", "data.form=short", "data.limit=5"])
    questions = load_questions(config.data)
    tokenizer = fact_tokenizer(compose.compose("sar", list(WORDS)).model, questions)
    assert len(questions) == 5 and {len(one.examples) for one in questions} == {2}
    assert not {one.id for one in questions} & {shot.id for one in questions for shot in one.examples}
    text = tokenizer.decode(prompt_ids(questions[0], tokenizer, "plain"))
    assert text.count("Question:") == 3 and text.endswith(f"Question: {questions[0].text}\nAnswer:")


BAD = {
    "no answer": {"question": "What is it?"},
    "one of them is meant": {"question": "What is it?", "answer": "a", "answers": ["b"]},
    "holds its answer": {"question": "Is the tree a tree?", "answer": "Tree"},
    "no list of texts": {"question": "What is it?", "answers": "tree"},
    "no word": {"question": "What is it?", "answer": "?!"},
    "its question is no text": {"question": 3, "answer": "tree"},
    "has the id": {"question": "What is it?", "answer": "tree", "id": "0"},
}


@pytest.mark.parametrize("problem", BAD)
def test_rows_that_cannot_be_used(problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": f"Who is number {at}?", "answer": "nobody", "id": str(at)} for at in range(4)] + [BAD[problem]]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    typed = ["model=/nowhere", f"data.path={path}"]
    with pytest.raises(UserError) as raised:
        load_questions(compose.compose("sar", typed).data)
    assert problem in str(raised.value.hint)
    assert len(load_questions(compose.compose("sar", [*typed, "data.on_error=skip"]).data)) == 2
    assert "1 of 5 rows were left out" in capsys.readouterr().err


def test_one_class_has_no_auroc(tmp_path: Path, mine: tuple[Path, Path]) -> None:
    path = tmp_path / "wrong.jsonl"
    path.write_text("\n".join(json.dumps({"question": f"Who is {at}?", "answer": "zzz"}) for at in range(4)))
    with pytest.raises(UserError, match="all 4 greedy answers are wrong.*undefined"):
        run(tmp_path / "out", f"model={mine[0]}", f"data.path={path}", "data.shots=0")
    assert not list((tmp_path / "out").glob("*/*/*/metrics.jsonl"))
    with pytest.raises(UserError, match="sentence encoder of type bert"):
        run(tmp_path / "out", f"model={mine[0]}", f"data.path={mine[1]}", "data.shots=0", f"relevance.path={mine[0]}")
    assert not list((tmp_path / "out").glob("*/*/*/metrics.jsonl"))
    with pytest.raises(UserError, match="template"):
        run(tmp_path / "out", f"model={mine[0]}", f"data.path={mine[1]}", "data.template=chat")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["uncertainty.samples=6"], "more than generation.samples=5"),
        (["arm=ls", "generation.samples=1"], "pairs of answers"),
        (["model=fact-lm", "data.shots=1"], "asked as it was taught"),
        (["model=fact-lm", "data=questions", "data.path=/x"], "learns the facts that ship"),
        (["data.relations=[capitals]"], "capital"),
        (["generation.temperature=0"], "temperature"),
    ],
)
def test_configs_that_cannot_be(words: list[str], problem: str) -> None:
    with pytest.raises(UserError) as raised:
        compose.compose("sar", ["label=x", *words])
    assert problem in f"{raised.value} {raised.value.hint}"


def test_what_arms_do_not_read() -> None:
    unread = {
        arm: dict(compose.compose("sar", [f"arm={arm}"]).unread()) for arm in ("sar", "lnpe", "se", "token_uniform")
    }
    assert "uncertainty.t" not in unread["sar"] and "uncertainty.cluster" in unread["sar"]
    assert {"relevance.path", "uncertainty.t", "relevance.weights"} <= unread["lnpe"].keys()
    assert "shown" in unread["lnpe"] and "shown" not in unread["sar"]
    assert "uncertainty.cluster" not in unread["se"] and "uncertainty.alike" in unread["se"]
    assert "relevance.by" in unread["token_uniform"] and "relevance.copied" not in unread["token_uniform"]
