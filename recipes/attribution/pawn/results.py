"""What is measured of detectors: AUROC and recalls for each thing that has changed; texts and gates to look at."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.attribution.pawn.texts import KINDS, SEEN, Texts
from recipes.attribution.pawn.training import Readings, on_device, pack
from recipes.core.data.text.text_ids import texts_of
from recipes.core.evaluation.classification import auroc_values
from recipes.core.evaluation.importance import Importance, WeighedText
from recipes.core.evaluation.scores import Scores, add_class_mean
from recipes.core.models.dropout import evaluation
from recipes.core.storage.files import write_text

FILE = "texts.jsonl"
UNSEEN = "auroc/unseen"
HINT = "Weight of a token in what the text is judged by, mean over the gates, relative to equal weights."


def measure(texts: Texts, values: Mapping[int, float], decides: bool) -> Scores:
    """AUROC of each test, the mean of those in which something has changed, and the recall of either kind.

    Args:
        texts: The texts.
        values: Number of a text -> what the detector says, larger for a machine.
        decides: Whether a machine is taken to have written what is above 0: then there are recalls.
    """
    scores = Scores()
    for test, numbers in texts.tests.items():
        name = "" if test == SEEN else "unseen/"
        what = "texts like those trained on" if test == SEEN else f"unseen: {test}"
        machine = np.array([texts.samples[i].machine for i in numbers])
        judged = np.array([values[int(i)] for i in numbers])
        _add(scores, f"auroc/{name}{test}", f"AUROC, {what}", texts, numbers, test, auroc_values(machine, judged))
        if decides:
            sizes = np.where(machine, machine.sum(), (~machine).sum())
            right = ((judged > 0) == machine).astype(float)
            _add(
                scores,
                f"recall/{name}{test}",
                f"mean recall of both kinds, {what}",
                texts,
                numbers,
                test,
                right,
                1 / sizes,
            )
    add_class_mean(scores, UNSEEN, f"{UNSEEN}/", "AUROC, mean over what is unseen")
    return scores


def _add(scores: Scores, metric: str, title: str, texts: Texts, numbers: np.ndarray, test: str, values: Any,
         counts: Any = None) -> None:  # fmt: skip
    scores.define(metric, title, higher_is_better=True)
    for at, number in enumerate(numbers):
        sample = texts.samples[int(number)]
        scores.add(metric, f"{test}/{sample.id}", sample.document, values[at], 1.0 if counts is None else counts[at])


def tested(texts: Texts) -> list[int]:
    """Numbers of all texts that are tested on, each once."""
    return sorted({int(number) for numbers in texts.tests.values() for number in numbers})


def write_texts(path: Path, texts: Texts, values: Mapping[int, float]) -> None:
    """One line a tested text: what it is, and what the detector says of it."""
    of = {number: [test for test, numbers in texts.tests.items() if number in numbers] for number in values}
    lines = [
        {"id": sample.id, "text": sample.text, "label": KINDS[sample.machine], "tests": of[number],
         "score": round(values[number], 5)}
        for number, sample in ((number, texts.samples[number]) for number in values)
    ]  # fmt: skip
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


@torch.no_grad()
def weighed_texts(head: Any, readings: Readings, tokenizer: Any, most: int) -> list[WeighedText]:
    """What predicted tokens of the first tested texts weigh, mean over the gates, beside how unexpected they are."""
    shown, texts = [], readings.texts
    for number in map(int, texts.tests[SEEN][:most]):
        with evaluation(head):
            weights = head.weights(on_device(head, pack([readings.item(number)]))).float().mean(1).cpu().numpy()
        surprise = -np.asarray(readings.statistics.columns(number)["logprob"])
        tokens = texts_of(texts.rows[number][1:], tokenizer)
        rows = [Importance("gates", weights), Importance("surprise, -log p", surprise)]
        shown.append(WeighedText(texts.samples[number].id, tokens, rows))
    return shown
