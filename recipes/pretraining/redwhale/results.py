"""What a run says: bits per byte of both languages before and after, tokens, stages, filters; files for people."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from recipes.core.data.text.windows import Window
from recipes.core.evaluation.curves import add_area, over_training
from recipes.core.evaluation.scores import Scores
from recipes.core.recipe import Evaluation
from recipes.core.scoring.bits import TextBits
from recipes.core.storage.files import write_json, write_text
from recipes.core.training.stages import Stages
from recipes.pretraining.redwhale.card import AT_EXTENSION, BITS, FORGETTING, RATIO
from recipes.pretraining.redwhale.config import RedWhaleConfig
from recipes.pretraining.redwhale.vocabulary import Extension

TOKENS, STAGES, FILTERS = "tokens.jsonl", "stages.json", "filters.json"
BY_KIND = {
    "real": "documents as they are",
    "trusted": "trusted documents",
    "lines": "planted lines of other documents",
    "copy": "planted copies with a letter changed in each line",
    "noise": "planted letters in random order",
    "repeated": "planted words said again and again",
}


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        windows: Held-out stretches by language, "target" and "known".
        bits: What they cost by time, "base", "extension" and "after", and language.
        gone: Share of characters that filters took, by kind of document.
        extension: The new tokens.
    """

    windows: Mapping[str, Sequence[Window]]
    bits: Mapping[str, Mapping[str, Sequence[TextBits]]]
    gone: Mapping[str, float]
    extension: Extension


def score(scores: Scores, bits: Sequence[TextBits], windows: Sequence[Window], known: bool, name: str = BITS) -> None:
    """Bits per byte of texts, weighted by bytes, under `name`, of the known language `known/<name>`."""
    metric = f"known/{name}" if known else name
    language = "the language known before" if known else "the new language"
    moment = {"base": ", old model", "extension": ", right after the extension"}.get(name.partition("/")[0], "")
    scores.define(metric, f"bits per byte of {language}{moment}", False)
    for one, window in zip(bits, windows, strict=True):
        scores.add(metric, window.id, window.document, one.per_byte, one.size)


def evaluation(
    config: RedWhaleConfig, measured: Measured, stages: Stages | None, curve: dict[int, Scores]
) -> Evaluation:
    """All metrics and files of a run."""
    scores, bits = Scores(), measured.bits
    for language, windows in measured.windows.items():
        known = language == "known"
        for moment, name in (("base", f"base/{BITS}"), ("extension", AT_EXTENSION), ("after", BITS)):
            score(scores, bits[moment][language], windows, known, name)
        _ratios(scores, bits["base"][language], bits["after"][language], windows, known)
    pairs = zip(bits["base"]["known"], bits["after"]["known"], measured.windows["known"], strict=True)
    scores.define(FORGETTING, "bits per byte of the language known before, more than the old model's", False)
    for old, new, window in pairs:
        scores.add(FORGETTING, window.id, window.document, new.per_byte - old.per_byte, new.size)
    if curve:
        title = f"bits per byte of the new language, {over_training(config.trainer)}"
        add_area(scores, curve, BITS, f"{BITS}/auc", title, False)
    _add_single(scores, config, measured, stages)
    files: dict[str, Callable[[Path], None]] = {FILTERS: partial(write_json, value=dict(measured.gone))}
    if measured.extension.pieces:
        files[TOKENS] = partial(_write_tokens, extension=measured.extension)
    if stages:
        files[STAGES] = partial(_write_stages, stages=stages)
    return Evaluation(scores.overall(), scores, files=files)


def _ratios(
    scores: Scores, old: Sequence[TextBits], new: Sequence[TextBits], windows: Sequence[Window], known: bool
) -> None:
    name = f"known/{RATIO}" if known else RATIO
    scores.define(name, f"tokens over those of the old tokenizer, {'known' if known else 'new'} language", False)
    for before, after, window in zip(old, new, windows, strict=True):
        scores.add(name, window.id, window.document, len(after.ids) / len(before.ids), len(before.ids))


def _add_single(scores: Scores, config: RedWhaleConfig, measured: Measured, stages: Stages | None) -> None:
    """Metrics that have one value a run."""
    values = {"vocabulary/new": (float(len(measured.extension.pieces)), "new tokens")}
    if pieces := measured.extension.pieces:
        mean = statistics.fmean(map(len, pieces))
        values["vocabulary/pieces"] = (mean, "old tokens that spell a new one, mean")
    for kind, share in measured.gone.items():
        values[f"removed/{kind}"] = (share, f"share of characters that filters took: {BY_KIND[kind]}")
    if stages:
        values |= _stage_values(config, stages)
    for name, (value, title) in values.items():
        scores.define(name, title, name.startswith("removed/") and "real" not in name)
        scores.add(name, "run", "run", value)


def _stage_values(config: RedWhaleConfig, stages: Stages) -> dict[str, tuple[float, str]]:
    values = {}
    for number, stage in enumerate(stages.stages):
        name = f"stages/{number + 1}"
        values[f"{name}/trained"] = (float(stages.trained(number)), f"numbers that stage {number + 1} trains")
        if config.trainer.optimizer.startswith("adamw"):
            title = f"bytes of AdamW's moments in stage {number + 1}: {stage.name}"
            values[f"{name}/state_bytes"] = (float(stages.state_bytes(number)), title)
    return values


def _write_tokens(path: Path, extension: Extension) -> None:
    """Each new token, what it says, and the old tokens that spell it."""
    names = extension.tokenizer.convert_ids_to_tokens
    lines = [
        {"id": extension.first + number, "token": text, "pieces": names(ids)}
        for number, (text, ids) in enumerate(zip(extension.texts, extension.pieces, strict=True))
    ]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _write_stages(path: Path, stages: Stages) -> None:
    """Each stage: its steps, what it trains, bytes of moments, median time of a step in this process."""
    ends = (*stages.starts[1:], stages.steps)
    rows = [
        {
            "stage": stage.name,
            "steps": [start + 1, end],
            "peak_learning_rate": stage.learning_rate,
            "trained": stages.trained(number),
            "state_bytes": stages.state_bytes(number),
            "seconds_per_step": statistics.median(stages.seconds[number]) if stages.seconds.get(number) else None,
        }
        for number, (stage, start, end) in enumerate(zip(stages.stages, stages.starts, ends, strict=True))
    ]
    write_json(path, {"stages": rows})
