"""What a run says of a tokenizer: tokens of texts and terms, boundaries under noise, its vocabulary."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.text.text_ids import TextIds, token_texts
from recipes.core.data.text.windows import Window, random_of
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.storage.files import write_text
from recipes.tokenization.config import NoiseConfig
from recipes.tokenization.edits import aligned_places, edit_distance, edit_share
from recipes.tokenization.kl3m.config import (
    BITS,
    BOUNDARIES,
    BYTES,
    DOMAIN,
    EDITS,
    ERRORS,
    GENERAL,
    NOISY,
    RIGHT,
    TOKEN_EDITS,
    TOKENS,
)
from recipes.tokenization.kl3m.corpora import Line
from recipes.tokenization.kl3m.custom import TERMS
from recipes.tokenization.measures import agreement, renyi_efficiency
from recipes.tokenization.noise import edited, substituted
from recipes.tokenization.pictures import Tokens, tokens_of
from recipes.tokenization.scripts import BLOCKS, characters_of, coverage

TEXTS, TERM_TOKENS, CORRECTIONS = "texts.jsonl", "terms.jsonl", "corrections.jsonl"
NAMES = {DOMAIN: "held-out text of the domain", GENERAL: "held-out general text"}
TITLES = {
    BOUNDARIES: ("places where tokens start that stay where letters are misread (Jaccard)", True),
    EDITS: ("the same where letters also come and go, after alignment", True),
    TOKEN_EDITS: ("edits of the tokens over their number where letters are misread", False),
    "exact": ("texts that come back from the tokenizer to the character", True),
}
OF_CORRECTION = {
    ERRORS: ("character errors of corrected lines", False),
    NOISY: ("character errors of the lines before", False),
    RIGHT: ("lines that are corrected to the letter", True),
    BITS: ("bits per byte of the clean line behind the noisy one", False),
}
LONGEST = 16  # characters of a token that the plot tells apart
Rows = list[dict[str, Any]]


def score_texts(tokenizer: Any, windows: Mapping[str, Sequence[Window]], scores: Scores) -> Rows:
    """Tokens per character and per byte, and whether a text comes back; rows for people."""
    for kind, name in NAMES.items():
        scores.define(f"{kind}/{TOKENS}", f"tokens per character of {name}", False)
        scores.define(f"{kind}/{BYTES}", f"tokens per byte of {name}", False)
    scores.define(f"mean/{TOKENS}", "tokens per character, mean of domain and general text", False)
    scores.define("exact", *TITLES["exact"])
    rows = Rows()
    for kind, some in windows.items():
        total = sum(len(window.text) for window in some)
        for window, one in zip(some, tokens_of(tokenizer, [window.text for window in some]), strict=True):
            text, count = window.text, len(one.ids)
            back = tokenizer.decode(one.ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            size = len(text.encode())
            values = {
                f"{kind}/{TOKENS}": (count / len(text), len(text)),
                f"{kind}/{BYTES}": (count / size, size),
                f"mean/{TOKENS}": (count / len(text), len(text) / total),
                "exact": (float(back == text), 1),
            }
            for name, (value, weight) in values.items():
                scores.add(name, window.id, window.document, value, weight)
            rows.append({"id": window.id, "domain": window.domain, "characters": len(text), "tokens": count})
            rows[-1] |= {"exact": back == text}
    return rows


def score_noise(tokenizer: Any, windows: Sequence[Window], noise: NoiseConfig, seed: int, scores: Scores) -> None:
    """Boundaries under noise; nothing where no noise is asked for."""
    for name in (BOUNDARIES, EDITS, TOKEN_EDITS):
        scores.define(name, *TITLES[name])
    clean = [window.text for window in windows]
    misread = [substituted(window.text, noise.rate, random_of(seed, f"misread {window.id}")) for window in windows]
    spoilt = [
        edited(window.text, noise.rate, noise.kinds, random_of(seed, f"spoilt {window.id}")) for window in windows
    ]
    read = [tokens_of(tokenizer, texts) for texts in (clean, misread, spoilt)]
    for window, noisy, one, other, third in zip(windows, spoilt, *read, strict=True):
        values = {
            BOUNDARIES: agreement(one.starts, other.starts),
            EDITS: aligned_agreement(window.text, noisy, one, third),
            TOKEN_EDITS: edit_share(one.ids, other.ids),
        }
        for name, value in values.items():
            scores.add(name, window.id, window.document, value)


def aligned_agreement(clean: str, noisy: str, one: Tokens, other: Tokens) -> float:
    """Jaccard of the places where tokens of a text and of its noisy copy start, after Levenshtein's alignment."""
    places, noisy_places = aligned_places(clean, noisy)
    return agreement(places[one.starts].tolist(), noisy_places[other.starts].tolist())


def score_terms(tokenizer: Any, scores: Scores) -> Rows:
    """Tokens of each legal and financial term, standing alone."""
    rows, texts = Rows(), token_texts(tokenizer)
    for group, terms in TERMS.items():
        scores.define(f"terms/{group}", f"tokens of a {group} term", False)
        for term, ids in zip(terms, TextIds(tokenizer).batch(terms), strict=True):
            scores.add(f"terms/{group}", term, term, len(ids))
            rows.append({"group": group, "term": term, "tokens": [texts[token] for token in ids]})
    return rows


def score_vocabulary(tokenizer: Any, windows: Sequence[Window], seed: int, scores: Scores) -> None:
    """Size, evenness of use on the domain, and which characters of each script are one token or lost."""
    used = Counter(token for ids in TextIds(tokenizer).batch([window.text for window in windows]) for token in ids)
    size = len(tokenizer)
    values = {
        "vocabulary/size": ("tokens of the vocabulary", False, float(size)),
        "vocabulary/renyi": (
            "Renyi efficiency of the tokens of the domain, order 2.5",
            True,
            renyi_efficiency([*used.values()], size),
        ),
    }
    for script in BLOCKS:
        shares = coverage(tokenizer, characters_of(script))
        values[f"coverage/{script}"] = (f"letters of the script {script} that are one token", True, shares.one)
        values[f"lost/{script}"] = (f"letters of the script {script} that do not come back", False, shares.lost)
    for name, (title, higher_is_better, value) in values.items():
        scores.define(name, title, higher_is_better)
        scores.add(name, f"vocabulary {seed}", f"vocabulary {seed}", value)


def length_plot(tokenizer: Any) -> Plot:
    """Share of the vocabulary by characters of a token."""
    lengths = np.array([min(len(text), LONGEST) for text in token_texts(tokenizer) if text])
    shares = np.bincount(lengths, minlength=LONGEST + 1) / max(len(lengths), 1)
    points = [(float(length), float(shares[length])) for length in range(1, LONGEST + 1)]
    title = "How long tokens are"
    return Plot(
        "token-lengths", title, f"characters ({LONGEST} or more)", "share of the vocabulary", {"tokens": points}
    )


def score_bits(lines: Sequence[Line], bits: Sequence[float], scores: Scores) -> None:
    """Bits per byte of clean lines and their ends."""
    scores.define(BITS, *OF_CORRECTION[BITS])
    for line, value in zip(lines, bits, strict=True):
        size = len(line.text.encode())
        scores.add(BITS, line.id, line.document, float(value) / size, size)


def score_corrections(lines: Sequence[Line], noisy: Sequence[str], written: Sequence[str], scores: Scores) -> Rows:
    """Edits between what was written and the clean line over its characters, and the same of the noisy line."""
    for name in (ERRORS, NOISY, RIGHT):
        scores.define(name, *OF_CORRECTION[name])
    rows = Rows()
    for line, before, after in zip(lines, noisy, written, strict=True):
        size, left = len(line.text), edit_distance(after, line.text)
        values = {ERRORS: (left / size, size), NOISY: (edit_distance(before, line.text) / size, size)}
        for name, (value, weight) in (values | {RIGHT: (float(left == 0), 1)}).items():
            scores.add(name, line.id, line.document, value, weight)
        rows.append({"id": line.id, "noisy": before, "written": after, "clean": line.text, "errors": left})
    return rows


def write_rows(path: Path, rows: Rows) -> None:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
