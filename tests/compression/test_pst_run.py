"""PST from the shell: a user's labelled texts and models of three kinds, what is left, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM

from recipes.compression.linears import linears_of, zero_count
from recipes.compression.pst.recipe import PSTRecipe
from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.export.folder import export_to
from recipes.core.models.padded import pad_rows, pool
from recipes.core.models.sentences import load_sentence_encoder
from recipes.core.runs.records import final_metrics, load_run
from recipes.core.training.task import TrainEvents
from recipes.core.training.trainer import train
from tests.compression.models import KINDS, small_model
from tests.core import tokenizer_kinds

QUICK = ("budget=smoke", "tracker=none", "trainer.threads=1", "trainer.max_steps=4", "trainer.batch_size=4",
         "task.watch_every=2", "task.validation=0.3", "task.max_tokens=16", "pruning.sparsity=0.6",
         "trainer.device=cpu", "trainer.learning_rate=1e-2")  # fmt: skip


def texts(path: Path, labels: str = "ab", rows: int = 40) -> Path:
    lines = [
        {"text": f"{text} {number}", "label": labels[number % len(labels)]}
        for number, text in enumerate(tokenizer_kinds.texts()[:rows])
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def model_folder(folder: Path, kind: str) -> Path:
    tokenizer = tokenizer_kinds.byte_level(bos=True)
    small_model(kind, vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def words(folder: Path, kind: str = "bert") -> list[str]:
    model = model_folder(folder / kind, kind)
    return [*QUICK, f"model={model}", f"data.path={texts(folder / 'texts.jsonl')}", f"outputs={folder / 'out'}"]


def run(*said: str) -> tuple[Path, dict[str, float]]:
    folder = runner.run(compose.compose("pst", said), False, "steelyard run pst", page=False).folder
    return folder, final_metrics(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_users_model_is_left_with_zeros_that_transformers_loads_alone(kind: str, tmp_path: Path) -> None:
    folder, metrics = run(*words(tmp_path, kind))
    target = export_to(load_run(folder), tmp_path / "exported", None)
    loaded = (AutoModel if kind == "bert" else AutoModelForCausalLM).from_pretrained(target)
    stated = json.loads((target / "compression.json").read_text(encoding="utf-8"))
    linears = linears_of(loaded, "exported")
    counts = {linear.name: int((linear.weight == 0).sum()) for linear in linears}
    assert counts == {linear.name: zero_count(0.6, linear.weight.numel()) for linear in linears}
    assert counts == {name: layer["zeros"] for name, layer in stated["layers"].items()}
    assert metrics["zeros"] == pytest.approx(stated["sparsity_reached"]) and stated["arm"] == "pst"
    trained = (4 + 4 + 1) * sum(sum(linear.weight.shape) for linear in linears)
    parameters = sum(part.numel() for part in small_model(kind, vocabulary=loaded.config.vocab_size).parameters())
    assert metrics["trained_parameters"] == trained and metrics["trained_share"] == pytest.approx(trained / parameters)
    # Folder, head and classes give what the run predicted.
    head, about = (
        load_file(target / "head.safetensors"),
        json.loads((target / "classes.json").read_text(encoding="utf-8")),
    )
    body, tokenizer = (loaded if kind == "bert" else loaded.base_model), AutoTokenizer.from_pretrained(target)
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    ids, mask = pad_rows([tokenizer(line["text"])["input_ids"][:16] for line in lines])
    with torch.no_grad():
        states = body(input_ids=ids, attention_mask=mask).last_hidden_state
    logits = pool(states, mask.bool(), about["pooling"]) @ head["weight"].T + head["bias"]
    best = logits.softmax(1).max(1)
    assert [about["classes"][at] for at in best.indices.tolist()] == [line["predicted"] for line in lines]
    assert best.values.tolist() == pytest.approx([line["probability"] for line in lines], abs=1e-4)
    right = [line["label"] == line["predicted"] for line in lines]
    assert metrics["accuracy"] == pytest.approx(sum(right) / len(right))
    assert metrics["selected_step"] in (3, 4)
    card = (target / "README.md").read_text(encoding="utf-8").split("```")[1].removeprefix("python\n")
    printed: list[str] = []
    exec(card.replace("FOLDER", str(target)).replace("a text", lines[0]["text"]), {"print": printed.append})
    assert printed == [lines[0]["predicted"]]
    if kind == "bert":  # other recipes take the run as an encoder
        assert load_sentence_encoder(str(folder), "model.path").pooling == "mean"


def test_a_run_that_was_cut_off_goes_on_bit_for_bit(tmp_path: Path) -> None:
    config = compose.compose("pst", [*words(tmp_path), "trainer.save_steps=2", "trainer.max_steps=6"])
    recipe = PSTRecipe()
    prepared = recipe.prepare(config, "cpu")

    class Watching(TrainEvents):
        def __init__(self, last: int) -> None:
            self.last = last

        def on_step_end(self, step: int, model: torch.nn.Module) -> None:
            if step in training.watch_steps:
                recipe.watch(config, prepared, model)
            if step == self.last:
                raise KeyboardInterrupt

    training = recipe.build(config, prepared)
    train(training, config.trainer, 0, tmp_path / "whole", Watching(0))
    whole = training.model.state_dict()
    training = recipe.build(config, prepared)
    with pytest.raises(KeyboardInterrupt):
        train(training, config.trainer, 0, tmp_path / "cut", Watching(5))
    training = recipe.build(config, prepared)
    assert train(training, config.trainer, 0, tmp_path / "cut", Watching(0)).resumed_from == 4
    assert all(torch.equal(part, whole[name]) for name, part in training.model.state_dict().items())
    assert int(whole["best_step"]) >= 5 and int(whole["step"]) == 6


@pytest.mark.parametrize("arm", ["movement", "full", "one_shot", "lines"])
def test_arms_that_train_other_things(arm: str, tmp_path: Path) -> None:
    folder, metrics = run(*words(tmp_path), f"arm={arm}")
    assert metrics["zeros"] == pytest.approx(0.0 if arm == "full" else 0.6, abs=0.01)
    stated = json.loads((folder / "hf" / "compression.json").read_text(encoding="utf-8"))
    assert stated["sparsity"] == (0.0 if arm == "full" else 0.6)
    start = AutoModel.from_pretrained(tmp_path / "bert").embeddings.word_embeddings.weight
    left = AutoModel.from_pretrained(folder / "hf").embeddings.word_embeddings.weight
    assert torch.equal(start, left) == (arm in ("one_shot", "lines"))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("pruning.sparsity=1", "pruning.sparsity"),
        ("pruning.sparsity=-0.1", "pruning.sparsity"),
        ("pruning.initial=0.8", "is more than sparsity=0.6"),
        ("pruning.cooldown=0.95", "leave no step to prune in"),
        ("pruning.parts=[] label=x", "names none, or one twice"),
        ("trainer.parallel=fsdp", "a mask is of a whole layer"),
        ("trainer.early_stopping.metric=watch/accuracy", "before sparsity is full"),
        ("task.max_tokens=100", "max_tokens"),
        ("trainer.batch_size=64", "fewer than one batch"),
    ],
)
def test_what_is_refused(said: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(*words(tmp_path), *said.split())
    assert not list((tmp_path / "out").glob("*/*/*/checkpoints/*"))


def test_texts_of_one_class_are_refused_by_name(tmp_path: Path) -> None:
    said = words(tmp_path)
    texts(tmp_path / "texts.jsonl", "a")
    with pytest.raises(UserError, match="all texts are of the class 'a'"):
        run(*said)


def test_a_model_whose_blocks_are_no_linear_layers_is_refused_by_name(tmp_path: Path) -> None:
    said = words(tmp_path)
    tokenizer = tokenizer_kinds.byte_level(bos=True)
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    tokenizer.save_pretrained(tmp_path / "mamba")
    with pytest.raises(UserError, match="block 0 of MambaForCausalLM has weights that are no linear layers"):
        run(*said, f"model={tmp_path / 'mamba'}")
