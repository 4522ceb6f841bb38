"""What a run says: a score against bits per byte, the tokenizers one by one, and the same text cut by all."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.config.settings import FEWEST_ARMS
from recipes.core.data.text.text_ids import token_texts
from recipes.core.data.text.windows import Window
from recipes.core.errors import UserError
from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.recipe import Evaluation
from recipes.core.statistics.correlation import permutation_p as rank_p
from recipes.core.storage.files import write_text
from recipes.tokenization.turkish_tokenization import method
from recipes.tokenization.turkish_tokenization.config import BITS, PEARSON, PREDICTION, PROMISES
from recipes.tokenization.turkish_tokenization.config import TurkishTokenizationConfig as Config
from recipes.tokenization.turkish_tokenization.method import Chains, normalise, share
from recipes.tokenization.turkish_tokenization.scores import NAMED, TITLES, Row

PANEL = "panel"  # the one example of what all tokenizers together give
TABLE, CUTS = "tokenizers.jsonl", "cuts.jsonl"
HINT = "A token weighs 2 if it is one morpheme, 1 if it is a valid word all the same, 0 if it is neither."


def evaluation(
    config: Config,
    rows: Sequence[Row],
    windows: Sequence[Window],
    words: Sequence[str],
    chains: Chains,
) -> Evaluation:
    """Everything that a run reports.

    Raises:
        UserError: too few tokenizers give texts back.
    """
    judged = [row for row in rows if row.bits is not None]
    if len(judged) < FEWEST_ARMS:
        what = f"{len(judged)} of {len(rows)} tokenizers give the texts back to the byte"
        raise UserError(what, "panel.members", f"a correlation needs {FEWEST_ARMS}: type others")
    scores = Scores()
    score_tokenizers(rows, scores)
    score_prediction(config, judged, scores)
    scores.define("coverage", "percent of word types of the text that are valid words", True)
    scores.add("coverage", PANEL, PANEL, share(dict.fromkeys(words, 1), chains.is_valid))
    files: dict[str, Callable[[Path], None]] = {
        TABLE: partial(write_table, rows=rows),
        CUTS: partial(write_cuts, rows=judged, windows=windows),
    }
    shown = heatmap(config, judged, windows, chains)
    return Evaluation(scores.overall(), scores, shown, plots=[plot(config, judged)], files=files)


def score_tokenizers(rows: Sequence[Row], scores: Scores) -> None:
    """The scores of each tokenizer, and bits per byte of those whose texts come back."""
    for name, (title, higher_is_better) in TITLES.items():
        scores.define(name, title, higher_is_better)
    scores.define("exact", "tokenizers that give every text back to the byte", True)
    for row in rows:
        values = dict(row.values) | ({BITS: row.bits_per_byte} if row.bits else {})
        for name, value in values.items():
            scores.add(name, row.name, row.name, value)
            if name in NAMED:
                title, higher_is_better = TITLES[name]
                scores.define(f"{name}/{row.name}", f"{title}, {row.name}", higher_is_better)
                scores.add(f"{name}/{row.name}", PANEL, PANEL, value)
        scores.add("exact", row.name, row.name, float(row.bits is not None))


def score_prediction(config: Config, rows: Sequence[Row], scores: Scores) -> None:
    """How well the chosen score ranks the tokenizers by bits per byte; positive where it does as it promises."""
    by, bits = [row.values[config.measure.by] for row in rows], [row.bits_per_byte for row in rows]
    sign = PROMISES[config.measure.by]
    scores.define(PREDICTION, f"rank correlation of {config.measure.by} with bits per byte, as promised", True)
    scores.define(PEARSON, f"Pearson's correlation of {config.measure.by} with bits per byte, as promised", True)
    for name, parts in ((PREDICTION, method.rank_parts), (PEARSON, method.correlation_parts)):
        for row, part in zip(rows, sign * parts(by, bits), strict=True):
            scores.add(name, row.name, row.name, part)
    varies = np.ptp(by) > 0 and np.ptp(bits) > 0
    values = {
        "prediction/p": ("permutation p of the rank correlation, one-sided", rank_p(by, bits, sign) if varies else 1.0),
        "prediction/pearson_p": ("permutation p of Pearson's, one-sided", method.permutation_p(by, bits, sign)),
        "tokenizers": ("tokenizers that are correlated", len(rows)),
    }
    for name, (title, value) in values.items():
        scores.define(name, title, name == "tokenizers")
        scores.add(name, PANEL, PANEL, value)


def plot(config: Config, rows: Sequence[Row]) -> Plot:
    """Bits per byte over the chosen score, a point for each tokenizer."""
    by = config.measure.by
    series = {row.name: [(row.values[by], row.bits_per_byte)] for row in rows}
    return Plot("tokenizers", f"Bits per byte over {by}", TITLES[by][0], TITLES[BITS][0], series, kind="scatter")


def heatmap(config: Config, rows: Sequence[Row], windows: Sequence[Window], chains: Chains) -> dict[str, Any]:
    """Content of `heatmap.json`: the same text cut by every tokenizer, tokens shaded by what they are."""
    examples = []
    for number, window in list(enumerate(windows))[: config.evaluation.shown]:
        for row in rows:
            assert row.bits is not None
            texts, one = token_texts(row.tokenizer), row.bits[number]
            words = [normalise(texts[token], config.lexicon.turkish_case) for token in one.ids]
            by = config.measure.validity
            valid = [chains.is_valid(word, by) for word in words]
            weights = [
                2 if chains.is_pure(word, by) else int(is_valid) for word, is_valid in zip(words, valid, strict=True)
            ]
            name = f"{row.name}, {len(one.ids)} tokens, {one.per_byte:.2f} bits per byte: {window.id}"
            nlls = one.bits * np.log(2)
            examples.append(heatmap_example(name, [texts[token] for token in one.ids], weights, nlls))
    return {"examples": examples, "hint": HINT}


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Each tokenizer with its scores, best bits per byte first; those without a model last."""
    lines = [
        {
            "tokenizer": row.name,
            BITS: row.bits_per_byte if row.bits else None,
            "exact": row.bits is not None,
            **row.values,
        }
        for row in sorted(rows, key=lambda row: (row.bits is None, row.bits_per_byte if row.bits else 0))
    ]
    _write(path, lines)


def write_cuts(path: Path, rows: Sequence[Row], windows: Sequence[Window]) -> None:
    """Each text as every tokenizer cuts it, and its bits."""
    tables = [token_texts(row.tokenizer) for row in rows]
    lines = []
    for number, window in enumerate(windows):
        read = [(row, table, row.bits[number]) for row, table in zip(rows, tables, strict=True) if row.bits]
        cut = {row.name: [table[token] for token in one.ids] for row, table, one in read}
        lines.append({"id": window.id, BITS: {row.name: one.per_byte for row, _, one in read}, "cut": cut})
    _write(path, lines)


def _write(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
