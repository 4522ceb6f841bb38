"""The probe is the optimum of its objective, chosen on training texts alone, in whatever order they come."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax

from recipes.core.config.schema import build
from recipes.core.data.tasks.labelled import LabelledSet, LabelledText
from recipes.core.errors import UserError
from recipes.core.evaluation import probe as module
from recipes.core.evaluation.classification import add_test_scores
from recipes.core.evaluation.probe import choose_strength, fit_probe, probe
from recipes.core.evaluation.probe_config import ProbeConfig
from recipes.core.evaluation.scores import Scores


def blobs(n: int, classes: int = 3, noise: float = 0.3, width: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points around corners of a square; with `noise` 0.3 they are separable."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = np.eye(classes, width) * 5
    return centres[labels] + noise * random.standard_normal((n, width)), labels


def brute_force(x: np.ndarray, labels: np.ndarray, classes: int, strength: float) -> np.ndarray:
    """[k, d + 1] the optimum of C sum -log p + |W|^2 / 2; of two classes the first one's weights are 0."""
    free = classes if classes > 2 else 1

    def logits(flat: np.ndarray) -> np.ndarray:
        table = flat.reshape(free, -1)
        table = table if free == classes else np.concatenate([np.zeros_like(table), table])
        return x @ table[:, :-1].T + table[:, -1]

    def loss(flat: np.ndarray) -> float:
        picked = log_softmax(logits(flat), 1)[np.arange(len(labels)), labels]
        return float(-strength * picked.sum() + (flat.reshape(free, -1)[:, :-1] ** 2).sum() / 2)

    optimum = minimize(loss, np.zeros(free * (x.shape[1] + 1)), method="BFGS", options={"gtol": 1e-7}).x
    table = np.asarray(optimum).reshape(free, -1)
    return table if free == classes else np.concatenate([np.zeros_like(table), table])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("strength", [0.05, 2.0])
def test_the_fit_is_the_optimum(classes: int, strength: float) -> None:
    x, labels = blobs(60, classes, noise=3.0)
    fitted = fit_probe(x, labels, classes, strength)
    expected = brute_force((x - x.mean(0)) / x.std(0), labels, classes, strength)
    np.testing.assert_allclose(fitted.weights, expected[:, :-1], atol=1e-4)
    offsets = fitted.bias - fitted.bias.mean(), expected[:, -1] - expected[:, -1].mean()
    np.testing.assert_allclose(*offsets, atol=1e-4)
    np.testing.assert_allclose(np.exp(fitted.logprobs(x)).sum(1), 1)


def test_separable_blobs_are_told_apart() -> None:
    x, labels = blobs(90)
    fresh, right = blobs(300, seed=1)
    assert (fit_probe(x, labels, 3, 1.0).predict(fresh) == right).all()


def test_scale_and_constant_features_change_nothing() -> None:
    x, labels = blobs(60, noise=3.0)
    plain = fit_probe(x, labels, 3, 0.5).logprobs(x)
    scaled = np.concatenate([x * [1e-6, 1, 1e6, 3] + 7, np.full((60, 1), 0.1)], 1)
    np.testing.assert_allclose(fit_probe(scaled, labels, 3, 0.5).logprobs(scaled), plain, atol=1e-5)


def test_a_class_that_is_absent_is_improbable_and_a_single_one_certain() -> None:
    x, labels = blobs(20, classes=2)
    assert np.exp(fit_probe(x, labels, 3, 1.0).logprobs(x)[:, 2]).max() < 1e-9
    assert (fit_probe(x, np.ones(20, int), 2, 1.0).predict(x) == 1).all()


def names(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def test_noise_wants_the_strongest_penalty_and_signal_a_weaker_one() -> None:
    config, (x, labels) = ProbeConfig(), blobs(90)
    noise = np.random.default_rng(0).standard_normal((90, 20))
    assert choose_strength(noise, labels, names(90), 3, config, 0) == 0.001
    assert choose_strength(x, labels, names(90), 3, config, 0) == 10.0
    assert choose_strength(noise, labels, names(90), 3, replace(config, strengths=(3.0,)), 0) == 3.0


def test_folds_keep_documents_whole_and_have_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features name their document: a text is never predicted by a fit that saw its document."""
    documents = [str(i // 3) for i in range(36)]
    labels, x = np.arange(36) // 3 % 2, np.array([[float(name), 1.0] for name in documents])
    fits: list[set[float]] = []

    class Fake:
        def __init__(self, rows: np.ndarray, seen: np.ndarray) -> None:
            assert set(seen) == {0, 1}
            self.rows = set(rows[:, 0])

        def logprobs(self, rows: np.ndarray) -> np.ndarray:
            assert not self.rows & set(rows[:, 0]) and len(self.rows | set(rows[:, 0])) == 12
            fits.append(self.rows)
            return np.zeros((len(rows), 2))

    monkeypatch.setattr(module, "fit_probe", lambda rows, seen, classes, strength: Fake(rows, seen))
    assert choose_strength(x, labels, documents, 2, ProbeConfig(strengths=(1.0, 0.1)), 0) == 0.1  # ties: more penalty
    assert len(fits) == 10


def labelled(n: int, seed: int = 0) -> tuple[LabelledSet, torch.Tensor, torch.Tensor]:
    x, labels = blobs(n, noise=3.0, seed=seed)
    texts = [LabelledText(f"{i:03}", "text", "abc"[label], f"{i // 2}") for i, label in enumerate(labels)]
    held_out = n // 3
    data = LabelledSet("blobs", texts[held_out:], texts[:held_out])
    return data, torch.tensor(x[held_out:]).float(), torch.tensor(x[:held_out]).float()


def test_the_order_of_the_texts_changes_nothing() -> None:
    data, train, test = labelled(90)
    fitted, predictions = probe(data, train, test, ProbeConfig(), 0)
    order = np.random.default_rng(3).permutation(60)
    shuffled = LabelledSet("blobs", [data.train[i] for i in order], data.test)
    again, same = probe(shuffled, train[order], test, ProbeConfig(), 0)
    assert fitted.strength == again.strength and (predictions == same).all()
    np.testing.assert_allclose(fitted.weights, again.weights, atol=1e-5)


def test_a_class_of_one_training_text_can_be_cross_validated() -> None:
    data, train, test = labelled(90)
    lonely = [i for i, each in enumerate(data.train) if each.label != "c"] + [2]
    few = LabelledSet(
        "few", [replace(data.train[i], label="c") if i == 2 else data.train[i] for i in lonely], data.test
    )
    assert set(probe(few, train[lonely], test, ProbeConfig(), 0)[1]) <= {0, 1, 2}


def test_scores_have_a_row_a_text() -> None:
    data, train, test = labelled(90)
    _, predictions = probe(data, train, test, ProbeConfig(), 0)
    scores = Scores()
    add_test_scores(scores, data, predictions)
    assert scores.overall()["probe_accuracy"] == pytest.approx((predictions == data.numbers(data.test)).mean())
    assert list(scores.values("probe_macro_f1")) == [each.id for each in data.test]


def test_settings() -> None:
    assert build(ProbeConfig, {"strengths": []})[1] and build(ProbeConfig, {"folds": 1})[1]


def test_what_cannot_be_probed_is_refused() -> None:
    texts = [LabelledText(str(i), f"text {i}", "ab"[i % 2], f"document {i}") for i in range(4)]
    data, features = LabelledSet("tiny", texts[:2], texts[2:]), torch.randn(2, 3)
    with pytest.raises(UserError, match="2 training texts of 2 documents cannot be folded"):
        probe(data, features, features, ProbeConfig(), 0)
    assert probe(data, features, features, ProbeConfig(strengths=(1.0,)), 0)[1].shape == (2,)
    with pytest.raises(UserError, match="tiny: the features hold NaN"):
        probe(data, features, features * torch.nan, ProbeConfig(), 0)
