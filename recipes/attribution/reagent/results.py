"""What a run leaves of its attributions: metrics of each prediction, a heatmap, and files that people read."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipes.attribution import faithfulness
from recipes.attribution.faithfulness import Masking
from recipes.attribution.reagent.attributions import Attributer, Attribution
from recipes.attribution.reagent.config import HIT, MATCHED_NC, SOFT_NC, SOFT_NS, ReagentRunConfig
from recipes.attribution.reagent.probes import Batch
from recipes.attribution.reagent.samplers import Replace
from recipes.attribution.reagent.targets import Target
from recipes.core.data.text.text_ids import texts_of
from recipes.core.evaluation.importance import Importance, WeighedText
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.storage.files import write_text
from recipes.core.text_recipe.items import seed_of

FILE = "attributions.jsonl"
HINT = "Importance of each token for the predicted one, relative to the mean 1: 4 is four times its share."
LOG_RATIO = "log_ratio"
TITLES = {
    SOFT_NC: ("soft comprehensiveness: what the prediction loses without what is important", True),
    SOFT_NS: ("soft sufficiency: what of the prediction the important tokens alone bring back", True),
    MATCHED_NC: ("soft comprehensiveness at matched sharpness", True),
    f"{SOFT_NS}/matched": ("soft sufficiency at matched sharpness", True),
    "hard_nc": ("comprehensiveness: the most important tokens taken away whole", True),
    "hard_ns": ("sufficiency: the most important tokens kept alone", True),
    "deletion": ("area of p0 - p, the most important tokens replaced first", True),
    "insertion": ("area of p, the most important tokens kept first", True),
    HIT: ("share of the planted evidence among the most important tokens", True),
    "evenness": ("entropy of the importance over that of equal shares", False),
    "probes/stopped": ("share of probes that stopped", True),
    "probes/steps": ("subsets that a probe replaced", False),
    "gap": ("nats by which integrated gradients do not add up", False),
    "forwards": ("texts that the model read for an attribution", False),
    "right": ("predictions that are the right token", True),
}


def score(
    config: ReagentRunConfig,
    attributer: Attributer,
    targets: Sequence[Target],
    attributions: Sequence[Attribution],
    chance: Sequence[Attribution],
) -> tuple[Scores, dict[str, float]]:
    """Metrics of each prediction, and overall ones.

    Args:
        config: Of the run.
        attributer: What made the attributions.
        targets: The predictions.
        attributions: One for each.
        chance: Random ones, which soft metrics are set against.
    """
    scores, randoms, undefined = Scores(), dict[str, list[tuple[float, float]]](), 0
    for name, (title, higher_is_better) in TITLES.items():
        scores.define(name, title, higher_is_better)
    for numbers in attributer.batches(targets):
        batch = attributer.batch([targets[number] for number in numbers])
        replace = attributer.sampler(batch, config.metric.sampler)
        for row, number in enumerate(numbers):
            target, one = targets[number], attributions[number]
            rows = _counts(config, target, one) | _curves(config, attributer, batch, replace, row, target, one)
            if masking := _masking(config, attributer, batch, row, target):
                rows |= _masked(config, masking, target, one)
                soft = masking.soft(chance[number].importance.to(batch.ids.device))
                for name, value in ((SOFT_NC, soft.comprehensiveness), (SOFT_NS, soft.sufficiency)):
                    randoms.setdefault(name, []).append((rows[name], value))
            else:
                undefined += 1
            for name, value in rows.items():
                scores.add(name, target.id, target.text, value)
    if undefined:
        note(
            f"warning: {undefined} of {len(targets)} predictions are the same without any text: no soft metric of them"
        )
    overall = scores.overall() | _ratios(scores, randoms)
    return _present(scores, overall), overall


def _present(scores: Scores, overall: Mapping[str, float]) -> Scores:
    """Scores with the meaning of what was measured alone."""
    return Scores({name: metric for name, metric in scores.metrics.items() if name in overall}, scores.rows)


def _counts(config: ReagentRunConfig, target: Target, one: Attribution) -> dict[str, float]:
    """What needs no further forward."""
    free = torch.tensor(target.free)
    rows = {"evenness": faithfulness.evenness(one.importance, free), "forwards": one.forwards}
    if target.evidence:
        top = set(faithfulness.ranking(one.scores, free)[: config.metric.top].tolist())
        rows[HIT] = len(top.intersection(target.evidence)) / len(target.evidence)
    if target.answer is not None:
        rows["right"] = float(target.token == target.answer)
    if one.gap is not None:
        rows["gap"] = one.gap
    if one.probed is not None:
        rows["probes/steps"] = float(one.probed.steps.double().mean())
        if config.reagent.fixed_steps is None:
            rows["probes/stopped"] = float(one.probed.stopped.double().mean())
    return rows


def _curves(
    config: ReagentRunConfig,
    attributer: Attributer,
    batch: Batch,
    replace: Replace,
    row: int,
    target: Target,
    one: Attribution,
) -> dict[str, float]:
    """Areas under curves of replacement, the same replacements for every attribution."""
    draws, ids = config.metric.replacements, batch.ids[row]
    length, generator = len(target.ids), torch.Generator().manual_seed(seed_of(config.seed, "curves", target.id))
    drawn = attributer.replaced(batch, row, replace, torch.rand(draws, length, generator=generator))[:, :length]

    def read(replaced: Tensor) -> Tensor:
        texts = torch.where(replaced[:, None], drawn, ids[:length]).flatten(0, 1)
        about = (each[row].expand(len(texts)) for each in (batch.lengths, batch.targets))
        return attributer.reader.probabilities(texts, *about).unflatten(0, (-1, draws)).mean(1)

    scores, free = one.scores.to(ids.device), batch.free[row, :length]
    curves = faithfulness.replacement_curves(scores, free, target.probability, read)
    return {"deletion": curves.deletion, "insertion": curves.insertion}


def _masking(
    config: ReagentRunConfig, attributer: Attributer, batch: Batch, row: int, target: Target
) -> Masking | None:
    """The masks of a prediction; None where nothing can be said."""
    options, reader = config.metric, attributer.reader
    ids, free = (each[row, : len(target.ids)] for each in (batch.ids, batch.free))
    embeddings, seed = reader.embeddings(ids), seed_of(config.seed, "masks", target.id)
    masking = Masking(embeddings, free, reader.distributions, options.distance, options.draws, seed)
    return masking if masking.is_defined else None


def _masked(config: ReagentRunConfig, masking: Masking, target: Target, one: Attribution) -> dict[str, float]:
    """Soft and hard metrics, as they are and at matched sharpness."""
    free = torch.tensor(target.free)
    equal = faithfulness.matched(one.scores, free, config.metric.tau)
    soft, same = (masking.soft(importance.to(masking.device)) for importance in (one.importance, equal))
    count = max(1, int(config.metric.hard * int(free.sum())))
    hard = masking.hard(one.scores.to(masking.device), count)
    return {
        SOFT_NC: soft.comprehensiveness,
        SOFT_NS: soft.sufficiency,
        MATCHED_NC: same.comprehensiveness,
        f"{SOFT_NS}/matched": same.sufficiency,
        "hard_nc": hard.comprehensiveness,
        "hard_ns": hard.sufficiency,
    }


def _ratios(scores: Scores, pairs: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, float]:
    """ln of a soft metric's mean over that of random importance, where neither is 0."""
    ratios = {}
    for name, values in pairs.items():
        ours, theirs = (sum(column) for column in zip(*values, strict=True))
        if ours > 0 and theirs > 0:
            title = f"{TITLES[name][0].partition(':')[0]}: log of the ratio to random importance"
            scores.define(f"{name}/{LOG_RATIO}", title, True)
            ratios[f"{name}/{LOG_RATIO}"] = math.log(ours / theirs)
    return ratios


def weighed_texts(
    targets: Sequence[Target], rows: Mapping[str, Sequence[Attribution]], tokenizer: Any
) -> list[WeighedText]:
    """The predictions that the heatmap shows, with the rows of each method that has them."""
    return [
        WeighedText(
            target.id,
            texts_of(target.ids, tokenizer),
            [Importance(name, values[number].importance.numpy()) for name, values in rows.items()],
            target.kinds,
            f"{target.id}: what leads to \N{LEFT DOUBLE QUOTATION MARK}{tokenizer.decode([target.token])}"
            f"\N{RIGHT DOUBLE QUOTATION MARK} (p = {target.probability:.2g})",
        )
        for number, target in enumerate(targets)
    ]


def write_attributions(path: Path, targets: Sequence[Target], values: Sequence[Attribution], tokenizer: Any) -> None:
    """One JSON object a prediction: text, predicted token and its probability, tokens by importance, probes."""
    lines = []
    for target, one in zip(targets, values, strict=True):
        texts, free = texts_of(target.ids, tokenizer), torch.tensor(target.free)
        order = faithfulness.ranking(one.scores, free).tolist()
        line: dict[str, Any] = {
            "id": target.id,
            "text": str(tokenizer.decode(list(target.ids))),
            "predicted": str(tokenizer.decode([target.token])),
            "probability": round(target.probability, 4),
            "tokens": [[texts[place], place, round(float(one.importance[place]), 4)] for place in order],
        }
        if target.evidence:
            line["evidence"] = list(target.evidence)
        if one.probed is not None:
            line["rationale"] = [texts[place] for place in one.probed.rationale.nonzero()[:, 0].tolist()]
            line["steps"], line["stopped"] = one.probed.steps.tolist(), one.probed.stopped.tolist()
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "".join(f"{line}\n" for line in lines))
