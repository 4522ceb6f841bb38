"""Encoders of texts: one vector a text, of a BERT-type sentence encoder or of any encoder of `transformers`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import BertModel

from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.models.dropout import evaluation
from recipes.core.models.padded import BATCH_TOKENS, batches, distinct_rows, forward_tokens, pad_rows, pool
from recipes.core.models.sources import check_tokenizer_fits, load_config, load_model, load_tokenizer, source_folder
from recipes.core.runs.progress import progress
from recipes.core.storage.assets import asset_path
from recipes.core.storage.model_files import read_json

ASSET = "all-minilm-l6-v2"
LAST = -1  # the layer whose states come out of the encoder
UNREAD = r"^(bert\.)?(pooler|cls|classifier|dropout|qa_outputs)\."  # states are pooled, before any of these
POOLING = Path("1_Pooling", "config.json")  # where sentence-transformers says how
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
LENGTH = "sentence_bert_config.json"


def embed_rows(
    model: Any,
    rows: Sequence[Sequence[int] | np.ndarray],
    *,
    device: str,
    layer: int = LAST,
    pooling: str = "mean",
    batch_tokens: int = BATCH_TOKENS,
    what: str = "encoding texts",
) -> Tensor:
    """One vector for each row of ids: equal rows are encoded once, rows of similar length together.

    Neither the other rows nor the padding changes a vector beyond rounding.

    Args:
        model: An encoder of `transformers` that takes `input_ids` and `attention_mask`. It is moved to the device; its
            training mode is left as it was.
        rows: The ids, special tokens included.
        device: Where to compute.
        layer: 0 for the embeddings, i for what comes out of block i, `LAST` for the encoder's output.
        pooling: As in `pool`.
        batch_tokens: Padded tokens of a forward, at most.
        what: What is being done, for people.

    Returns:
        float32 [rows, d] on the CPU.

    Raises:
        UserError: the model has no such layer.
        ValueError: a row without ids.
    """
    depth = model.config.get_text_config().num_hidden_layers
    if not LAST <= layer <= depth:
        raise UserError(f"{type(model).__name__} has no layer {layer}", "layer", f"0 to {depth} exist, and {LAST}")
    if empty := [number for number, row in enumerate(rows) if not len(row)]:
        raise ValueError(f"row {empty[0]} has no ids")
    distinct, indices = distinct_rows(rows)
    vectors: list[Tensor] = [torch.empty(0)] * len(distinct)
    done = 0
    model.to(device)
    with evaluation(model), progress(what, len(distinct)) as show, torch.no_grad():
        for group in batches([len(row) for row in distinct], forward_tokens(batch_tokens, device)):
            pooled = _embed_rows(model, [distinct[number] for number in group], device, layer, pooling).float().cpu()
            for number, vector in zip(group, pooled, strict=True):
                vectors[number] = vector
            show(done := done + len(group))
    return torch.stack([vectors[number] for number in indices]) if rows else torch.empty(0, 0)


def check_positions(model: Any, rows: Sequence[Sequence[int] | np.ndarray]) -> None:
    """Refuse rows that are longer than a model of `transformers` has positions.

    Raises:
        UserError: with the number to cut them to.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max((len(row) for row in rows), default=0)
    if positions is not None and longest > positions:
        raise UserError(
            f"a text of {longest:,} tokens does not fit the {positions:,} positions of {type(model).__name__}",
            "max_tokens",
            f"type max_tokens={positions} or less",
        )


@dataclass(frozen=True)
class SentenceEncoder:
    """A BERT-type sentence encoder.

    Attributes:
        model: The encoder.
        tokenizer: Its tokenizer.
        max_tokens: Longer texts are cut; CLS and SEP count.
        pooling: As in `pool`.
        device: Where it runs.
    """

    model: Any
    tokenizer: Any
    max_tokens: int
    pooling: str = "mean"
    device: str = "cpu"

    def embed(self, texts: Sequence[str], batch_tokens: int = BATCH_TOKENS) -> Tensor:
        """Embeddings of texts, float32 [texts, d] of length 1 on the CPU, so that products are cosines."""
        rows = TextIds(self.tokenizer).with_special_tokens(texts)
        if long := sum(len(row) > self.max_tokens for row in rows):
            note(f"warning: {long:,} of {len(rows):,} texts are cut to the encoder's {self.max_tokens} tokens")
            rows = TextIds(self.tokenizer).with_special_tokens(texts, self.max_tokens)
        return normalize(
            embed_rows(self.model, rows, device=self.device, pooling=self.pooling, batch_tokens=batch_tokens), dim=-1
        )


def load_sentence_encoder(
    path: str | None, key: str, device: str = "cpu", max_tokens: int | None = None
) -> SentenceEncoder:
    """A sentence encoder in fp32: similarities lie so close that half precision would shuffle them.

    Args:
        path: Folder or hub name of one of type BERT; None: all-MiniLM-L6-v2, an asset.
        key: The config key it came from ("model.path").
        device: Where it runs.
        max_tokens: Longer texts are cut; None: what the encoder was trained for, if it says, else its positions.

    Raises:
        UserError: it cannot be loaded, is of another type, pools in a way that is not known, or has fewer positions.
    """
    source = path or str(asset_path(ASSET))
    model, tokenizer = load_bert(source, key)
    positions = int(model.config.max_position_embeddings)
    if max_tokens is not None and max_tokens > positions:
        raise UserError(f"has {positions} positions, fewer than {max_tokens}", f"{key}={source}")
    longest = max_tokens or min(positions, _max_length(source, key) or positions)
    return SentenceEncoder(model.to(device), tokenizer, longest, _pooling(source, key, path is None), device)


def load_bert(path: str, key: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A BERT encoder and its tokenizer, which pads on the right.

    Raises:
        UserError: it cannot be loaded, or is of another type.
    """
    config = load_config(path, key)
    if config.model_type != "bert":
        raise UserError(
            f"is a {config.model_type} model; a sentence encoder of type bert is needed", f"{key}={path}",
            f"type {key}=FOLDER of one, or leave it out",
        )  # fmt: skip
    model = load_model(BertModel, path, key, unused=UNREAD, dtype=dtype, attn_implementation="sdpa")
    tokenizer = load_tokenizer(path, key, padding_side="right")
    check_tokenizer_fits(tokenizer, model, f"{key}={path}")
    return model.eval(), tokenizer


def _embed_rows(model: Any, rows: Sequence[tuple[int, ...]], device: str, layer: int, pooling: str) -> Tensor:
    ids, mask = (part.to(device) for part in pad_rows(rows))
    output = model(input_ids=ids, attention_mask=mask, output_hidden_states=layer != LAST)
    return pool(output.last_hidden_state if layer == LAST else output.hidden_states[layer], mask.bool(), pooling)


def _max_length(path: str, key: str) -> int | None:
    file = source_folder(path, key, weights=False) / LENGTH
    length = read_json(file, f"{key}={path}").get("max_seq_length") if file.exists() else None
    return length if isinstance(length, int) and length > 2 else None


def _pooling(path: str, key: str, is_asset: bool) -> str:
    """How the encoder's tokens become one vector, by the file that sentence-transformers writes."""
    folder = source_folder(path, key, weights=False)
    if more := sorted(each.name for each in folder.glob("[0-9]_*") if each.name[2:] not in KNOWN_MODULES):
        raise UserError(
            f"has more behind its tokens than is known: {more[0]}", f"{key}={path}", "choose another encoder"
        )
    file = folder / POOLING
    if not file.exists():
        if not is_asset:
            note(f"{key}={path}: has no {POOLING}; the mean of its tokens is taken")
        return "mean"
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first", "pooling_mode_lasttoken": "last"}
    asked = [
        name for name, value in read_json(file, f"{key}={path}").items() if name.startswith("pooling_mode") and value
    ]
    if len(asked) != 1 or asked[0] not in known:
        raise UserError(
            f"pools by {' and '.join(asked) or 'nothing'}",
            f"{key}={path}",
            f"known are {', '.join(known)}, one of them",
        )
    return known[asked[0]]
