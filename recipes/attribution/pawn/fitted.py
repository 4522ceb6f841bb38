"""Detectors without a network: one number of the tokens' statistics, and logistic regressions."""

from collections.abc import Sequence

import numpy as np

from recipes.attribution.pawn.config import FITTED, PawnConfig
from recipes.attribution.pawn.method import rank_buckets, summary, zero_shot
from recipes.attribution.pawn.training import Readings
from recipes.core.evaluation.probe import choose_strength, fit_probe
from recipes.core.evaluation.probe_config import ProbeConfig
from recipes.core.models.sentences import load_sentence_encoder
from recipes.core.scoring.vectors import sentence_vectors


def detector_scores(config: PawnConfig, readings: Readings, numbers: Sequence[int], device: str) -> np.ndarray:
    """float64 [texts] what a detector that trains no network says of texts, larger for machines.

    Args:
        config: Of the run.
        readings: Of all texts.
        numbers: Which texts.
        device: Where a sentence encoder computes.
    """
    name, statistics = config.detector.name, readings.statistics
    if name not in FITTED:
        return np.array([zero_shot(name, statistics.columns(number)) for number in numbers])
    samples, train = readings.texts.samples, [int(number) for number in readings.texts.train]
    known, asked = (_features(config, readings, part, device) for part in (train, numbers))
    machine = np.array([samples[number].machine for number in train], np.int64)
    documents = [samples[number].document for number in train]
    strength = choose_strength(known, machine, documents, 2, ProbeConfig(), config.seed)
    logprobs = fit_probe(known, machine, 2, strength).logprobs(asked)
    return np.asarray(logprobs[:, 1] - logprobs[:, 0])


def _features(config: PawnConfig, readings: Readings, numbers: Sequence[int], device: str) -> np.ndarray:
    """float64 [texts, d] what a logistic regression reads."""
    if config.detector.name == "linear":
        return np.stack([summary(readings.metrics(number)) for number in numbers])
    if config.detector.name == "length":
        return np.log([[len(readings.texts.rows[number])] for number in numbers])
    if config.detector.name == "gltr":
        return np.stack([rank_buckets(readings.statistics.columns(number)["rank"]) for number in numbers])
    encoder = load_sentence_encoder(config.encoder.path, "encoder.path", device)
    texts = [readings.texts.samples[number].text for number in numbers]
    return sentence_vectors(encoder, texts).astype(np.float64)
