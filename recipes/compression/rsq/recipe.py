"""RSQ as an experiment: one model, quantised on drawn sequences, the same held-out text read before and after."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from recipes.compression.calibration import Corpora
from recipes.compression.compressed import compressed_writer
from recipes.compression.perplexity import sequence_nlls
from recipes.compression.rsq.config import GPTQ, NONE, RsqConfig
from recipes.compression.rsq.quantise import check_groups, quantise, shifted
from recipes.compression.rsq.results import (
    LAYERS,
    Prepared,
    heatmap,
    plots,
    score_run,
    weighed_texts,
    write_layers,
)
from recipes.compression.rsq.rotation import rotate
from recipes.core.evaluation.importance import FILE as IMPORTANCE
from recipes.core.evaluation.importance import write_importance
from recipes.core.evaluation.scores import Scores
from recipes.core.models.text import check_context
from recipes.core.models.vision_language import TextModel
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.training.toys.frozen import load_frozen, model_where


class RsqRecipe(Untrained):
    """A model that is quantised."""

    def prepare(self, config: RsqConfig, device: str) -> Prepared:
        """Model, sequences, what they cost in full precision, and the rotation. Raises UserError."""
        model, tokenizer = load_frozen(config, config.calibration.rest(device))
        where = model_where(config.model)
        for key in ("calibration", "evaluation"):
            check_context(model, getattr(config, key).length, f"{key}.length")
        check_groups(model.language_model, config.quantise, where)
        corpora = Corpora(config.data, tokenizer)
        held_out = {domain: corpora.held_out(domain, config.evaluation) for domain in corpora.domains}
        rows = _calibration(config, corpora)
        before = _nlls(model, held_out, config, device, once=True)
        rotates = config.quantise.solver != NONE and config.rotate.kind != "none"
        options = (config.rotate.kind, config.rotate.heads, config.seed, where)
        gap = rotate(model.language_model, *options) if rotates else None
        return Prepared(model, tokenizer, where, device, rows, held_out, before, gap)

    def evaluate(self, config: RsqConfig, prepared: Prepared, model: object, curve: dict[int, Scores]) -> Evaluation:
        """Quantise the model, and read the held-out text again."""
        language_model, options = prepared.model.language_model, config.quantise
        done = quantise(language_model, prepared.rows, config, prepared.where, prepared.device)
        after = _nlls(prepared.model, prepared.held_out, config, prepared.device)
        scores, metrics = score_run(config, prepared, done, after)
        if options.solver == NONE:
            return Evaluation(metrics, scores)
        write = None
        if config.save_model:
            stated = {"method": config.arm, "bits": options.bits, "bits_per_weight": metrics["bits_per_weight"]}
            stated |= {"rotate": asdict(config.rotate), "importance": asdict(config.importance)}
            write = compressed_writer(language_model, prepared.tokenizer, prepared.where, stated)
        files = {LAYERS: partial(write_layers, config=config, prepared=prepared, done=done)}
        if texts := weighed_texts(config.importance.strategy, prepared, done):
            files[IMPORTANCE] = partial(write_importance, texts=texts)
        shown = plots(prepared, done)
        return Evaluation(metrics, scores, heatmap(texts), plots=shown, files=files, model=write)


def _calibration(config: RsqConfig, corpora: Corpora) -> Tensor:
    """int64 [N, T], as many of each domain; none where nothing is calibrated."""
    if config.quantise.solver != GPTQ:
        return torch.empty(0, config.calibration.length, dtype=torch.int64)
    domains, drawn = corpora.domains, []
    for number, domain in enumerate(domains):
        share = config.calibration.sequences * (number + 1) // len(domains)
        share -= config.calibration.sequences * number // len(domains)
        if share:
            drawn.append(corpora.calibration(domain, replace(config.calibration, sequences=share), config.seed))
    return shifted(torch.cat(drawn), config.quantise.shifts)


def _nlls(
    model: TextModel, held_out: Mapping[str, Tensor], config: RsqConfig, device: str, once: bool = False
) -> dict[str, np.ndarray]:
    """Domain -> [n] nats per token of its sequences."""
    options = (device, config.evaluation.batch_tokens, once, config.calibration.offload)
    return {domain: sequence_nlls(model, rows, *options) for domain, rows in held_out.items()}


RECIPE = RsqRecipe
