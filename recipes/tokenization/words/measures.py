"""What a run says of held-out text: bits, words, what context is worth, and what errors in it cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipes.core.data.text.windows import Window
from recipes.core.evaluation.scores import Scores
from recipes.tokenization.words.config import ReadingConfig
from recipes.tokenization.words.names import (
    ACCURACY,
    BITS,
    CHARACTER_BITS,
    GAIN,
    OF_CONTEXT,
    OF_TEXT,
    PERTURBED,
    PERTURBED_ACCURACY,
    RARE_ACCURACY,
    RARE_BITS,
    RISE,
    UNIT_ACCURACY,
)
from recipes.tokenization.words.perturbing import perturb, text_seed
from recipes.tokenization.words.reading import Reader, WordBits


@dataclass(frozen=True)
class Stretch:
    """A held-out stretch of text in two parts: what stands before, and what is read behind it."""

    window: Window
    before: str
    text: str


def stretches(windows: Sequence[Window]) -> list[Stretch]:
    """Windows cut at a word, about where three quarters of them end; none whose last part is blank."""
    rows = []
    for window in windows:
        place = 3 * len(window.text) // 4
        cut = max(window.text.rfind(" ", 0, place), window.text.rfind("\n", 0, place)) + 1 or place
        if not window.text[cut:].isspace():
            rows.append(Stretch(window, window.text[:cut], window.text[cut:]))
    return rows


def define(scores: Scores, prefix: str = "") -> None:
    """Say what all metrics of text mean, under names that begin with a prefix."""
    for name, (title, higher_is_better) in (OF_TEXT | OF_CONTEXT).items():
        scores.define(f"{prefix}{name}", title, higher_is_better)


def add_clean(
    scores: Scores, parts: Sequence[Stretch], read: Sequence[WordBits], counts: Counter[bytes], rare: int, prefix: str
) -> None:
    """Metrics of texts as they are, context and all, of each text.

    Args:
        scores: Where to add them.
        parts: The texts.
        read: Their words' bits.
        counts: How often each word comes in the training text.
        rare: Words that come at most so often are rare.
        prefix: Of the names.
    """
    for part, one in zip(parts, read, strict=True):
        sizes = np.array([len(word) for word in one.words])
        is_rare = np.array([counts[word] <= rare for word in one.words])
        letters = len(b"".join(one.words).decode(errors="replace"))
        values = {
            BITS: (one.bits.sum(), sizes.sum()),
            CHARACTER_BITS: (one.bits.sum(), letters),
            ACCURACY: (one.right.sum(), len(sizes)),
            UNIT_ACCURACY: (one.right_units.sum(), one.units.sum()),
            RARE_BITS: (one.bits[is_rare].sum(), sizes[is_rare].sum()),
            RARE_ACCURACY: (one.right[is_rare].sum(), is_rare.sum()),
        }
        for name, (total, count) in values.items():
            if count:
                scores.add(f"{prefix}{name}", part.window.id, part.window.document, total / count, count)


def add_perturbed(
    scores: Scores, parts: Sequence[Stretch], clean: Sequence[WordBits], reader: Reader, options: ReadingConfig
) -> None:
    """What context is worth to the second part of each text, and what errors cost, in bits per byte of that part.

    Errors in the context alone leave what is predicted as it is; errors in all of it are what the paper measures. A
    model that uses no context looks robust to errors in it: what it gains from context stands beside.
    """
    seeds = [text_seed(part.window.id) for part in parts]
    base = [one.per_byte for one in clean]
    if len(parts) > 1:
        others = [*parts[1:], parts[0]]
        swapped = reader.read([(part.text, other.before) for part, other in zip(parts, others, strict=True)])
        _add(scores, GAIN, parts, [one.per_byte - value for one, value in zip(swapped, base, strict=True)], clean)
    rises = []
    for kind in options.perturbations:
        before = [perturb(part.before, kind, options.share, seed) for part, seed in zip(parts, seeds, strict=True)]
        text = [perturb(part.text, kind, options.share, seed + 1) for part, seed in zip(parts, seeds, strict=True)]
        read = reader.read([(part.text, context) for part, context in zip(parts, before, strict=True)])
        rises.append([one.per_byte - value for one, value in zip(read, base, strict=True)])
        _add(scores, f"{RISE}/{kind}", parts, rises[-1], clean)
        read = reader.read(list(zip(text, before, strict=True)))
        more = [one.per_byte - value for one, value in zip(read, base, strict=True)]
        _add(scores, f"{PERTURBED}/{kind}", parts, more, clean)
        for part, one in zip(parts, read, strict=True):
            right, count = one.right[one.first :], len(one.words) - one.first
            name = f"{PERTURBED_ACCURACY}/{kind}"
            scores.add(name, part.window.id, part.window.document, float(right.mean()), count)
    if rises:
        _add(scores, RISE, parts, np.mean(rises, axis=0).tolist(), clean)


def _add(
    scores: Scores, name: str, parts: Sequence[Stretch], values: Sequence[float], clean: Sequence[WordBits]
) -> None:
    for part, value, one in zip(parts, values, clean, strict=True):
        scores.add(name, part.window.id, part.window.document, value, one.size)


def nearest_match(curve: dict[int, Scores], before: int, target: float, tolerance: float) -> int | None:
    """The step up to `before` at which the loss on clean text is nearest to a target, None if none is that near."""
    losses = {
        step: scores.overall().get(BITS, np.inf)
        for step, scores in curve.items()
        if step <= before and RISE in scores.metrics
    }
    step = min(losses, key=lambda each: (abs(losses[each] - target), each), default=None)
    return step if step is not None and abs(losses[step] - target) <= tolerance else None


def copy_rows(source: Scores, target: Scores, names: Sequence[str], prefix: str = "", new: str = "") -> None:
    """Rows of some metrics, `prefix` of whose names is replaced by a new one."""
    wanted = {f"{prefix}{name}": f"{new}{name}" for name in names}
    for metric, example, group, value, count in source.rows:
        if metric in wanted:
            name = wanted[metric]
            if name not in target.metrics:
                target.metrics[name] = source.metrics[metric]
            target.add(name, example, group, value, count)
