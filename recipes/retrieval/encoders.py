"""Encoders of tokens: a BERT-type model that a recipe trains, and vectors of the tokens of many texts.

    encoder, tokenizer = load_encoder(config.model, config.encoder.trainable_layers)   # a BertModel, top layers trained
    rows = text_rows(encoder, tokenizer, texts, config.encoder.passage_tokens, "passages")   # ids, CLS and SEP included
    model(ids, mask) -> [B, T, d]         # what a recipe makes of the encoder: a map behind it, weights of tokens
    vectors = encode_once(model, rows, device=device, what="token-vectors")            # of all texts, cached by content
    vectors.of(3)                         # [tokens of text 3, d]

`encode` is `encode_once` without the cache, for a model that a run has trained. How such a model learns: `pairs.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import RunFailed, UserError
from recipes.core.messages import note
from recipes.core.models.config import MiniLMConfig
from recipes.core.models.dropout import evaluation, without_dropout
from recipes.core.models.padded import BATCH_TOKENS, batches, forward_tokens, pad_rows
from recipes.core.models.sentences import ASSET, load_bert
from recipes.core.runs.progress import progress
from recipes.core.scoring.fingerprints import module_hash
from recipes.core.storage.assets import asset_path
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json

KEY = "model.path"
VERSION = 1
VALUES, ENDS = "values.npy", "ends.npy"
CUT_BY = {"passages": "encoder.passage_tokens", "queries": "encoder.query_tokens"}  # texts -> the key that cuts them
Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class TokenVectors:
    """Vectors of the tokens of texts, one text behind another.

    Attributes:
        values: [tokens, d], in memory or mapped from a file.
        ends: int64 [texts]: where each text ends among them.
    """

    values: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def of(self, number: int) -> np.ndarray:
        """[tokens of the text, d]"""
        return self.values[self.ends[number - 1] if number else 0 : self.ends[number]]

    def owners(self) -> np.ndarray:
        """int64 [tokens]: the text of each token."""
        return np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))


def load_encoder(model: MiniLMConfig, trainable_layers: int | None) -> tuple[Any, Any]:
    """A `BertModel` whose top layers are trained, and its tokenizer.

    Dropout is off, so that two passes over the same texts give the same vectors (see `pairs.InBatchLoss`).

    Args:
        model: The asset, or the user's folder.
        trainable_layers: How many layers from the top are trained; 0: none, None: all, embeddings too.

    Raises:
        UserError: it cannot be loaded, is of another type, or has fewer layers.
    """
    body, tokenizer = load_bert(model.path or str(asset_path(ASSET)), KEY)
    layers = body.encoder.layer
    if trainable_layers is not None and trainable_layers > len(layers):
        where = f"encoder.trainable_layers={trainable_layers}"
        raise UserError(f"the encoder has {len(layers)} layers", where, f"type {len(layers)} or less, or null for all")
    body.requires_grad_(trainable_layers is None)
    for layer in layers[len(layers) - (trainable_layers or 0) :]:
        layer.requires_grad_(True)
    if body.pooler is not None:  # never read
        body.pooler.requires_grad_(False)
    return without_dropout(body), tokenizer


def text_rows(body: Any, tokenizer: Any, texts: Sequence[str], max_tokens: int, what: str) -> list[list[int]]:
    """Ids of texts with the special tokens that the tokenizer adds by itself.

    Args:
        body: From `load_encoder`.
        tokenizer: The same.
        texts: The texts.
        max_tokens: Longer ones are cut, and counted.
        what: "passages" or "queries".

    Raises:
        UserError: the encoder has fewer positions, or a text has no tokens.
    """
    positions = int(body.config.max_position_embeddings)
    if max_tokens > positions:
        where = f"{CUT_BY[what]}={max_tokens}"
        raise UserError(f"the encoder has {positions} positions", where, f"type {positions} or less")
    ids = TextIds(tokenizer)
    rows = ids.with_special_tokens(texts)
    if long := [number for number, row in enumerate(rows) if len(row) > max_tokens]:
        note(f"{len(long):,} of {len(rows):,} {what} are cut to {max_tokens} tokens")
        for number, row in zip(long, ids.with_special_tokens([texts[n] for n in long], max_tokens), strict=True):
            rows[number] = row
    if (empty := next((text for text, row in zip(texts, rows, strict=True) if not row), None)) is not None:
        raise UserError(f"one of the {what} has no tokens: {empty[:60]!r}", "data", "take it out of the collection")
    return rows


def encode(
    model: nn.Module,
    rows: Rows,
    *,
    device: str,
    batch_tokens: int = BATCH_TOKENS,
    dtype: Any = np.float32,
    what: str = "encoding texts",
    file: Path | None = None,
) -> TokenVectors:
    """What a model makes of the tokens of texts, texts of similar length together, without gradient.

    Neither the other texts nor the padding changes a vector beyond rounding.

    Args:
        model: Ids [B, T] and mask [B, T] to [B, T, d]. It is moved to the device; its training mode stays.
        rows: The ids of each text, at least one each.
        device: Where to compute.
        batch_tokens: Padded tokens of a forward, at most.
        dtype: Of the vectors.
        what: What is being done, for people.
        file: Where to keep the vectors, mapped into memory; None: in memory.

    Raises:
        RunFailed: a vector is not finite.
    """
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    values: np.ndarray | None = None
    model.to(device)
    done = 0
    with evaluation(model), progress(what, len(rows)) as show, torch.no_grad():
        for group in batches([len(row) for row in rows], forward_tokens(batch_tokens, device)):
            ids, mask = (part.to(device) for part in pad_rows([rows[number] for number in group]))
            states = model(ids, mask).float().cpu().numpy().astype(dtype)
            check_finite(states)
            if values is None:
                values = _room(file, (int(ends[-1]), states.shape[-1]), dtype)
            for number, vectors in zip(group, states, strict=True):
                values[ends[number] - len(rows[number]) : ends[number]] = vectors[: len(rows[number])]
            show(done := done + len(group))
    return TokenVectors(np.zeros((0, 0), dtype) if values is None else values, ends)


def encode_once(
    model: Any,
    rows: Rows,
    *,
    device: str,
    what: str,
    batch_tokens: int = BATCH_TOKENS,
    dtype: Any = np.float32,
) -> TokenVectors:
    """`encode`, computed once for a model and its texts and kept in the cache.

    Args:
        model: As in `encode`; its `config` is that of the `transformers` model in it.
        rows: As in `encode`.
        device: Where to compute.
        what: Kind of the cache entry ("token-vectors").
        batch_tokens: Padded tokens of a forward, at most.
        dtype: Of the vectors.
    """
    hashed = module_hash(model, model.config)
    key = sha256_json([hashed, type(model).__name__, [list(row) for row in rows], np.dtype(dtype).name, VERSION])

    def build(folder: Path) -> None:
        vectors = encode(model, rows, device=device, batch_tokens=batch_tokens, dtype=dtype, file=folder / VALUES)
        if isinstance(vectors.values, np.memmap):
            vectors.values.flush()
        np.save(folder / ENDS, vectors.ends)

    folder = build_once(what, key[:32], build)
    return TokenVectors(np.load(folder / VALUES, mmap_mode="r"), np.load(folder / ENDS))


def as_tensor(vectors: np.ndarray) -> Tensor:
    """Vectors in memory, as float32."""
    return torch.from_numpy(np.array(vectors, np.float32))


def check_finite(vectors: np.ndarray) -> None:
    """Stop a run whose encoder has diverged. Raises RunFailed: a number is NaN or infinite."""
    if not np.isfinite(vectors).all():
        hint = "lower trainer.learning_rate, and the rates of what is trained beside it"
        raise RunFailed("the encoder gives vectors that are not finite", "encoding texts", hint)


def _room(file: Path | None, shape: tuple[int, int], dtype: Any) -> np.ndarray:
    if file is None:
        return np.empty(shape, dtype)
    room: np.ndarray = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    return room
