"""What a run says: bits of texts before and after, what became of the vocabulary, and files that people read."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.text.text_ids import token_texts
from recipes.core.data.text.windows import Window
from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.scores import Scores
from recipes.core.models.rows import RowWeights
from recipes.core.scoring.bits import TextBits
from recipes.core.storage.files import write_text
from recipes.tokenization.measures import (
    agreement,
    boundaries,
    fertility,
    renyi_efficiency,
)
from recipes.tokenization.tokenadapt.config import BASE, BITS, PER_TOKEN, RATIO, TOKENS, TokenAdaptConfig
from recipes.tokenization.tokenizers import is_supertoken
from recipes.tokenization.vocabularies import Vocabularies

TITLES = {
    BITS: ("bits per byte of held-out text", False),
    PER_TOKEN: ("bits per token: log2 of the perplexity", False),
    RATIO: ("perplexity per token over that of the old model", False),
    TOKENS: ("tokens per byte", False),
    "fertility": ("tokens per word", False),
    "boundaries": ("boundaries of tokens that both tokenizers share (Jaccard)", True),
    "exact": ("texts that the new tokenizer gives back to the byte", True),
}
OF_VOCABULARY = {
    "shared": ("share of the new tokens that the old vocabulary has", True),
    "unique": ("new tokens that the old vocabulary lacks", False),
    "pieces": ("old tokens that spell a unique token, mean", False),
    "unspelled": ("unique tokens with bytes that no old token spells", False),
    "uncomposed": ("new tokens that got the fallback row", False),
    "supertokens": ("new tokens of two words or more", True),
    "renyi": ("Renyi efficiency of the new tokens in the texts, order 2.5", True),
}
CUTS, COMPOSED = "cuts.jsonl", "composed.jsonl"
LISTED = 8  # old tokens of a new one in `composed.jsonl`
HINT = "A token weighs as many old tokens as spell it: 1 where the old vocabulary has it."


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        model: The old model, a `TextModel` on its device.
        both: Old and new vocabulary.
        rows: Weights of old rows in new ones.
        windows: What is measured.
        before: What the old model says of it.
    """

    model: Any
    both: Vocabularies
    rows: RowWeights
    windows: Sequence[Window]
    before: Sequence[TextBits]


def score_texts(prepared: Prepared, after: Sequence[TextBits], scores: Scores) -> None:
    """Metrics of each text; bits per byte are weighted by bytes, ratios are means over texts, as the paper has them."""
    domains = sorted({window.domain for window in prepared.windows})
    names = dict(TITLES)
    names |= {
        f"{name}/{domain}": (f"{TITLES[name][0]}, {domain}", False) for name in (BITS, RATIO) for domain in domains
    }
    for name, (title, higher_is_better) in names.items():
        scores.define(name, title, higher_is_better)
    usual = {
        domain: float(np.mean([2**one.per_token for one, window in _pairs(prepared) if window.domain == domain]))
        for domain in domains
    }
    tables = prepared.both.old.table, prepared.both.new.table
    for window, old, new in zip(prepared.windows, prepared.before, after, strict=True):
        table = tables[0] if new is old else tables[1]
        cuts = [boundaries([len(part[token]) for token in one.ids]) for part, one in ((tables[0], old), (table, new))]
        ratio = 2**new.per_token / usual[window.domain]
        values = {
            BITS: (new.per_byte, new.size),
            f"{BITS}/{window.domain}": (new.per_byte, new.size),
            PER_TOKEN: (new.per_token, len(new.ids)),
            RATIO: (ratio, 1),
            f"{RATIO}/{window.domain}": (ratio, 1),
            TOKENS: (len(new.ids) / new.size, new.size),
            "fertility": (fertility(len(new.ids), window.text), max(len(window.text.split()), 1)),
            "boundaries": (agreement(*cuts), 1),
            "exact": (float(new.exact), 1),
        }
        for name, (value, count) in values.items():
            scores.add(name, window.id, window.document, value, count)


def _pairs(prepared: Prepared) -> list[tuple[TextBits, Window]]:
    return list(zip(prepared.before, prepared.windows, strict=True))


def score_vocabulary(config: TokenAdaptConfig, prepared: Prepared, after: Sequence[TextBits], scores: Scores) -> None:
    """Metrics of the new vocabulary, one value a run; without `renyi` where the texts are read by the old tokenizer."""
    both, mapped = prepared.both, prepared.both.mapped
    sizes = [len(ids) for ids in both.pieces.values()]
    used, text_tokens = Counter(token for one in after for token in one.ids), len(mapped.shared) + len(mapped.unique)
    values: dict[str, float] = {
        "shared": len(mapped.shared) / max(text_tokens, 1),
        "unique": len(mapped.unique),
        "pieces": float(np.mean(sizes)) if sizes else 0.0,
        "unspelled": len(both.unspelled),
        "uncomposed": int(prepared.rows.missing.sum()),
        "supertokens": sum(map(is_supertoken, both.new.table)),
    }
    if config.init.name != BASE:
        values["renyi"] = renyi_efficiency(list(used.values()), len(both.new))
    for name, value in values.items():
        title, higher_is_better = OF_VOCABULARY[name]
        scores.define(f"vocabulary/{name}", title, higher_is_better)
        scores.add(f"vocabulary/{name}", f"vocabulary {config.seed}", f"vocabulary {config.seed}", value)


def heatmap(config: TokenAdaptConfig, prepared: Prepared, after: Sequence[TextBits]) -> dict[str, Any]:
    """Content of `heatmap.json`: the first texts in new tokens, shaded by how many old ones spell each."""
    texts, pieces = token_texts(prepared.both.tokenizers[1]), prepared.both.pieces
    examples = [
        heatmap_example(
            window.id,
            [texts[token] for token in one.ids],
            [len(pieces.get(token, [0])) for token in one.ids],
            one.bits * np.log(2),
            ["new" if token in pieces else None for token in one.ids],
        )
        for window, one in list(zip(prepared.windows, after, strict=True))[: config.evaluation.shown]
    ]
    return {"examples": examples, "hint": HINT}


def write_cuts(path: Path, prepared: Prepared, after: Sequence[TextBits], tokenizer: Any) -> None:
    """Each text as both tokenizers cut it, and what it costs."""
    old = token_texts(prepared.both.tokenizers[0])
    new = token_texts(tokenizer)
    rows = [
        {
            "id": window.id,
            "bits_per_byte": {"old": one.per_byte, "new": other.per_byte},
            "tokens": {"old": len(one.ids), "new": len(other.ids)},
            "old": [old[token] for token in one.ids],
            "new": [new[token] for token in other.ids],
        }
        for window, one, other in zip(prepared.windows, prepared.before, after, strict=True)
    ]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_composed(path: Path, prepared: Prepared) -> None:
    """Each unique token, the old tokens that spell it, and those that its row is made of, heaviest first."""
    both, rows = prepared.both, prepared.rows
    old, new = token_texts(both.tokenizers[0]), token_texts(both.tokenizers[1])
    weights: dict[int, dict[int, float]] = {}
    for target, source, value in zip(rows.targets.tolist(), rows.sources.tolist(), rows.values.tolist(), strict=True):
        row = weights.setdefault(target, {})
        row[source] = row.get(source, 0.0) + value
    lines = [
        {
            "token": new[token],
            "pieces": [old[piece] for piece in pieces],
            "row": [[old[at], round(value, 4)] for at, value in heaviest(weights.get(token, {}))],
        }
        for token, pieces in both.pieces.items()
    ]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def heaviest(weights: dict[int, float]) -> list[tuple[int, float]]:
    """The first `LISTED` old tokens by weight, of equal ones the first."""
    return sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:LISTED]
