"""What `aligndistil` measures besides: extrapolation of held-out tokens, reward at half of the steps, the teachers."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from recipes.alignment.aligndistil.method import Rule, distances, frozen_logits
from recipes.alignment.aligndistil.objective import TEACHERS, Heads
from recipes.alignment.evaluation import KL, define
from recipes.alignment.pairs import PairItems, PairSet
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.models.precision import exact
from recipes.core.scoring.columns import column_tensor

FEWEST = 20  # answers that reach a position which is drawn
PART = 1 << 14  # tokens whose states are in memory at a time


@torch.no_grad()
def answer_distances(items: PairItems, heads: Heads, tokens: slice, device: str) -> np.ndarray:
    """float32 [tokens]: how much the two models disagree at tokens of answers.

    Args:
        items: Answers with the columns `TEACHERS`.
        heads: Those of both models.
        tokens: Which, in the order of `PairSet.offsets`.
        device: Where to compute.
    """
    columns, heads = [items.columns[name][tokens] for name in TEACHERS], (heads[0].to(device), heads[1].to(device))
    parts = []
    for start in range(0, len(columns[0]), PART):
        part = slice(start, start + PART)
        states = [exact(column_tensor(np.ascontiguousarray(column[part])).to(device)) for column in columns]
        dpo, other = (frozen_logits(hidden, head) for hidden, head in zip(states, heads, strict=True))
        parts.append(distances(dpo, other, len(states[0]), states[0]).cpu().numpy())
    return np.concatenate(parts)


def add_expected_reward(scores: Scores, final: Scores, beta: float) -> None:
    """Add the KLs to both teachers, and E[beta_0 (log p_dpo - log p_reverse)] under the policy.

    Args:
        scores: Where to add.
        final: Samples of the trained policy, with `kl/dpo` and `kl/reverse`.
        beta: beta_0.

    Source:
        Summed over the tokens of a sample, it is beta_0 (KL(policy || reverse) - KL(policy || dpo)), and both KLs are
        taken over the whole vocabulary.
    """
    names = (f"{KL}/dpo", f"{KL}/reverse")
    define(scores, {name: (final.metrics[name].title, False) for name in names})
    title = "reward that DPO and reverse DPO model imply, expected over a sampled completion"
    define(scores, {"expected_reward": (title, True)})
    scores.rows += [row for row in final.rows if row[0] in names]
    dpo, reverse = (final.values(name) for name in names)
    for name, example, group, _, _ in final.rows:
        if name == names[0]:
            scores.add("expected_reward", example, group, beta * (reverse[example] - dpo[example]))


def add_half(scores: Scores, curve: Mapping[int, Scores], names: Sequence[str]) -> None:
    """Add metrics at the last measurement within the first half of the steps that were done (the first, if there is
    none); the last step of a run, wherever it ended, is always measured.
    """
    half = max((step for step in curve if 2 * step <= max(curve)), default=min(curve))
    for name in names:
        groups = {row[1]: row[2] for row in curve[half].rows if row[0] == name}
        if groups:
            metric = curve[half].metrics[name]
            scores.define(f"{name}/half", f"{metric.title}, after half of the steps", metric.higher_is_better)
        for example, value in curve[half].values(name).items():
            scores.add(f"{name}/half", example, groups[example], value)


def add_alpha(scores: Scores, pairs: PairSet, disagreement: np.ndarray, alpha: np.ndarray) -> None:
    """Add disagreement and extrapolation at the tokens of held-out chosen answers.

    Args:
        scores: Where to add.
        pairs: The answers.
        disagreement: [tokens] D_t.
        alpha: [tokens] alpha_t.
    """
    columns = {
        "distance": ("disagreement of the two models at held-out chosen tokens, 0 to 2", disagreement),
        "alpha": ("extrapolation at held-out chosen tokens", alpha),
    }
    define(scores, {name: (title, True) for name, (title, _) in columns.items()})
    for number, pair in enumerate(pairs.pairs):
        tokens = slice(int(pairs.offsets[2 * number]), int(pairs.offsets[2 * number + 1]))
        for name, (_, values) in columns.items():
            scores.add(name, pair.id, pair.id, values[tokens].mean(), tokens.stop - tokens.start)


def alpha_plots(pairs: PairSet, alpha: np.ndarray, rule: Rule) -> list[Plot]:
    """Extrapolation against the position in the answer, and how it is distributed."""
    chosen = [alpha[pairs.offsets[i] : pairs.offsets[i + 1]] for i in range(0, 2 * len(pairs), 2)]
    longest = max(len(values) for values in chosen)
    at = [[float(values[position]) for values in chosen if len(values) > position] for position in range(longest)]
    fewest = min(FEWEST, len(chosen))
    means = [
        (float(position + 1), sum(values) / len(values)) for position, values in enumerate(at) if len(values) >= fewest
    ]
    ordered = np.sort(np.concatenate(chosen))
    ranks = [(float(value), (number + 1) / len(ordered)) for number, value in enumerate(ordered)]
    title = "of held-out chosen tokens"
    return [
        Plot("alpha-position", f"Extrapolation {title}", "position in the answer", "mean alpha", {rule.mode: means}),
        Plot("alpha-share", f"Distribution of extrapolation {title}", "alpha", "share below", {rule.mode: ranks}),
    ]
