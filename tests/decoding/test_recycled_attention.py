"""Which keys a step attends to: numbers of the sheet, and what step-by-step decoding says beside one forward."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from recipes.core.errors import UserError
from recipes.core.models.head import output_head
from recipes.core.training.sequences import next_token_collate
from recipes.decoding.recycled_attention.config import CACHES, CacheConfig, RecallConfig
from recipes.decoding.recycled_attention.config import SYMBOLS as COUNT
from recipes.decoding.recycled_attention.emulation import (
    Reading,
    emulate,
    emulate_texts,
    keys_held,
    read_in_steps,
    with_budget,
)
from recipes.decoding.recycled_attention.interface import check_attention
from recipes.decoding.recycled_attention.method import (
    best,
    dynamic_refreshes,
    equal_budget,
    fixed_refreshes,
    group_scores,
    keys_read,
    places,
    queue,
    recovered_mass,
    recycled_rows,
    smooth,
)
from recipes.decoding.recycled_attention.recall import MARKS, SYMBOLS, copy_text, recall_text
from recipes.decoding.recycled_attention.selections import KINDS, HeavyHitters, causal_weights
from recipes.decoding.recycled_attention.stepping import RecycledLayer, Stepper
from recipes.decoding.recycled_attention.training import EmulatedCrossEntropy
from tests.decoding.conftest import VOCABULARY

SCORES = torch.tensor([0.40, 0.05, 0.20, 0.05, 0.25, 0.05])
LENGTH, START = 48, 18
OPTIONS = CacheConfig(k=9, stride=4, window=4, sinks=2)


def test_the_worked_example_of_the_sheet() -> None:
    assert queue(SCORES, 3).tolist() == [2, 4, 0] and float(SCORES[[2, 4, 0]].sum()) == pytest.approx(0.85)
    scores = torch.zeros(1, 8)
    scores[0, :6] = SCORES
    seen = recycled_rows(scores, torch.tensor([5]), torch.tensor([6, 7]), 3)
    assert [row.nonzero()[:, 0].tolist() for row in seen] == [[0, 2, 4, 6], [0, 4, 6, 7]]
    sixth = torch.tensor([[[0.35, 0.05, 0.12, 0.03, 0.25, 0.05, 0.15, 0.0]]])
    seventh = torch.tensor([[[0.30, 0.04, 0.22, 0.03, 0.21, 0.04, 0.06, 0.10]]])
    assert float(recovered_mass(sixth, seen[None, :1])) == pytest.approx(0.87)
    assert float(recovered_mass(seventh, seen[None, 1:])) == pytest.approx(0.67)
    sink_and_recent = torch.tensor([[[1, 0, 0, 0, 1, 1, 1, 0]]]).bool()
    assert float(recovered_mass(sixth, sink_and_recent)) == pytest.approx(0.80)
    assert smooth(SCORES[None], 3)[0].tolist() == pytest.approx([0.40, 0.40, 0.20, 0.25, 0.25, 0.25])
    heads = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])[:, None]
    assert group_scores(heads, 1, "max")[0, 0].tolist() == pytest.approx([0.5, 0.3, 0.7])
    assert group_scores(heads, 1, "mean")[0, 0].tolist() == pytest.approx([0.3, 0.25, 0.45])


def test_of_equal_scores_the_first_are_best() -> None:
    assert best(torch.tensor([1.0, 2, 2, 1, 2, 1]), 4).tolist() == [1, 2, 4, 0]
    assert best(torch.zeros(7), 3).tolist() == [0, 1, 2]
    random = torch.randint(4, (50, 30), generator=torch.Generator().manual_seed(0)).float()
    whole = random.sort(dim=-1, descending=True, stable=True).indices
    assert all(torch.equal(best(random, k), whole[:, :k]) for k in (0, 1, 7, 30, 40))


def test_places_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, refreshed = torch.randint(5, (4, 25), generator=generator).float(), torch.tensor([1, 6, 12, 20])
    for evict in ("score", "oldest"):
        table = places(scores, refreshed, 5, evict)
        for row, end in enumerate(refreshed.tolist()):
            listed = [*queue(scores[row, : end + 1], 5, evict).tolist(), *range(end + 1, 25)]
            assert [listed.index(column) if column in listed else -1 for column in range(25)] == table[row].tolist()


def test_rows_by_the_queue_that_the_paper_describes() -> None:
    scores = torch.rand(10, 40, generator=torch.Generator().manual_seed(0))
    refreshed = fixed_refreshes(3, 40, 4)
    rows = torch.arange(4, 40)
    table, listed = recycled_rows(scores[None], refreshed, rows, 8)[0], list[int]()
    for row in range(3, 40):
        if (row - 3) % 4 == 0:
            listed, seen = queue(scores[(row - 3) // 4, : row + 1], 8).tolist(), list(range(row + 1))
        else:
            listed = [*listed, row]
            seen, listed = sorted(listed), listed[-8:]
            newest = range(row - (row - 3) % 4 + 1, row + 1)
            assert len(listed) == min(8, row + 1) and set(newest) <= set(listed)
        if row > 3:
            assert table[row - 4].nonzero()[:, 0].tolist() == seen


def test_equal_budget_reads_as_many_keys() -> None:
    assert keys_read(4, 8, 2, 2) == [3, 6, 3, 8] and keys_read(4, 8, 2) == [3] * 4 and keys_read(1, 4, 9) == [2, 3, 4]
    assert equal_budget(4, 8, 2, 2) == 4  # 20 keys in four rows
    for start, length, k, stride in (
        (512, 1023, 128, 10),
        (4, 40, 9, 3),
        (1, 30, 2, 2),
        (30, 40, 100, 5),
        (5, 9, 3, 1),
    ):
        total = sum(keys_read(start, length, k, stride))
        errors = [abs(sum(keys_read(start, length, kept)) - total) for kept in range(1, length + 1)]
        assert equal_budget(start, length, k, stride) == errors.index(min(errors)) + 1
    assert with_budget(CacheConfig(name="h2o"), 512, 1024).k == 192 and with_budget(CacheConfig(), 512, 1024).k == 128
    assert with_budget(CacheConfig(name="streaming", refresh=True), 512, 1024).k == 128
    assert with_budget(CacheConfig(name="h2o", equal_cost=False), 512, 1024).k == 128


def test_dynamic_steps_follow_the_query() -> None:
    angles = torch.tensor([0.0, 10, 20, 30, 40, 50, 60, 70]).deg2rad()
    queries = torch.stack([angles.cos(), angles.sin()], 1)
    limit = float(torch.tensor(35.0).deg2rad().cos())
    assert dynamic_refreshes(queries, 0, 1, limit).tolist() == [0, 4]
    assert dynamic_refreshes(queries, 0, 3, limit).tolist() == [0, 6]
    assert dynamic_refreshes(queries, 1, 2, 1.0).tolist() == [1, 3, 5, 7]
    assert dynamic_refreshes(queries, 1, 2, -1.0).tolist() == [1]


def text(length: int = LENGTH, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed))


def stepped(model: Any, options: CacheConfig, ids: torch.Tensor, start: int) -> tuple[torch.Tensor, list[float]]:
    """NLLs of what is behind the prompt and keys read, token by token."""
    head, stepper = output_head(model), Stepper(model, options, len(ids))
    states, reads = [stepper.prompt(ids[:start])[-1]], []
    for token in ids[start:-1].tolist():
        states.append(stepper.step(token))
        reads.append(stepper.keys_read)
    logprobs = head.logits(torch.stack(states)).log_softmax(-1)
    return -logprobs[torch.arange(len(states)), ids[start:]], reads


VARIANTS = {
    **{name: replace(OPTIONS, name=name) for name in CACHES},
    "plus": replace(OPTIONS, name="streaming", refresh=True),
    "ablated": replace(OPTIONS, heads="mean", pool=3, evict="oldest"),
    "short queue": replace(OPTIONS, k=24),
    "never full again": replace(OPTIONS, k=3, schedule="dynamic", check_every=3, similarity=-1.0),
    "dynamic": replace(OPTIONS, schedule="dynamic", check_every=3, similarity=0.9),
    "long stride": replace(OPTIONS, k=3, stride=11, long_stride=True),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("start", [1, START])
def test_one_forward_says_what_decoding_says(model: Any, variant: str, start: int) -> None:
    reading, ids = emulate(model.language_model, VARIANTS[variant], text(), start), text()
    nlls, reads = stepped(model.language_model, VARIANTS[variant], ids, start)
    assert torch.allclose(reading.nlls, nlls, atol=1e-4)
    assert reading.keys_read == pytest.approx(sum(reads) / len(reads), rel=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_texts_read_together_are_read_as_alone(model: Any, variant: str) -> None:
    lm, rows = model.language_model, torch.stack([text(seed=seed) for seed in range(3)])
    for row, together in zip(rows, emulate_texts(lm, VARIANTS[variant], rows, START, 5), strict=True):
        alone = emulate(lm, VARIANTS[variant], row, START, 5)
        assert same(alone, together) and alone.recovered == pytest.approx(together.recovered, abs=1e-5)
        assert (alone.keys_read, alone.full_steps) == pytest.approx((together.keys_read, together.full_steps))


def same(one: Reading, other: Reading) -> bool:
    return torch.allclose(one.nlls, other.nlls, atol=1e-4)


def test_stride_one_and_room_for_all_keys_are_full_attention(model: Any) -> None:
    lm, ids = model.language_model, text()
    full = emulate(lm, CacheConfig(name="full"), ids, START)
    logits = lm(input_ids=ids[None]).logits[0, START - 1 : -1].log_softmax(-1)
    assert torch.allclose(full.nlls, -logits[torch.arange(len(logits)), ids[START:]], atol=1e-4)
    assert full.recovered == full.full_steps == 1 and full.agrees.all()
    for options in (replace(OPTIONS, stride=1), replace(OPTIONS, k=LENGTH), replace(OPTIONS, k=LENGTH, evict="oldest")):
        assert same(emulate(lm, options, ids, START), full) and torch.allclose(
            stepped(lm, options, ids, START)[0], full.nlls, atol=1e-4
        )
    assert not same(emulate(lm, OPTIONS, ids, START), full)


def test_checks_are_steps_where_every_query_counts_as_moved_and_never_where_none_does(model: Any) -> None:
    lm, ids = model.language_model, text()
    dynamic = replace(OPTIONS, schedule="dynamic", check_every=4)
    assert same(emulate(lm, replace(dynamic, similarity=1.0), ids, START), emulate(lm, OPTIONS, ids, START))
    never = emulate(lm, replace(dynamic, similarity=-1.0), ids, START)
    assert never.full_steps == 0 and never.keys_read == 10
    # All layers together: at each check, too, and never.
    whole = replace(dynamic, schedule="global")
    assert same(read_in_steps(lm, replace(whole, similarity=1.0), ids, START), emulate(lm, OPTIONS, ids, START))
    assert same(read_in_steps(lm, replace(whole, similarity=-1.0), ids, START), never)


def layer(groups: int = 2, heads: int = 4, length: int = LENGTH) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(1, heads, length, 8, generator=draw), torch.randn(1, groups, length, 8, generator=draw)


def test_no_other_keys_hold_more_attention_than_those_of_the_oracle() -> None:
    queries, keys = layer()
    rows, masses = torch.arange(START, LENGTH), {}
    weights = causal_weights(queries[:, :, START:], keys, rows, 1.0)
    for name in CACHES:
        options = replace(OPTIONS, name=name, stride=100, long_stride=True)
        selection = KINDS[name](options, queries[:, :, :START], keys[:, :, :START], 1.0)
        seen = selection.rows(queries[:, :, START:], keys, rows)
        assert name == "full" or (seen.sum(-1) == 10).all()  # k and itself
        assert seen[0, :, torch.arange(len(rows)), rows].all() and not (seen & (weights[:, :2] == 0)).any()
        shown = weights.unflatten(1, (2, 2)).masked_fill(~seen[:, :, None], 0)
        assert torch.allclose((shown / shown.sum(-1, keepdim=True)).sum(-1), torch.ones(()))
        masses[name] = recovered_mass(weights, seen)
    for name in set(CACHES) - {"full", "oracle"}:
        assert (masses["oracle"] >= masses[name] - 1e-6).all() and (masses["full"] > masses[name]).all()


def test_heavy_hitters_drop_for_good_what_had_least_attention() -> None:
    # Keys of one dimension: attention to key i is e^{q k_i}.
    keys = torch.tensor([2.0, 0, 1, 0, 0, 0, 0]).view(1, 1, 7, 1)
    queries = torch.ones(1, 1, 7, 1)
    selection = HeavyHitters(CacheConfig(name="h2o", k=4), queries[:, :, :5], keys[:, :, :5], 1.0)
    seen = selection.rows(queries[:, :, 5:], keys, torch.tensor([5, 6]))
    # Before row 5: the last two, 3 and 4, and of those before them 0 (e^2) and 2 (e^1). Then 3 has least: 2 had more.
    assert [row.nonzero()[:, 0].tolist() for row in seen[0, 0]] == [[0, 2, 3, 4, 5], [0, 2, 4, 5, 6]]


def test_the_ring_moves_its_start_and_copies_only_where_nothing_bounds_it() -> None:
    queries, keys = layer()
    first = (queries[:, :, :START], keys[:, :, :START], keys[:, :, :START], 1.0, LENGTH)
    fixed, endless = RecycledLayer(replace(OPTIONS, k=3), *first), RecycledLayer(VARIANTS["never full again"], *first)
    for at in range(START, LENGTH):
        one = (queries[:, :, at : at + 1], keys[:, :, at : at + 1], keys[:, :, at : at + 1])
        outputs = fixed.step(*one), endless.step(*one)
        # What a step behind the first few attends to are the last four keys, whatever was recycled.
        if at >= START + 3:
            last = keys[:, :, at - 3 : at + 1].repeat_interleave(2, 1)
            weights = (one[0] @ last.mT).softmax(-1)
            assert torch.allclose(outputs[1], weights @ last, atol=1e-5)
    assert fixed.length == endless.length == LENGTH and torch.equal(fixed.keys, keys)
    assert fixed.keys_read in (4, LENGTH)


def test_memory_is_not_reduced() -> None:
    assert keys_held(CacheConfig(), 1024) == 1024 + 128 and keys_held(CacheConfig(name="full"), 1024) == 1024
    assert keys_held(CacheConfig(name="h2o"), 1024) == 129 and keys_held(CacheConfig(name="h2o"), 50) == 50


def test_a_stride_that_outlives_the_queue_is_refused_unless_it_is_meant() -> None:
    [(key, message)] = CacheConfig(k=32, stride=50).check()
    assert key == "stride" and "more than half of k=32" in message and "cache.long_stride=true" in message
    assert not CacheConfig(k=32, stride=16).check() and not CacheConfig(k=32, stride=50, long_stride=True).check()
    assert not CacheConfig(k=1, stride=1).check() and CacheConfig(pool=4).check()


def test_attention_that_cannot_be_replaced_is_refused_by_name(model: Any) -> None:
    lm = model.language_model
    check_attention(lm, "model.path=x")
    lm.config._attn_implementation = "eager"
    with pytest.raises(UserError, match=f"model.path=x: {type(lm).__name__} runs with attention of eager"):
        check_attention(lm, "model.path=x")


def test_training_sees_what_decoding_sees(model: Any) -> None:
    lm, start = model.requires_grad_(True).language_model, LENGTH // 2
    rows = torch.stack([text(LENGTH, 0), text(LENGTH, 1)])
    batch = next_token_collate([{"id": "x", "tokens": row.numpy(), "domain": 0, "duplicate": False} for row in rows])
    for options in (OPTIONS, VARIANTS["dynamic"], CacheConfig(name="full")):
        model.zero_grad()
        objective = EmulatedCrossEntropy(options, start)
        loss, _ = objective(model, batch, objective.normalizer(batch))
        loss.backward()
        behind = [emulate(lm, options, row, start).nlls for row in rows]
        plain = [-lm(input_ids=row[None]).logits[0].log_softmax(-1)[range(start - 1), row[1:start]] for row in rows]
        assert float(loss.detach()) == pytest.approx(float(torch.cat([*behind, *plain]).detach().mean()), abs=1e-4)
        assert all(each.grad is not None and each.grad.isfinite().all() for each in model.parameters())


def test_layers_with_a_window_have_nothing_to_recycle() -> None:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    lm = MistralForCausalLM(MistralConfig(vocab_size=23, num_key_value_heads=1, sliding_window=4, **shape)).eval()
    with pytest.raises(UserError, match="model=x: MistralForCausalLM has layers that see a window only"):
        check_attention(lm, "model=x")


def test_texts_hold_their_answers() -> None:
    import numpy as np

    one = recall_text(5, 3, np.random.default_rng(0))
    table = {entry[0]: entry[1:] for entry in one.text.split("?")[0].split(";")[:-1]}
    asked = one.text.split("?")[1:]
    assert len(table) == 5 and {each[0]: each[1:] for each in asked} == table
    assert [one.text[first:end] for first, end in one.answers] == [each[1:] for each in asked]
    assert one.text[: one.start].endswith(f"?{asked[0][0]}")
    two = copy_text(6, np.random.default_rng(0))
    [(first, end)] = two.answers
    assert two.text == f"#{two.text[1:7]}|{two.text[1:7]}" and two.text[first:end] == two.text[1:7]
    assert set(one.text + two.text) <= {*SYMBOLS, *MARKS}
    assert len(set(SYMBOLS)) == len(SYMBOLS) == COUNT and not set(SYMBOLS) & set(MARKS)
    assert "more than the 126 symbols" in RecallConfig(pairs=60).check()[0][1]
