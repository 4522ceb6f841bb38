"""The scoring pass: what a frozen model says of every token of some rows, in one forward a batch.

`score` computes, for a model that is still trained. `score_once` keeps what it computes in the cache and maps it from
there: its key is made of the weights, the ids and what is asked, so that arms, seeds and cells of a sweep share it, and
a changed model, tokenizer or text never reads an old one. Neither the batch nor the padding changes a score beyond
rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from recipes.core.errors import RunFailed
from recipes.core.losses.logprobs import logprobs_and_kl, project
from recipes.core.models.head import OutputHead, output_head
from recipes.core.models.padded import BATCH_TOKENS
from recipes.core.scoring.columns import (
    BF16,
    SavedProgress,
    Shape,
    column_array,
    column_files,
    read_columns,
    write_rows,
)
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.scoring.forward import HEAD, Reading, read_rows
from recipes.core.scoring.rows import Row, row_groups, row_lengths, row_offsets, rows_fingerprint
from recipes.core.scoring.statistics import Ask, token_columns
from recipes.core.storage.cache import build_once, entry_folder
from recipes.core.storage.files import sha256_json

KIND, FORMAT = "token-scores", 1
LOGPROB = Ask()
LATER = ("variance",)  # fields of `Ask` that came later: where nothing is asked of them, keys are those of before


@dataclass(frozen=True)
class TokenScores:
    """Scores of the completion tokens of rows, row after row.

    Attributes:
        columns: Name -> [tokens, ...]: logprob (nats, fp32), what `Ask` names, and kl where there is another model.
            hidden is fp32 [tokens, layers, width], or the bits of bf16 (see `column_tensor`), top_ids and top_logits
            [tokens, top_k].
        offsets: int64 [rows + 1] where each row starts.
        forwards: Forward passes it took to get them; 0 when they came from the cache.
    """

    columns: Mapping[str, np.ndarray]
    offsets: np.ndarray
    forwards: int

    def __getitem__(self, name: str) -> np.ndarray:
        """[tokens, ...] a column."""
        return self.columns[name]

    def row(self, name: str, number: int) -> np.ndarray:
        """[k, ...] the part of a column that belongs to a row."""
        return self.columns[name][self.offsets[number] : self.offsets[number + 1]]

    def nll(self, number: int) -> np.ndarray:
        """float32 [k] NLL in nats of the tokens of a row."""
        return -self.row("logprob", number)


class Options(TypedDict, total=False):
    """How rows are run, as in `read_rows`.

    Attributes:
        device: Where to compute; the model is moved there.
        batch_tokens: Padded tokens of a forward.
        groups: Numbers of the rows of each forward instead.
        what: What is being done, for people.
        bf16: Compute as a model is trained in bf16; hidden states are then kept in it, as of models in bf16.
    """

    device: Required[str]
    batch_tokens: int
    groups: Sequence[Sequence[int]] | None
    what: str
    bf16: bool


def score(
    model: Any, rows: Sequence[Row], ask: Ask = LOGPROB, other: Any = None, **options: Unpack[Options]
) -> TokenScores:
    """Score the completion tokens of rows.

    Args:
        model: A `TextModel`. It computes in the dtype of its weights (or as `Options.bf16` says), the softmax in fp32;
            its training mode is left as it was.
        rows: (context, completion) ids; `text_rows` makes them of texts.
        ask: What is read besides log-probs.
        other: A second `TextModel` with the same vocabulary: column kl is KL(model || other) over the whole of it.
        options: See `Options`.
    """
    offsets = row_offsets(rows)
    shapes = _shapes(model, int(offsets[-1]), ask, other, options.get("bf16", False))
    columns: dict[str, np.ndarray] = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
    forwards = _fill(model, rows, ask, other, columns, lambda *_: None, options, _groups(rows, options))
    return TokenScores(columns, offsets, forwards)


@dataclass(frozen=True)
class Content:
    """Hashes of what is scored.

    Attributes:
        model: Of the weights.
        other: Of those of the other model; None without one.
        rows: Of all ids.
    """

    model: str
    other: str | None
    rows: str


def content_of(model: Any, rows: Sequence[Row], other: Any = None) -> Content:
    """What is scored, as it is now; arguments as in `score`."""
    return Content(weights_hash(model), None if other is None else weights_hash(other), rows_fingerprint(rows))


def score_once(
    model: Any,
    rows: Sequence[Row],
    ask: Ask = LOGPROB,
    other: Any = None,
    content: Content | None = None,
    **options: Unpack[Options],
) -> TokenScores:
    """`score`, computed only if no run has done so before, and memory-mapped from the cache.

    It is written as it is computed. A computation that was stopped or killed goes on from what is on disk.

    Args:
        model: As in `score`.
        rows: As in `score`.
        ask: As in `score`.
        other: As in `score`.
        content: `content_of` all of it, where that is known.
        options: As in `score`.

    Raises:
        RunFailed: the model gives a token no finite log-probability.
    """
    forwards = 0

    def build(folder: Path) -> None:
        nonlocal forwards
        groups = _groups(rows, options)
        saved = SavedProgress(folder, _plan(groups))
        shapes = _shapes(model, int(row_offsets(rows)[-1]), ask, other, options.get("bf16", False))
        with column_files(folder, shapes, resume=saved.done > 0) as files:

            def advance() -> None:
                saved.advance(files.values())

            forwards = _fill(model, rows, ask, other, files, _check_finite, options, groups, saved.done, advance)
        saved.finish()

    key = scores_key(content or content_of(model, rows, other), ask, options.get("bf16", False))
    folder = build_once(KIND, key, build, resumable=True)
    return TokenScores(read_columns(folder), row_offsets(rows), forwards)


def is_scored(content: Content, ask: Ask = LOGPROB, bf16: bool = False) -> bool:
    """Whether `score_once` finds these scores in the cache."""
    return entry_folder(KIND, scores_key(content, ask, bf16)).is_dir()


def in_bf16(model: Any, bf16: bool) -> bool:
    """Whether hidden states are kept in bf16: they are computed in it, or the weights are in it."""
    return bf16 or output_head(model.language_model).weight.dtype == torch.bfloat16


def scores_key(content: Content, ask: Ask, bf16: bool = False) -> str:
    """What the cache knows the scores by."""
    asked = {name: value for name, value in asdict(ask).items() if value or name not in LATER}
    parts = asdict(content) | {"ask": asked, "format": FORMAT}
    return sha256_json(parts | ({"bf16": True} if bf16 else {}))


def _groups(rows: Sequence[Row], options: Options) -> list[Sequence[int]]:
    """Numbers of the rows of each forward."""
    groups = options.get("groups")
    if groups is None:
        groups = row_groups(rows, options.get("batch_tokens", BATCH_TOKENS))
    lengths = row_lengths(rows)[:, 1]
    return [group for group in groups if len(group) and lengths[group].any()]


def _plan(groups: Sequence[Sequence[int]]) -> str:
    digest = sha256()
    for group in groups:
        digest.update(len(group).to_bytes(8, "little") + np.asarray(group, np.int64).tobytes())
    return digest.hexdigest()


def _fill(
    model: Any,
    rows: Sequence[Row],
    ask: Ask,
    other: Any,
    columns: Mapping[str, Any],
    check: Callable[[Tensor, Reading], None],
    options: Options,
    groups: Sequence[Sequence[int]],
    done: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> int:
    """Fill the columns of `_shapes`, each log-prob checked, behind the first `done` groups; returns its forwards."""
    offsets, forwards = row_offsets(rows), 0
    shapes = _shapes(model, int(offsets[-1]), ask, other, options.get("bf16", False))
    if other is not None:
        other.to(options["device"]).eval()

    def read(reading: Reading) -> None:
        nonlocal forwards
        forwards += 1
        values = token_columns(reading.hidden, reading.head, reading.targets, ask)
        if reading.layers is not None:
            values["hidden"] = reading.layers
        if other is not None:
            values["kl"] = _divergence(reading, other)
        check(values["logprob"], reading)
        for name, column in columns.items():
            write_rows(column, offsets, reading.numbers, column_array(values[name], shapes[name][1]))
        advance()

    left: Any = options | {"groups": groups[done:]}
    read_rows(model, rows, read, layers=ask.hidden, before=sum(map(len, groups[:done])), **left)
    return forwards


def _shapes(model: Any, tokens: int, ask: Ask, other: Any, bf16: bool) -> dict[str, Shape]:
    """Name -> shape and type of every column."""
    shapes: dict[str, Shape] = {"logprob": ((tokens,), np.float32)}
    shapes |= {
        name: ((tokens,), np.float32) for name in ("entropy", "max_logprob", "mass", "variance") if getattr(ask, name)
    }
    if ask.rank:
        shapes["rank"] = ((tokens,), np.int32)
    if ask.top_k:
        shapes |= {"top_ids": ((tokens, ask.top_k), np.int32), "top_logits": ((tokens, ask.top_k), np.float32)}
    if other is not None:
        shapes["kl"] = ((tokens,), np.float32)
    if ask.hidden:
        width = output_head(model.language_model).weight.shape[1]
        if set(ask.hidden) != {HEAD}:
            width = model.language_model.config.get_text_config().hidden_size
        shapes["hidden"] = ((tokens, len(ask.hidden), width), BF16 if in_bf16(model, bf16) else np.float32)
    return shapes


def _divergence(reading: Reading, other: Any) -> Tensor:
    """[N] KL(model || other) at the positions of a forward."""
    inputs = {name: reading.batch[name] for name in ("input_ids", "attention_mask")}

    def read(hidden: Tensor, head: OutputHead) -> tuple[Tensor, OutputHead]:
        return hidden[reading.positions], head

    hidden, head = other(**inputs, pixels=None, readout=read)
    logits = project(hidden, head)
    return logprobs_and_kl(reading.hidden, reading.head, reading.targets, logits, direction="policy_ref").kl


def _check_finite(logprobs: Tensor, reading: Reading) -> None:
    broken = torch.nonzero(~torch.isfinite(logprobs))
    if len(broken):
        ends = np.cumsum(reading.lengths)
        index = int(np.searchsorted(ends, int(broken[0]), side="right"))
        token = int(broken[0]) - int(ends[index] - reading.lengths[index])
        raise RunFailed(
            "the reference gives a token no finite log-probability",
            where=f"text {reading.numbers[index]}, token {token}",
            hint="its weights are broken: train it again with a lower reference.learning_rate, or give another one",
        )
