"""R2R's arithmetic on numbers worked out by hand; the router; tasks with steps."""

import math

import numpy as np
import pytest
import torch

from recipes.decoding.r2r.config import RouterConfig
from recipes.decoding.r2r.labels import Checker
from recipes.decoding.r2r.method import (
    DIVERGENT,
    IDENTICAL,
    NEUTRAL,
    additive_parameters,
    aleatoric,
    curve_weights,
    entropy,
    mixture_parameters,
    positive_weight,
    threshold_by_recall,
    threshold_by_usage,
    token_classes,
    usage_weights,
)
from recipes.decoding.r2r.router import Block, Features, Router, fit_router
from recipes.decoding.r2r.tasks import STYLES, addition_steps, draw_questions, final_answer, multiplication_steps


def test_identical_tokens_are_neither_neutral_nor_divergent() -> None:
    small, large = np.array([1, 2, 3, 4]), np.array([1, 9, 9, 4])
    classes = token_classes(small, large, np.array([True, True, False, False]))
    assert classes.tolist() == [IDENTICAL, DIVERGENT, NEUTRAL, IDENTICAL]
    assert ((classes != DIVERGENT) | (small != large)).all()


def test_the_weight_of_positives() -> None:
    labels = np.array([True] * 4 + [False] * 6)
    assert positive_weight(labels) == 1.5 and positive_weight(labels, 2.0) == 3.0
    with pytest.raises(ValueError, match="no token is positive"):
        positive_weight(np.zeros(3, bool))


def test_the_worked_threshold() -> None:
    scores = np.array([0.95, 0.9, 0.6, 0.55, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02])
    labels = np.array([1, 1, 0, 1, 0, 0, 0, 1, 0, 0], bool)
    threshold, share = threshold_by_recall(scores, labels, 0.75)
    assert threshold == pytest.approx(0.40596, abs=5e-6) and share == 0.4
    assert threshold_by_recall(scores, labels, 1.0)[1] == 0.8
    for bad, least in ((np.zeros(10, bool), 0.5), (scores == 0.02, 1.1)):
        with pytest.raises(ValueError, match="no t"):
            threshold_by_recall(scores, bad, least)


def test_a_threshold_by_usage_is_the_one_whose_texts_have_it() -> None:
    scores = np.linspace(0, 1, 1001)
    # Texts that are routed have half as many scores above a threshold as those that are not.
    threshold, usage = threshold_by_usage(scores, lambda threshold: (1 - threshold) / 2, 0.1)
    assert threshold == pytest.approx(0.8, abs=0.01) and usage == pytest.approx(0.1, abs=0.005)


def test_average_parameters_of_both_counts() -> None:
    assert mixture_parameters(1.5, 32, 0.13) == pytest.approx(5.465)
    assert additive_parameters(1.5, 0.0, 32, 0.13) == pytest.approx(5.66)
    assert additive_parameters(1.5, 0.056, 32, 0.13) == pytest.approx(5.716)


def test_entropies() -> None:
    assert entropy(torch.zeros(1, 8)).item() == pytest.approx(math.log(8))
    assert entropy(torch.tensor([[0.0, -1e9]])).item() == 0
    x = [3.0, 1.0]
    by_hand = -sum(v / 4 * float(torch.digamma(torch.tensor(v + 1)) - torch.digamma(torch.tensor(5.0))) for v in x)
    for more in ([], [-2.0]):  # what is negative is no evidence
        assert aleatoric(torch.tensor([[*x, *more]])).item() == pytest.approx(by_hand, abs=1e-6)
    # Of ten equal logits x: digamma(10 x + 1) - digamma(x + 1); with x = 1 the harmonic numbers H_10 - H_1.
    assert aleatoric(torch.ones(1, 15)).item() == pytest.approx(sum(1 / k for k in range(2, 11)))
    assert aleatoric(-torch.ones(1, 15)).item() == 0


def test_a_curve_is_read_at_exact_usages() -> None:
    usages = [0.0, 0.4, 0.1, 1.0]
    accuracy = np.array([0.2, 0.8, 0.6, 0.9])
    assert usage_weights(usages, 0.1) @ accuracy == pytest.approx(0.6)
    assert usage_weights(usages, 0.25) @ accuracy == pytest.approx(0.7)
    assert usage_weights(usages, 0.05) @ accuracy == pytest.approx(0.4)
    order = np.argsort(usages)
    assert curve_weights(usages) @ accuracy == pytest.approx(np.trapezoid(accuracy[order], np.array(usages)[order]))
    assert curve_weights([0.0, 0.0, 1.0]).sum() == pytest.approx(1)


def test_a_block_without_its_second_layer_is_the_identity() -> None:
    block, x = Block(8, 4, 0.1), torch.randn(3, 8)
    torch.nn.init.zeros_(block.leave.weight)
    torch.nn.init.zeros_(block.leave.bias)
    torch.testing.assert_close(block(x), x)


def test_the_papers_router_has_56_million_parameters() -> None:
    with torch.device("meta"):
        router = Router(torch.empty(10, 1536), 100, RouterConfig(width=1024, blocks=6))
    assert router.size == pytest.approx(56e6, rel=0.01)


def places(n: int = 400) -> tuple[torch.Tensor, Features]:
    torch.manual_seed(0)
    logits = torch.randn(n, 5).sort(-1, descending=True).values
    return torch.randn(7, 6), Features(torch.randn(n, 6), logits, torch.randint(7, (n,)))


@pytest.mark.parametrize("source", ["hidden", "logits", "token"])
def test_a_router_sees_what_it_is_given(source: str) -> None:
    embedding, features = places()
    signal = {
        "hidden": features.hidden[:, 0],
        "logits": features.logits[:, 0] - 1,
        "token": embedding[features.tokens, 0],
    }
    labels = (signal[source] > 0).numpy()
    texts = np.arange(400) // 4
    for inputs, is_seen in (((source,), True), (tuple({"hidden", "logits", "token"} - {source}), False)):
        config = RouterConfig(width=32, inputs=inputs, batch_size=64, epochs=20, top=5)
        router = fit_router(embedding, features, labels, texts, config, 0)
        right = ((router.probabilities(features) > 0.5).numpy() == labels).mean()
        assert (right > 0.9) == is_seen
    again = fit_router(embedding, features, labels, texts, config, 0)
    torch.testing.assert_close(again.probabilities(features), router.probabilities(features), atol=0, rtol=0)


def test_a_router_without_a_positive_learns_that() -> None:
    embedding, features = places(100)
    config = RouterConfig(width=16, batch_size=16, epochs=20, top=5)
    router = fit_router(embedding, features, np.zeros(100, bool), np.arange(100), config, 0)
    assert router.probabilities(features).mean() < 0.1


def test_steps_and_final_answers() -> None:
    assert addition_steps("0047", "0385") == ["12", "13", "04", "00", "432"]
    assert multiplication_steps("385", "4") == ["20", "34", "15", "1540"]
    assert final_answer("12;13,04;00,432") == "432" and final_answer("432") == "432"
    questions = draw_questions(("add", "multiply"), 3, 4, 300, 40, 40, 0)
    prompts = [one.prompt for part in (questions.train, questions.validation, questions.test) for one in part]
    assert len({*prompts}) == len(prompts) and any(style in one.answer for one in questions.test for style in STYLES)
    for one in questions.test:
        task, _, asked = one.prompt.rstrip("=").partition(" ")
        first, second = asked.replace("*", "+").split("+")
        whole = int(first) + int(second) if task == "add" else int(first) * int(second)
        assert final_answer(one.answer) == str(whole)


class Words:
    """A tokenizer whose ids are words."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(("12;13", "432", "is ", "Paris", "Rome")[i] for i in ids)


@pytest.mark.parametrize(
    ("kind", "ids", "right", "other", "outcome"),
    [
        ("steps", [0, 1], "9;432", [0], "432"),
        ("exact", [3, 2], "Paris  is", [3], "Paris is"),
        ("contains", [3, 2], "paris", [4], "True"),
    ],
)
def test_what_counts_of_an_answer(kind: str, ids: list[int], right: str, other: list[int], outcome: str) -> None:
    checker = Checker(Words(), kind)
    assert checker.outcome(ids, right) == outcome != checker.outcome(other, right)
    assert checker.is_right(ids, right) and not checker.is_right(other, right)
