"""What `sample-reweighting` measures of language models: unweighted losses by domain, and what the weights do."""

from typing import Any

import numpy as np
import torch
from torch import nn

from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.evaluation.texts import sequence_nlls
from recipes.core.training.sequences import MixtureItems
from recipes.pretraining.sample_reweighting import method
from recipes.pretraining.sample_reweighting.config import SampleReweightingConfig

Curve = dict[int, Scores]
LOSS, WEIGHT = "probe/loss", "probe/weight"
DUPLICATE = "duplicate"
QUANTILES = {"10%": 0.1, "median": 0.5, "90%": 0.9, "largest": 1.0}


def add_probe(
    scores: Scores, config: SampleReweightingConfig, items: MixtureItems, model: nn.Module, device: str
) -> None:
    """Losses and weights of the first batches of the training stream, as the strategy would weigh them now.

    They count 0: they belong to no metric, and are kept for the pictures.
    """
    size = config.trainer.batch_size
    batches = [range(start, start + size) for start in range(0, config.evaluation.probe_batches * size, size)]
    for name in (LOSS, WEIGHT):
        scores.define(name, name, higher_is_better=False)
    for batch in batches:
        if batch.stop > len(items):
            return
        rows = [items[index] for index in batch]
        losses = sequence_nlls(model, np.stack([row["tokens"] for row in rows]), device)
        reweight = config.reweight
        weights = method.sample_weights(torch.from_numpy(losses), reweight.strategy, reweight.alpha, reweight.r) * size
        for index, row, loss, weight in zip(batch, rows, losses, weights.tolist(), strict=True):
            group = items.mixture.domains[row["domain"]]
            example = f"{index} {DUPLICATE if row['duplicate'] else 'unique'}"
            scores.add(LOSS, example, group, loss, 0)
            scores.add(WEIGHT, example, group, weight, 0)


def plots(curve: Curve) -> list[Plot]:
    """Weights over training, loss against weight, weight by domain and by duplicate, domains over time."""
    steps = sorted(curve)
    probes = {step: _probe(curve[step]) for step in steps}
    weight_plots = []
    if steps and probes[steps[-1]]:
        weight_plots = [
            _distribution(probes),
            _loss_against_weight(probes),
            _by(probes, "domain"),
            _by(probes, DUPLICATE),
        ]
    names = sorted({row[0] for step in steps for row in curve[step].rows if row[0].startswith("log_ppl/")})
    overall = {step: curve[step].overall() for step in steps}
    series = {name.removeprefix("log_ppl/"): [(step, overall[step][name]) for step in steps] for name in names}
    domains = Plot("domains", "Log-perplexity of each domain", "step", "nats per token", series)
    return [*weight_plots, domains] if series else weight_plots


Probe = list[tuple[str, str, float, float]]  # (domain, "duplicate" or "unique", loss, weight)


def _probe(scores: Scores) -> Probe:
    losses = {row[1]: row for row in scores.rows if row[0] == LOSS}
    weights = {row[1]: row[3] for row in scores.rows if row[0] == WEIGHT}
    return [(row[2], example.split(" ")[1], row[3], weights[example]) for example, row in losses.items()]


def _distribution(probes: dict[int, Probe]) -> Plot:
    weights = {step: np.array([row[3] for row in probe]) for step, probe in probes.items()}
    series = {
        label: [(step, float(np.quantile(values, share))) for step, values in weights.items()]
        for label, share in QUANTILES.items()
    }
    return Plot("weights", "Weights of training sequences over training", "step", "weight (1 is uniform)", series)


def _loss_against_weight(probes: dict[int, Probe]) -> Plot:
    steps = list(probes)
    chosen = dict.fromkeys([steps[0], steps[len(steps) // 2], steps[-1]])
    series = {f"step {step:,}": [(loss, weight) for _, _, loss, weight in probes[step]] for step in chosen}
    title = "Weight against loss of the same training sequences"
    return Plot("loss-weight", title, "loss (nats per token)", "weight (1 is uniform)", series, "scatter")


def _by(probes: dict[int, Probe], kind: str) -> Plot:
    """Mean weight over training of each domain, or of duplicates and the rest."""
    column = 0 if kind == "domain" else 1
    names = sorted({row[column] for probe in probes.values() for row in probe})
    series: dict[str, Any] = {
        str(name): [
            (step, float(np.mean([row[3] for row in probe if row[column] == name])))
            for step, probe in probes.items()
            if any(row[column] == name for row in probe)
        ]
        for name in names
    }
    title = f"Mean weight of each {kind}" if column == 0 else "Mean weight of duplicates and of sequences seen once"
    return Plot(f"weight-{kind}", title, "step", "weight (1 is uniform)", series)
