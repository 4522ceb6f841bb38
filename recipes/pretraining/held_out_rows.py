"""Held-out rows as encoders read them: which tokens they judge or predict, what is right of that, and a heatmap.

rows = held_out_rows(mixture, domains, 64)                       # the same texts in all arms and seeds
read = read_held_out(model, rows, masker, device, batch_tokens)  # one forward, with the same masks
add_judgements(scores, read, "disc")                             # disc/auc, disc/recall, ..., mlm/accuracy
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.evaluation.classification import auroc_values
from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.scores import Scores
from recipes.core.models.dropout import evaluation
from recipes.core.models.padded import batches
from recipes.pretraining.masked_lm import MaskedLM, likeliest_tokens
from recipes.pretraining.masked_rows import Masker, RowMixture
from recipes.pretraining.replaced_tokens import DetectionHead, ReplacedTokens

FIRST, DOMAIN = 2**40, 2**32  # the number of the first row, which no training has, and how far apart domains begin
SEED = 0  # of the masks
# States [m, width] of tokens and the tokens [m] that stand there, to the likeliest of the text [m].
Predict = Callable[[ReplacedTokens, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class HeldOutRow:
    """A row that nothing is trained on.

    Attributes:
        name, document: What scores call it, and the unit that intervals resample.
        ids: int64 [T]
        number: What its masks are drawn by.
    """

    name: str
    document: str
    ids: np.ndarray
    number: int


@dataclass(frozen=True)
class ReadRow:
    """A held-out row as a model reads it; what it does not say is None.

    Attributes:
        name, document: As those of the row.
        ids, written: int64 [T] the text's tokens, and those that the encoder reads.
        chosen: bool [T] which were masked.
        logits: float [T] above 0 where the encoder takes a token for replaced.
        predicted, nll: int64 [m] the encoder's guesses of the chosen tokens, and float [m] nats of the right ones.
        guessed, generator_nll: [m] the generator's.
    """

    name: str
    document: str
    ids: np.ndarray
    written: np.ndarray
    chosen: np.ndarray
    logits: np.ndarray | None
    predicted: np.ndarray | None
    nll: np.ndarray | None
    guessed: np.ndarray | None
    generator_nll: np.ndarray | None

    @property
    def replaced(self) -> np.ndarray:
        """bool [T] where the encoder reads another token than the text's."""
        return np.asarray(self.written != self.ids)


def held_out_rows(mixture: RowMixture, domains: Sequence[str], most: int) -> list[HeldOutRow]:
    """Rows of each domain, at most so many, that lie evenly over its documents."""
    rows = []
    for place, domain in enumerate(domains):
        pieces = mixture.test(domain)
        for number in np.linspace(0, len(pieces), min(most, len(pieces)), endpoint=False).astype(int).tolist():
            document = f"{domain} document {pieces.document[number]}"
            name = f"{domain} {pieces.name(number)}"
            rows.append(HeldOutRow(name, document, pieces[number], FIRST + place * DOMAIN + number))
    return rows


@torch.no_grad()
def read_held_out(
    model: MaskedLM | ReplacedTokens,
    rows: Sequence[HeldOutRow],
    masker: Masker,
    device: str,
    batch_tokens: int,
    predict: Predict | None = None,
) -> list[ReadRow]:
    """What a model says of rows, in their order. Rows are whole, and masks the same in all arms that mask alike.

    Args:
        model: What is trained.
        rows: From `held_out_rows`.
        masker: Of the rows that are trained on; its seed and its share of short rows do not count.
        device: Where to compute.
        batch_tokens: Tokens of a forward, padding included.
        predict: What an encoder that reads a generator's tokens predicts; None: it detects them.
    """
    masker = replace(masker, config=replace(masker.config, short=0.0), seed=SEED)
    model.to(device)
    read: dict[int, ReadRow] = {}
    with evaluation(model):
        for part in batches([len(row.ids) for row in rows], batch_tokens):
            batch = masker.batch([rows[i].ids for i in part], [rows[i].number for i in part])
            moved = {name: values.to(device) for name, values in batch.items()}
            for i, values in zip(part, _read(model, moved, predict), strict=True):
                read[i] = ReadRow(rows[i].name, rows[i].document, **values)
    return [read[i] for i in range(len(rows))]


def _read(model: Any, batch: dict[str, Tensor], predict: Predict | None) -> Iterator[Mapping[str, Any]]:
    """What a model says of the rows of a batch, row by row, without padding."""
    chosen, written = batch["chosen"], batch["masked_ids"]
    logits = predicted = nll = guessed = generator_nll = None
    if isinstance(model, MaskedLM):
        states = model.states(written, batch["attention_mask"], chosen)
        predicted, nll = likeliest_tokens(states, model.output), model.loss(states, batch["input_ids"][chosen])[1]
    else:
        corrupted, states = model(batch, lambda tokens, states, corrupted: states)
        written = corrupted.ids
        if model.generator is not None:
            guessed, generator_nll = likeliest_tokens(corrupted.states, model.generator.output), corrupted.nll
        if isinstance(model.head, DetectionHead):
            logits = model.head(states)
        else:
            assert predict is not None
            predicted = predict(model, states[chosen], written[chosen])
    begins = np.concatenate([[0], chosen.sum(1).cumsum(0).cpu().numpy()])
    tokens = {"ids": batch["input_ids"], "written": written, "chosen": chosen, "logits": logits}
    masked = {"predicted": predicted, "nll": nll, "guessed": guessed, "generator_nll": generator_nll}
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        span = slice(int(begins[row]), int(begins[row + 1]))
        part = {name: None if x is None else x[row, :length].cpu().numpy() for name, x in tokens.items()}
        yield part | {name: None if x is None else x[span].cpu().numpy() for name, x in masked.items()}


def add_judgements(scores: Scores, rows: Sequence[ReadRow], detection: str) -> None:
    """AUC and recall of detection; accuracy and loss of the encoder's and of the generator's guesses.

    Never the loss of detection, which rises while the encoder learns, as its generator does too.

    Args:
        scores: Where they go; what no row has is left out.
        rows: As a model read them.
        detection: What names of detection begin with ("disc": `disc/auc`).
    """
    detected = [row for row in rows if row.logits is not None]
    for row, area in zip(detected, _areas(detected), strict=True):
        assert row.logits is not None
        _add(scores, f"{detection}/auc", "AUROC of detection, replaced tokens above the text's", row, area)
        suspected = row.logits[row.replaced] > 0
        _add(scores, f"{detection}/recall", "share of the replaced tokens that are detected", row, suspected)
        title = "share of the masked tokens that the generator did not guess"
        _add(scores, f"{detection}/replaced", title, row, row.replaced[row.chosen])
    for row in rows:
        for name, who, guesses, nll in (
            ("generator", "generator", row.guessed, row.generator_nll),
            ("mlm", "encoder", row.predicted, row.nll),
        ):
            if guesses is not None:
                title = f"share of the masked tokens that are the {who}'s likeliest"
                _add(scores, f"{name}/accuracy", title, row, guesses == row.ids[row.chosen])
            if nll is not None:
                _add(scores, f"{name}/nll", f"nats a masked token of the {who}", row, nll, higher_is_better=False)


def detection_heatmap(rows: Sequence[ReadRow], tokenizer: Any) -> dict[str, Any] | None:
    """Content of `heatmap.json`: how sure the encoder is of each token; None of one that detects nothing."""
    detected = [row for row in rows if row.logits is not None]
    if not detected:
        return None
    from scipy.special import expit

    examples = []
    for row in detected:
        kinds = ["replaced" if is_other else None for is_other in row.replaced]
        pieces = tokenizer.convert_ids_to_tokens(row.written)
        examples.append(heatmap_example(row.name, pieces, expit(row.logits), None, kinds))
    return {"hint": "how sure the encoder is that a token is not the text's", "examples": examples}


def _areas(rows: Sequence[ReadRow]) -> list[np.ndarray]:
    """Of each row the numbers of its tokens whose mean over all rows is the AUROC; none where it is undefined."""
    replaced = np.concatenate([row.replaced for row in rows] or [np.zeros(0, bool)])
    if not replaced.any() or replaced.all():
        return [np.zeros(0)] * len(rows)
    values = auroc_values(replaced, np.concatenate([np.asarray(row.logits) for row in rows]))
    return np.split(values, np.cumsum([len(row.ids) for row in rows])[:-1])


def _add(
    scores: Scores, metric: str, title: str, row: ReadRow, values: np.ndarray, higher_is_better: bool = True
) -> None:
    """The mean of some numbers of a row, if it has any."""
    if len(values):
        scores.define(metric, title, higher_is_better)
        scores.add(metric, row.name, row.document, float(values.mean()), len(values))
