"""Short fine-tuning: learns what can be learned, once, and leaves the model it starts from as it was."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, ElectraConfig, ElectraModel

from recipes.core.config.settings import TrainerConfig
from recipes.core.data.tasks.labelled import LabelledSet, LabelledText
from recipes.core.errors import UserError
from recipes.core.models.banded import use_banded_attention
from recipes.core.models.padded import pad_rows
from recipes.core.models.vision_language import TextModel
from recipes.core.training import classifier as module
from recipes.core.training.classifier import (
    ClassLoss,
    class_logits,
    class_rows,
    fine_tune,
    fresh_classifier,
    layer_rates,
    predict_classes,
)
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


def windowed(window: int) -> Any:
    """An encoder whose tokens see a window, of the same weights whatever it is."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    model = BertModel(BertConfig(vocab_size=V, num_attention_heads=2, max_position_embeddings=32, **shape), False)
    use_banded_attention(model, window)
    return model


def test_rates_fall_from_the_head_to_the_embeddings() -> None:
    rates = layer_rates(windowed(4), 1.0, 0.5)
    assert list(rates.items()) == [("body.encoder.layer.0.", 0.25), ("body.encoder.layer.1.", 0.5), ("body.", 0.125)]
    assert layer_rates(windowed(4), 1.0, 1.0) == {}


def test_a_step_in_a_window_is_the_one_by_hand() -> None:
    letters = data(train=6)
    plain = replace(TRAINER, max_steps=1, optimizer="sgd", weight_decay=0.0, warmup_ratio=0.0, learning_rate=0.5)
    tuned = fine_tune(windowed(4), None, letters, replace(plain, batch_size=6), 0, layer_decay=0.5)
    hand = fresh_classifier(windowed(4), letters, "mean", 0)
    ids, mask = pad_rows(class_rows(None, letters.train, 128))
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.from_numpy(letters.numbers(letters.train))}
    loss = ClassLoss()
    loss(hand, batch, loss.normalizer(batch))[0].backward()
    parts = {name: part for name, part in hand.named_parameters() if part.grad is not None}
    gradients = {name: part.grad for name, part in parts.items() if part.grad is not None}
    clip = min(1.0, 1.0 / float(torch.cat([each.flatten() for each in gradients.values()]).norm()))
    after = dict(tuned.named_parameters())
    rates = {"body.encoder.layer.0.": 0.125, "body.encoder.layer.1.": 0.25, "body.": 0.0625, "head.": 0.5}
    for name, part in parts.items():
        rate = next(value for start, value in rates.items() if name.startswith(start))
        torch.testing.assert_close(after[name], part - rate * clip * gradients[name], atol=1e-6, rtol=1e-5)


def test_windows_of_equal_weights_are_trained_apart_and_padding_changes_no_class() -> None:
    letters, quick = data(), replace(TRAINER, max_steps=2)
    narrow, wide = (fine_tune(windowed(window), None, letters, quick, 0) for window in (2, 16))
    assert not torch.equal(narrow.head.weight, wide.head.weight)
    rows = class_rows(None, letters.test, 128)
    together, alone = (class_logits(narrow, rows, "cpu", tokens) for tokens in (4096, 1))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = data()
    long = replace(letters, train=[replace(letters.train[0], text="b" * 70), *letters.train[1:]])
    with pytest.raises(UserError, match="71 tokens does not fit the 64 positions of LlamaModel(.|\n)*max_tokens=64"):
        fine_tune(model_of("llama"), None, long, TRAINER, 0)
    monkeypatch.setattr(Letters, "with_special_tokens", lambda *_: [[1]] * 39 + [[]])
    with pytest.raises(UserError, match="39: has no tokens"):
        fine_tune(model_of("llama"), None, letters, TRAINER, 0)
