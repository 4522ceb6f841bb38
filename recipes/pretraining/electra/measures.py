"""What is measured of an encoder: frozen features, fine-tuned copies, tokens it judges, its gradient's noise."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.text.text_ids import tokenizer_fingerprint
from recipes.core.evaluation.classification import add_test_scores
from recipes.core.evaluation.scores import Scores
from recipes.core.models.dropout import evaluation
from recipes.core.scoring.fingerprints import module_hash
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json
from recipes.pretraining.electra.config import POSITIONS, SIGNAL, START, TUNED, ElectraConfig
from recipes.pretraining.electra.method import signal_to_noise
from recipes.pretraining.electra.model import Prepared, build_loss
from recipes.pretraining.electra.objectives import AllTokensHead, loss_positions
from recipes.pretraining.held_out_rows import ReadRow, held_out_rows, read_held_out
from recipes.pretraining.masked_lm import MaskedLM, likeliest_tokens
from recipes.pretraining.masked_rows import MaskedRows
from recipes.pretraining.probing import ProbedEncoder
from recipes.pretraining.replaced_tokens import ReplacedTokens

GRADIENTS = 2**33  # seeds of rows that no training has
FILE, VERSION = "predictions.npy", 1


def add_probe(scores: Scores, config: ElectraConfig, prepared: Prepared, encoder: Any, prefix: str) -> None:
    """Accuracy and macro-F1 of a probe on frozen features of the labelled texts; that of an encoder is fitted once."""
    data, title = prepared.task, "probe on frozen features"
    content = [module_hash(encoder, encoder.config), tokenizer_fingerprint(prepared.tokenizer), data.fingerprint]
    key = [*content, asdict(config.probe), config.seed, VERSION]

    def build(folder: Path) -> None:
        np.save(folder / FILE, _probed(config, prepared, encoder).predict(config.probe))

    folder = build_once("encoder-probes", sha256_json(key)[:32], build)
    if prefix.startswith(START):
        title = f"{title} of the encoder before its first step"
    add_test_scores(scores, data, np.load(folder / FILE), prefix, title)


def add_tuned(scores: Scores, config: ElectraConfig, prepared: Prepared, encoder: Any, prefix: str) -> None:
    """Accuracy and macro-F1 of a copy of an encoder that is fine-tuned on the texts of the probe; none of no steps."""
    if not config.fine_tuning.steps:
        return
    probed = _probed(config, prepared, encoder)
    predictions = probed.predict_tuned(config.fine_tuning, config.probe, config.trainer)
    of = "the encoder" if prefix == f"{TUNED}/" else "the encoder before its first step"
    add_test_scores(scores, prepared.task, predictions, prefix, f"{of}, fine-tuned")


def _probed(config: ElectraConfig, prepared: Prepared, encoder: Any) -> ProbedEncoder:
    """An encoder with the labelled texts of the run."""
    batch_tokens = config.evaluation.batch_tokens
    return ProbedEncoder(encoder, prepared.tokenizer, prepared.task, config.seed, prepared.device, batch_tokens)


def read_rows(config: ElectraConfig, prepared: Prepared, model: MaskedLM | ReplacedTokens) -> list[ReadRow]:
    """Held-out rows of each domain as the model reads them."""
    rows = held_out_rows(prepared.rows, prepared.rows.domains, config.evaluation.rows)
    options = (prepared.masker, prepared.device, config.evaluation.batch_tokens, predict_tokens)
    return read_held_out(model, rows, *options)


def predict_tokens(model: ReplacedTokens, states: Tensor, written: Tensor) -> Tensor:
    """The likeliest tokens of a head over the vocabulary, with a copy of what stands there if it has a gate.

    Args:
        model: Whose head it is.
        states: [m, width] of the encoder.
        written: int64 [m] what stands there.

    Returns:
        int64 [m]
    """
    head: Any = model.head
    output, transformed = head.output(model.encoder.embeddings.word_embeddings), head(states)
    if not isinstance(head, AllTokensHead):
        return likeliest_tokens(transformed, output)
    copied = torch.sigmoid(head.copies(states))[:, None]
    predicted = torch.softmax(output.logits(transformed), 1) * (1 - copied)
    return predicted.scatter_add(1, written[:, None], copied).argmax(1)


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
