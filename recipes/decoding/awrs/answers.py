"""What particles answer to a prompt: metrics, `generations.jsonl` and the heatmap."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.text.vocabulary_bytes import END, VocabularyBytes
from recipes.core.errors import UserError
from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.scores import Scores
from recipes.core.storage.files import write_text
from recipes.decoding.awrs.characters import quote
from recipes.decoding.awrs.config import LOGLIK, RATIO, SHARE, TV, VALID
from recipes.decoding.awrs.constraints import Constraint
from recipes.decoding.awrs.smc import DEAD, Cloud, Particle

TITLES = {
    SHARE: ("constraint tests per token, as a share of the vocabulary", False),
    "tests_per_token": ("constraint tests per token", False),
    "walked_per_token": ("tests of a mask that leaves out tokens which begin like a rejected one", False),
    VALID: ("probability that an answer is valid", True),
    LOGLIK: ("log-likelihood of valid answers by the model at generation.temperature (nats)", True),
    "log_probability": ("log of the estimated probability that the model satisfies the constraint", True),
    "ess": ("effective number of particles, as a share of them", True),
    "resampled": ("times that particles were drawn anew, per prompt", False),
    "answers": ("different answers of a prompt", True),
    "ms_per_token": ("milliseconds per token of a particle", False),
    "rows_per_token": ("tokens that the model read for each token of the answer", False),
    "forward_share": ("share of the time that is the model's forwards", True),
    TV: ("total variation between answers and the true posterior, enumerable languages", False),
    "tv_floor": ("total variation of as many draws of the posterior itself", False),
    RATIO: ("estimated probability of the constraint over the true one, enumerable languages", True),
}
HINT = "A token weighs the more, up to 4, the less probability the constraint left at its place, as the weights say."
CONSTRAINED = "constrained"  # a token that the constraint decided: others were rejected before it, or have no chance


@dataclass(frozen=True)
class Answer:
    """What particles answer to a prompt.

    Attributes:
        prompt: It.
        constraint: What the answer has to satisfy.
        cloud: The particles at their ends.
        rows: Texts that the model read for it.
        seconds: Per token of a particle.
        forward_share: Of the time, that of the model's forwards.
    """

    prompt: Prompt
    constraint: Constraint
    cloud: Cloud
    rows: int
    seconds: float
    forward_share: float

    @property
    def dead(self) -> bool:
        """Whether no particle has weight."""
        return self.cloud.log_mean_weight == -math.inf

    @property
    def stuck(self) -> bool:
        """Whether all particles came to a dead end before they were cut off."""
        mover: Any = self.cloud.mover
        return self.dead and all(len(one.choices) <= mover.longest for one in self.cloud.particles)

    @property
    def dead_text(self) -> bytes:
        """The longest text behind which nothing was accepted."""
        return max((one.text for one in self.cloud.particles if one.state == DEAD), key=len, default=b"")

    def refusal(self) -> UserError:
        """What is to be said where no prompt has an answer."""
        count, behind = len(self.cloud.particles), quote(self.dead_text)
        who = f"all {count} particles" if count > 1 else "the particle"
        where = f"{self.constraint.where}, prompt {self.prompt.id}"
        if any(one.choices[-1].gave_up for one in self.cloud.particles):
            what = f"{who} ended behind {behind}, at the most rejections of a draw"
            return UserError(what, where, "type more smc.max_rejects, or smc.estimator=two_loop, which has no such end")
        if not self.dead_text:
            return UserError(
                f"no token of the vocabulary begins a text that satisfies it: {who} ended before the first",
                where,
                "take another constraint",
            )
        what = f"{who} ended behind {behind}: no token of the vocabulary goes on there"
        return UserError(what, where, "type more smc.particles, or another constraint")

    @property
    def best(self) -> Particle | None:
        """The likeliest particle of the likeliest text; None if all are dead."""
        text = next(iter(self.cloud.posterior()), None)
        fitting = [one for one in self.cloud.particles if one.text == text and one.log_weight > -math.inf]
        return max(fitting, key=lambda one: one.log_weight, default=None)


def score(one: Answer, scores: Scores) -> None:
    """Add what an answer is worth, and what it cost."""
    cloud, name = one.cloud, one.prompt.id
    mover: Any = cloud.mover
    posterior, tests = cloud.posterior(), cloud.tests / cloud.moves
    valid = {text: share for text, share in posterior.items() if one.constraint.complete(text)}
    tokens = max((len(each.choices) for each in cloud.particles), default=1)
    values: dict[str, tuple[float, float]] = {
        SHARE: (tests / (int((mover.vocabulary.symbols < END).sum()) + 1), cloud.moves),
        "tests_per_token": (tests, cloud.moves),
        VALID: (sum(valid.values()), 1),
        "resampled": (cloud.resampled, 1),
        "answers": (len(posterior), 1),
        "ess": (float(np.mean(cloud.sizes)) / len(cloud.particles), 1),
        "ms_per_token": (1000 * one.seconds, cloud.moves),
        "rows_per_token": ((one.rows + 1) / tokens, tokens),
        "forward_share": (one.forward_share, cloud.moves),
    }
    if valid:
        values[LOGLIK] = (log_likelihood(cloud.particles, set(valid)), 1)
    if mover.weighted and not one.dead:
        values["log_probability"] = (cloud.log_mean_weight, 1)
    for metric, (value, count) in values.items():
        scores.add(metric, name, name, value, count)


def log_likelihood(particles: Sequence[Particle], valid: set[bytes]) -> float:
    """Mean log probability of the tokens of particles, by their weights, in nats.

    Args:
        particles: Some with weight and a text among the valid ones.
        valid: Texts that count.
    """
    kept = [one for one in particles if one.log_weight > -math.inf and one.text in valid]
    top = max(one.log_weight for one in kept)
    weights = np.exp([one.log_weight - top for one in kept])
    return float(np.average([one.log_probability for one in kept], weights=weights))


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    """One JSON object a prompt: `id`, `prompt`, the likeliest `text`, whether it is `valid`, all texts, tests, seconds.

    Args:
        path: The file.
        answers: One for each line.
    """
    lines = []
    for one in answers:
        posterior = one.cloud.posterior()
        texts = [{"text": _text(text), "probability": round(share, 6)} for text, share in posterior.items()]
        line: dict[str, Any] = {
            "id": one.prompt.id,
            "prompt": one.prompt.text,
            "text": texts[0]["text"] if texts else "",
            "valid": bool(posterior) and one.constraint.complete(next(iter(posterior))),
            "texts": texts,
            "tests": one.cloud.tests,
            "tokens": one.cloud.moves,
            "seconds": round(one.seconds * one.cloud.moves, 4),
        }
        if one.dead:
            line["dead_end"] = one.dead_text.decode(errors="backslashreplace")
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def heatmap(answers: Sequence[Answer], vocabulary: VocabularyBytes) -> dict[str, Any] | None:
    """Content of `heatmap.json`: tokens of the likeliest answers, shaded by what the constraint took away at each."""
    examples = []
    for one in answers:
        particle = one.best
        if particle is None or not particle.choices:
            continue
        texts = [_text(vocabulary.table[choice.token]) for choice in particle.choices]
        weights = [0.25 + 3.75 * (1 - min(1.0, math.exp(choice.log_weight))) for choice in particle.choices]
        kinds = [CONSTRAINED if choice.rejected or choice.log_weight < -0.7 else None for choice in particle.choices]
        nlls = [choice.nll for choice in particle.choices]
        examples.append(heatmap_example(one.prompt.id, texts, weights, nlls, kinds))
    return {"hint": HINT, "examples": examples} if examples else None


def _text(data: bytes) -> str:
    """Bytes as text; of a character that is cut, nothing."""
    return data.decode(errors="ignore")
