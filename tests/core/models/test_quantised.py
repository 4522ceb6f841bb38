"""Weights in 4 and 8 bits under adapters: gradients are those of the numbers they stand for, on the CPU too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from recipes.core.errors import UserError
from recipes.core.models.adapters import add_adapters
from recipes.core.models.causal import load_causal_lm
from recipes.core.models.quantised import (
    check_trainable,
    load_trained,
    plain_weights,
    quantised_layers,
    trained_weights,
)
from recipes.core.models.vision_language import TextModel
from tests.core.models.test_memory import llama
from tests.core.training.test_model_options import gradients, weighted_loss


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    model, path = llama(inner=128), tmp_path_factory.mktemp("llama")
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(path)
    return str(path)


def adapted(folder: str, load_in: str = "float32") -> TextModel:
    model = add_adapters(TextModel(load_causal_lm(folder, "model.path", load_in=load_in)), 2, 8.0, (), 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return model.train()


def relative(measured: dict[str, Any], expected: dict[str, Any]) -> float:
    difference = sum(float((measured[name] - value).square().sum()) for name, value in expected.items())
    return (difference / sum(float(value.square().sum()) for value in expected.values())) ** 0.5


@pytest.mark.parametrize(("load_in", "tolerance"), [("4bit", 1e-4), ("8bit", 0.1)])  # int8 rounds what goes in, too
def test_gradients_are_those_of_the_numbers_that_the_bits_stand_for(
    load_in: str, tolerance: float, folder: str
) -> None:
    model, plain = adapted(folder, load_in), adapted(folder)
    assert len(quantised_layers(model)) == 14 and not quantised_layers(plain)
    whole = plain_weights(model)
    for name, parameter in plain.named_parameters():
        parameter.data = whole[name].clone()
    expected, _ = gradients(plain, weighted_loss)
    measured, _ = gradients(model, weighted_loss)
    assert measured.keys() == expected.keys() and all("lora_" in name for name in measured)
    assert relative(measured, expected) < tolerance


def test_widths_that_4_bits_are_wrong_for_are_refused(tmp_path: Path) -> None:
    llama(inner=96).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="down_proj reads 96 numbers, no multiple of 64") as caught:
        load_causal_lm(str(tmp_path), "model.path", load_in="4bit")
    assert caught.value.hint == "type model.load_in=8bit"
    load_causal_lm(str(tmp_path), "model.path", load_in="8bit")


def test_what_is_trained_is_all_that_a_checkpoint_needs(folder: str) -> None:
    first, second = adapted(folder, "4bit"), adapted(folder, "4bit")
    with torch.no_grad():
        for name, parameter in first.named_parameters():
            if "lora_" in name:
                parameter.add_(1)
    load_trained(second, trained_weights(first))
    assert all(torch.equal(values, plain_weights(second)[name]) for name, values in plain_weights(first).items())
    assert all("lora_" in name for name in trained_weights(first))


def test_they_are_not_trained_themselves_and_need_their_package(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="under adapters only"):
        check_trainable(TextModel(load_causal_lm(folder, "model.path", load_in="8bit")))
    check_trainable(adapted(folder, "8bit"))
    beside = TextModel(load_causal_lm(folder, "model.path", load_in="8bit")).requires_grad_(False)
    check_trainable(nn.ModuleDict({"frozen": beside, "new": nn.Linear(2, 2)}))
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="need the package bitsandbytes") as caught:
        load_causal_lm(folder, "model.path", load_in="4bit")
    assert caught.value.where == "model.load_in=4bit" and ".[bnb]" in str(caught.value.hint)
