"""What every alignment recipe measures: reward and KL of samples, their frontier, and held-out pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recipes.alignment.pairs import PairSet
from recipes.core.data.tasks.prompts import Judge, Prompt
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.scoring.sampling import sample
from recipes.core.scoring.score import score

KL = "kl"
TITLES = {
    KL: ("KL of policy and reference over a sampled completion (nats)", False),
    "length": ("tokens of a sampled completion", True),
}


def sample_scores(
    policy: Any,
    reference: Any,
    prompts: Sequence[Prompt],
    judge: Judge | None,
    tokenizer: Any,
    options: Mapping[str, Any],
    others: Mapping[str, Any] | None = None,
) -> Scores:
    """Judge completions sampled from a policy, and measure how far it is from the reference.

    Args:
        policy: A `TextModel`.
        reference: The frozen one; the policy itself counts as KL 0.
        prompts: What is to be finished.
        judge: Who judges, and says how to decode; None: nobody, so that only KL and length are measured.
        tokenizer: The models'.
        options: samples (of a prompt), max_new_tokens, seed, device.
        others: Name -> frozen model; the KL to each is measured as well.

    Returns:
        The metrics of the judge, of `TITLES` and `kl/<name>` of the others, an example being one sample, its group the
        prompt.
    """
    asked = [prompt for prompt in prompts for _ in range(options["samples"])]
    eos, device = tokenizer.eos_token_id, options["device"]
    # The seed is that of the run, so that arms draw from the same random numbers.
    temperature = 1.0 if judge is None else judge.temperature
    drawn = sample(policy, [p.ids for p in asked], eos, options["max_new_tokens"], temperature, options["seed"], device)
    rows = [(p.ids, ids) for p, ids in zip(asked, drawn, strict=True)]
    models = {KL: reference} | {f"{KL}/{name}": model for name, model in (others or {}).items()}
    measured = {name: _sequence_kls(policy, model, rows, device) for name, model in models.items()}
    measured |= {"length": np.array([len(ids) for ids in drawn])}
    scores = Scores()
    if judge is not None:
        measured |= judge.measure(asked, drawn)
        define(scores, judge.titles)
    define(scores, TITLES)
    for name in others or {}:
        define(scores, {f"{KL}/{name}": (f"KL of policy and {name} model over a sampled completion (nats)", False)})
    for name in scores.metrics:
        for number, (prompt, value) in enumerate(zip(asked, measured[name], strict=True)):
            scores.add(name, f"{prompt.id} sample {number % options['samples']}", prompt.id, value)
    return scores


def define(scores: Scores, titles: Mapping[str, tuple[str, bool]]) -> None:
    """Say what metrics mean: name -> (title, whether higher is better)."""
    for name, (title, higher) in titles.items():
        scores.define(name, title, higher)


def auroc(marks: np.ndarray, values: np.ndarray) -> float:
    """Probability that a marked token has a larger value than an unmarked one, ties counting half.

    Args:
        marks: bool [tokens], some of them and not all.
        values: [tokens]
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(marks, values))


def kl_weights(kls: Sequence[float], target: float) -> tuple[np.ndarray, np.ndarray]:
    """How much each measurement of a run counts for its reward at a KL, and for its mean reward up to that KL.

    Between measurements reward is taken to be linear in KL. A run that stays below `target` is worth its last
    measurement from there on: a smaller KL for the same reward is no drawback.

    Args:
        kls: [measurements] KL in the order of training, the first that of the reference (0).
        target: The KL.

    Returns:
        Two arrays [measurements] that sum to 1.
    """
    at, area = np.zeros(len(kls)), np.zeros(len(kls))
    for i, (left, right) in enumerate(zip(kls[:-1], kls[1:], strict=True)):
        share = (target - left) / (right - left) if right >= target > left else 1.0
        width = share * (right - left) / target
        area[i] += width * (1 - share / 2)
        area[i + 1] += width * share / 2
        if right >= target > left:
            at[i], at[i + 1] = 1 - share, share
            return at, area
    at[-1] = 1.0
    area[-1] += (target - kls[-1]) / target
    return at, area


def add_frontier(scores: Scores, curve: Mapping[int, Scores], start: Scores, target: float) -> dict[str, float]:
    """Add what the judge says at the KL that arms are compared at, from the measurements of one run.

    Args:
        scores: Where to add.
        curve: Measurements by step.
        start: That of the reference.
        target: The KL in nats.

    Returns:
        `frontier/kl`: the KL that the numbers stand for, less than `target` if the run never got there.
    """
    measured = [start, *(curve[step] for step in sorted(curve))]
    kls = [0.0, *(each.overall()[KL] for each in measured[1:])]
    at, area = kl_weights(kls, target)
    groups = {row[1]: row[2] for row in start.rows}
    judged = _judge_metrics(start)
    rows = [(source, f"frontier/{source}", f"at a KL of {target:g} nats", at) for source in judged]
    rows += [(source, "frontier/area", f"mean over KLs up to {target:g} nats", area) for source in judged[:1]]
    for source, name, where, weights in rows:
        values = [each.values(source) for each in measured]
        scores.define(name, f"{start.metrics[source].title}; {where}", start.metrics[source].higher_is_better)
        for example in values[0]:
            value = sum(weight * each[example] for weight, each in zip(weights, values, strict=True))
            scores.add(name, example, groups[example], value)
    scores.define("frontier/kl", "KL at which the frontier is read (nats)", False)
    return {"frontier/kl": min(target, kls[-1]) if at[-1] == 1.0 else target}


def frontier_plots(curve: Mapping[int, Scores], start: Scores, arm: str | None) -> list[Plot]:
    """The run's way through KL and the first judgement, if somebody judges."""
    overall = [start.overall(), *(curve[step].overall() for step in sorted(curve))]
    if not _judge_metrics(start):
        return []
    name = _judge_metrics(start)[0]
    way = [(values[KL], values[name]) for values in overall]
    title, label = f"{name.capitalize()} against KL over training", start.metrics[name].title
    return [Plot("frontier", title, "KL to the reference (nats)", label, {arm or "run": way})]


def _judge_metrics(start: Scores) -> list[str]:
    """The judge's metrics among those of `sample_scores`, the one that counts first."""
    return [name for name in start.metrics if name.split("/")[0] not in TITLES]


def policy_logps(policy: Any, pairs: PairSet, device: str, bf16: bool = False) -> np.ndarray:
    """float32 [tokens]: log-probs of all answers' tokens under the policy, computed as those of the reference are."""
    return score(policy, pairs.rows(), device=device, what="scoring held-out answers", bf16=bf16)["logprob"]


def add_pair_scores(scores: Scores, pairs: PairSet, logps: np.ndarray, ref_logps: np.ndarray) -> None:
    """Held-out pairs: which answer gained more over the reference, by how much, and where both went."""
    define(
        scores,
        {
            "pairs/accuracy": ("held-out pairs whose chosen answer gained more than the rejected", True),
            "pairs/margin": ("gain of chosen less that of rejected answers (nats)", True),
            "pairs/chosen": ("log-prob of chosen answers less the reference's (nats)", True),
            "pairs/rejected": ("log-prob of rejected answers less the reference's (nats)", False),
        },
    )
    gains = np.add.reduceat(logps.astype(np.float64) - ref_logps, pairs.offsets[:-1]).reshape(-1, 2)
    for pair, (chosen, rejected) in zip(pairs.pairs, gains, strict=True):
        values = (float(chosen > rejected), chosen - rejected, chosen, rejected)
        for name, value in zip(("accuracy", "margin", "chosen", "rejected"), values, strict=True):
            scores.add(f"pairs/{name}", pair.id, pair.id, value)


def _sequence_kls(
    policy: Any, reference: Any, rows: Sequence[tuple[np.ndarray, np.ndarray]], device: str
) -> np.ndarray:
    """float64 [rows]: sum over a completion of KL(policy || reference) over the whole vocabulary."""
    if policy is reference:
        return np.zeros(len(rows))
    scores = score(policy, rows, other=reference, device=device, what="measuring the KL to the reference")
    return np.add.reduceat(scores["kl"].astype(np.float64), scores.offsets[:-1])
