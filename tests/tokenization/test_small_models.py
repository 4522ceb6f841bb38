"""Small models of the run: what they share, and that they read texts as they were trained to."""

from dataclasses import replace

import numpy as np
import pytest

from recipes.core.config.settings import TrainerConfig
from recipes.core.errors import UserError
from recipes.core.scoring.bits import text_bits
from recipes.tokenization.config import SmallModelConfig
from recipes.tokenization.small_models import (
    equal_batch,
    equal_steps,
    load_small_model,
    sequence_macs,
    train_small_model,
)
from tests.core import tokenizer_kinds

SMALL = SmallModelConfig(layers=1, width=16, heads=2, length=16, steps=60, batch_size=8, learning_rate=0.02)
TRAINER = TrainerConfig(threads=1, device="cpu")


def test_steps_that_are_equal_in_bytes_or_flops() -> None:
    config = replace(SMALL, steps=300, width=96, layers=2, length=128)
    assert equal_steps(config, 2.0, 8192) == 300
    assert equal_steps(replace(config, equal="bytes"), 2.0, 8192) == 600  # half the bytes a token
    batches = replace(config, equal="batches", batch_size=8)
    assert (equal_batch(batches, 1.0), equal_steps(batches, 1.0, 8192)) == (32, 300)
    assert equal_batch(batches, 3.4) == 9 and equal_steps(batches, 3.4, 8192) == round(300 * 8 * 4 / (9 * 3.4))
    assert equal_batch(config, 3.4) == 8
    # 2 layers of 4 n d^2 + 2 n^2 d + 3 n d 256, and n d V for the head
    layer, n, d = 4 * 128 * 96**2 + 2 * 128**2 * 96 + 3 * 128 * 96 * 256, 128, 96
    assert sequence_macs(config, 1000) == 2 * layer + n * d * 1000
    flops = replace(config, equal="flops")
    assert equal_steps(flops, 9.0, 8192) == 300 and equal_steps(flops, 9.0, 256) > 300
    ratio = sequence_macs(config, 8192) / sequence_macs(config, 256)
    assert equal_steps(flops, 9.0, 256) == round(300 * ratio)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_model_learns_the_texts_behind_their_start(architecture: str) -> None:
    tokenizer, texts = tokenizer_kinds.byte_level(bos=True), tokenizer_kinds.texts()
    config = replace(SMALL, architecture=architecture)
    folder = train_small_model(config, TRAINER, 0, tokenizer, texts, "small-models-test", "a test")
    model = load_small_model(folder, "cpu")
    assert not model.training and not any(weights.requires_grad for weights in model.parameters())
    assert len(model.language_model.get_input_embeddings().weight) == len(tokenizer)
    read = text_bits(model, tokenizer, [text[:60] for text in texts[:5]], "length")
    per_token = np.concatenate([one.bits for one in read]).mean()
    assert per_token < np.log2(len(tokenizer)) - 2  # a uniform guess costs log2 V
    assert train_small_model(config, TRAINER, 0, tokenizer, texts, "small-models-test") == folder
    assert train_small_model(config, TRAINER, 1, tokenizer, texts, "small-models-test") != folder


def test_too_little_text_is_refused() -> None:
    with pytest.raises(UserError, match="3 tokens, less than one sequence of 16"):
        train_small_model(SMALL, TRAINER, 0, tokenizer_kinds.byte_level(), ["the cat"], "too-little")
