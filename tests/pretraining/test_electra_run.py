"""ELECTRA on a user's text: what is refused, arms from the shell's words to a model that others load."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.data.tasks.labelled import load_labelled
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import read_rows
from recipes.core.models.run_models import run_model
from recipes.core.models.sentences import load_sentence_encoder
from recipes.core.models.tokenizer import train_bpe
from recipes.pretraining.task_config import TaskTextsConfig

QUICK = ("budget=smoke", "tracker=none", "trainer.threads=1", "trainer.max_steps=4", "trainer.batch_size=4")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("trainer.max_flops=1e9",), "both say how long the run is"),
        (("model.positions=8",), "type model.positions=16"),
        (("arm=two_stage", "trainer.max_steps=1"), "leaves one of the stages"),
        (("arm=electra", "training=two_stage", "label=x"), "type generator.size=1 generator.shared=nothing"),
        (("arm=electra", "objective=bert", "training=adversarial", "label=x"), "type training=joint"),
        (("generator.shared=all", "arm=electra"), "type generator.size=1"),
        (("masking.any_token=0.9", "arm=electra"), "are more than all"),
        (("probe.layer=5",), "is beyond model.layers=2"),
        (("trainer.optimizer=sgd",), "and not for sgd; type adam_bias_correction=true"),
        (("task=labelled-texts",), "type task.path=FILE"),
        (("task=labelled-texts", "task.path=/nowhere.jsonl"), "task.path"),
    ],
)
def test_refused(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        runner.run(compose.compose("electra", [*QUICK, *overrides, f"outputs={tmp_path}"]), False, "run")
    assert message in str(caught.value) and not list(tmp_path.rglob("config.yaml"))


def test_messages_about_the_task_name_its_keys_and_the_file_as_it_was_typed(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "one", "label": "a"}\n{"text": "two", "label": "a"}\n', encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_labelled(TaskTextsConfig(path=str(path)), "task")
    assert caught.value.where == f"task.path={path}"


def test_a_vocabulary_without_masks_is_refused(tmp_path: Path) -> None:
    train_bpe(["some text"], "texts of test_electra_run", 400).save_pretrained(tmp_path / "bpe")
    words = [*QUICK, f"model.tokenizer={tmp_path / 'bpe'}", "model.vocabulary=400", f"outputs={tmp_path / 'runs'}"]
    with pytest.raises(UserError, match="token: its vocabulary is that of no masked language model"):
        runner.run(compose.compose("electra", words), False, "run")


def test_steps_follow_from_operations() -> None:
    arms = {arm: compose.compose("electra", [f"arm={arm}"]) for arm in ("electra", "bert", "gen_1")}
    steps = {arm: config.steps for arm, config in arms.items()}
    assert steps["bert"] > steps["electra"] > steps["gen_1"]
    assert all(0.99 * 2e12 < config.steps * config.step_flops() <= 2e12 for config in arms.values())
    assert len({config.stream for config in arms.values()}) == 1
    assert dict(runner.dry_run(arms["bert"]))["FLOPs"].endswith(" of 2e+12, 8.29e+08 a step")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    lines = [f"Sentence {n} about {'boats' if n % 2 else 'trees'} that goes on for a while." for n in range(60)]
    rows = [json.dumps({"text": line * 3, "label": "ab"[n % 2]}) for n, line in enumerate(lines)]
    (folder / "mine.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def run(texts: Path, tmp_path: Path, *words: str) -> Any:
    mine = [f"data.path={texts}/mine.jsonl", "data.near_duplicates=null", "data.test_fraction=0.3"]
    mine += ["task=labelled-texts", f"task.path={texts}/mine.jsonl", f"outputs={tmp_path / 'runs'}"]
    return runner.run(compose.compose("electra", [*QUICK, *mine, *words]), False, "run", page=False)


def rows_of(folder: Path, metric: str) -> list[tuple[str, str]]:
    return [
        (example, document)
        for name, example, document, _, _ in read_rows(folder / "examples.parquet").rows
        if name == metric
    ]


@pytest.mark.parametrize("arm", ["bert", "all_tokens_mlm", "uniform_generator", "two_stage"])
def test_arms_on_a_file_of_the_users(arm: str, texts: Path, tmp_path: Path) -> None:
    outcome = run(texts, tmp_path, f"arm={arm}", "masking.unit=words", "trainer.micro_batch_size=2")
    metrics = outcome.metrics
    assert {"probe/accuracy", "start/accuracy", "loss_positions", "gradient_snr"} <= metrics.keys()
    assert {"tuned/accuracy", "tuned/macro_f1", "tuned_start/accuracy"} <= metrics.keys()
    # One row a test text, as of the probe: arms pair over texts.
    assert rows_of(outcome.folder, "tuned/accuracy") == rows_of(outcome.folder, "probe/accuracy") != []
    detects = arm not in ("bert", "all_tokens_mlm")
    assert ("disc/auc" in metrics) == detects == ("mlm/accuracy" not in metrics)
    assert ("generator/accuracy" in metrics) == (arm not in ("bert", "uniform_generator"))
    shown = [json.loads(line) for line in (outcome.folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert shown and all(len(row["text"]) == len(row["read"]) for row in shown)
    assert ("[MASK]" in {token for row in shown for token in row["read"]}) == (arm == "bert")


@pytest.mark.parametrize("embedding", [None, 8])
def test_the_encoder_is_left_as_others_load_it(
    embedding: int | None, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = () if embedding is None else (f"model.embedding={embedding}", "generator.size=2", "fine_tuning.steps=0")
    outcome = run(texts, tmp_path, *words)
    assert any(name.startswith("tuned") for name in outcome.metrics) == (embedding is None)
    warned = "the generator is larger than the encoder that is kept" in "".join(capsys.readouterr())
    assert warned == (embedding is not None)
    folder = run_model(outcome.folder, "model.path", "here")
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == ("bert" if embedding is None else "electra")
    batch = tokenizer(["Sentence 3 of a text"], return_tensors="pt")
    with torch.no_grad():
        states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    checkpoint = outcome.folder / "checkpoints" / "checkpoint-4" / "model.safetensors"
    weights = load_file(checkpoint)
    named = dict(model.named_parameters())
    same = [name for name in weights if name.startswith("encoder.") and name.removeprefix("encoder.") in named]
    assert len(same) > 10 and all(torch.equal(weights[name], named[name.removeprefix("encoder.")]) for name in same)
    assert states.isfinite().all()
    if embedding is None:
        assert load_sentence_encoder(str(folder), "model.path").max_tokens == 64
