"""The scoring pass: what a frozen model says of every token of some rows, in one forward a batch.

`score` computes, for a model that is still trained. `score_once` keeps what it computes in the cache and maps it from
there: its key is made of the weights, the ids and what is asked, so that arms, seeds and cells of a sweep share it, and
a changed model, tokenizer or text never reads an old one. Neither the batch nor the padding changes a score beyond
rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from recipes.core.errors import RunFailed
from recipes.core.losses.logprobs import logprobs_and_kl, project
from recipes.core.models.head import OutputHead, output_head
from recipes.core.scoring.columns import ColumnFile, read_column
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.scoring.forward import HEAD, Reading, read_rows
from recipes.core.scoring.rows import Row, row_offsets, rows_fingerprint
from recipes.core.scoring.statistics import Ask, token_columns
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json

FORMAT = 1
LOGPROB = Ask()
# (name, shape, dtype) -> what takes values by slices of tokens.
Allocate = Callable[[str, tuple[int, ...], type], Any]


@dataclass(frozen=True)
class TokenScores:
    """Scores of the completion tokens of rows, row after row.

    Attributes:
        columns: Name -> [tokens, ...]: logprob (nats, fp32), what `Ask` names, and kl where there is another model.
            hidden is fp32 [tokens, layers, width], top_ids and top_logits [tokens, top_k].
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
    """

    device: Required[str]
    batch_tokens: int
    groups: Sequence[Sequence[int]] | None
    what: str


def score(
    model: Any, rows: Sequence[Row], ask: Ask = LOGPROB, other: Any = None, **options: Unpack[Options]
) -> TokenScores:
    """Score the completion tokens of rows.

    Args:
        model: A `TextModel`. It computes in the dtype of its weights, the softmax in fp32; its training mode is left as
            it was.
        rows: (context, completion) ids; `text_rows` makes them of texts.
        ask: What is read besides log-probs.
        other: A second `TextModel` with the same vocabulary: column kl is KL(model || other) over the whole of it.
        options: See `Options`.
    """
    columns: dict[str, np.ndarray] = {}

    def allocate(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        columns[name] = np.zeros(shape, dtype)
        return columns[name]

    forwards = _fill(model, rows, ask, other, allocate, lambda *_: None, options)
    return TokenScores(columns, row_offsets(rows), forwards)


def score_once(
    model: Any, rows: Sequence[Row], ask: Ask = LOGPROB, other: Any = None, **options: Unpack[Options]
) -> TokenScores:
    """`score`, computed only if no run has done so before, and memory-mapped from the cache.

    Raises:
        RunFailed: the model gives a token no finite log-probability.
    """
    forwards = 0

    def build(folder: Path) -> None:
        nonlocal forwards
        with ExitStack() as files:

            def allocate(name: str, shape: tuple[int, ...], dtype: type) -> ColumnFile:
                return files.enter_context(closing(ColumnFile(folder / f"{name}.npy", shape, dtype)))

            forwards = _fill(model, rows, ask, other, allocate, _check_finite, options)

    parts = {
        "model": weights_hash(model),
        "other": None if other is None else weights_hash(other),
        "rows": rows_fingerprint(rows),
        "ask": asdict(ask),
        "format": FORMAT,
    }
    folder = build_once("token-scores", sha256_json(parts), build)
    columns = {file.stem: read_column(file) for file in sorted(folder.glob("*.npy"))}
    return TokenScores(columns, row_offsets(rows), forwards)


def _fill(
    model: Any,
    rows: Sequence[Row],
    ask: Ask,
    other: Any,
    allocate: Allocate,
    check: Callable[[Tensor, Reading], None],
    options: Options,
) -> int:
    """Fill the columns, each log-prob checked; returns how many forwards it took."""
    offsets, forwards = row_offsets(rows), 0
    shapes = _shapes(model, ask, other)
    columns = {name: allocate(name, (int(offsets[-1]), *shape), dtype) for name, (shape, dtype) in shapes.items()}
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
            array = values[name].to(torch.int32 if shapes[name][1] is np.int32 else torch.float32).cpu().numpy()
            for number, part in zip(reading.numbers, np.split(array, np.cumsum(reading.lengths)[:-1]), strict=True):
                column[offsets[number] : offsets[number + 1]] = part

    read_rows(model, rows, read, layers=ask.hidden, **options)
    return forwards


def _shapes(model: Any, ask: Ask, other: Any) -> dict[str, tuple[tuple[int, ...], type]]:
    """Name -> shape of one token's values and their type, of every column."""
    shapes: dict[str, tuple[tuple[int, ...], type]] = {"logprob": ((), np.float32)}
    shapes |= {name: ((), np.float32) for name in ("entropy", "max_logprob", "mass") if getattr(ask, name)}
    if ask.rank:
        shapes["rank"] = ((), np.int32)
    if ask.top_k:
        shapes |= {"top_ids": ((ask.top_k,), np.int32), "top_logits": ((ask.top_k,), np.float32)}
    if other is not None:
        shapes["kl"] = ((), np.float32)
    if ask.hidden:
        width = output_head(model.language_model).weight.shape[1]
        if set(ask.hidden) != {HEAD}:
            width = model.language_model.config.get_text_config().hidden_size
        shapes["hidden"] = ((len(ask.hidden), width), np.float32)
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
