"""Data set `preferences`: users' own pairs, tokenised, cut, split, and what was dropped counted."""

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recipes.alignment.config import PreferencesConfig
from recipes.alignment.examples import TIE, Example, ExampleIds, example, example_ids
from recipes.alignment.layouts import LONELY, BadRow
from recipes.alignment.pairs import Pair, PairSet, PreferenceData
from recipes.alignment.rows import Dropped, Row, read_rows
from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.storage.files import sha256_json

COPY = "is the same as an earlier row"
TEST_FRACTION = 0.1  # where the data has no split to test on
HARMLESS = (TIE, COPY, LONELY)  # dropped and counted, but no reason to stop


@dataclass(frozen=True)
class Rows:
    """Rows of the user's file, and lines that are none."""

    rows: list[Row]
    dropped: Dropped

    def texts(self) -> Iterator[str]:
        """All plain texts to train on, for a tokenizer that is trained in the run."""
        rows = (row for row in self.rows if not row.held_out)
        return (value for row in rows for value in (row.prompt, row.chosen, row.rejected) if isinstance(value, str))

    @property
    def fingerprint(self) -> str:
        """Hash of all rows."""
        return sha256_json(
            [[row.prompt, row.chosen, row.rejected, row.tools, row.variables, row.held_out] for row in self.rows]
        )


def load_rows(config: PreferencesConfig) -> Rows:
    """Read `data.path`. Raises UserError if it is absent, of no known format, empty, or lacks a column."""
    rows, dropped = [], Dropped()
    for row in read_rows(config):
        if isinstance(row, Row):
            rows.append(row)
        else:
            dropped.add(row[1], row[0])
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
    dropped, changes = deepcopy(rows.dropped), Changes()
    pairs = list(_pairs(config, rows, TextIds(tokenizer), dropped, changes))
    _judge(config, dropped, len(rows.rows) + sum(rows.dropped.counts.values()))
    changes.warn(config)
    if len(pairs) < 2:
        raise UserError(
            f"{len(pairs)} pairs are left, too few to train and to test", f"data.path={config.path}", _list(dropped)
        )
    train, test = _sides(config, pairs)
    prompts = [Prompt(pair.id, "", pair.prompt) for pair in test[: config.test_prompts]]
    facts = {
        "data/pairs": ("training pairs", True, float(len(train))),
        "data/dropped": ("rows left out", False, float(sum(dropped.counts.values()))),
        "data/ties": ("rows whose answers are the same, left out", False, float(dropped.counts[TIE])),
        "data/cut": ("answers cut at data.max_tokens", False, float(changes.answers)),
        "data/shortened": (
            "prompts whose last tokens change with an answer",
            False,
            float(changes.prompts),
        ),
    }
    return PreferenceData(PairSet(train), PairSet(test), prompts, None, facts)


def _pairs(
    config: PreferencesConfig, rows: Rows, reader: TextIds, dropped: Dropped, changes: "Changes"
) -> Iterator[tuple[Pair, bool]]:
    """Pairs of different token ids, each with whether it is tested on; counts what is left out and what is changed."""
    seen = set[tuple[bytes, ...]]()
    for row in rows.rows:
        try:
            text = example(row, reader, config.chat_date)
            ids = example_ids(text, reader)
            pair = cut(row.id, ids, config.max_tokens, text.asked)
        except BadRow as error:
            dropped.add(str(error), row.id)
            continue
        key = tuple(np.array(part, np.int32).tobytes() for part in (ids.prompt, ids.chosen, ids.rejected))
        if key in seen:
            dropped.add(COPY, row.id)
            continue
        seen.add(key)
        changes.add(text, ids, pair)
        yield pair, row.held_out


def _sides(config: PreferencesConfig, pairs: list[tuple[Pair, bool]]) -> tuple[list[Pair], list[Pair]]:
    """Training and test pairs: as they are published, or drawn by `data.seed`."""
    sides = [pair for pair, held_out in pairs if not held_out], [pair for pair, held_out in pairs if held_out]
    if sides[1] or config.test_split is not None:
        if not all(sides):
            counts = f"{len(sides[0])} pairs are left to train on and {len(sides[1])} to test on"
            raise UserError(counts, f"data.path={config.path}", "type data.test_fraction=0.1 to test on training rows")
        return sides
    share = TEST_FRACTION if config.test_fraction is None else config.test_fraction
    order = np.random.default_rng(config.seed).permutation(len(pairs))
    held_out = min(max(round(share * len(pairs)), 1), len(pairs) - 1)
    test, train = ([pairs[i][0] for i in sorted(part)] for part in (order[:held_out], order[held_out:]))
    return train, test


@dataclass
class Changes:
    """What was done to rows that are used."""

    rows: int = 0
    answers: int = 0
    prompts: int = 0
    dated: int = 0
    unread: Counter[str] = field(default_factory=Counter)

    def add(self, text: Example, ids: ExampleIds, pair: Pair) -> None:
        """Count one more pair."""
        self.rows += 1
        self.answers += (len(pair.chosen) < len(ids.chosen)) + (len(pair.rejected) < len(ids.rejected))
        self.prompts += ids.lost > 0
        self.dated += text.chat is not None and text.chat.dated
        self.unread.update(text.unread())

    def warn(self, config: PreferencesConfig) -> None:
        """A line on stderr for each kind of change."""
        lines = []
        if self.answers:
            cut = f"{self.answers:,} of {2 * self.rows:,} answers are cut at data.max_tokens={config.max_tokens}"
            lines.append(f"{cut}, and do not end")
        if self.prompts:
            lines.append(
                f"{self.prompts:,} of {self.rows:,} prompts lose their last tokens, which the tokenizer or the chat "
                "template writes in another way once an answer follows"
            )
        if self.dated:
            lines.append(
                f"the chat template writes today's date: here always {config.chat_date} (data.chat_date), so that ids "
                "are the same on every day"
            )
        for name, count in self.unread.most_common():
            lines.append(f"{count:,} of {self.rows:,} rows have {name}, which the chat template never reads")
        for line in lines:
            note(f"warning: data.path={config.path}: {line}")


def cut(id: str, ids: ExampleIds, max_tokens: int, asked: str) -> Pair:
    """A pair that is no longer than allowed: its answers are cut, its prompt is not.

    Args:
        id: Of the row.
        ids: From `example_ids`.
        max_tokens: Most tokens of a prompt with an answer.
        asked: The prompt as text.

    Raises:
        BadRow: nothing of the answers is left, or nothing in which they differ.
    """
    room = max_tokens - len(ids.prompt)
    if room < 1:
        raise BadRow(f"the prompt leaves no room for an answer in data.max_tokens={max_tokens}")
    chosen, rejected = ids.chosen[:room], ids.rejected[:room]
    if chosen == rejected:
        raise BadRow(f"the answers differ only behind data.max_tokens={max_tokens}")
    prompt, chosen_ids, rejected_ids = (np.array(part, np.int32) for part in (ids.prompt, chosen, rejected))
    return Pair(id, prompt, chosen_ids, rejected_ids, asked=asked)


def _judge(config: PreferencesConfig, dropped: Dropped, rows: int) -> None:
    harmful = sum(count for why, count in dropped.counts.items() if why not in HARMLESS)
    if harmful and config.on_error == "fail":
        raise UserError(
            f"{harmful:,} of {rows:,} rows cannot be used",
            f"data.path={config.path}",
            f"{_list(dropped)}\nmend them, or type data.on_error=skip to leave them out",
        )
    if dropped.counts:
        note(f"warning: data.path={config.path}: rows left out:\n  " + _list(dropped).replace("\n", "\n  "))


def _list(dropped: Dropped) -> str:
    return "\n".join(dropped.lines())
