"""What is measured of an encoder: frozen features, tokens that it judges or predicts, the noise of its gradient."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.text.text_ids import tokenizer_fingerprint
from recipes.core.evaluation.classification import add_test_scores, auroc_values
from recipes.core.evaluation.probe import probe
from recipes.core.evaluation.scores import Scores
from recipes.core.models.dropout import evaluation
from recipes.core.models.padded import batches
from recipes.core.scoring.features import text_features
from recipes.core.scoring.fingerprints import module_hash
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json
from recipes.pretraining.electra.config import ALL_TOKENS, DETECTS, POSITIONS, SIGNAL, START, ElectraConfig
from recipes.pretraining.electra.method import signal_to_noise
from recipes.pretraining.electra.model import Prepared, build_loss
from recipes.pretraining.electra.objectives import loss_positions
from recipes.pretraining.masked_lm import MaskedLM
from recipes.pretraining.masked_rows import MaskedRows
from recipes.pretraining.replaced_tokens import ReplacedTokens

HELD_OUT, GRADIENTS = 2**40, 2**33  # numbers of rows, and seeds, that no training has
FILE, VERSION = "predictions.npy", 1
DISC, GENERATOR, MLM = "disc", "generator", "mlm"


@dataclass(frozen=True)
class JudgedRow:
    """A held-out row as a model reads it; what it does not judge is None.

    Attributes:
        name, group: Of the row, and of its document.
        ids, written: int64 [T] the text's tokens, and those that the encoder reads.
        chosen: bool [T]
        logits: float [T] above 0 where the encoder takes a token for replaced.
        predicted: int64 [m] the encoder's guesses of the chosen tokens.
        guessed: int64 [m] the generator's.
    """

    name: str
    group: str
    ids: np.ndarray
    written: np.ndarray
    chosen: np.ndarray
    logits: np.ndarray | None
    predicted: np.ndarray | None
    guessed: np.ndarray | None


def add_probe(scores: Scores, config: ElectraConfig, prepared: Prepared, encoder: Any, prefix: str) -> None:
    """Accuracy and macro-F1 of a probe on frozen features of the labelled texts; that of an encoder is fitted once."""
    data, title = prepared.task, "probe on frozen features"
    content = [module_hash(encoder, encoder.config), tokenizer_fingerprint(prepared.tokenizer), data.fingerprint]
    key = [*content, asdict(config.probe), config.seed, VERSION]

    def build(folder: Path) -> None:
        options: dict[str, Any] = {
            "layer": config.probe.layer,
            "pooling": config.probe.pooling,
            "device": prepared.device,
        }
        options |= {"max_tokens": config.probe.max_tokens, "batch_tokens": config.evaluation.batch_tokens}
        train, test = (
            text_features(encoder, prepared.tokenizer, [each.text for each in part], **options)
            for part in (data.train, data.test)
        )
        np.save(folder / FILE, probe(data, train, test, config.probe, config.seed)[1])

    folder = build_once("encoder-probes", sha256_json(key)[:32], build)
    if prefix.startswith(START):
        title = f"{title} of the encoder before its first step"
    add_test_scores(scores, data, np.load(folder / FILE), prefix, title)


@torch.no_grad()
def judged_rows(config: ElectraConfig, prepared: Prepared, model: MaskedLM | ReplacedTokens) -> list[JudgedRow]:
    """The first held-out rows of each domain, with the same masks in all arms that mask alike."""
    names, groups, rows = [], [], []
    for domain in prepared.rows.domains:
        pieces = prepared.rows.test(domain)
        for number in range(min(config.evaluation.rows, len(pieces))):
            names.append(f"{domain} row {number}")
            groups.append(f"{domain} document {pieces.document[number]}")
            rows.append(pieces[number])
    masker, judged = replace(prepared.masker, config=replace(config.masking, short=0.0)), []
    model.to(prepared.device)
    with evaluation(model):
        for part in batches([len(row) for row in rows], config.evaluation.batch_tokens):
            batch = masker.batch([rows[i] for i in part], [HELD_OUT + i for i in part])
            moved = {name: values.to(prepared.device) for name, values in batch.items()}
            for i, row in zip(part, _judge(config, model, moved), strict=True):
                judged.append(JudgedRow(names[i], groups[i], **row))
    return sorted(judged, key=lambda row: row.name)


def _judge(config: ElectraConfig, model: Any, batch: dict[str, Tensor]) -> Iterator[Mapping[str, Any]]:
    """What a model says of the rows of a batch, row by row, without padding."""
    chosen, written = batch["chosen"], batch["masked_ids"]
    logits = predicted = guessed = None
    if isinstance(model, MaskedLM):
        states = model.states(written, batch["attention_mask"], chosen)
        predicted = model.output.logits(states).argmax(1)
    else:
        corrupted, states = model(batch, lambda tokens, states, corrupted: states)
        written = corrupted.ids
        if model.generator is not None:
            guessed = model.generator.output.logits(corrupted.states).argmax(1)
        if config.objective in DETECTS:
            logits = model.head(states)
        else:
            predicted = _predict(config, model, states[chosen], written[chosen])
    begins = np.concatenate([[0], chosen.sum(1).cumsum(0).cpu().numpy()])
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        span = slice(int(begins[row]), int(begins[row + 1]))
        texts = {"ids": batch["input_ids"], "written": written, "chosen": chosen, "logits": logits}
        part = {name: None if x is None else x[row, :length].cpu().numpy() for name, x in texts.items()}
        guesses = {"predicted": predicted, "guessed": guessed}
        yield part | {name: None if x is None else x[span].cpu().numpy() for name, x in guesses.items()}


def _predict(config: ElectraConfig, model: ReplacedTokens, states: Tensor, written: Tensor) -> Tensor:
    """int64 [m] the likeliest tokens, with a copy of what stands there where the head has a gate."""
    head: Any = model.head
    logits = head.output(model.encoder.embeddings.word_embeddings).logits(head(states))
    if config.objective != ALL_TOKENS:
        return logits.argmax(1)
    copied = torch.sigmoid(head.copies(states))[:, None]
    return (torch.softmax(logits, 1) * (1 - copied)).scatter_add(1, written[:, None], copied).argmax(1)


def add_judgements(scores: Scores, rows: list[JudgedRow]) -> None:
    """AUC and recall of detection, accuracy of the encoder's and the generator's guesses; never a loss of detection.

    The loss of detection rises while the encoder learns, as its generator does too, and 85% of tokens are the text's.
    """
    titles = {
        f"{DISC}/auc": "AUROC of detection, replaced tokens above the text's",
        f"{DISC}/recall": "share of the replaced tokens that are detected",
        f"{DISC}/replaced": "share of the masked tokens that the generator did not guess",
        f"{GENERATOR}/accuracy": "share of the masked tokens that are the generator's likeliest",
        f"{MLM}/accuracy": "share of the masked tokens that are the encoder's likeliest",
    }
    for name, title in titles.items():
        scores.define(name, title, True)
    detected = [row for row in rows if row.logits is not None]
    truth = [row.written != row.ids for row in detected]
    areas = _areas(detected, truth)
    for number, row in enumerate(detected):
        assert row.logits is not None
        if areas is not None:
            scores.add(f"{DISC}/auc", row.name, row.group, float(areas[number].mean()), len(row.ids))
        if truth[number].any():
            right = row.logits[truth[number]] > 0
            scores.add(f"{DISC}/recall", row.name, row.group, float(right.mean()), len(right))
        if row.chosen.any():
            replaced = truth[number][row.chosen]
            scores.add(f"{DISC}/replaced", row.name, row.group, float(replaced.mean()), len(replaced))
    for row in rows:
        for name, guesses in ((GENERATOR, row.guessed), (MLM, row.predicted)):
            if guesses is not None and len(guesses):
                right = guesses == row.ids[row.chosen]
                scores.add(f"{name}/accuracy", row.name, row.group, float(right.mean()), len(right))
    measured = {row[0] for row in scores.rows}
    for name in [*scores.metrics]:
        if name in titles and name not in measured:
            del scores.metrics[name]


def _areas(rows: list[JudgedRow], truth: list[np.ndarray]) -> list[np.ndarray] | None:
    """Of each row the numbers of its tokens whose mean over all is the AUROC; None where there is none."""
    replaced = np.concatenate(truth) if truth else np.zeros(0, bool)
    if not replaced.any() or replaced.all():
        return None
    values = auroc_values(replaced, np.concatenate([np.asarray(row.logits) for row in rows]))
    return np.split(values, np.cumsum([len(row.ids) for row in rows])[:-1])


def add_training_measures(scores: Scores, config: ElectraConfig, prepared: Prepared, model: Any) -> None:
    """Tokens with loss in a step, and how far the mean gradient of the encoder's blocks stands out of its noise."""
    loss, count = build_loss(config), config.evaluation.micro_batches
    if hasattr(loss, "second"):
        loss.second = True
    scores.define(POSITIONS, "tokens of a step with a loss of the encoder", True)
    stream = MaskedRows(prepared.rows, config.trainer.batch_size, config.seed, prepared.masker)
    whole = stream.collate([stream[i] for i in range(len(stream))])
    scores.add(POSITIONS, "step", "step", loss_positions(loss, whole))
    scores.define("steps", "steps that the operations of the run allow", True)
    scores.add("steps", "run", "run", config.steps)
    if not count:
        return
    size = config.evaluation.micro_rows
    stream = MaskedRows(prepared.rows, count * size, GRADIENTS + config.seed, prepared.masker)
    parts = [part for name, part in model.encoder.named_parameters() if not name.startswith("embeddings.")]
    gradients = []
    with evaluation(model):
        for first in range(0, count * size, size):
            batch = stream.collate([stream[i] for i in range(first, first + size)])
            moved = {name: x.to(prepared.device) for name, x in batch.items() if isinstance(x, Tensor)}
            total = loss(model, moved, loss.normalizer(moved).to(prepared.device))[0]
            each = torch.autograd.grad(total, parts, allow_unused=True)
            gradients.append(torch.cat([x.flatten() for x in each if x is not None]).float().cpu())
    scores.define(SIGNAL, f"norm of the mean gradient of the blocks over its spread, {count} micro-batches", True)
    scores.add(SIGNAL, "micro-batches", "micro-batches", signal_to_noise(torch.stack(gradients)))
