"""Small language models trained from nothing on given texts, with a given tokenizer, once for all runs that need them.

folder = train_small_model(config.lm, config.trainer, seed, tokenizer, texts, fingerprint, "the model of BPE 4k")
model = load_small_model(folder, device)                             # for `text_bits`
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.config.settings import TrainerConfig
from recipes.core.data.text.mixture import Mixture
from recipes.core.data.text.packed import PackedTexts, pack
from recipes.core.data.text.splits import TRAIN
from recipes.core.data.text.text_ids import start_id
from recipes.core.errors import UserError
from recipes.core.models.config import mlp_width
from recipes.core.models.costs import LayerShape
from recipes.core.models.from_config import load_text_model
from recipes.core.models.vision_language import TextModel
from recipes.core.training.sequences import MixtureItems, next_token_collate
from recipes.core.training.toys.language import train_small_lm
from recipes.tokenization.config import (
    BATCHES,
    BYTES,
    FLOPS,
    STEPS,
    SmallModelConfig,
)

DOMAIN = "texts"
# What `equal=bytes` and `equal=flops` count the steps in.
USUAL_BYTES, USUAL_VOCABULARY = 4.0, 8192


class BegunItems:
    """Sequences behind the token that texts are read behind: `text_bits` asks for what follows it.

    Args:
        items: The sequences.
        start: The token.
    """

    def __init__(self, items: MixtureItems, start: int) -> None:
        self._items, self._start = items, np.array([start], np.int32)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self._items[index]
        return item | {"tokens": np.concatenate([self._start, item["tokens"]])}


def train_small_model(
    config: SmallModelConfig,
    trainer: TrainerConfig,
    seed: int,
    tokenizer: Any,
    texts: Sequence[str],
    fingerprint: str,
    name: str = "a small language model",
) -> Path:
    """Train a small language model, or find the one that was trained before.

    It has a row for each token of the tokenizer, its head is its embedding, and it knows texts of `config.length`
    tokens: longer ones it reads worse.

    Args:
        config: Its size and training.
        trainer: The run's: device, threads and precision are taken from it.
        seed: Of initialisation and data order.
        tokenizer: Of `transformers`, with a token that ends a text.
        texts: What it is trained on.
        fingerprint: Hash of the texts.
        name: What it is called, for people.

    Returns:
        Folder with its weights, for `load_small_model`.

    Raises:
        UserError: the texts have fewer tokens than one sequence.
    """
    packed = pack(((f"{DOMAIN}/{TRAIN}", text) for text in texts), fingerprint, tokenizer)
    tokens = check_size(packed, config.length, "lm.length")
    per_token = USUAL_BYTES
    if config.equal in (BYTES, BATCHES):
        per_token = sum(len(text.encode()) for text in texts) / tokens
    batch = equal_batch(config, per_token)
    fitting = replace(config, steps=equal_steps(config, per_token, len(tokenizer)), batch_size=batch, equal=STEPS)

    def items() -> Any:
        mixture = Mixture(packed, (DOMAIN,), (1.0,), config.length)
        return BegunItems(MixtureItems(mixture, fitting.steps * fitting.batch_size, seed), start_id(tokenizer))

    what = f"{fitting.steps:,} steps of texts of {tokens:,} tokens"
    key = {"texts": fingerprint, "start": start_id(tokenizer)}
    return train_small_lm(fitting, trainer, seed, tokenizer, key, items, next_token_collate, what, name)


def load_small_model(folder: Path, device: str) -> TextModel:
    """The trained model in fp32, frozen, in evaluation mode."""
    model = load_text_model(str(folder), "model")
    model.requires_grad_(False).eval().to(device)
    return model


def equal_steps(config: SmallModelConfig, bytes_per_token: float, vocabulary: int) -> int:
    """Steps of training, at least one, by which models of different tokenizers get the same of `config.equal`.

    Args:
        config: Size, and steps of a usual tokenizer.
        bytes_per_token: Of the texts, under its tokenizer.
        vocabulary: Tokens that it has.
    """
    share = 1.0
    if config.equal == BYTES:
        share = USUAL_BYTES / bytes_per_token
    elif config.equal == BATCHES:  # what rounding the batch leaves
        share = config.batch_size * USUAL_BYTES / (equal_batch(config, bytes_per_token) * bytes_per_token)
    elif config.equal == FLOPS:
        share = sequence_macs(config, USUAL_VOCABULARY) / sequence_macs(config, vocabulary)
    return max(1, round(config.steps * share))


def equal_batch(config: SmallModelConfig, bytes_per_token: float) -> int:
    """Sequences of a step: with `equal=batches` as many as hold the bytes of `batch_size` at 4 bytes a token."""
    share = USUAL_BYTES / bytes_per_token if config.equal == BATCHES else 1
    return max(1, round(config.batch_size * share))


def sequence_macs(config: SmallModelConfig, vocabulary: int) -> float:
    """Multiply-adds of a forward of one sequence, head included."""
    is_gated = config.architecture == "llama"
    inner = mlp_width(config.width) if is_gated else 4 * config.width
    layer = LayerShape(config.width, inner, 3 if is_gated else 2)
    return config.layers * layer.macs(config.length) + config.length * config.width * vocabulary


def check_size(packed: PackedTexts, length: int, key: str) -> int:
    """Tokens of the texts of `DOMAIN`.

    Raises:
        UserError: they are fewer than one sequence of `length`, which `key` sets.
    """
    tokens = len(packed.ids(f"{DOMAIN}/{TRAIN}"))
    if tokens < length:
        what = f"the texts have {tokens:,} tokens, less than one sequence of {length:,}"
        raise UserError(what, key, f"give more text, or type a smaller {key}")
    return tokens
