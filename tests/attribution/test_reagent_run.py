"""`reagent` from its config to its report: planted evidence, and a user's model and prompts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cli.app import app
from recipes.attribution.reagent.config import METHODS, PredictionsConfig
from recipes.attribution.reagent.planted import PlantedItems, planted_collate, planted_text, reader_tokenizer
from recipes.attribution.reagent.reader import Reader
from recipes.attribution.reagent.targets import Target, _continued, free_tokens
from recipes.core import runner
from recipes.core.config import compose
from recipes.core.data.tasks.prompt_rows import load_prompts
from recipes.core.data.tasks.prompts_config import PromptsConfig
from recipes.core.data.text.text_ids import control_ids
from recipes.core.errors import UserError
from recipes.core.report.heatmap import read_heatmap
from recipes.core.runs.records import final_metrics
from tests.core import tokenizer_kinds
from tests.decoding.conftest import tiny

SMOKE = ("budget=smoke", "tracker=none", "trainer.threads=1")
SMALL = ("data.limit=3", "data.train=64", "model.steps=4", "model.batch_size=8", "metric.draws=2")


def run(outputs: Path, *words: str) -> tuple[Path, dict[str, float]]:
    config = compose.compose("reagent", [*SMOKE, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run reagent", page=False).folder
    return folder, final_metrics(folder)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's models of both kinds and prompts: a text, a conversation, one of special characters."""
    folder = tmp_path_factory.mktemp("mine")
    tokenizer = tokenizer_kinds.byte_level(False, False, tokenizer_kinds.CHATML)
    for kind in ("llama", "gpt2"):
        tiny(kind, 0, len(tokenizer)).save_pretrained(folder / kind)
        tokenizer.save_pretrained(folder / kind)
    rows: list[dict[str, Any]] = [
        {"prompt": "the big dog sat", "id": "dog"},
        {"messages": [{"role": "user", "content": "why are you slow"}]},
        {"prompt": 'tags <b> & "\u20ac" </s>'},
    ]
    write(folder / "prompts.jsonl", rows)
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


@pytest.mark.parametrize("name", METHODS)
def test_every_attribution_measures_planted_texts(tmp_path: Path, name: str) -> None:
    beside = "shown.beside=[random]" if name == "reagent" else "shown.predictions=0"
    folder, metrics = run(tmp_path, *SMALL, f"attribution.name={name}", "label=x", beside)
    assert {"soft_nc", "soft_ns/matched", "hard_nc", "deletion", "insertion", "hit", "right"} <= metrics.keys()
    assert ("probes/stopped" in metrics) == (name == "reagent") == (folder / "heatmap.json").exists()
    lines = [json.loads(line) for line in (folder / "attributions.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert sum(share for _, _, share in line["tokens"]) == pytest.approx(1, abs=1e-3)
        assert len(line["evidence"]) == 3 and len(line["tokens"]) == 13
    if name == "random":
        assert metrics["soft_nc/log_ratio"] == 0


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_users_model_and_prompts_leave_a_heatmap(tmp_path: Path, mine: Path, kind: str) -> None:
    words = [f"model={mine / kind}", f"data.path={mine / 'prompts.jsonl'}", "predictions.tokens=3"]
    arms = ["reagent_lm_sample", "gradient_shap"] if kind == "gpt2" else ["reagent", "reagent_lm_argmax"]
    for arm in arms:
        folder, metrics = run(tmp_path, *words, f"arm={arm}", "predictions.stride=2", "attribution.samples=2")
        shown = read_heatmap(folder)
        assert [example.id for example in shown] == ["dog+0", "dog+2", "row-1+0", "row-1+2", "row-2+0", "row-2+2"]
        first = arm.partition("_lm")[0]
        assert [label for label, _ in shown[0].rows] == [first, "occlusion", "gradient_norm"]
        assert "".join(token.text for token in shown[0].tokens) == "the big dog sat"
        assert shown[0].title.startswith("dog+0: what leads to") and "hit" not in metrics
        kinds = [(token.text, token.kind) for token in shown[3].tokens]
        assert kinds[0] == ("<|im_start|>", "never replaced") and [kind for _, kind in kinds].count(None) >= 4
        assert [kind for _, kind in kinds[-2:]] == ["written by the model"] * 2
        table = [json.loads(line) for line in (folder / "importance.jsonl").read_text("utf-8").splitlines()]
        assert {row["method"] for row in table} == {first, "occlusion", "gradient_norm"}


def test_the_command_of_the_page_reports_and_repeats_itself(tmp_path: Path, mine: Path) -> None:
    words = ["run", "reagent", f"model={mine / 'llama'}", f"data.path={mine / 'prompts.jsonl'}", *SMOKE]
    texts = []
    for number in range(2):
        result = CliRunner().invoke(app, [*words, f"outputs={tmp_path / str(number)}"])
        assert result.exit_code == 0, result.output
        folder = next((tmp_path / str(number)).glob("reagent/reagent/*"))
        texts.append((folder / "attributions.jsonl").read_text("utf-8"))
    assert texts[0] == texts[1]
    page = (folder / "report.html").read_text("utf-8")
    assert "what leads to" in page and page.count("<h4>occlusion</h4>") == 3 and "never replaced" in page


def test_nothing_is_explained_behind_a_token_that_ends_a_text(mine: Path) -> None:
    reader, tokenizer = Reader(tiny("llama", 0, 400), "model=x", 64), tokenizer_kinds.byte_level()
    said, start = iter([50, 70, 1, tokenizer.eos_token_id, 9]), 1
    assert start in control_ids(tokenizer) and start != tokenizer.eos_token_id
    reader.predict = lambda ids, name: (next(said), 0.5)  # type: ignore[method-assign]
    targets = _continued(Target("a", "a", (20, 21), (True, True)), reader, tokenizer, PredictionsConfig(tokens=9))
    assert [one.token for one in targets] == [50, 70, start, tokenizer.eos_token_id]
    assert targets[-1].ids == (20, 21, 50, 70, start) and targets[-1].free == (True, True, True, True, False)


def test_deletion_replaces_the_same_way_whatever_an_attribution_does(tmp_path: Path) -> None:
    seen = [run(tmp_path, *SMALL, "attribution.name=random", "label=x", "shown.predictions=0", *words)[1]
            for words in ([], ["attribution.sampler=uniform"], ["metric.sampler=uniform"])]  # fmt: skip
    assert seen[0]["deletion"] == seen[1]["deletion"] != seen[2]["deletion"]


def test_template_and_control_tokens_are_never_replaced(mine: Path) -> None:
    tokenizer = tokenizer_kinds.byte_level(False, False, tokenizer_kinds.CHATML)
    prompts = load_prompts(PromptsConfig(path=str(mine / "prompts.jsonl")), tokenizer)
    free = [free_tokens(prompt, tokenizer) for prompt in prompts]
    assert all(free[0]) and not any(free[1][:1] + free[1][-2:])
    inside = [token for token, is_free in zip(prompts[1].ids.tolist(), free[1], strict=True) if is_free]
    assert tokenizer.decode(inside).strip() in "why are you slow"
    assert all(free[2])  # a control token that is typed is text


def test_rows_that_explain_nothing_are_refused_or_counted(
    tmp_path: Path, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (row, message) in enumerate(
        (
            ({"prompt": ""}, "its prompt is empty"),
            ({"prompt": "a"}, "row-1 has 1 tokens that can be replaced"),
            ({"prompt": " ".join(["tree"] * 200)}, "tokens, and the model reads 128"),
        )
    ):
        outputs = tmp_path / str(number)
        write(tmp_path / "rows.jsonl", [{"prompt": "the big dog sat"}, row])
        words = [f"model={mine / 'llama'}", f"data.path={tmp_path / 'rows.jsonl'}", "shown.beside=[]"]
        with pytest.raises(UserError) as refused:
            run(outputs, *words)
        assert message in refused.value.hint and "data.on_error=skip" in refused.value.hint
        assert not list(outputs.glob("*/*/*/attributions.jsonl"))
        folder, _ = run(outputs, *words, "data.on_error=skip")
        assert len((folder / "attributions.jsonl").read_text("utf-8").splitlines()) == 1
        assert "1 of 2 rows were left out" in capsys.readouterr().err


def test_a_model_without_finite_probabilities_is_refused(mine: Path) -> None:
    broken = tiny("llama", 0, 30)
    with torch.no_grad():  # files that hold NaN are refused when they are read; activations may still overflow
        broken.model.norm.weight.fill_(torch.inf)
    with pytest.raises(UserError, match="no finite probabilities behind dog") as refused:
        Reader(broken, "model.path=mine", 64).predict(torch.tensor([1, 2]), "dog")
    assert refused.value.where == "model.path=mine"


def test_probes_that_never_stop_are_said(tmp_path: Path, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"model={mine / 'llama'}", f"data.path={mine / 'prompts.jsonl'}", "data.limit=1", "shown.beside=[]"]
    _, metrics = run(tmp_path, *words, "reagent.top_k=1", "reagent.keep=0.01", "reagent.max_steps=1", "label=x")
    if metrics["probes/stopped"] == 0:
        assert "no probe of 1 of 1 predictions stopped within 1 steps" in capsys.readouterr().err
    assert metrics["probes/steps"] == 1


def test_planted_texts_have_their_evidence_and_classes() -> None:
    config: Any = compose.compose("reagent", [*SMOKE]).model
    tokenizer, texts = reader_tokenizer(config), [planted_text(6, np.random.default_rng(seed)) for seed in range(20)]
    for one in texts:
        key, value, asked = (one.text[place] for place in one.evidence)
        assert key == asked == one.text[-1] and value == one.answer and len(one.text) == 13
        assert len(set(one.text[:12:2])) == 6 and one.text[:12:2].isupper() and one.text[1:12:2].islower()
        assert len(one.text + one.rest) == 24 and sorted(one.text[:12]) == sorted(one.text[12:] + one.rest)
    batch = planted_collate([PlantedItems(texts, tokenizer)[number] for number in range(20)])
    assert batch["weights"].sum() == batch["normalizer"] == 20 * 11
    assert tokenizer.decode(batch["labels"][3, 12:]).replace(" ", "") == texts[3].rest


def test_what_arms_do_not_read() -> None:
    unread = {
        words: dict(compose.compose("reagent", words.split()).unread())
        for words in ("arm=reagent", "arm=attention_last shown.predictions=0", "data=openings predictions.tokens=4")
    }
    keys = {"attribution.sampler", "shown.beside"}
    assert "predictions.stride" in unread["arm=reagent"] and not keys & unread["arm=reagent"].keys()
    assert keys <= unread["arm=attention_last shown.predictions=0"].keys()
    assert "predictions.stride" not in unread["data=openings predictions.tokens=4"]


def test_what_cannot_be_is_refused() -> None:
    for words, message in (
        (["data=planted", "model=toy-lm"], "toy-lm was not trained on data=planted"),
        (["data=prompts", "model=pair-reader"], "pair-reader reads nothing but data=planted"),
        (["predictions.tokens=2"], "data=planted has one prediction a text"),
        (["shown.beside=[lime]"], "there is no lime"),
    ):
        with pytest.raises(UserError) as refused:
            compose.compose("reagent", words)
        assert message in f"{refused.value.what} {refused.value.hint}", words
