"""Data set `preferences`: users' own pairs, tokenised, cut, split, and what was dropped counted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from recipes.alignment.config import PreferencesConfig
from recipes.alignment.examples import TIE, Example, ExampleIds, batch_ids, example
from recipes.alignment.layouts import LONELY, BadRow
from recipes.alignment.pairs import Pair, PairSet, PreferenceData
from recipes.alignment.rows import Dropped, Row, no_rows, open_tables, read_rows, rows_fingerprint
from recipes.alignment.stored import PairFiles, StoredPairs
from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.text.text_ids import TextIds, tokenizer_fingerprint
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.runs.progress import progress
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import read_json, sha256_json, write_json

COPY = "is the same as an earlier row"
TEST_FRACTION = 0.1  # where the data has no split to test on
VERSION = 1
INDEX = "index.json"
BATCH = 1000  # rows that are tokenised together
DIGEST = 16  # bytes that tell rows apart
HARMLESS = (TIE, COPY, LONELY)  # dropped and counted, but no reason to stop


def load_preferences(config: PreferencesConfig, tokenizer: Any) -> PreferenceData:
    """Pairs of `data.path`, tokenised once and then mapped from the cache.

    Args:
        config: Where they are, how they are cut and split.
        tokenizer: The model's.

    Raises:
        UserError: the data cannot be read; rows cannot be used (with `on_error=fail`), or fewer than two pairs are
            left.
    """
    pairs, rows, dropped, changes = _stored_pairs(config, tokenizer)
    _judge(config, dropped, rows)
    changes.warn(config)
    if len(pairs) < 2:
        raise UserError(
            f"{len(pairs)} pairs are left, too few to train and to test", f"data.path={config.path}", _list(dropped)
        )
    train, test = (pairs.some(side) for side in _sides(config, pairs.held_out))
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


def _stored_pairs(config: PreferencesConfig, tokenizer: Any) -> tuple[StoredPairs, int, Dropped, "Changes"]:
    """All pairs, the number of rows they were made of, which of those were left out, and what was done to the rest."""
    reader = TextIds(tokenizer)
    parts = [tokenizer_fingerprint(tokenizer), tokenizer.special_tokens_map, reader.start, tokenizer.chat_template]
    key = sha256_json([VERSION, rows_fingerprint(config), config.max_tokens, config.chat_date, *parts])

    def build(folder: Path) -> None:
        writer = _Writer(config, reader)
        with PairFiles(folder) as files:
            writer.write(files)
        write_json(folder / INDEX, writer.index() | {"digest": files.digest})

    folder = build_once("preference-pairs", key, build)
    index = read_json(folder / INDEX)
    changes = Changes(**index["changes"] | {"unread": Counter(index["changes"]["unread"])})
    return StoredPairs(folder, index["digest"]), index["rows"], Dropped.of(index["dropped"]), changes


class _Writer:
    """Tokenises rows batch by batch, and counts what is left out and what is changed.

    Args:
        config: Where the rows are and how they are cut.
        reader: Of the tokenizer.
    """

    def __init__(self, config: PreferencesConfig, reader: TextIds) -> None:
        self.config, self.reader = config, reader
        self.rows, self.changes = 0, Changes()
        self.unread, self.unusable = Dropped(), Dropped()  # lines that are no rows; rows that are no pairs
        self._seen = set[bytes]()

    def write(self, files: PairFiles) -> None:
        """Write the pairs of all rows. Raises UserError if they cannot be read, or there are none."""
        tables = open_tables(self.config)
        rows = read_rows(self.config, tables)
        total = sum(min(len(table), self.config.limit or len(table)) for table, _ in tables)
        with progress("tokenising pairs", total) as show:
            while batch := list(islice(rows, BATCH)):
                files.extend(list(self._pairs(batch)))
                self.rows += len(batch)
                show(self.rows)
        if self.rows == sum(self.unread.counts.values()):
            raise no_rows(self.config, self.unread)

    def index(self) -> dict[str, Any]:
        """What was counted."""
        dropped = self.unread.with_others(self.unusable)
        changes = {**vars(self.changes), "unread": dict(self.changes.unread)}
        return {"rows": self.rows, "dropped": dropped.listed(), "changes": changes}

    def _pairs(self, batch: Sequence[Row | tuple[str, str]]) -> Iterator[tuple[Pair, bool]]:
        """Pairs of different token ids, each with whether it is tested on."""
        rows = [row for row in batch if isinstance(row, Row)]
        for id, why in (row for row in batch if not isinstance(row, Row)):
            self.unread.add(why, id)
        texts = [self._example(row) for row in rows]
        read = iter(batch_ids([text for text in texts if isinstance(text, Example)], self.reader))
        for row, text in zip(rows, texts, strict=True):
            try:
                yield self._pair(row, text, text if isinstance(text, BadRow) else next(read)), row.held_out
            except BadRow as error:
                self.unusable.add(str(error), row.id)

    def _example(self, row: Row) -> Example | BadRow:
        try:
            return example(row, self.reader, self.config.chat_date)
        except BadRow as error:
            return error

    def _pair(self, row: Row, text: Example | BadRow, ids: ExampleIds | BadRow) -> Pair:
        if isinstance(text, BadRow) or isinstance(ids, BadRow):
            raise text if isinstance(text, BadRow) else ids
        pair = cut(row.id, ids, self.config.max_tokens, text.asked)
        lengths = [len(ids.prompt), len(ids.chosen)]
        key = sha256(np.array([*lengths, *ids.prompt, *ids.chosen, *ids.rejected], np.int32)).digest()[:DIGEST]
        if key in self._seen:
            raise BadRow(COPY)
        self._seen.add(key)
        self.changes.add(text, ids, pair)
        return pair


def _sides(config: PreferencesConfig, held_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and test pairs: as they are published, or drawn by `data.seed`."""
    sides = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if len(sides[1]) or config.test_split is not None:
        if not all(len(side) for side in sides):
            counts = f"{len(sides[0])} pairs are left to train on and {len(sides[1])} to test on"
            raise UserError(counts, f"data.path={config.path}", "type data.test_fraction=0.1 to test on training rows")
        return sides
    share = TEST_FRACTION if config.test_fraction is None else config.test_fraction
    order = np.random.default_rng(config.seed).permutation(len(held_out))
    count = min(max(round(share * len(held_out)), 1), len(held_out) - 1)
    return np.sort(order[count:]), np.sort(order[:count])


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
