"""What the NLL of sft, rpo, cpo and orpo is a mean over: answers or the batch's tokens, prompts among them or not."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from recipes.alignment.config import PreferenceConfig
from recipes.alignment.objectives import Preference, PreferenceModel, mean_nll_length, scores_of
from recipes.alignment.pairs import IGNORE, prompt_tokens
from tests.alignment.test_sparsepo_objectives import batch_of, head_of, items, model

WITH_NLL = ("sft", "rpo", "cpo", "orpo")
CASES = [(name, reduction, False) for name in WITH_NLL for reduction in ("answer", "batch")]
CASES += [("orpo", "answer", True), ("orpo", "batch", True)]


def objective(name: str, reduction: str, prompt: bool) -> Preference:
    config = PreferenceConfig(loss=name, nll=reduction, nll_prompt=prompt)
    return Preference(config, scores_of(config, head_of(model(0))))


def loss(goal: Preference, policy: PreferenceModel, parts: list[dict[str, Tensor]]) -> float:
    """Over micro-batches, as the trainer sums them."""
    if goal.before_step:
        goal.before_step(0, policy, parts)
    normalizer = torch.stack([goal.normalizer(part) for part in parts]).sum()
    return sum(float(goal(policy, part, normalizer)[0].detach()) for part in parts)


def nll_by_hand(policy: PreferenceModel, rows: list[np.ndarray], prompts: list[int], reduction: str) -> float:
    """Cross-entropy with the library's own means, a sequence at a time."""
    each = []
    for ids, cut in zip(rows, prompts, strict=True):
        row = torch.from_numpy(ids.astype(np.int64))
        logits = policy.policy.language_model(row[None]).logits[0]
        each.append(cross_entropy(logits[cut - 1 : -1], row[cut:], reduction="none").detach())
    return float(torch.cat(each).mean() if reduction == "batch" else torch.stack([one.mean() for one in each]).mean())


@pytest.mark.parametrize(("name", "reduction", "prompt"), CASES)
def test_the_nll_is_the_mean_that_was_asked_for_whatever_the_micro_batches(
    name: str, reduction: str, prompt: bool
) -> None:
    rows, policy = items(model(0)), PreferenceModel(model(1))
    goal = objective(name, reduction, prompt)
    whole = loss(goal, policy, [batch_of(rows, [0, 1, 2, 3])])
    assert loss(goal, policy, [batch_of(rows, part) for part in ([0, 1], [2], [3])]) == pytest.approx(whole, rel=1e-5)
    pairs = rows.pairs.pairs
    texts = [np.concatenate([pair.prompt, pair.chosen]) for pair in pairs]
    cuts = [1 if prompt else len(pair.prompt) for pair in pairs]
    usual = [len(pair.prompt) for pair in pairs]
    default = loss(objective(name, "answer", False), policy, [batch_of(rows, [0, 1, 2, 3])])
    difference = nll_by_hand(policy, texts, cuts, reduction) - nll_by_hand(policy, texts, usual, "answer")
    assert whole - default == pytest.approx(difference, abs=1e-5)
    if (reduction, prompt) != ("answer", False):
        assert abs(difference) > 1e-3


def test_positions_of_prompts_and_lengths_of_a_worked_batch() -> None:
    # Two pairs; prompts of 3 and 1 tokens, chosen answers of 2 and 4.
    labels = torch.tensor([[IGNORE, IGNORE, 5, 6, IGNORE], [5, 6, 7, 8, IGNORE]] * 2)
    attention = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 0]] * 2)
    batch = {"labels": labels, "attention_mask": attention}
    assert prompt_tokens(batch)[:2].tolist() == [[True, True, False, False, False], [False] * 5]
    assert float(mean_nll_length([batch], prompts=False)) == 3.0  # (2 + 4) / 2
    assert float(mean_nll_length([batch, batch], prompts=True)) == 4.0  # (4 + 4) / 2


def test_losses_without_an_nll_look_at_neither_setting() -> None:
    rows, policy = items(model(0)), PreferenceModel(model(1))
    goals = [objective("dpo", *settings) for settings in (("answer", False), ("batch", True))]
    first, second = (loss(goal, policy, [batch_of(rows, [0, 1])]) for goal in goals)
    assert first == second and goals[1].before_step is None
