"""Data set `preferences`: users' own pairs, tokenised, cut, split, and what was dropped counted."""

import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.alignment.config import PreferencesConfig
from recipes.alignment.layouts import LONELY, BadRow
from recipes.alignment.pairs import Pair, PairSet, PreferenceData, Prompt
from recipes.alignment.reference import first_id
from recipes.alignment.rows import Dropped, Example, Row, example, read_rows
from recipes.core.errors import UserError
from recipes.core.files import sha256_json

TIE, COPY = "chosen and rejected are the same", "is the same as an earlier row"
HARMLESS = (TIE, COPY, LONELY)  # dropped and counted, but no reason to stop


@dataclass(frozen=True)
class Rows:
    """Rows of the user's file, and lines that are none."""

    rows: list[Row]
    dropped: Dropped

    def texts(self) -> Iterator[str]:
        """All plain texts, for a tokenizer that is trained in the run."""
        return (
            value for row in self.rows for value in (row.prompt, row.chosen, row.rejected) if isinstance(value, str)
        )

    @property
    def fingerprint(self) -> str:
        """Hash of all rows."""
        return sha256_json([[row.prompt, row.chosen, row.rejected] for row in self.rows])


def load_rows(config: PreferencesConfig) -> Rows:
    """Read `data.path`. Raises UserError if it is absent, of no known format, empty, or lacks a column."""
    rows, dropped = [], Dropped()
    for row in read_rows(config):
        if isinstance(row, Row):
            rows.append(row)
        else:
            dropped.add(row[1], row[0])
        if config.limit is not None and len(rows) == config.limit:
            break
    if not rows:
        raise UserError("there are no rows", f"data.path={config.path}", "\n".join(dropped.lines()))
    return Rows(rows, dropped)


def load_preferences(config: PreferencesConfig, rows: Rows, tokenizer: Any) -> PreferenceData:
    """Pairs from rows.

    Args:
        config: How they are cut and split.
        rows: From `load_rows`.
        tokenizer: The model's.

    Raises:
        UserError: rows cannot be used (with `on_error=fail`), or fewer than two pairs are left.
    """
    dropped, pairs, seen = deepcopy(rows.dropped), [], set()
    for row in rows.rows:
        try:
            text = example(row, tokenizer)
            pair = _pair(text, tokenizer, config.max_tokens)
        except BadRow as error:
            dropped.add(str(error), row.id)
            continue
        key = (text.prompt, text.chosen, text.rejected)
        if text.chosen == text.rejected or key in seen:
            dropped.add(COPY if key in seen else TIE, row.id)
        else:
            pairs.append(pair)
        seen.add(key)
    _tell(config, dropped, len(rows.rows) + sum(rows.dropped.counts.values()))
    if len(pairs) < 2:
        raise UserError(
            f"{len(pairs)} pairs are left, too few to train and to test", f"data.path={config.path}", _list(dropped)
        )
    order = np.random.default_rng(config.seed).permutation(len(pairs))
    held_out = min(max(round(config.test_fraction * len(pairs)), 1), len(pairs) - 1)
    test = [pairs[i] for i in sorted(order[:held_out])]
    train = [pairs[i] for i in sorted(order[held_out:])]
    prompts = [Prompt(pair.id, "", pair.prompt) for pair in test[: config.test_prompts]]
    facts = {
        "data/pairs": ("training pairs", True, float(len(train))),
        "data/dropped": ("rows left out", False, float(sum(dropped.counts.values()))),
        "data/ties": ("rows whose answers are the same, left out", False, float(dropped.counts[TIE])),
    }
    return PreferenceData(PairSet(train), PairSet(test), prompts, None, facts)


def _pair(text: Example, tokenizer: Any, max_tokens: int) -> Pair:
    """Prompt and answers, tokenised each on their own so that no piece crosses the border."""
    prompt = [*([] if text.chat else [first_id(tokenizer)]), *_ids(text.prompt, tokenizer)]
    room = max_tokens - len(prompt)
    if room < 1:
        raise BadRow(f"the prompt leaves no room for an answer in data.max_tokens={max_tokens}")
    answers = []
    for answer in (text.chosen, text.rejected):
        ids = _ids(answer.rstrip() if text.chat else answer, tokenizer)
        if not ids or ids[-1] != tokenizer.eos_token_id:
            ids.append(tokenizer.eos_token_id)
        answers.append(np.array(ids[:room], np.int32))
    if text.chosen != text.rejected and np.array_equal(answers[0], answers[1]):
        raise BadRow(f"the answers differ only behind data.max_tokens={max_tokens}")
    return Pair(text.id, np.array(prompt, np.int32), answers[0], answers[1], asked=text.asked)


def _ids(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _tell(config: PreferencesConfig, dropped: Dropped, rows: int) -> None:
    harmful = sum(count for why, count in dropped.counts.items() if why not in HARMLESS)
    if harmful and config.on_error == "fail":
        raise UserError(
            f"{harmful:,} of {rows:,} rows cannot be used",
            f"data.path={config.path}",
            f"{_list(dropped)}\nmend them, or type data.on_error=skip to leave them out",
        )
    if dropped.counts:
        print(
            f"warning: data.path={config.path}: rows left out:\n  " + _list(dropped).replace("\n", "\n  "),
            file=sys.stderr,
        )


def _list(dropped: Dropped) -> str:
    return "\n".join(dropped.lines())
