"""ReAGent's formulas, samplers and search: worked numbers, brute force, invariants."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from recipes.attribution.reagent import attributions, method
from recipes.attribution.reagent.config import INTEGRATED, ReagentConfig
from recipes.attribution.reagent.probes import Batch, Probed, probe
from recipes.attribution.reagent.reader import Reader
from recipes.attribution.reagent.samplers import Classes, Expectations, surface_class
from recipes.attribution.reagent.targets import Target
from recipes.core.config import compose
from recipes.core.models.build import llama

T, VOCABULARY = 6, 12


class Scripted:
    """A reader whose probability of the target is a function of which tokens are as they were."""

    def __init__(self, probability: Callable[[Tensor], Tensor], rank: int = 99) -> None:
        self.probability, self.rank, self.rows = probability, rank, 0

    def probabilities(self, ids: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        return self.probability(ids == torch.arange(ids.shape[1]))

    def ranks(self, ids: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        return torch.full((len(ids),), self.rank)


def batch(count: int = 1, length: int = T, whole: float = 1.0) -> Batch:
    ids = torch.arange(length).expand(count, -1)
    names = [f"text {number}" for number in range(count)]
    lengths = torch.full((count,), length)
    return Batch(
        names, ids, lengths, torch.zeros(count).long(), torch.full((count,), whole), torch.ones_like(ids).bool()
    )


def other(texts: Tensor, chances: Tensor) -> Tensor:
    return torch.full(chances.shape, -1)


def search(scripted: Scripted, given: Batch, **options: Any) -> list[Probed]:
    return probe(scripted, given, other, ReagentConfig(**options), seed=0)  # type: ignore[arg-type]


def test_the_worked_update_of_the_specification() -> None:
    free = torch.ones(1, 3, dtype=torch.bool)
    first = method.update(torch.zeros(1, 3), torch.tensor([[True, False, False]]), torch.tensor([0.6]))
    assert first[0].tolist() == pytest.approx([1.386294, -1.386294, -1.386294], abs=1e-6)
    assert method.log_importance(first, free)[0].exp().tolist() == pytest.approx([0.8889, 0.0556, 0.0556], abs=5e-5)
    second = method.update(first, torch.tensor([[False, True, True]]), torch.tensor([-0.1]))
    assert second[0].tolist() == pytest.approx([1.586965, -1.586965, -1.586965], abs=1e-6)
    assert method.log_importance(second, free)[0].exp().tolist() == pytest.approx([0.9228, 0.0386, 0.0386], abs=5e-5)


def test_credit_is_finite_at_its_ends_and_an_empty_subset_says_nothing() -> None:
    assert method.credit(torch.tensor([1.0, -1.0])).tolist() == pytest.approx([13.8155, -13.8155], abs=1e-3)
    nothing = method.update(torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool), torch.tensor([0.3]))
    assert nothing.tolist() == [[1, 1, 1]]


def test_a_stop_test_keeps_a_share_rounded_up_and_never_all() -> None:
    assert [method.stop_test_size(0.3, free) for free in (2, 10, 13)] == [1, 3, 4]
    assert method.stop_test_size(1.0, 5) == 4 and method.stop_test_size(0.01, 5) == 1
    scores, free = torch.tensor([[3.0, 9, 1, 3]]), torch.tensor([[True, False, True, True]])
    assert method.most_important(scores, free, torch.tensor([1])).tolist() == [[True, False, False, False]]


def test_importance_is_the_mean_over_probes_that_stopped_or_over_all_if_none_did() -> None:
    logs = torch.tensor([[1.0, 0], [0, 1], [0.5, 0.5]]).log()
    assert method.combine(logs, torch.tensor([True, False, True])).exp().tolist() == pytest.approx([0.75, 0.25])
    assert method.combine(logs, torch.zeros(3).bool()).exp().tolist() == pytest.approx([0.5, 0.5])
    kept = torch.tensor([[True, True, False], [True, False, False]])
    assert method.rationale(kept, 2).tolist() == [True, False, False]
    assert method.rationale(kept[:1], 2).tolist() == [True, True, False]  # one probe alone decides


def test_a_model_that_ignores_its_text_leaves_scores_as_they_were_drawn() -> None:
    constant = Scripted(lambda stays: torch.full((len(stays),), 0.4))
    one, many = (search(constant, batch(whole=0.4), fixed_steps=steps)[0] for steps in (1, 40))
    assert torch.equal(one.scores, many.scores) and one.importance.sum() == pytest.approx(1)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_all_tokens_replaced_or_none_tell_no_token_from_another(ratio: float) -> None:
    needs_all = Scripted(lambda stays: stays.all(-1).float())
    one, many = (search(needs_all, batch(), ratio=ratio, fixed_steps=steps)[0] for steps in (1, 40))
    assert torch.allclose(one.scores, many.scores)


@pytest.mark.parametrize("whole", [0.0, 1.0])
def test_scores_are_finite_where_a_prediction_is_certain_or_impossible(whole: float) -> None:
    reversing = Scripted(lambda stays: torch.where(stays[:, 2], whole, 1 - whole))
    scores = search(reversing, batch(whole=whole), fixed_steps=300)[0].scores
    assert scores.isfinite().all() and scores.exp().sum() == pytest.approx(1)
    assert len(set(scores.tolist())) == T  # no order is lost, though all shares but one are 0
    assert int(scores.argmax() if whole else scores.argmin()) == 2


def test_the_only_token_that_counts_comes_first() -> None:
    third = Scripted(lambda stays: 0.2 + 0.6 * stays[:, 3])
    for seed in range(10):
        result = probe(third, batch(whole=0.8), other, ReagentConfig(fixed_steps=50), seed)[0]  # type: ignore[arg-type]
        assert int(result.scores.argmax()) == 3


def test_with_many_subsets_the_order_is_that_of_the_sum_over_all_of_them() -> None:
    values, ratio = torch.tensor([0.05, 0.3, 0.1, 0.0, 0.2]), 0.3

    def probability(stays: Tensor) -> Tensor:
        return (values * stays).sum(-1) + 0.25 * (stays[:, 2] & stays[:, 4])

    whole = float(probability(torch.ones(1, 5).bool()))
    expected = torch.zeros(5, dtype=torch.float64)
    for subset in product([False, True], repeat=5):
        replaced = torch.tensor(subset)
        chance = ratio ** int(replaced.sum()) * (1 - ratio) ** int((~replaced).sum())
        expected += chance * method.credit(whole - probability(~replaced[None])) * (2 * replaced.double() - 1)
    result = search(
        Scripted(probability), batch(length=5, whole=whole), ratio=ratio, fixed_steps=2500, probes=1, score="mean_logit"
    )[0]
    assert result.scores.argsort().tolist() == expected.argsort().tolist()
    assert (result.scores - result.scores.mean()).tolist() == pytest.approx(
        (expected - expected.mean()).tolist(), abs=0.04
    )


def test_probes_depend_on_their_own_draws_alone() -> None:
    some = Scripted(lambda stays: 0.2 + 0.1 * stays[:, 3] + 0.05 * stays[:, 1])
    two = [search(some, given, fixed_steps=9, probes=1)[0].scores for given in (batch(1), batch(3))]
    assert torch.equal(*two)
    single, five = (search(some, batch(), fixed_steps=9, probes=count)[0] for count in (1, 5))
    assert not torch.equal(single.scores, five.scores) and five.steps.tolist() == [9] * 5


def test_texts_of_other_lengths_in_a_batch_change_nothing() -> None:
    some, whole = Scripted(lambda stays: 0.2 + 0.1 * stays[:, 3] + 0.05 * stays[:, 1]), batch(2, length=9)
    free = torch.arange(9) < torch.tensor([[T], [9]])
    padded = Batch(whole.names, whole.ids, torch.tensor([T, 9]), whole.targets, whole.whole, free)
    alone, beside = (search(some, given, fixed_steps=9)[0].scores for given in (batch(1), padded))
    assert torch.equal(alone, beside[:T]) and (beside[T:].exp() == 0).all()


def test_probes_stop_at_the_first_test_that_is_passed_and_are_counted() -> None:
    def steps(rank: int, **options: Any) -> Probed:
        return search(Scripted(lambda stays: 0.2 + 0.1 * stays[:, 3], rank), batch(), **options)[0]

    passed = steps(2, test_every=4, max_steps=10)
    assert passed.steps.tolist() == [4] * 5 and passed.stopped.all()
    failed = steps(3, max_steps=10)  # two are likelier at top_k=3: rank 3 is beyond
    assert failed.steps.tolist() == [10] * 5 and not failed.stopped.any() and failed.scores.isfinite().all()


def test_surface_classes() -> None:
    space = "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}"
    pieces = {"the": "lower", f"{space}The": "space capital", "42": "digit", f"{space}!": "space punctuation"}
    assert {piece: surface_class(piece) for piece in pieces} == pieces
    assert (
        surface_class("a1") == surface_class("") == "other"
        and surface_class("\N{LOWER ONE EIGHTH BLOCK}a") == "space lower"
    )


def test_another_token_of_the_class_is_drawn_with_equal_chances() -> None:
    classes = Classes(["a", "b", "a", None, "a", "c", "b"])
    chances = torch.arange(1000) / 1000
    drawn = {start: classes.draw(torch.full((1000,), start), chances).bincount(minlength=7) for start in range(7)}
    assert drawn[2].tolist() == [500, 0, 0, 0, 500, 0, 0] and drawn[0].tolist() == [0, 0, 500, 0, 500, 0, 0]
    assert drawn[1].tolist() == [0, 0, 0, 0, 0, 0, 1000]
    assert drawn[3][3] == drawn[5][5] == 1000  # a control token, and one that is alone


def model(kind: str, layers: int = 2) -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=layers, n_head=2, bos_token_id=0)
        config.eos_token_id = 0
        made: Any = GPT2LMHeadModel(config)
    else:
        made = LlamaForCausalLM(llama(VOCABULARY, layers, 16, 2, 32))
    with torch.no_grad():
        made.get_input_embeddings().weight.mul_(20)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def reader(request: Any) -> Reader:
    return Reader(model(request.param), "model", batch_tokens=20)


IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
TARGETS = torch.tensor([7, 8])


def test_the_last_logits_in_batches_are_those_of_the_model(reader: Reader) -> None:
    expected = reader.model(input_ids=IDS).logits[:, -1].softmax(-1)
    lengths = torch.tensor([5, 5])
    read = reader.probabilities(IDS.repeat(5, 1), lengths.repeat(5), TARGETS.repeat(5))
    assert torch.allclose(read[:2], expected[[0, 1], TARGETS])
    shorter = reader.model(input_ids=IDS[:, :3]).logits[:, -1].softmax(-1)[[0, 1], TARGETS]
    assert torch.allclose(reader.probabilities(IDS, torch.tensor([3, 5]), TARGETS)[0], shorter[0], atol=1e-6)
    assert torch.allclose(reader.distributions(reader.embeddings(IDS)), expected, atol=1e-6)
    order = expected.argsort(dim=-1, descending=True)
    assert [int(order[row, rank]) for row, rank in enumerate(reader.ranks(IDS, lengths, TARGETS))] == TARGETS.tolist()


def test_draws_of_what_the_model_expects(reader: Reader) -> None:
    expected = reader.model(input_ids=IDS[:1]).logits[0].softmax(-1)
    draw = Expectations(reader, IDS, torch.tensor([5, 4]), [0], greedy=False).draw
    chances = (torch.arange(2000) / 2000)[:, None].expand(-1, 5)
    drawn = draw(torch.zeros(2000).long(), chances)
    assert (drawn[:, 0] == IDS[0, 0]).all()  # nothing stands before the first token
    chance = expected[1].clone()
    chance[[0, int(IDS[0, 2])]] = 0  # neither a control token nor the token itself
    assert (drawn[:, 2].bincount(minlength=VOCABULARY) / 2000).tolist() == pytest.approx(
        (chance / chance.sum()).tolist(), abs=2e-3
    )
    short = draw(torch.ones(3).long(), chances[:3])
    assert (short[:, 4] == IDS[1, 4]).all()  # behind the end of the text nothing is drawn
    greedy = Expectations(reader, IDS, torch.tensor([5, 4]), [], greedy=True).draw(torch.tensor([0]), chances[:1])
    assert greedy[0, 1:].tolist() == expected[:-1].argmax(-1).tolist()


def test_attention_rows_are_those_of_eager_attention_and_rollout_sums_to_1(reader: Reader) -> None:
    reader.model.set_attn_implementation("eager")
    weights = torch.stack(reader.model(input_ids=IDS, output_attentions=True).attentions).mean(2)  # [layers, n, t, t]
    reader.model.set_attn_implementation("sdpa")
    last = attributions.attention(reader, IDS[1], "attention_last")
    assert torch.allclose(last, weights[-1, 1, -1], atol=1e-5)
    assert torch.allclose(attributions.attention(reader, IDS[1], "attention"), weights[:, 1].mean(0)[-1], atol=1e-5)
    assert torch.allclose(attributions.rollout(weights[:, 0]).sum(-1), torch.ones(5), atol=1e-5)
    followed = (weights[1, 0] + torch.eye(5)) @ (weights[0, 0] + torch.eye(5)) / 4
    assert torch.allclose(attributions.attention(reader, IDS[0], "attention_rollout"), followed[-1], atol=1e-5)


def test_integrated_gradients_equal_those_of_captum_by_layer(reader: Reader) -> None:
    from captum.attr import LayerIntegratedGradients

    def log_probability(ids: Tensor) -> Tensor:
        return reader.model(input_ids=ids).logits[:, -1].log_softmax(-1)[:, 7]

    one, zero = reader.embeddings(IDS[:1]), torch.zeros_like(IDS[:1])
    ours = attributions.integrated_gradients(reader, one, reader.embeddings(zero), TARGETS[:1], points=101)
    layer = LayerIntegratedGradients(log_probability, reader.model.get_input_embeddings())
    theirs = layer.attribute(IDS[:1], baselines=zero, n_steps=101, method="riemann_trapezoid")
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_integrated_gradients_are_complete_without_normalisation() -> None:
    class Plain(Reader):
        def __init__(self) -> None:
            self.batch_tokens, self.rows = 64, 0

        def log_probabilities(self, embeddings: Tensor, targets: Tensor) -> Tensor:
            logits = torch.tanh(embeddings.flatten(1)[:, :3] + embeddings.flatten(1)[:, 3:6])
            return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]

    reader, text = Plain(), torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    target, zero = torch.tensor([1]), torch.zeros(1, 5, 4)
    whole = attributions.integrated_gradients(reader, text, zero, target, 101).sum()
    gap = reader.log_probabilities(text, target) - reader.log_probabilities(zero, target)
    assert float(whole) == pytest.approx(float(gap), rel=0.02)


def test_gradients_are_those_of_finite_differences_and_leave_global_draws_alone(reader: Reader) -> None:
    embeddings = reader.embeddings(IDS)
    slopes = attributions.gradients(reader, embeddings, TARGETS)
    step = torch.zeros_like(embeddings)
    step[0, 2, 3] = 1e-2
    ends = [reader.log_probabilities(embeddings + sign * step, TARGETS)[0] for sign in (1, -1)]
    assert float(slopes[0, 2, 3]) == pytest.approx(float(ends[0] - ends[1]) / 2e-2, rel=0.05, abs=1e-3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    shap = [attributions.gradient_shap(reader, embeddings[:1], embeddings[1:], TARGETS[:1], 5, 3) for _ in range(2)]
    assert torch.equal(*shap) and torch.equal(before, torch.get_rng_state())


def test_shares_of_scores() -> None:
    free = torch.tensor([True, True, False])
    assert attributions.shares(torch.tensor([3.0, 1, 5]), free).tolist() == [0.75, 0.25, 0]
    assert attributions.shares(torch.zeros(3), free).tolist() == [0.5, 0.5, 0]
    assert attributions.softmax(torch.zeros(3), free).tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_integrated_gradients_say_whether_they_add_up(baseline: str, reader: Reader) -> None:
    words = ["arm=integrated_gradients", f"attribution.baseline={baseline}", "label=x", "attribution.points=201"]
    attributer = attributions.Attributer(reader, None, compose.compose("reagent", words))
    ids, token = tuple(IDS[0].tolist()), int(TARGETS[0])
    (one,) = attributer.all([Target("a", "a", ids, (True,) * len(ids), token, 0.5)], INTEGRATED, lambda _: None)
    embeddings, begin = reader.embeddings(IDS[:1]), torch.zeros(1, 1, 1)
    if baseline == "mean":
        begin = reader.model.get_input_embeddings().weight.mean(0)
    path = begin.expand_as(embeddings)
    whole = attributions.integrated_gradients(reader, embeddings, path, TARGETS[:1], 201)
    ends = [reader.log_probabilities(each, TARGETS[:1]) for each in (path, embeddings)]
    missed = whole.sum() - ends[1] + ends[0]
    assert one.gap == pytest.approx(abs(float(missed)), rel=1e-3, abs=1e-4)
    # A model with RMS norms has nearly all of its slope beside zero; learned positions keep GPT-2 away from it.
    assert (one.gap > 1) == (baseline == "zero" and isinstance(reader.model, LlamaForCausalLM))
    torch.testing.assert_close(one.scores.float(), whole.norm(dim=-1)[0])
