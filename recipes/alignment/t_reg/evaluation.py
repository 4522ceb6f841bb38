"""What `t-reg` measures of token rewards: size, whether they know the better answer and the broken words, pictures."""

from collections.abc import Mapping

import numpy as np

from recipes.alignment.evaluation import auroc, define
from recipes.alignment.pairs import PairSet
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores

FEWEST = 10  # answers at a position whose mean is shown


def add_reward_scores(scores: Scores, pairs: PairSet, rewards: np.ndarray) -> None:
    """Size of the rewards and how often they prefer the chosen answer, per held-out pair.

    Args:
        scores: Where to add.
        pairs: The answers.
        rewards: [tokens] of all of them.
    """
    define(
        scores,
        {
            "rewards/size": ("size of the token rewards, mean over held-out answers; below 0.02 they do nothing", True),
            "rewards/mean": ("token rewards, mean over held-out answers", True),
            "rewards/accuracy": ("held-out pairs whose chosen answer has the larger sum of rewards", True),
        },
    )
    sums = np.add.reduceat(rewards.astype(np.float64), pairs.offsets[:-1]).reshape(-1, 2)
    for number, (pair, (chosen, rejected)) in enumerate(zip(pairs.pairs, sums, strict=True)):
        values = rewards[pairs.offsets[2 * number] : pairs.offsets[2 * number + 2]]
        scores.add("rewards/size", pair.id, pair.id, np.abs(values).mean(), len(values))
        scores.add("rewards/mean", pair.id, pair.id, values.mean(), len(values))
        scores.add("rewards/accuracy", pair.id, pair.id, 0.5 * (1 + np.sign(chosen - rejected)))


def add_drift(scores: Scores, pairs: PairSet, rewards: np.ndarray, gains: np.ndarray) -> None:
    """Where tokens went by the sign of their reward.

    Args:
        scores: Where to add.
        pairs: The answers.
        rewards: [tokens]
        gains: [tokens] log-prob under the policy less that under the reference.
    """
    for name, there in (("positive", rewards > 0), ("negative", rewards < 0)):
        title = f"log-prob of held-out tokens of {name} reward less the reference's (nats)"
        define(scores, {f"rewards/gain_{name}": (title, name == "positive")})
        for number, pair in enumerate(pairs.pairs):
            tokens = slice(int(pairs.offsets[2 * number]), int(pairs.offsets[2 * number + 2]))
            if count := int(there[tokens].sum()):
                scores.add(f"rewards/gain_{name}", pair.id, pair.id, gains[tokens][there[tokens]].mean(), count)


def add_corrupted(scores: Scores, pairs: PairSet, suspicions: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How well token values find the replaced words of corrupted answers; there is no score per example.

    Args:
        scores: Where the metrics are defined.
        pairs: Whose rejected answers are corrupted.
        suspicions: Name -> [tokens] of all answers, larger where a token looks replaced.
    """
    titles = {
        "rewards": "AUROC of low token rewards for replaced words",
        "better": "AUROC of low log-probs behind the better prompt for replaced words",
        "surprisal": "control: AUROC of the reference's surprisal for replaced words",
    }
    marks = pairs.important()
    rejected = pairs.rejected()
    metrics = {}
    for name, values in suspicions.items():
        if marks is not None and 0 < marks[rejected].sum() < rejected.sum():
            scores.define(f"corrupted/auroc_{name}", titles[name], True)
            metrics[f"corrupted/auroc_{name}"] = auroc(marks[rejected], values[rejected])
    return metrics


def reward_plots(pairs: PairSet, rewards: np.ndarray) -> list[Plot]:
    """Mean reward by position in the answer: a prompt about length would reward or punish late tokens."""
    positions = np.concatenate([np.arange(length) for length in pairs.lengths])
    rejected = pairs.rejected()
    series = {}
    for label, side in (("chosen", ~rejected), ("rejected", rejected)):
        counts = np.bincount(positions[side])
        sums = np.bincount(positions[side], rewards[side])
        enough = np.flatnonzero(counts >= min(FEWEST, counts[0]))
        series[label] = [(float(position + 1), float(sums[position] / counts[position])) for position in enough]
    title = "Token rewards by position in held-out answers"
    return [Plot("rewards", title, "position in the answer (tokens)", "mean reward", series)]
