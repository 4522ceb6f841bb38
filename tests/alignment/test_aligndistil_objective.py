"""Distillation on batches: masked positions, micro-batches, which texts, samples of the policy, swapped pairs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.alignment.aligndistil.method import Rule
from recipes.alignment.aligndistil.objective import Distillation, OnPolicy, keep_chosen, prompts_of
from recipes.alignment.objectives import PreferenceModel
from recipes.alignment.pairs import IGNORE, PairItems, PairSet, pair_collate
from recipes.alignment.trained import SwappedItems
from recipes.core.models.head import OutputHead
from recipes.core.scoring.forward import HEAD, hidden_states
from tests.alignment.test_sparsepo_objectives import head_of, model, pair_set

RULE = Rule("aligndistil", 0.1, 1.5)
DPO, OTHER = model(2), model(3)


def batch_of(numbers: list[int]) -> dict[str, Any]:
    batch = pair_collate(0)([PairItems(pair_set(), {})[i] for i in numbers])
    return batch | {
        f"tokens/{name}": hidden_states(teacher, batch, [HEAD])[:, 0]
        for name, teacher in (("dpo", DPO), ("other", OTHER))
    }


def objective(texts: Any = keep_chosen, rows: int = 1) -> Distillation:
    return Distillation(RULE, "reverse", (head_of(DPO), head_of(OTHER)), texts, rows)


def loss_and_gradient(
    goal: Distillation, policy: PreferenceModel, *batches: dict[str, Any]
) -> tuple[float, Tensor, list[dict[str, Tensor]]]:
    policy.zero_grad()
    normalizer = torch.stack([goal.normalizer(batch) for batch in batches]).sum()
    parts = [goal(policy, batch, normalizer) for batch in batches]
    loss = torch.stack([part[0] for part in parts]).sum()
    loss.backward()
    gradients = [p.grad.flatten() for p in policy.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradients), [part[1] for part in parts]


def by_hand(policy: Any, rows: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """The loss from full logits, an answer at a time."""
    total = 0.0
    for prompt, answer in rows:
        ids = torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64))[None]
        with torch.no_grad():
            logits = [m.language_model(ids).logits[0, len(prompt) - 1 : -1] for m in (policy, DPO, OTHER)]
        student, dpo, other = logits
        alpha = 1.5 * (dpo.softmax(1) - other.softmax(1)).abs().sum(1) + 1e-3
        logp, logq = student.log_softmax(1), (dpo + alpha[:, None] * (dpo - other)).log_softmax(1)
        kl = (logp.exp() * (logp - logq)).sum(1)
        total += (0.1 / alpha * kl).sum().item() / len(answer)
    return total / len(rows)


@pytest.mark.parametrize("both", [False, True])
def test_the_loss_is_the_mean_over_answers_of_the_mean_over_tokens(both: bool) -> None:
    policy = model(1)
    goal = objective(lambda batch: batch, 2) if both else objective()
    loss, _, [metrics] = loss_and_gradient(goal, PreferenceModel(policy), batch_of([0, 1, 2, 3]))
    rows = [(pair.prompt, pair.chosen) for pair in pair_set().pairs]
    rows += [(pair.prompt, pair.rejected) for pair in pair_set().pairs] if both else []
    assert loss == pytest.approx(by_hand(policy, rows), rel=1e-5)
    assert metrics["alpha"][1] == sum(len(answer) for _, answer in rows)
    shares = [float(metrics[f"share/q{i}"][0] / metrics[f"share/q{i}"][1]) for i in (1, 2, 3, 4)]
    assert sum(shares) == pytest.approx(1, abs=1e-5) and min(shares) > 0


def test_micro_batches_add_up_to_the_batch() -> None:
    policy = PreferenceModel(model(1))
    whole, gradient, _ = loss_and_gradient(objective(), policy, batch_of([0, 1, 2, 3]))
    parts, again, _ = loss_and_gradient(objective(), policy, batch_of([2, 0]), batch_of([3, 1]))
    assert parts == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(again, gradient, atol=1e-6, rtol=1e-4)


def test_what_is_masked_never_matters() -> None:
    policy = PreferenceModel(model(1))
    batch = batch_of([0, 1, 2, 3])
    plain = loss_and_gradient(objective(), policy, batch)
    padding = batch["attention_mask"] == 0
    assert padding.any()
    changed = loss_and_gradient(objective(), policy, batch | {"input_ids": batch["input_ids"].masked_fill(padding, 7)})
    assert changed[0] == plain[0] and torch.equal(changed[1], plain[1])
    assert (keep_chosen(batch)["labels"] != IGNORE).sum() == len(keep_chosen(batch)["tokens/dpo"])


def test_nothing_flows_into_the_teachers() -> None:
    goal, batch = objective(), batch_of([0, 1])
    weights = [head.weight.clone().requires_grad_() for head in goal.heads]
    goal.heads = (OutputHead(weights[0]), OutputHead(weights[1]))
    batch["tokens/dpo"].requires_grad_()
    loss_and_gradient(goal, PreferenceModel(model(1)), batch)
    assert batch["tokens/dpo"].grad is None and all(weight.grad is None for weight in weights)


def test_prompts_come_back_out_of_a_batch() -> None:
    prompts = prompts_of(batch_of([3, 0, 2]))
    for ids, number in zip(prompts, [3, 0, 2], strict=True):
        assert ids.tolist() == pair_set().pairs[number].prompt.tolist()


def on_policy(seed: int = 0) -> OnPolicy:
    return OnPolicy((DPO, OTHER), 0, 6, seed)


def test_samples_depend_on_seed_and_step_only() -> None:
    policy, batches = PreferenceModel(model(1)), [batch_of([0, 1]), batch_of([2, 3])]

    def drawn(sampler: OnPolicy, step: int) -> list[list[list[int]]]:
        torch.rand(3)
        sampler.before_step(step, policy, batches)
        return [sampler(batch)["labels"].tolist() for batch in batches]

    kept = on_policy()
    first, second = drawn(kept, 0), drawn(kept, 1)
    assert first != second
    assert drawn(on_policy(), 1) == second and drawn(on_policy(1), 1) != second
    # How a batch is cut up has no part in it: the same answers, padded alike or not.
    whole = on_policy()
    whole.before_step(1, policy, [batch_of([0, 1, 2, 3])])
    answers = [[i for i in row if i != IGNORE] for part in second for row in part]
    assert [[i for i in row if i != IGNORE] for row in whole({})["labels"].tolist()] == answers


def test_the_loss_of_samples() -> None:
    policy, batch, sampler = model(1), batch_of([0, 1, 2, 3]), on_policy()
    wrapped = PreferenceModel(policy)
    sampler.before_step(0, wrapped, [batch])
    labels = sampler.drawn[0]["labels"]
    rows = [
        (prompt, labels[i][labels[i] != IGNORE].numpy().astype(np.int32)) for i, prompt in enumerate(prompts_of(batch))
    ]
    loss, gradient, _ = loss_and_gradient(objective(sampler), wrapped, batch)
    assert loss == pytest.approx(by_hand(policy, rows), rel=1e-5) and gradient.abs().max() > 0
    assert not sampler.drawn and policy.training == model(1).training


def test_swapped_pairs() -> None:
    pairs = pair_set()
    values = np.arange(int(pairs.lengths.sum()), dtype=np.float32)
    items = PairItems(pairs, {"ref_logps": values, "states": np.stack([values, values], 1)})
    swapped = SwappedItems(items)
    assert swapped.pairs.pairs[1].scores == (0.1, 0.7) and swapped.pairs.fingerprint != pairs.fingerprint
    for number in range(len(pairs)):
        ours, theirs = swapped[number]["columns"], items[number]["columns"]
        for name in ours:
            assert [side.tolist() for side in ours[name]] == [side.tolist() for side in theirs[name]][::-1]
    assert not hasattr(swapped, "columns")  # those of all tokens would have to be copied
    assert swapped.sequence_lengths.tolist() == items.sequence_lengths.tolist()
    again = SwappedItems(swapped)
    assert again.pairs.fingerprint not in (pairs.fingerprint, swapped.pairs.fingerprint)
    assert again[2]["columns"]["states"][1].tolist() == items[2]["columns"]["states"][1].tolist()
    assert swapped.pairs.lengths.reshape(-1, 2).tolist() == pairs.lengths.reshape(-1, 2)[:, ::-1].tolist()
    bare = PairItems(PairSet([replace(pair, scores=None, important=None) for pair in pairs.pairs]), {})
    assert SwappedItems(bare).pairs.pairs[0].scores is None and SwappedItems(bare).pairs.important() is None
