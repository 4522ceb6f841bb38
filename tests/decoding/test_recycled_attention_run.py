"""`recycled-attention` from its config to its report: documents, questions, and a user's prompts and model."""

import json
from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics
from tests.core import tokenizer_kinds
from tests.decoding.conftest import tiny

SMOKE = ("budget=smoke", "tracker=none", "trainer.threads=1")
TOY = ("model.steps=8", "model.characters=20000", "data.limit=2", "data.domains=[sotu-modern]", "data.tokens=96")
SHORT = ("data.prompt=48", "cache.k=12", "cache.stride=4")
RECALL = ("data=recall", "data.train=40", "data.limit=2", "data.pairs=4", "data.copied=12", "model.steps=4")


def run(outputs: Path, *words: str) -> tuple[Path, dict[str, float]]:
    config = compose.compose("recycled-attention", [*SMOKE, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run recycled-attention", page=False).folder
    return folder, final_metrics(folder)


def test_arms_read_documents(tmp_path: Path) -> None:
    arms = ("recycled", "full", "h2o", "oracle", "recycled_global")
    metrics = {arm: run(tmp_path, *TOY, *SHORT, f"arm={arm}")[1] for arm in arms}
    metrics["stride_1"] = run(tmp_path, *TOY, *SHORT[:2], "arm=stride_1")[1]
    recycled, full = metrics["recycled"], metrics["full"]
    assert metrics["h2o"]["keys_read"] == pytest.approx(recycled["keys_read"], rel=0.03)
    assert metrics["oracle"]["recovered"] == max(
        one["recovered"] for arm, one in metrics.items() if arm not in ("full", "stride_1", "recycled_global")
    )
    assert metrics["stride_1"]["nll"] == pytest.approx(full["nll"], abs=1e-4) and full["agrees"] == 1
    assert recycled["keys_held"] > full["keys_held"] > metrics["h2o"]["keys_held"]
    assert "recovered" not in metrics["recycled_global"]


def test_a_model_is_trained_further_once(tmp_path: Path) -> None:
    words = [*TOY, *SHORT, "continued.steps=2", "continued.length=48", "continued.learning_rate=1e-2"]
    outputs = [run(tmp_path / str(at), *words, f"arm={arm}_trained")[1] for at, arm in enumerate(("plain", "recycled"))]
    assert outputs[0]["nll"] != outputs[1]["nll"] != run(tmp_path, *words)[1]["nll"]
    again = run(tmp_path / "again", *words, "arm=recycled_trained")[1]
    assert again["nll"] == outputs[1]["nll"]


def test_adapters_are_trained_in_a_users_model(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = model_folder(tmp_path, "gpt2")
    words = [f"model={model}", *TOY[2:], *SHORT, "continued.steps=2", "continued.length=48", "lora.rank=2"]
    words += ["continued.learning_rate=1e-1", "continued.characters=20000"]
    trained, plain = (run(tmp_path, *words, f"arm={arm}")[1]["nll"] for arm in ("recycled_trained", "recycled"))
    assert trained != plain
    with pytest.raises(UserError) as refused:
        compose.compose("recycled-attention", [*SMOKE, *TOY, *SHORT, "arm=recycled_trained", "lora.rank=2"])
    assert "adapters stand beside weights that somebody trained" in refused.value.hint


def model_folder(folder: Path, kind: str) -> Path:
    tokenizer = tokenizer_kinds.byte_level(False, False)
    tiny(kind, 0, len(tokenizer)).save_pretrained(folder / kind)
    tokenizer.save_pretrained(folder / kind)
    return folder / kind


def test_questions_are_answered_by_a_model_of_the_run(tmp_path: Path) -> None:
    metrics = {arm: run(tmp_path, *RECALL, f"arm={arm}")[1] for arm in ("recycled", "full")}
    assert all({"accuracy", "accuracy/recall", "accuracy/copy", "nll"} <= each.keys() for each in metrics.values())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_users_model_continues_a_users_prompts(tmp_path: Path, kind: str) -> None:
    model_folder(tmp_path, kind)
    rows = [{"prompt": "the"}, {"prompt": "one and two and three and four", "id": "long"}]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = [f"model={tmp_path / kind}", f"data.path={tmp_path / 'mine.jsonl'}", "generation.max_new_tokens=12"]
    words += ["cache.k=6", "cache.stride=3"]
    for arm in ("recycled", "full", "h2o", "recycled_global"):
        folder, metrics = run(tmp_path, *words, f"arm={arm}")
        lines = [json.loads(line) for line in (folder / "generations.jsonl").read_text("utf-8").splitlines()]
        assert [line["id"] for line in sorted(lines, key=lambda line: line["id"])] == ["long", "row-0"]
        assert all(1 <= len(line["ids"]) <= 12 for line in lines) and (folder / "heatmap.json").exists()
    assert run(tmp_path, *words, "arm=full")[1]["matches_full"] == 1
    with pytest.raises(UserError, match="500 new ones do not fit the context of 128"):
        run(tmp_path, *words, "generation.max_new_tokens=500")
    drawn = [run(tmp_path / str(at), *words, "generation.temperature=0.8")[0] for at in (0, 1)]
    texts = [[json.loads(line)["ids"] for line in (one / "generations.jsonl").open(encoding="utf-8")] for one in drawn]
    assert texts[0] == texts[1]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    for words, message in (
        (["cache.k=32", "cache.stride=17"], "17 is more than half of k=32"),
        (
            ["cache.name=streaming", "cache.k=4", "cache.equal_cost=false", "label=x"],
            "cache.sinks: 4 tokens that always",
        ),
        (["data=recall", "model=./x", "budget=smoke"], "causal-lm was not trained on data=recall"),
        (["data=recall", "model=toy-lm"], "model: toy-lm was not trained on data=recall; type model=recaller"),
        (["model=recaller"], "recaller reads nothing but data=recall"),
        (["continued.attention=plain", "data=recall"], "trains on documents, not data=recall"),
        (["continued.attention=plain", "cache.schedule=global", "label=x"], "cannot emulate cache.schedule=global"),
        (["data.prompt=1024"], "leaves nothing of tokens=1024"),
    ):
        with pytest.raises(UserError) as refused:
            compose.compose("recycled-attention", words)
        assert message in refused.value.hint, words
    with pytest.raises(UserError, match="sequences of 9000 tokens do not fit the model's context of 4096"):
        run(tmp_path, *TOY, "data.tokens=9000")
    with pytest.raises(UserError, match="held-out documents of wiki-en have 4,000 tokens"):
        run(tmp_path, *TOY, "data.tokens=4000", "data.domains=[wiki-en]")
