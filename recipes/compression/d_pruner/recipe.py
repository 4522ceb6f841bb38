"""D-Pruner as an experiment: one model with shares of its weights set to zero, and two texts that it then predicts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from recipes.compression.calibration import warn_of_few_tokens
from recipes.compression.compressed import compressed_writer
from recipes.compression.d_pruner.config import BY_OBS, DENSE, MASK_ONLY, OPEN, SPARSEGPT, DPrunerConfig
from recipes.compression.d_pruner.pruning import Pruner
from recipes.compression.d_pruner.results import (
    EXAMPLES,
    Read,
    add_scores,
    heatmap,
    perplexity_plot,
    write_examples,
)
from recipes.compression.d_pruner.texts import Sequences, load_model, load_sequences
from recipes.compression.linears import linears_of, zeros_of
from recipes.compression.perplexity import token_nlls
from recipes.core.evaluation.scores import Scores
from recipes.core.models.vision_language import TextModel
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.training.toys.frozen import model_where


@dataclass(frozen=True)
class Prepared:
    """What is pruned and what it is measured on.

    Attributes:
        model: The dense model, frozen.
        tokenizer: Its tokenizer.
        sequences: Of both texts.
        dense: float32 [sequences, tokens - 1] nats of the held-out ones under the dense model, by text.
        where: Key and value that named the model.
        device: Where to compute.
    """

    model: TextModel
    tokenizer: Any
    sequences: Sequences
    dense: Read
    where: str
    device: str


class DPrunerRecipe(Untrained):
    """A model that loses weights."""

    def prepare(self, config: DPrunerConfig, device: str) -> Prepared:
        """Model, sequences, and what the dense model says of them. Raises UserError."""
        model, tokenizer = load_model(config, config.calibration.rest(device))
        where = model_where(config.model)
        widest = max(linears_of(model.language_model, where), key=lambda linear: linear.weight.shape[1])
        sequences = load_sequences(config, tokenizer)
        if config.prune.method in (*BY_OBS, SPARSEGPT, MASK_ONLY):
            text = OPEN if config.prune.method in BY_OBS else config.calibration.text
            warn_of_few_tokens(sequences.mixed(text).numel(), widest.weight.shape[1], widest.name)
        dense = _read(config, model, sequences, device, once=True)
        return Prepared(model, tokenizer, sequences, dense, where, device)

    def evaluate(
        self, config: DPrunerConfig, prepared: Prepared, model: object, curve: dict[int, Scores]
    ) -> Evaluation:
        """Prune to each share, and read the held-out sequences again."""
        pruner = Pruner(config, prepared.model, prepared.sequences, prepared.where, prepared.device)
        reads = {0.0: prepared.dense}
        for share in pruner.shares():
            reads[share] = _read(config, prepared.model, prepared.sequences, prepared.device)
        return _evaluation(config, prepared, reads, pruner.alike)


def _read(config: DPrunerConfig, model: TextModel, sequences: Sequences, device: str, once: bool = False) -> Read:
    options = (device, config.evaluation.batch_tokens, once, config.calibration.offload)
    return {text: token_nlls(model, rows, *options) for text, rows in sequences.held_out.items()}


def _evaluation(
    config: DPrunerConfig, prepared: Prepared, reads: dict[float, Read], alike: dict[str, float]
) -> Evaluation:
    options, scores = config.prune, Scores()
    left = reads[0.0 if options.method == DENSE else options.sparsity]
    metrics = add_scores(scores, left)
    for share in options.others if options.method != DENSE else ():
        metrics |= add_scores(scores, reads[share], f"at_{share:g}/")
    zeros, weights = zeros_of(prepared.model.language_model, prepared.where)
    scores.define("sparsity", "share of zeros in the linear layers of the blocks", True)
    metrics["sparsity"] = zeros / weights
    for name, value in alike.items():
        scores.define(f"mask/{name}", f"zeros shared with the score {name} (Jaccard)", True)
        metrics[f"mask/{name}"] = value
    files: dict[str, Callable[[Path], None]] = {
        EXAMPLES: partial(write_examples, prepared.sequences.held_out, prepared.dense, left, prepared.tokenizer)
    }
    write = None
    if config.save_model and options.method != DENSE:
        stated = {"recipe": config.recipe, "method": options.method, "sparsity": options.sparsity, "seed": config.seed}
        write = compressed_writer(prepared.model.language_model, prepared.tokenizer, prepared.where, stated)
    shown = heatmap(prepared.sequences.held_out, prepared.dense, left, prepared.tokenizer, config.evaluation.shown)
    plots = [perplexity_plot(reads)] if len(reads) > 1 else []
    return Evaluation(metrics, scores, shown, plots, files=files, model=write)


RECIPE = DPrunerRecipe
