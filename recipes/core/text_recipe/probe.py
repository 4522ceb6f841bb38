"""The weights of the first batches of the training stream, under the model as it is: for metrics and the heatmap."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recipes.core.data.text.text_ids import texts_of
from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.scores import Scores
from recipes.core.models.dropout import evaluation
from recipes.core.text_recipe.items import PLANTED, REFERENCE, Items, text_collate
from recipes.core.text_recipe.objective import TokenStatistics, WeightedText, live_statistics


@dataclass(frozen=True)
class Probe:
    """Batches behind each other, on the CPU.

    Attributes:
        statistics: What is known of each token, [sequences, time].
        batch: Tensors of the batches by name.
        weights: [sequences, time], of mean 1 in each batch; zero where nothing is predicted.
        planted: [sequences, time] bool: predicted tokens that are noise.
        ids: [sequences] names of the sequences.
    """

    statistics: TokenStatistics
    batch: Mapping[str, Tensor]
    weights: Tensor
    planted: Tensor
    ids: list[str]


def probe_stream(
    objective: WeightedText, model: nn.Module, stream: Items, batches: int, size: int, device: str
) -> Probe:
    """Weigh the first sequences of a stream, batch by batch; the model's mode is left as it was.

    Args:
        objective: What weighs.
        model: A `TextModel`.
        stream: The training stream.
        batches: How many, or as many as there are.
        size: Sequences of a batch.
        device: Where to compute.
    """
    ids: list[str] = []
    batches_read: list[dict[str, Tensor]] = []
    statistics: list[TokenStatistics] = []
    with evaluation(model):
        for start in range(0, min(batches * size, len(stream)), size):
            batch = text_collate([stream[index] for index in range(start, min(start + size, len(stream)))])
            ids += batch.pop("ids")
            batches_read.append({name: value.to(device) for name, value in batch.items()})
            statistics.append(live_statistics(model, batches_read[-1], objective.ask))
    weights = [objective.alone(*pair) for pair in zip(statistics, batches_read, strict=True)]
    whole = {name: _join([batch[name] for batch in batches_read]) for name in batches_read[0]}
    nll, mask = (_join([getattr(part, name) for part in statistics]) for name in ("nll", "mask"))
    columns = {name: _join([part.columns[name] for part in statistics]) for name in statistics[0].columns}
    known = TokenStatistics(nll, mask, whole.get(REFERENCE), columns)
    return Probe(known, whole, _join(weights), whole[PLANTED] & mask, ids)


def noise_metrics(scores: Scores, probe: Probe) -> dict[str, float]:
    """Mean weight of the planted tokens, and the share of them that has any weight; nothing if none is planted."""
    weights = probe.weights[probe.planted]
    if not len(weights):
        return {}
    scores.define("weight/noise", "mean weight of noise tokens (1 is uniform)", higher_is_better=False)
    scores.define("kept/noise", "share of noise tokens that carry loss", higher_is_better=False)
    return {"weight/noise": float(weights.mean()), "kept/noise": float((weights > 0).float().mean())}


def heatmap(probe: Probe, tokenizer: Any, count: int) -> dict[str, Any] | None:
    """Content of `heatmap.json`: the first sequences with the weight, kind and loss of each predicted token."""
    examples = []
    for row in range(min(count, len(probe.ids))):
        mask = probe.statistics.mask[row]
        texts = texts_of(probe.batch["labels"][row][mask].tolist(), tokenizer)
        kinds = ["noise" if planted else None for planted in probe.planted[row][mask].tolist()]
        values = (probe.weights[row][mask].numpy(), probe.statistics.nll[row][mask].numpy())
        examples.append(heatmap_example(probe.ids[row], texts, *values, kinds))
    return {"examples": examples} if examples else None


def _join(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.cpu() for part in parts])
