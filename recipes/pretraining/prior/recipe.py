"""PRIOR as an experiment: data, reference, weights in the data loader, training, evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from recipes.core.data.images.captions import CaptionData
from recipes.core.data.images.load import load_captions
from recipes.core.data.images.tokenized import TokenizedCaptions, tokenize
from recipes.core.evaluation.scores import Scores
from recipes.core.losses.objectives import WeightedCrossEntropy
from recipes.core.losses.weights import permute_within
from recipes.core.models import from_config as models
from recipes.core.models.adapters import with_adapters
from recipes.core.models.caption_folder import caption_describer
from recipes.core.models.config import LlavaConfig
from recipes.core.models.run_models import describer
from recipes.core.models.sources import processor_files
from recipes.core.recipe import Evaluation
from recipes.core.training.caption_batches import CaptionItems, Weigh, caption_collate
from recipes.core.training.task import Training
from recipes.core.training.trainer import check_one_batch
from recipes.pretraining.prior import method
from recipes.pretraining.prior.config import LIVE, PriorConfig
from recipes.pretraining.prior.curves import watch_steps
from recipes.pretraining.prior.evaluation import Suite
from recipes.pretraining.prior.objectives import Cal, Focal
from recipes.pretraining.prior.reference import Reference, prepare_reference


@dataclass(frozen=True)
class Prepared:
    """What all arms and seeds share: data, tokens, reference scores."""

    data: CaptionData
    tokenizer: Any
    train: TokenizedCaptions
    test: TokenizedCaptions
    reference: Reference
    device: str


class PriorRecipe:
    """Token-weighted caption training, settings U and H."""

    def __init__(self) -> None:
        self._suites: dict[str, Any] = {}

    def prepare(self, config: PriorConfig, device: str) -> Prepared:
        """Data, tokens and reference scores, each cached by content. Raises UserError on bad data."""
        data = load_captions(config.data, config.seed)
        check_one_batch(len(data.train), config.trainer)
        tokenizer = models.build_tokenizer(config.model, data)
        train, test = (
            tokenize(split, tokenizer, tokenizer.eos_token_id, config.data.max_tokens, config.data.on_long)
            for split in (data.train, data.test)
        )
        reference = prepare_reference(config, data.train, tokenizer, (train, test), device)
        return Prepared(data, tokenizer, train, test, reference, device)

    def build(self, config: PriorConfig, prepared: Prepared) -> Training:
        """Model, objective and batches. All arms of a seed share initialisation and data order."""
        model = models.build_caption_model(
            config.model,
            config.setting,
            prepared.tokenizer,
            prepared.data,
            config.seed,
            prepared.device,
            config.data.max_tokens,
        )
        items = CaptionItems(prepared.data.train, prepared.train, range(len(prepared.data.train)), model.pixels)
        collate = caption_collate(model.prefix_ids, prepared.tokenizer.pad_token_id, weigher(config, prepared))
        objective: WeightedCrossEntropy = WeightedCrossEntropy()
        if config.weighting.name == "focal":
            objective = Focal(config.weighting)
        elif config.weighting.name == "cal":
            objective, plain = Cal(), collate

            def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
                batch = plain(items)
                return batch | {"image_positions": model.image_positions(batch["input_ids"])}

        steps = watch_steps(config.trainer.max_steps, config.evaluation.watch_every)
        rates = models.learning_rates(config.model)
        describe = _describe(config, prepared, model)
        with_adapters(model, config.lora, config.seed)
        return Training(model, objective, items, collate, rates, steps, describe=describe)

    def watch(self, config: PriorConfig, prepared: Prepared, model: nn.Module) -> Scores:
        """Grounded-token accuracy and NLL by class on a few test captions."""
        return self._suite(config, prepared, model).watch()

    def evaluate(
        self, config: PriorConfig, prepared: Prepared, model: nn.Module, curve: dict[int, Scores]
    ) -> Evaluation:
        """The whole suite on the test split, with per-example scores and the token heatmap."""
        trainer, weights = config.trainer, heatmap_weights(config, prepared)
        result = self._suite(config, prepared, model).evaluate(curve, trainer.batch_size, trainer.max_steps, weights)
        if cut := prepared.train.cut + prepared.test.cut:
            result.scores.define("data/cut", "captions cut at data.max_tokens", False)
            result.metrics["data/cut"] = float(cut)
        return result

    def _suite(self, config: PriorConfig, prepared: Prepared, model: nn.Module) -> Suite:
        """The test suite of a model, made once: it holds decoded images and tokenised choices."""
        if self._suites.get("model") is not model:
            suite = Suite(
                config.evaluation,
                prepared.data,
                prepared.test,
                prepared.reference,
                prepared.tokenizer,
                model,
                prepared.device,
            )
            self._suites = {"model": model, "suite": suite}
        return self._suites["suite"]


def weigher(config: PriorConfig, prepared: Prepared) -> Weigh:
    """The function that gives a batch its coefficients from the stored reference scores."""

    def weigh(indices: Sequence[int], mask: Tensor) -> tuple[Tensor, Tensor]:
        nll = _pad([prepared.reference.train_nll(i) for i in indices])
        scores = token_scores(config, prepared.train, prepared.data.train, indices, nll, mask)
        weighting = config.weighting
        floor, cap = (0.0, None) if weighting.name in LIVE else (weighting.floor, weighting.cap)
        return method.loss_coefficients(scores, mask, weighting.reduction, floor, cap)

    return weigh


def token_scores(
    config: PriorConfig, tokens: TokenizedCaptions, split: Any, indices: Sequence[int], nll: Tensor, mask: Tensor
) -> Tensor:
    """Scores [batch, time] of the chosen weighting before normalisation; live weightings start from ones.

    Args:
        config: The run's config.
        tokens: The tokenised split.
        split: The split itself, for example ids.
        indices: Captions of the batch.
        nll: [batch, time] reference NLL in nats.
        mask: [batch, time].
    """
    weighting = config.weighting
    if weighting.name == "ntp" or weighting.name in LIVE:
        return method.ntp_scores(mask)
    if weighting.name == "oracle":
        return method.oracle_scores(_pad([tokens.span_index(i) for i in indices], fill=-1) >= 0, mask)
    if weighting.name == "inverse":
        scores = method.inverse_scores(nll, mask)
    elif weighting.name == "drop":
        scores = method.drop_scores(nll, mask, weighting.keep)
    elif weighting.name == "surprisal":
        scores = method.surprisal_scores(nll, mask, weighting.surprisal_cap)
    else:
        scores = method.prior_scores(nll, mask, weighting.alpha)
    if weighting.word_pool != "none":
        words = _pad([tokens.word_index(i) for i in indices], fill=-1)
        scores = method.word_pool(scores, mask, words, weighting.word_pool)
    if weighting.name == "random":
        scores = permute_within(scores, mask, config.seed, [split.caption(i).id for i in indices])
    return scores


def _describe(config: PriorConfig, prepared: Prepared, model: Any) -> Callable[[Path], None]:
    """How the model is read out of a checkpoint."""
    if not isinstance(config.model, LlavaConfig):
        return caption_describer(model, prepared.tokenizer)
    files = processor_files(str(config.model.path), "model.path")
    return describer(model, prepared.tokenizer, files)


def heatmap_weights(config: PriorConfig, prepared: Prepared) -> list[np.ndarray]:
    """Normalised weights of the first test captions, as the method would give them."""
    indices = range(min(config.evaluation.heatmap, config.evaluation.examples, len(prepared.data.test)))
    if not indices:
        return []
    nll = _pad([prepared.reference.test.nll(i) for i in indices])
    mask = _pad([np.ones(len(prepared.test.ids(i)), bool) for i in indices], fill=0).bool()
    scores = token_scores(config, prepared.test, prepared.data.test, indices, nll, mask)
    weights = method.token_weights(scores, mask, config.weighting.floor, config.weighting.cap)
    return [row[kept].numpy() for row, kept in zip(weights, mask, strict=True)]


def _pad(rows: Sequence[np.ndarray], fill: float = 0) -> Tensor:
    return pad_sequence([torch.from_numpy(np.array(row)) for row in rows], batch_first=True, padding_value=fill)


RECIPE = PriorRecipe
