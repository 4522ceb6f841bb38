"""A small data set of real digit captions and what the models need of it."""

from typing import Any

import numpy as np
import pytest
import torch

from recipes.core.config import compose
from recipes.core.data.images.captions import CaptionData
from recipes.core.data.images.load import load_captions
from recipes.core.models import from_config as models


@pytest.fixture(scope="session")
def config() -> Any:
    return compose.compose("prior", ["model.vision.steps=3"])


@pytest.fixture(scope="session")
def data(config: Any) -> CaptionData:
    return load_captions(config.data, 0)


@pytest.fixture
def tokenizer(config: Any, data: CaptionData) -> Any:
    return models.build_tokenizer(config.model, data)


@pytest.fixture(params=["U", "H"])
def model(request: pytest.FixtureRequest, config: Any, data: CaptionData, tokenizer: Any) -> Any:
    return models.build_caption_model(config.model, request.param, tokenizer, data, 0, "cpu", 64).eval()


@pytest.fixture
def batch(model: Any, data: CaptionData, tokenizer: Any) -> dict[str, torch.Tensor]:
    """Two captions of one length with their images."""
    ids = [tokenizer(data.train.caption(i).text, add_special_tokens=False)["input_ids"][:12] for i in (0, 1)]
    rows = torch.tensor([model.prefix_ids + row for row in ids])
    pixels = torch.stack([model.pixels(data.train.image(i)) for i in (0, 1)])
    return {"input_ids": rows, "attention_mask": torch.ones_like(rows), "pixels": pixels}


def hidden(states: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """The read-out that hands out the hidden states."""
    return states


def gray(size: int, value: int) -> np.ndarray:
    return np.full((size, size, 1), value, np.uint8)
