"""Short fine-tuning: learns what can be learned, once, and leaves the model it starts from as it was."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ElectraConfig, ElectraModel

from recipes.core.config.settings import TrainerConfig
from recipes.core.data.tasks.labelled import LabelledSet, LabelledText
from recipes.core.errors import UserError
from recipes.core.models.padded import pad_rows
from recipes.core.models.vision_language import TextModel
from recipes.core.training import classifier as module
from recipes.core.training.classifier import class_rows, fine_tune, predict_classes
from tests.core.models.heads import V, tiny

TRAINER = TrainerConfig(max_steps=30, batch_size=16, learning_rate=5e-3, device="cpu", threads=1)
ELECTRA = {"hidden_size": 16, "embedding_size": 8, "intermediate_size": 24, "num_hidden_layers": 1}


class Letters:
    """`TextIds` of letters behind a first id."""

    def __init__(self, tokenizer: None) -> None:
        pass

    def with_special_tokens(self, texts: list[str], longest: int | None = None) -> list[list[int]]:
        return [[1, *(ord(letter) - 90 for letter in text)][:longest] for text in texts]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    monkeypatch.setattr(module, "TextIds", Letters)


def data(train: int = 40, test: int = 12) -> LabelledSet:
    """Texts of the letters b to f; an "a" among them makes the class."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(train + test):
        letters = list(random.choice(list("bcdef"), random.integers(3, 9)))
        letters[0] = "a" if number % 2 else letters[0]
        rows.append(LabelledText(f"{number}", "".join(random.permutation(letters)), "ny"[number % 2], f"{number}"))
    return LabelledSet("letters", rows[:train], rows[train:])


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "llama":
        return TextModel(tiny(kind))
    return ElectraModel(ElectraConfig(vocab_size=V, num_attention_heads=2, hidden_dropout_prob=0.5, **ELECTRA))


@pytest.mark.parametrize("kind", ["llama", "electra"])
def test_a_model_learns_the_classes_and_is_left_as_it_was(kind: str) -> None:
    model, letters = model_of(kind), data(train=200, test=40)
    before = deepcopy(model.state_dict())
    trained = fine_tune(model, None, letters, replace(TRAINER, max_steps=120), 0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    rows, seen = (class_rows(None, part, 128) for part in (letters.test, letters.train))
    predictions = predict_classes(trained, rows, "cpu")
    # .5 by chance; random blocks learn the texts that they see, and most of what makes the class.
    assert (predict_classes(trained, seen, "cpu") == letters.numbers(letters.train)).mean() > 0.9
    assert (predictions == letters.numbers(letters.test)).mean() > 0.75
    order = np.random.default_rng(1).permutation(len(rows))
    assert (predict_classes(trained, [rows[i] for i in order], "cpu", batch_tokens=8) == predictions[order]).all()


def test_logits_do_not_depend_on_padding() -> None:
    trained = fine_tune(model_of("llama"), None, data(), replace(TRAINER, max_steps=2), 0)
    ids, mask = pad_rows([[1, 7, 8, 9, 10], [1, 11]])
    with torch.no_grad():
        together, alone = trained(ids, mask), trained(ids[1:, :2], mask[1:, :2])
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-4)


def test_it_is_trained_once_and_again_for_another_model_text_label_or_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    once = module.train_once

    def counted(*args: Any, **options: Any) -> Path:
        names.append(str(once(*args, **options)))
        return Path(names[-1])

    monkeypatch.setattr(module, "train_once", counted)
    model, letters, quick = model_of("electra"), data(), replace(TRAINER, max_steps=1)
    first = fine_tune(model, None, letters, quick, 0)
    again = fine_tune(model, None, replace(letters, test=letters.test[:3]), quick, 0)
    assert names[0] == names[1]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    other = deepcopy(model)
    with torch.no_grad():
        other.get_input_embeddings().weight[5] += 1
    swapped = [replace(each, label="yn"["yn".index(each.label) - 1]) for each in letters.train]
    fine_tune(other, None, letters, quick, 0)
    fine_tune(model, None, replace(letters, train=swapped), quick, 0)
    fine_tune(model, None, letters, quick, 1)
    fine_tune(model, None, letters, quick, 0, max_tokens=4)
    fine_tune(model, None, letters, quick, 0, pooling="first")
    assert len(set(names)) == 6


def test_what_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = data()
    long = replace(letters, train=[replace(letters.train[0], text="b" * 70), *letters.train[1:]])
    with pytest.raises(UserError, match="71 tokens does not fit the 64 positions of LlamaModel(.|\n)*max_tokens=64"):
        fine_tune(model_of("llama"), None, long, TRAINER, 0)
    monkeypatch.setattr(Letters, "with_special_tokens", lambda *_: [[1]] * 39 + [[]])
    with pytest.raises(UserError, match="39: has no tokens"):
        fine_tune(model_of("llama"), None, letters, TRAINER, 0)
