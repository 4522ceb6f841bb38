"""BudgetLongformer as an experiment: equal FLOPs of pretraining, then a linear classifier on frozen states."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BertModel

from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.evaluation.classification import add_test_scores
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.models.small_encoder import build_encoder_tokenizer, check_known
from recipes.core.recipe import Evaluation
from recipes.core.storage.files import write_text
from recipes.core.training.task import Training
from recipes.pretraining.budgetlongformer.bags import predict_from_bags
from recipes.pretraining.budgetlongformer.config import (
    BAG,
    CUT,
    IN_DOMAIN,
    LOSS,
    MLM,
    NOTHING,
    READ,
    RTD,
    RTD_CHOSEN,
    TUNED,
    BudgetLongformerConfig,
)
from recipes.pretraining.budgetlongformer.documents import Texts, packed_rows, read_texts
from recipes.pretraining.budgetlongformer.networks import build_networks, write_encoder
from recipes.pretraining.held_out_rows import (
    ReadRow,
    add_judgements,
    detection_heatmap,
    held_out_rows,
    read_held_out,
)
from recipes.pretraining.masked_lm import MaskedLMLoss
from recipes.pretraining.masked_rows import MaskedRows, Masker, RowMixture
from recipes.pretraining.probing import ProbedEncoder
from recipes.pretraining.replaced_tokens import ReplacedTokenLoss, detection_losses

SHOWN = 8  # held-out rows of the heatmap


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share.

    Attributes:
        texts: Documents.
        tokenizer: Made from those that are trained on.
        rows: Where rows are drawn from.
        masker: Of those that are trained on.
        ids: Of the training and of the test texts with a label, nothing added and nothing cut.
        device: Where to compute.
    """

    texts: Texts
    tokenizer: Any
    rows: RowMixture
    masker: Masker
    ids: tuple[list[list[int]], list[list[int]]]
    device: str


class BudgetLongformerRecipe:
    """Pretrains an encoder of long texts, and asks what its states know."""

    def prepare(self, config: BudgetLongformerConfig, device: str) -> Prepared:
        """Documents, their tokenizer and ids. Raises UserError."""
        texts = read_texts(config.data, config.pretraining.general if config.pretraining.corpus != IN_DOMAIN else ())
        domain = replace(texts, general=())  # pieces are those of the domain, whatever is pretrained on
        tokenizer = build_encoder_tokenizer(config.model, domain.training_texts, domain.fingerprint)
        mixture = packed_rows(texts, config.pretraining.corpus, tokenizer, config.model.positions)
        parts = (texts.labelled.train, texts.labelled.test)
        train, test = (TextIds(tokenizer).batch([each.text for each in part]) for part in parts)
        for what, ids in (("train", train), ("test", test)):
            check_known(tokenizer, ids, f"the texts to {what} on")
        longest = max(len(ids) for ids in [*train, *test])
        if config.window is not None and config.window > longest:
            raise UserError(
                f"{config.window} is wider than the longest text, of {longest} tokens, which it would see whole",
                "attention.window",
                "type attention.kind=full, or a smaller window",
            )
        rows = RowMixture(mixture, tokenizer, config.model.positions)
        if config.pretraining.objective != NOTHING:
            rows.check(tested=[IN_DOMAIN])
        masker = Masker(config.masking, tokenizer, config.model.positions, config.seed)
        return Prepared(texts, tokenizer, rows, masker, (train, test), device)

    def build(self, config: BudgetLongformerConfig, prepared: Prepared) -> Training | None:
        """Both networks, or the encoder with a head. Arms of a seed read the same rows and masks, in one order."""
        objective = config.pretraining.objective
        if objective == NOTHING:
            return None
        loss: Any = MaskedLMLoss()
        if objective != MLM:
            loss = ReplacedTokenLoss(
                discriminator_weight=config.pretraining.weight, chosen_only=objective == RTD_CHOSEN
            )
        rows: Any = MaskedRows(prepared.rows, config.stream, config.seed, prepared.masker)
        steps = regular_steps(config.steps, config.pretraining.watch_every)
        return Training(build_networks(config, prepared.tokenizer), loss, rows, rows.collate, {}, steps)

    def watch(self, config: BudgetLongformerConfig, prepared: Prepared, model: nn.Module) -> Scores:
        """What the networks say of held-out rows."""
        return _scores(_read_held_out(config, prepared, model))

    def evaluate(
        self, config: BudgetLongformerConfig, prepared: Prepared, model: nn.Module | None, curve: dict[int, Scores]
    ) -> Evaluation:
        """Probe and fine-tuned copy, beside bags of words of whole texts and of what the encoder reads of them."""
        networks: Any = build_networks(config, prepared.tokenizer) if model is None else model
        rows = [] if model is None else _read_held_out(config, prepared, networks)
        encoder, data, most = networks.encoder, prepared.texts.labelled, config.probe.max_tokens
        probed = ProbedEncoder(encoder, prepared.tokenizer, data, config.seed, prepared.device)
        predictions = probed.predict(config.probe)
        scores = _scores(rows)
        add_test_scores(scores, data, predictions)
        named = {"predicted": predictions}
        if config.fine_tuning.steps:
            named["fine_tuned"] = probed.predict_tuned(config.fine_tuning, config.probe, config.trainer)
            add_test_scores(scores, data, named["fine_tuned"], f"{TUNED}_", "the encoder, fine-tuned")
        for prefix, title, longest in (
            (BAG, "bag of words of whole texts", None),
            (READ, "bag of words of what the encoder reads", most - 2),
        ):
            add_test_scores(scores, data, predict_from_bags(data, prepared.ids, longest), f"{prefix}_", title)
        _add_cut(scores, prepared, most)
        files: dict[str, Callable[[Path], None]] = {
            "predictions.jsonl": partial(_write_predictions, data=data, predictions=named, ids=prepared.ids[1])
        }
        writer = None
        if isinstance(encoder, BertModel):
            writer = partial(write_encoder, encoder, prepared.tokenizer, config.window)
        heatmap = detection_heatmap(rows[:SHOWN], prepared.tokenizer)
        return Evaluation(scores.overall(), scores, heatmap, files=files, model=writer)


def _read_held_out(config: BudgetLongformerConfig, prepared: Prepared, model: Any) -> list[ReadRow]:
    """Held-out rows of the domain as the model reads them."""
    rows = held_out_rows(prepared.rows, [IN_DOMAIN], config.pretraining.held_out)
    tokens = config.trainer.batch_size * config.model.positions
    return read_held_out(model, rows, prepared.masker, prepared.device, tokens)


def _scores(rows: list[ReadRow]) -> Scores:
    """Detection and guesses, and the loss of detection, which rises as the generator learns: of equal steps alone."""
    scores = Scores()
    add_judgements(scores, rows, RTD)
    for row in rows:
        if row.logits is not None:
            losses = detection_losses(torch.from_numpy(row.logits), torch.from_numpy(row.replaced))
            scores.define(LOSS, "nats a token of the detector, held-out rows", False)
            scores.add(LOSS, row.name, row.document, float(losses.mean()), len(losses))
    return scores


def _add_cut(scores: Scores, prepared: Prepared, most: int) -> None:
    """Which test texts the encoder does not read to their end."""
    scores.define(CUT, f"share of test texts of more than {most} tokens, which are cut", higher_is_better=False)
    cut = [len(ids) + 2 > most for ids in prepared.ids[1]]
    for each, is_cut in zip(prepared.texts.labelled.test, cut, strict=True):
        scores.add(CUT, each.id, each.document, float(is_cut))
    if any(cut):
        note(f"{sum(cut):,} of {len(cut):,} test texts are cut to probe.max_tokens={most}")


def _write_predictions(path: Path, *, data: Any, predictions: dict[str, np.ndarray], ids: list[list[int]]) -> None:
    """One line a test text, with each of the predicted classes by its name."""
    rows = (
        {
            "id": each.id,
            "document": each.document,
            "tokens": len(tokens),
            "label": each.label,
            **{name: data.classes[numbers[place]] for name, numbers in predictions.items()},
            "begins": each.text[:200],
        }
        for place, (each, tokens) in enumerate(zip(data.test, ids, strict=True))
    )
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


RECIPE = BudgetLongformerRecipe
