"""FIRST from the command line's config to the run folder, on a collection and a model of the user's."""

import json
from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics
from tests.retrieval.conftest import encoder_folder, model_folder, write_collection

SMOKE = ("budget=smoke", "tracker=none", "trainer.threads=1", "trainer.max_steps=2", "trainer.batch_size=2")
QUERIES = {"q1": "animal that barks", "q4": "small animal", "q5": "an animal that sleeps", "q6": "tree of wood"}
TRAIN = [("q5", "cat", 1), ("q6", "oak", 1)]
RUN = [("q1", "dog cat"), ("q4", "cat dog"), ("q5", "cat dog"), ("q6", "oak pine")]


def mine(folder: Path) -> list[str]:
    """A collection with judgements to learn from, and a teacher's order of it."""
    queries = [{"_id": id, "text": text} for id, text in QUERIES.items()]
    write_collection(folder, queries=queries, qrels=[("q1", "dog", 1), ("q4", "cat", 1)])
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in TRAIN)]
    (folder / "qrels" / "train.tsv").write_text("\n".join(lines) + "\n")
    rows = [f"{id} Q0 {name} {at} {9 - at} gpt" for id, names in RUN for at, name in enumerate(names.split())]
    (folder / "gpt.trec").write_text("\n".join(rows) + "\n")
    return [f"data.path={folder}", "tuning.teacher=run", f"tuning.path={folder / 'gpt.trec'}"]


def final(outputs: Path, *words: str) -> tuple[dict[str, float], Path]:
    config = compose.compose("first", [*SMOKE, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run first", page=False).folder
    return final_metrics(folder), folder


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_users_collection_and_model(tmp_path: Path, kind: str) -> None:
    words = [*mine(tmp_path / "mine"), f"model={model_folder(tmp_path / 'model', kind)}"]
    metrics, run = final(tmp_path, *words)
    assert (metrics["prefills"], metrics["decode_steps"], metrics["forwards"]) == (1, 0, 1)
    assert 0 < metrics["letter_mass"] < 1 and metrics["rank_loss"] > 0 and -1 <= metrics["teacher_tau"] <= 1
    lines = (run / "run.trec").read_text().splitlines()
    assert all(len(line.split()) == 6 for line in lines) and {line.split()[0] for line in lines} == {"q1", "q4"}
    rows = [json.loads(line) for line in (run / "reranked.jsonl").read_text().splitlines()]
    assert [row["query"] for row in rows] == ["q1", "q4"]
    assert (run / "hf").is_dir()  # what was tuned, as transformers loads it
    written, _ = final(tmp_path, *words, "arm=generation")
    assert written["decode_steps"] > 0 and written["prefills"] == 1
    zero, folder = final(tmp_path, *words, "arm=zero_shot", "prompt.window=2", "prompt.stride=1")
    assert zero["forwards"] >= 1 and not (folder / "hf").exists()


def test_nothing_is_tuned_without_queries_to_learn_from(tmp_path: Path) -> None:
    data = f"data.path={write_collection(tmp_path / 'mine')}"
    model = f"model={model_folder(tmp_path / 'model')}"
    with pytest.raises(UserError, match="has no queries to learn from"):
        final(tmp_path, data, model)
    bm25, _ = final(tmp_path, data, "arm=bm25")
    assert bm25["RR@10"] == 1 and "forwards" not in bm25


def test_an_order_moves_the_query_that_searches_again(tmp_path: Path) -> None:
    words = [*mine(tmp_path / "mine"), f"first_stage.encoder={encoder_folder(tmp_path / 'encoder', positions=128)}"]
    reached = {}
    for arm in ("feedback_query", "feedback_teacher"):
        metrics, _ = final(tmp_path, *words, f"arm={arm}", "feedback.rate=0.1")
        assert metrics["feedback/R@100"] == 1  # of five passages all are among the first hundred
        reached[arm] = metrics["feedback/RR@10"]
    assert reached["feedback_teacher"] > reached["feedback_query"]


def test_settings_that_cannot_be() -> None:
    for words, message in (
        (["prompt.window=5", "prompt.stride=6"], "leaves passages out"),
        (["prompt.window=30"], "there are 26 letters"),
        (["prompt.names=numeric"], "numbers above 9 are no single token"),
        (["tuning.passages=21"], "more than a prompt holds"),
        (["tuning.path=x.trec"], "type that too"),
        (["arm=rank_only", "ranking.decode=generate", "label=x"], "cannot write one"),
        (["arm=lm", "tuning.rank_from=0.5"], "is for tuning.objective=combined"),
        (["ranking.by=given", "label=x"], "type tuning.objective=none"),
        (["lora.rank=4"], "adapters stand beside weights that somebody trained"),
    ):
        with pytest.raises(UserError) as refused:
            compose.compose("first", words)
        assert message in refused.value.hint


def test_a_query_moves_no_further_than_its_length(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"feedback.rate = 2.*must be > 0 and <= 1"):
        compose.compose("first", ["feedback.rate=2"])
    words = [*mine(tmp_path / "mine"), f"first_stage.encoder={encoder_folder(tmp_path / 'encoder', positions=128)}"]
    assert final(tmp_path, *words, "arm=feedback_teacher", "feedback.rate=1")[0]["feedback/R@100"] == 1


def test_what_is_typed_and_of_no_use_is_announced() -> None:
    def of_no_use(*words: str) -> list[str]:
        rows = compose.compose("first", list(words)).describe()
        return [text.partition(":")[0] for name, text in rows if name == "of no use"]

    assert [of_no_use(f"arm={arm}") for arm in ("first", "lm", "unweighted", "bm25", "encoder", "feedback")] == [[]] * 6
    assert of_no_use("ranking.visible=5", "feedback.steps=3") == ["ranking.visible", "feedback.steps"]
    assert of_no_use("ranking.visible=5", "ranking.decode=first_logit_topk", "label=x") == []
    assert of_no_use("arm=generation", "tuning.coefficient=3", "ranking.letter_merge=max") == [
        "ranking.letter_merge", "tuning.coefficient"
    ]  # fmt: skip
    assert of_no_use("arm=zero_shot", "tuning.rank_loss=listnet") == ["tuning.rank_loss"]
    assert of_no_use("first_stage.encoder=a/b") == ["first_stage.encoder"]
    assert of_no_use("first_stage.encoder=a/b", "arm=feedback") == []
    assert of_no_use("tuning.teacher=run", "tuning.path=x", "tuning.encoder=a/b") == ["tuning.encoder"]
    assert of_no_use("arm=bm25", "prompt.batch_size=3", "evaluation.shown=2") == [
        "prompt.batch_size",
        "evaluation.shown",
    ]
    ranked = ["first_stage.order=ranked", "first_stage.seed=5"]
    assert of_no_use(*ranked) == [] and of_no_use(*ranked, "arm=zero_shot") == ["first_stage.seed"]
    dense = ["first_stage.name=dense", "first_stage.k1=2"]
    assert of_no_use(*dense) == [] and of_no_use(*dense, "arm=zero_shot") == ["first_stage.k1"]


@pytest.mark.parametrize("recipe", ["first", "first-repro", "tildev2"])
def test_no_budget_or_arm_presets_what_is_of_no_use(recipe: str) -> None:
    for budget in ("smoke", "small", "full"):
        for data in ([], ["data.path=x"]):
            words = [f"budget={budget}", *data]
            for arm in compose.arms(recipe, words):
                assert not compose.compose(recipe, [*words, f"arm={arm}"]).unread(), (words, arm)


def test_candidates_that_are_cut_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"data.path={write_collection(tmp_path / 'mine')}", f"model={model_folder(tmp_path / 'model')}"]
    words += [f"tuning.encoder={encoder_folder(tmp_path / 'encoder')}", "arm=zero_shot"]
    for limit, said in (("9", "2 of 5 candidates are cut to 9 words in a prompt (prompt.words)"), ("10", "")):
        final(tmp_path, *words, f"prompt.words={limit}")
        error = capsys.readouterr().err
        assert said in error and (said or "cut to" not in error)
