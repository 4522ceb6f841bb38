"""Data set `preferences`: users' own pairs, tokenised, cut, split, and what was dropped counted."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recipes.alignment.config import PreferencesConfig
from recipes.alignment.digests import SIZE, Digests
from recipes.alignment.examples import TIE, Example, ExampleIds, Texts, example, example_texts, ids_of
from recipes.alignment.layouts import LONELY
from recipes.alignment.pairs import Pair, PairSet, PreferenceData
from recipes.alignment.rows import Dropped, Row, no_rows, open_tables, read_rows, rows_fingerprint
from recipes.alignment.stored import PairFiles, StoredPairs
from recipes.core.data.files.records import BadRow
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
BATCH = 500  # rows that are tokenised together
BATCHES_AHEAD = 2
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
    train, test = (pairs.select(side) for side in _sides(config, pairs.held_out))
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


class _Row(NamedTuple):
    """A row, the example that it is, and its texts; a row that cannot be read or used has neither."""

    row: Row | tuple[str, str]
    example: Example | None
    texts: Texts | BadRow


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
        self._seen = Digests()

    def write(self, files: PairFiles) -> None:
        """Write the pairs of all rows. Raises UserError if they cannot be read, or there are none."""
        tables = open_tables(self.config)
        total = sum(min(table.about(), self.config.limit or table.about()) for table, _ in tables)
        with progress("tokenising pairs", total) as show:
            for batch, ids in self._tokenised(read_rows(self.config, tables)):
                files.extend(list(self._pairs(batch, ids)))
                self.rows += len(batch)
                show(self.rows)
        if self.rows == sum(self.unread.counts.values()):
            raise no_rows(self.config, self.unread)

    def _tokenised(self, rows: Iterator[Row | tuple[str, str]]) -> Iterator[tuple[list[_Row], list[list[int]]]]:
        """Rows in batches, each with the ids of all its texts; a thread makes them while other rows are read."""
        # Python's tokenizers are not made for several threads: there nothing is done ahead.
        ahead = BATCHES_AHEAD if self.reader.tokenizer.is_fast else 0
        waiting = deque[tuple[list[_Row], Future[list[list[int]]]]]()
        with ThreadPoolExecutor(1) as pool:
            while batch := [self._row(row) for row in islice(rows, BATCH)]:
                texts = [text for row in batch if not isinstance(row.texts, BadRow) for text, _ in row.texts]
                waiting.append((batch, pool.submit(self.reader.template_ids, texts)))
                if len(waiting) > ahead:
                    batch, ids = waiting.popleft()
                    yield batch, ids.result()
            for batch, ids in waiting:
                yield batch, ids.result()

    def _row(self, row: Row | tuple[str, str]) -> _Row:
        if not isinstance(row, Row):
            self.unread.add(row[1], row[0])
            return _Row(row, None, BadRow())
        try:
            text = example(row, self.reader, self.config.chat_date)
        except BadRow as error:
            return _Row(row, None, error)
        return _Row(row, text, example_texts(text, self.reader))

    def index(self) -> dict[str, Any]:
        """What was counted."""
        dropped = self.unread.with_others(self.unusable)
        changes = {**vars(self.changes), "unread": dict(self.changes.unread)}
        return {"rows": self.rows, "dropped": dropped.as_list(), "changes": changes}

    def _pairs(self, batch: Sequence[_Row], ids: Sequence[list[int]]) -> Iterator[tuple[Pair, bool]]:
        """Pairs of different token ids, each with whether it is tested on."""
        given = iter(ids)
        for row in batch:
            if not isinstance(row.row, Row):
                continue
            try:
                if isinstance(row.texts, BadRow):
                    raise row.texts
                yield self._pair(row, row.texts, list(islice(given, len(row.texts)))), row.row.held_out
            except BadRow as error:
                self.unusable.add(str(error), row.row.id)

    def _pair(self, row: _Row, texts: Texts, given: Sequence[list[int]]) -> Pair:
        assert isinstance(row.row, Row) and row.example is not None
        ids = ids_of(row.example, texts, given, self.reader)
        parts = [np.array(part, np.int32) for part in (ids.prompt, ids.chosen, ids.rejected)]
        pair = cut(row.row.id, parts, self.config.max_tokens, row.example.asked)
        digest = sha256(np.array([len(part) for part in parts]).tobytes())
        for part in parts:
            digest.update(part.data)
        if not self._seen.add(digest.digest()[:SIZE]):
            raise BadRow(COPY)
        self.changes.add(row.example, ids, pair)
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


def cut(id: str, parts: Sequence[np.ndarray], max_tokens: int, asked: str) -> Pair:
    """A pair that is no longer than allowed: its answers are cut, its prompt is not.

    Args:
        id: Of the row.
        parts: int32 ids of prompt, chosen and rejected answer.
        max_tokens: Most tokens of a prompt with an answer.
        asked: The prompt as text.

    Raises:
        BadRow: nothing of the answers is left, or nothing in which they differ.
    """
    room = max_tokens - len(parts[0])
    if room < 1:
        raise BadRow(f"the prompt leaves no room for an answer in data.max_tokens={max_tokens}")
    chosen, rejected = (part[:room] for part in parts[1:])
    if np.array_equal(chosen, rejected):
        raise BadRow(f"the answers differ only behind data.max_tokens={max_tokens}")
    return Pair(id, parts[0], chosen, rejected, asked=asked)


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
