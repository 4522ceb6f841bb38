"""EDU plans: the worked numbers of the paper's formulas, and searches against all plans there are."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from recipes.core.models.vision_language import TextModel
from recipes.retrieval.edu_rerank.config import PlannerConfig, PlansConfig, RerankerConfig, WriterConfig
from recipes.retrieval.edu_rerank.documents import Document, read_docstring
from recipes.retrieval.edu_rerank.measures import implied_plans, rouge, self_bleu
from recipes.retrieval.edu_rerank.method import (
    MASKED,
    length_normalised,
    margin_loss,
    mask_scores,
    plan_nll,
    salience_kl,
    smoothed_nll,
    smoothed_unlikelihood,
)
from recipes.retrieval.edu_rerank.oracles import gain, gain_selection, grams_of, oracle_plan, overlap, union
from recipes.retrieval.edu_rerank.planner import Planner
from recipes.retrieval.edu_rerank.reranker import Scorer, fit_scorer
from recipes.retrieval.edu_rerank.search import Limits, beam_search, diverse_beams, random_plans, sample_plans
from recipes.retrieval.edu_rerank.training import Lesson, Row, Summariser, SummaryObjective, collate
from recipes.retrieval.edu_rerank.units import divide, divide_text, split_sentence
from recipes.retrieval.edu_rerank.writing import Prompts, with_rows, write_texts
from tests.core import tokenizer_kinds
from tests.retrieval.conftest import random_model

EDUS = ["The storm hit the coast", "residents said on Monday", "thousands lost power", "schools were closed for a week"]
REFERENCE = "Storm hit coast and thousands lost power"
LIMITS = Limits(1, 20)


def test_the_worked_oracle() -> None:
    units, reference = [grams_of(text) for text in EDUS], grams_of(REFERENCE)
    assert [gain(unit, reference) for unit in units] == pytest.approx([0.745455, 0, 1.1, 0], abs=1e-6)
    assert gain(units[2] | units[0], reference) == pytest.approx(1.357143, abs=1e-6)
    third = [gain(union([units[0], units[2], units[number]]), reference) for number in (1, 3)]
    assert max(third) == pytest.approx(1.066667, abs=1e-6)
    assert gain_selection(units, reference) == [0, 2]
    assert gain_selection(units, units[3]) == [3]
    assert gain_selection(units, grams_of("nothing alike")) == [] and gain_selection([], reference) == []


def test_a_plan_has_twenty_units_at_most_and_each_gains() -> None:
    units = [grams_of(f"word{number}") for number in range(30)]
    plan = gain_selection(units, union(units))
    assert plan == list(range(20))
    gains = [gain(union(units[number] for number in plan[:size]), union(units)) for size in range(1, 21)]
    assert gains == sorted(gains) and len(set(gains)) == 20


def test_the_oracle_keeps_the_better_of_two_plans_and_never_none() -> None:
    units = [grams_of(text) for text in EDUS]
    plan, salience = oracle_plan(units, [grams_of("Storm hit coast"), grams_of("thousands lost power")])
    assert plan == [0, 2] and salience[2] == pytest.approx(1, abs=1e-6) and salience[1] == 0
    assert oracle_plan(units, [grams_of("nothing alike")])[0] == [0]


def test_adherence() -> None:
    units = [grams_of(text) for text in ("one two", "three four", "five six")]
    [implied] = implied_plans(units, ["one two five six"])
    assert implied == (0, 2) and overlap((0, 2), implied) == (1, 1, 1)
    assert overlap((0, 1), (1, 2, 3)) == pytest.approx((1 / 3, 1 / 2, 2 / 5)) and overlap((), ()) == (0, 0, 0)


def test_the_worked_losses() -> None:
    logits, target = torch.tensor([[2.0, 0.0, 1.0, -1.0]]), torch.tensor([0])
    assert smoothed_nll(logits, target, 0.1).item() == pytest.approx(0.590190, abs=1e-6)
    assert smoothed_unlikelihood(logits, target, 0.0).item() == pytest.approx(1.032584, abs=1e-6)
    assert smoothed_unlikelihood(logits, target, 0.1).item() == pytest.approx(0.964992, abs=1e-6)
    unlikely = torch.tensor([[-40.0, 0.0, 0.0, 0.0]])
    assert smoothed_unlikelihood(unlikely, target, 0.0).item() == pytest.approx(0, abs=1e-12)
    certain = torch.tensor([[200.0, 0.0, 0.0, 0.0]])
    assert smoothed_unlikelihood(certain, target, 0.0).item() == pytest.approx(-math.log(1e-20), rel=1e-6)


def test_the_worked_margin() -> None:
    def loss(*scores: float) -> float:
        rows = torch.tensor([[*scores, 9.0]], dtype=torch.float64)
        return margin_loss(rows, torch.tensor([[True] * len(scores) + [False]])).item()

    assert loss(-1.20, -1.10, -1.25) == pytest.approx(0.101) and loss(1, 1, 1) == pytest.approx(0.004)
    assert loss(-1.0, -1.1, -1.2) == 0 and loss(0.0025, 0.0012, 0) == 0 and loss(0.0025, 0.0018, 0) > 0
    assert length_normalised(-1.8, 3, 2.0) == pytest.approx(-0.2)
    assert length_normalised(-1.8, 3, 0.6) == pytest.approx(-0.931107, abs=1e-6)
    assert length_normalised(0.0, 0, 2.0) == -math.inf


def test_gradients() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 2, 4])
    scores, there = torch.randn(2, 4, dtype=torch.float64, requires_grad=True), torch.ones(2, 4, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda x: margin_loss(x, there, 0.1), scores)
    salience = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    soft, is_unit = torch.rand(2, 4, dtype=torch.float64), torch.tensor([[True] * 4, [True, True, False, False]])
    assert torch.autograd.gradcheck(lambda x: salience_kl(x, soft, is_unit), salience)
    for loss in (smoothed_nll, smoothed_unlikelihood):  # logits are read in float32
        numeric = torch.zeros_like(logits)
        for place in np.ndindex(3, 5):
            step = torch.zeros_like(logits)
            step[place] = 1e-2
            numeric[place] = (loss(logits + step, targets) - loss(logits - step, targets)).sum() / 2e-2
        [grad] = torch.autograd.grad(loss(logits, targets).sum(), logits)
        assert torch.allclose(grad, numeric, atol=2e-3)


def test_masks_and_plan_losses() -> None:
    scores = mask_scores(torch.zeros(1, 2, 5), torch.tensor([[-1, 1]]), torch.tensor([3]))
    assert scores[0].tolist() == [[0, 0, 0, MASKED, 0], [MASKED, MASKED, 0, MASKED, 0]]
    nll = plan_nll(scores, torch.tensor([[1, 4]]), torch.tensor([[True, True]]))
    assert nll.item() == pytest.approx((math.log(4) + math.log(2)) / 2)
    alone = plan_nll(scores, torch.tensor([[1, 4]]), torch.tensor([[True, False]]))
    assert alone.item() == pytest.approx(math.log(4))
    labels = torch.tensor([[0.1, 0.3, 9.0]])
    is_unit = torch.tensor([[True, True, False]])
    assert salience_kl(10 * labels, labels, is_unit).item() == pytest.approx(0, abs=1e-6)
    p = 1 / (1 + math.exp(2))
    assert salience_kl(torch.zeros(1, 3), labels, is_unit).item() == pytest.approx(
        p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)), abs=1e-6
    )


class Table:
    """Log-probabilities of what follows that depend on the last unit and on how many were taken."""

    def __init__(self, units: int, seed: int) -> None:
        self.units = units
        self.logits = torch.randn(units + 1, units + 1, units + 1, generator=torch.Generator().manual_seed(seed))

    def __call__(self, plans: Tensor) -> Tensor:
        steps = plans.shape[1]
        previous = plans[:, -1:] if steps else torch.full((len(plans), 1), -1)
        raw = self.logits[previous[:, 0], min(steps, self.units)]
        return log_softmax(mask_scores(raw[:, None], previous, torch.full((len(plans),), self.units))[:, 0], -1)

    def log_prob(self, plan: tuple[int, ...]) -> float:
        whole = [*plan, self.units]
        return sum(float(self(torch.tensor([plan[:step]], dtype=torch.long).reshape(1, step))[0, unit])
                   for step, unit in enumerate(whole))  # fmt: skip

    def every(self, shortest: int = 1) -> list[tuple[int, ...]]:
        return [plan for size in range(shortest, self.units + 1) for plan in combinations(range(self.units), size)]


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_wide_beams_find_every_plan_in_order(alpha: float) -> None:
    table = Table(5, 3)
    plans = beam_search(table, 64, LIMITS, alpha)
    assert {plan.units for plan in plans} == set(table.every())
    for plan in plans:
        assert plan.log_prob == pytest.approx(table.log_prob(plan.units), abs=1e-5)
    best = max(table.every(), key=lambda plan: table.log_prob(plan) / (len(plan) + 1) ** alpha)
    assert plans[0].units == best


@pytest.mark.parametrize("seed", range(5))
def test_one_beam_is_greedy(seed: int) -> None:
    table, plan = Table(6, seed), list[int]()
    while True:
        scores = table(torch.tensor([plan], dtype=torch.long).reshape(1, len(plan)))[0]
        if not plan:
            scores[-1] = -math.inf
        unit = int(scores.argmax())
        if unit == 6:
            break
        plan.append(unit)
    [greedy] = beam_search(table, 1, LIMITS, 1.0)
    assert greedy.units == tuple(plan)
    assert diverse_beams(table, 1, LIMITS, 1.0)[0].units == tuple(plan)


def test_sixteen_beams_are_sixteen_plans_of_rising_units() -> None:
    plans = beam_search(Table(8, 0), 16, Limits(3, 5), 1.0)
    assert len(plans) == len({plan.units for plan in plans}) == 16
    assert all(list(plan.units) == sorted(set(plan.units)) and 3 <= len(plan.units) <= 5 for plan in plans)
    assert [plan.units for plan in beam_search(Table(2, 0), 16, Limits(3, 20), 1.0)] == [(0, 1)]
    drawn = sample_plans(Table(4, 0), 50, Limits(3, 20), 1.0, np.random.default_rng(0))
    assert {plan.units for plan in drawn} <= {*combinations(range(4), 3), (0, 1, 2, 3)}


def test_samples_follow_the_generator() -> None:
    table, count = Table(3, 1), 4000
    plans = sample_plans(table, count, LIMITS, 1.0, np.random.default_rng(0))
    every = table.every()
    chance = np.array([math.exp(table.log_prob(plan)) for plan in every])
    share = np.array([sum(drawn.units == plan for drawn in plans) / count for plan in every])
    assert np.abs(share - chance / chance.sum()).max() < 0.05
    likeliest = sample_plans(table, 5, LIMITS, 1e-9, np.random.default_rng(0))
    assert {plan.units for plan in likeliest} == {beam_search(table, 1, LIMITS, 1.0)[0].units}


def test_diverse_beams_and_random_plans_differ() -> None:
    assert len({plan.units for plan in diverse_beams(Table(6, 0), 6, LIMITS, 100.0)}) > 3
    plans = random_plans(6, np.array([2]), 15, np.random.default_rng(0))
    assert {plan.units for plan in plans} == set(combinations(range(6), 2))
    assert len(random_plans(1, np.array([3]), 16, np.random.default_rng(0))) == 1


def lessons(sizes: tuple[int, ...] = (3, 5, 2), rows: bool = False) -> list[Lesson]:
    rng = np.random.default_rng(0)
    return [
        Lesson(str(number), rng.standard_normal((size, 8)).astype(np.float32), rng.random(size).astype(np.float32),
               tuple(range(size - 1)), (Row((1, 2, number), (3, 4), 1.0, False),) if rows else ())
        for number, size in enumerate(sizes)
    ]  # fmt: skip


def planner() -> Planner:
    torch.manual_seed(0)
    return Planner(8, 6, PlannerConfig(width=8, heads=2, layers=1, dropout=0.0)).eval()


def test_the_loss_of_a_batch_is_that_of_its_micro_batches() -> None:
    model, objective, every = Summariser(planner(), None), SummaryObjective(0.5, 0.1), lessons()
    whole = collate(every)
    loss, _ = objective(model, whole, objective.normalizer(whole))
    parts = [objective(model, collate([one]), objective.normalizer(whole))[0] for one in every]
    assert loss.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-5)


def test_the_generator_sees_no_padding_and_nothing_behind() -> None:
    model, every = planner(), lessons()
    batch = collate(every)
    scores, salience = model(batch["vectors"], batch["lengths"], batch["plans"])
    alone = collate(every[:1])
    scores, salience = scores.detach(), salience.detach()
    single, single_salience = model(alone["vectors"], alone["lengths"], alone["plans"])
    assert torch.allclose(scores[0, :3, [0, 1, 2, 5]], single[0], atol=1e-5)
    assert torch.allclose(salience[0, :3], single_salience[0], atol=1e-5)
    other = alone["plans"].clone()
    other[0, 1] = 2
    assert torch.allclose(model(alone["vectors"], alone["lengths"], other)[0][0, :2], single[0, :2], atol=1e-6)


def written_lessons(config: WriterConfig) -> tuple[Any, list[Document], list[Lesson]]:
    """A random model, and lessons with what it learns from."""
    tokenizer = tokenizer_kinds.byte_level(False, False)
    texts = (["one two.", "three four.", "five six."], ["seven.", "eight nine."], ["ten."])
    documents = [Document(str(number), divide(text), f"sum {number}", 3) for number, text in enumerate(texts)]
    plain = [Lesson(one.id, np.ones((len(one.units.edus), 8), np.float32), np.ones(len(one.units.edus)), (0,))
             for one in documents]  # fmt: skip
    prompts = Prompts(tokenizer, config)
    return TextModel(random_model("llama", len(tokenizer))), documents, with_rows(config, prompts, documents, plain, 0)


def test_prompts_differ_in_tags_alone() -> None:
    tokenizer = tokenizer_kinds.byte_level(False, False)
    _, _, every = written_lessons(WriterConfig())
    followed, drawn, plain = (tokenizer.decode(row.prompt) for row in every[0].rows)
    assert " <e> one two. </e> three four. five six.\nSummary:" in followed
    assert plain == followed.replace(" <e>", "").replace(" </e>", "") == drawn.replace(" <e>", "").replace(" </e>", "")
    assert drawn.count("<e>") == 1 and " <e> one" not in drawn
    assert [[row.unlikely for row in lesson.rows] for lesson in every] == [[False, True, False]] * 2 + [[False, False]]
    assert all(tokenizer.decode(row.target[:-1]) == " sum 0" for row in every[0].rows)


def test_the_writers_loss_is_that_of_its_micro_batches_and_of_torch() -> None:
    model, _, every = written_lessons(WriterConfig())
    objective, summariser = SummaryObjective(1.0, 0.1), Summariser(None, model)
    whole = collate(every)
    loss, metrics = objective(summariser, whole, objective.normalizer(whole))
    parts = [objective(summariser, collate([one]), objective.normalizer(whole))[0] for one in every]
    assert loss.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-5)
    assert metrics["writer_unlikelihood"][1] == 2 and metrics["writer_nll"][1] == 6
    rows = written_lessons(WriterConfig(loss="mle_only"))[2]  # no unlikelihood, no tags: label-smoothed MLE
    batch = collate(rows)
    plain, _ = objective(summariser, batch, objective.normalizer(batch))
    expected = []
    for row in (lesson.rows[0] for lesson in rows):
        logits = model.language_model(torch.tensor([[*row.prompt, *row.target]])).logits[0, len(row.prompt) - 1 : -1]
        expected.append(torch.nn.functional.cross_entropy(logits, torch.tensor(row.target), label_smoothing=0.1).item())
    assert plain.item() == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize(("search", "count"), [("nucleus", 1), ("nucleus", 3), ("beam", 3)])
def test_texts_do_not_depend_on_what_is_written_with_them(search: str, count: int) -> None:
    tokenizer = tokenizer_kinds.byte_level(False, False)
    model = TextModel(random_model("llama", len(tokenizer)))
    asked = [(tuple(tokenizer(text)["input_ids"]), count) for text in ("one two", "three", "four five six")]
    texts = [
        write_texts(WriterConfig(search=search, summary_tokens=5, batch_size=size), PlansConfig(), model, tokenizer,
                    asked, 7)
        for size in (1, 16)
    ]  # fmt: skip
    assert [text for text, *_ in texts[0]] == [text for text, *_ in texts[1]] and len(texts[0]) == 3 * count
    for (text, log_prob, steps), other in zip(texts[0], texts[1], strict=True):
        assert (log_prob, steps) == (pytest.approx(other[1], abs=1e-4), other[2]) and (steps > 0 or not text)
    assert len({text for text, *_ in texts[0]}) > 1


@pytest.mark.parametrize(("width", "layers"), [(16, 1), (32, 2)])
def test_the_config_counts_the_generators_weights(width: int, layers: int) -> None:
    config = PlannerConfig(width=width, heads=2, layers=layers)
    assert config.parameters(20) == sum(weights.numel() for weights in Planner(384, 20, config).parameters())


def test_a_scorer_learns_what_is_better() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((6, 4)).astype(np.float32) for _ in range(20)]
    scorer = fit_scorer(rows, [part[:, 2] for part in rows], RerankerConfig(steps=300, learning_rate=0.05), 0)
    assert isinstance(scorer, Scorer)
    fresh = rng.standard_normal((200, 4)).astype(np.float32)
    assert np.corrcoef(scorer(torch.from_numpy(fresh)).numpy(), fresh[:, 2])[0, 1] > 0.9
    assert fit_scorer([rows[0][:1]], [np.ones(1)], RerankerConfig(), 0) is None


def test_what_was_constant_in_training_moves_a_scorer_by_no_more_than_its_change() -> None:
    rows = torch.tensor([[1.0, 5.0], [2.0, 5.0]])
    scorer = Scorer(rows, 0)
    torch.nn.init.ones_(scorer.layers.weight)
    moved = scorer(torch.tensor([[1.0, 5.5]])) - scorer(torch.tensor([[1.0, 5.0]]))
    assert moved.item() == pytest.approx(0.5)


def test_self_bleu_is_sacrebleus() -> None:
    texts = ["the cat sat on the mat", "the cat sat on a red mat today", "a dog", "the the the cat", "zebra", "a dog"]
    expected = [
        sacrebleu.sentence_bleu(
            text, [other for place, other in enumerate(texts) if place != number], tokenize="none"
        ).score
        / 100
        for number, text in enumerate(texts)
    ]
    assert self_bleu(texts) == pytest.approx(expected, abs=1e-6)
    assert self_bleu(["same text here now"] * 3) == pytest.approx(1)


def test_rouge() -> None:
    [same, half, none] = rouge("storms hit coasts", ["storm hit coast", "storm", "!"])
    assert same.tolist() == [1, 1, 1] and half.tolist() == pytest.approx([0.5, 0, 0.5]) and none.tolist() == [0, 0, 0]


def test_sentences_are_split_where_both_sides_have_five_words() -> None:
    assert split_sentence("If the result is empty, the function returns nothing at all") == [
        "If the result is empty,", "the function returns nothing at all",
    ]  # fmt: skip
    assert split_sentence("It works, and it is fast") == ["It works, and it is fast"]
    assert split_sentence("Everything that is computed here once will stay there because it is cached for ever") == [
        "Everything that is computed here once will stay there", "because it is cached for ever",
    ]  # fmt: skip
    units = divide_text("If the result is empty, the function returns nothing at all. It is fast.")
    assert units.owner == (0, 0, 1) and units.as_edus([0], "sentence") == (0, 1) and units.as_edus([2], "edu") == (2,)
    assert " ".join(units.edus) == " ".join(units.sentences)


def test_a_document_has_no_more_edus_than_are_kept() -> None:
    long, short = "If the result is empty, the function returns nothing at all.", "It is fast."
    units = divide([short, long, short], 2)
    assert units.edus == (short,) and not units.is_whole and divide([long, short], 3).is_whole
    units = divide([long, short], 1)  # not even the first sentence as a whole
    assert units.edus == units.sentences == ("If the result is empty,",) and units.owner == (0,) and not units.is_whole


def test_docstrings_are_read_without_what_is_no_sentence() -> None:
    text = """Solve an equation.

    A long story about roots. It has two sentences.

Parameters
==========

f : function
    What is to be zero.

Examples
========

>>> solve(1)
2

The answer is two, as it should be.

See Also
========

other : a thing that is not read"""
    first, body = read_docstring(text)
    assert first == "Solve an equation."
    assert body == [
        "A long story about roots.", "It has two sentences.", "What is to be zero.",
        "The answer is two, as it should be.",
    ]  # fmt: skip
