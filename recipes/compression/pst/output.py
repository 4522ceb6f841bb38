"""What a run leaves: predictions, layers, plots, and the model with zeros as `transformers` loads it alone."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from recipes.compression.compressed import compressed_writer
from recipes.compression.pst.config import ACCURACY, NONE, OVERLAP, ZEROS, PSTConfig
from recipes.core.data.tasks.labelled import LabelledSet
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.models.head import decoder
from recipes.core.models.sentences import POOLING
from recipes.core.storage.files import write_json, write_text
from recipes.core.storage.places import CLASSES, HEAD
from recipes.core.training.toys.frozen import model_where

PREDICTIONS, LAYERS = "predictions.jsonl", "layers.jsonl"
POOLING_MODES = {
    "mean": "pooling_mode_mean_tokens",
    "first": "pooling_mode_cls_token",
    "last": "pooling_mode_lasttoken",
}


def write_predictions(path: Path, data: LabelledSet, logits: Tensor) -> None:
    """One line a test text: id, text, class, predicted class and its probability."""
    best = logits.softmax(1).max(1)
    lines = [
        {
            "id": each.id,
            "text": each.text,
            "label": each.label,
            "predicted": data.classes[at],
            "probability": round(p, 4),
        }
        for each, p, at in zip(data.test, best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    _write_lines(path, lines)


def write_layers(path: Path, layers: list[dict[str, Any]]) -> None:
    """One line a layer: its weights, how many of them are zero, overlap with magnitude's mask."""
    _write_lines(path, layers)


def model_writer(config: PSTConfig, model: Any, dense: Any, tokenizer: Any, classes: Any) -> Callable[[Path], None]:
    """What writes the pretrained model with the pruned weights in place of its own, and the head beside it.

    Args:
        config: Of the run.
        model: The pretrained model: an encoder, or a `TextModel`.
        dense: The classifier with plain weights.
        tokenizer: Of the model.
        classes: Names of the classes, in the order of the head's rows.
    """
    whole = dense.body
    if (language_model := getattr(model, "language_model", None)) is not None:
        whole = copy.deepcopy(language_model)
        decoder(whole).load_state_dict(dense.body.state_dict())
    pruning = config.pruning
    sparsity = 0.0 if pruning.score == NONE else pruning.sparsity
    done = {"method": "pst", "arm": config.variant, "score": pruning.score, "sparsity": sparsity}
    write_whole = compressed_writer(whole, tokenizer, model_where(config.model), done)

    def write(folder: Path) -> None:
        write_whole(folder)
        head = {name: part.detach().cpu().contiguous() for name, part in dense.head.state_dict().items()}
        save_file(head, folder / HEAD, metadata={"format": "pt"})
        write_json(folder / CLASSES, {"classes": list(classes), "pooling": dense.pooling})
        (folder / POOLING.parent).mkdir(exist_ok=True)
        modes = {mode: name == dense.pooling for name, mode in POOLING_MODES.items()}
        write_json(folder / POOLING, {"word_embedding_dimension": dense.head.in_features, **modes})

    return write


def plots(layers: list[dict[str, Any]], curve: dict[int, Scores]) -> list[Plot]:
    """How far the mask is from magnitude's, layer by layer; accuracy and zeros over the steps."""
    by_layer = [(float(number), row[OVERLAP]) for number, row in enumerate(layers)]
    overall = {step: scores.overall() for step, scores in sorted(curve.items())}
    names = {"accuracy on validation texts": ACCURACY, "zeros": ZEROS, "overlap with magnitude's mask": OVERLAP}
    over_steps = {
        title: [(float(step), values[f"watch/{name}"]) for step, values in overall.items()]
        for title, name in names.items()
    }
    return [
        Plot("overlap", "Kept weights that magnitude keeps too, layer by layer", "layer", "Jaccard index",
             {"this run": by_layer}),
        Plot("pruning", "While sparsity grows", "step", "share", over_steps),
    ]  # fmt: skip


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
