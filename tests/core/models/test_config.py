"""Sizes of models, counted from their config, are those of the models."""

import pytest
import torch
from transformers import LlamaForCausalLM

from recipes.core.models import build, text
from recipes.core.models.config import SmallConfig, SmallLMConfig, SmolLM2Config, SmolLM2TextConfig


@pytest.mark.parametrize(
    "config",
    [
        SmallConfig(layers=3, width=48, heads=3, vocabulary=400),
        SmallLMConfig(layers=3, width=40, heads=4, vocabulary=500),
        SmallLMConfig(architecture="gpt2", layers=3, width=40, heads=4, vocabulary=500),
    ],
)
def test_parameters_are_those_of_the_model(config):
    with torch.device("meta"):
        if isinstance(config, SmallConfig):
            model = LlamaForCausalLM(build._small(config, config.vocabulary))
        else:
            model = text._new(config, config.vocabulary)
    assert config.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_parameters_of_the_asset_are_as_published_and_of_another_model_not_known():
    assert SmolLM2Config().parameters == SmolLM2TextConfig().parameters == 134_515_008
    assert SmolLM2Config(path="mine").parameters is None
