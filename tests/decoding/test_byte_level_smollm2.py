"""The sheet's table: what SmolLM2-135M says of the next byte of a few cut sentences."""

from types import SimpleNamespace
from typing import Any

import pytest

from recipes.core.config.settings import TrainerConfig
from recipes.core.models.config import SmolLM2TextConfig
from recipes.core.training.toys.frozen import load_frozen
from recipes.decoding.byte_level.texts import Speaker

pytestmark = [pytest.mark.asset, pytest.mark.slow]


@pytest.fixture(scope="module")
def speaker() -> Any:
    config = SimpleNamespace(model=SmolLM2TextConfig(), trainer=TrainerConfig(), seed=0)
    model, tokenizer = load_frozen(config, "cpu")
    return Speaker(model, tokenizer, [tokenizer.eos_token_id], "model=smollm2-135m", unchecked=0.0)


@pytest.mark.parametrize(
    ("text", "byte", "token", "healing", "exact", "covers"),
    [
        ("The capital of Fran", "c", 0.68, 0.999, 0.999, 135),
        ("He plays the guit", "a", 0.83, 0.82, 1.0, 129),
        ("Paris is the capit", "a", 0.18, 1.0, 0.99, 134),
    ],
)
def test_the_next_byte_of_cut_sentences(
    speaker: Any, text: str, byte: str, token: float, healing: float, exact: float, covers: int
) -> None:
    for mode, expected in (("token", token), ("healing", healing), ("exact", exact)):
        state = speaker.read(mode, [], text)
        assert state.symbols()[ord(byte)] == pytest.approx(expected, abs=0.006)
    assert len(state.covers) == covers
