"""Users' preference rows in `trl`'s format, as they stand in the data: plain, conversational, without a prompt."""

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from recipes.alignment.config import PreferencesConfig
from recipes.alignment.layouts import with_pairs
from recipes.core.data.files.data_files import split_to_test_on
from recipes.core.data.files.json_records import Bad
from recipes.core.data.files.records import BadRow, open_records
from recipes.core.data.files.tables import Table
from recipes.core.errors import UserError
from recipes.core.runs.identity import content_tree
from recipes.core.storage.files import home_path, sha256_json

# Columns that say something to a chat template.
TOOLS, VARIABLES = "tools", "chat_template_kwargs"
# What is read of a row, whatever its layout; other columns may hold anything.
NEEDED = ("prompt", "chosen", "rejected", "completion", "label", "info", "summaries", "choice", TOOLS, VARIABLES)

# Settings that decide which rows there are.
READING = ("path", "format", "prompt_column", "chosen_column", "rejected_column", "split", "test_split", "limit")


@dataclass(frozen=True)
class Row:
    """One pair of answers as it stands in the data; `prompt` is None where the answers contain it.

    `tools` and `variables` (the column `chat_template_kwargs`) are what the row says to a chat template. Rows of the
    published split that is tested on are `held_out`.
    """

    id: str
    prompt: Any
    chosen: Any
    rejected: Any
    tools: Any = None
    variables: Any = None
    held_out: bool = False


@dataclass
class Dropped:
    """Rows that were left out: how many for each reason, and where the first of each stands."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, why: str, where: str) -> None:
        """Count one more."""
        self.counts[why] += 1
        self.first.setdefault(why, where)

    def with_others(self, others: "Dropped") -> "Dropped":
        """These and others, which come behind."""
        return Dropped(self.counts + others.counts, others.first | self.first)

    def as_list(self) -> list[tuple[str, int, str]]:
        """Each reason, how many, and where the first stands, as JSON keeps them."""
        return [(why, count, self.first[why]) for why, count in self.counts.items()]

    @staticmethod
    def of(reasons: list[tuple[str, int, str]]) -> "Dropped":
        """What `as_list` returned."""
        counts = Counter({why: count for why, count, _ in reasons})
        return Dropped(counts, {why: first for why, _, first in reasons})

    def lines(self) -> list[str]:
        """One line a reason, the most frequent first."""
        return [f"{count:,} rows: {why} (first: {self.first[why]})" for why, count in self.counts.most_common()]


def open_tables(config: PreferencesConfig) -> list[tuple[Table, bool]]:
    """The tables of `data.path`, each with whether its rows are held out; that which is tested on comes last.

    It is by default the published split to test on, unless a share was typed.

    Raises:
        UserError: no such file or split, or a format that is not known.
    """
    data = open_records(str(config.path), format=config.format)
    tables = [(data.table(config.split), False)]
    name = split_to_test_on(data, config.split, config.test_split, config.test_fraction)
    return tables if name is None else [*tables, (data.table(name, "test_split"), True)]


def read_rows(config: PreferencesConfig, tables: Sequence[tuple[Table, bool]]) -> Iterator[Row | tuple[str, str]]:
    """Rows of tables, or (id, reason) for a line that is no row. Raises UserError for a missing column."""
    for table, held_out in tables:
        yield from _of_table(config, table, held_out)


def row_texts(config: PreferencesConfig) -> Iterator[str]:
    """All plain texts to train on, for a tokenizer that is trained in the run. Raises UserError as the above do."""
    rows, bad = 0, Dropped()
    for row in read_rows(config, open_tables(config)):
        if not isinstance(row, Row):
            bad.add(row[1], row[0])
            continue
        rows += 1
        if not row.held_out:
            yield from (value for value in (row.prompt, row.chosen, row.rejected) if isinstance(value, str))
    if not rows:
        raise no_rows(config, bad)


def no_rows(config: PreferencesConfig, bad: Dropped) -> UserError:
    """The error for data of which nothing can be read."""
    return UserError("there are no rows", f"data.path={config.path}", "\n".join(bad.lines()))


def rows_fingerprint(config: PreferencesConfig) -> str:
    """Hash of all rows: of what the path holds, and of how it is read. Raises UserError if it is not there."""
    tree = content_tree(config, "data")
    name = home_path(str(config.path)).name  # ids of rows begin with it
    return sha256_json([name, config.test_fraction is None, {key: tree[key] for key in READING}])


def _of_table(config: PreferencesConfig, table: Table, held_out: bool) -> Iterator[Row | tuple[str, str]]:
    """Rows of one split; `data.limit` counts those that are good."""
    typed = [name for name in (config.prompt_column, config.chosen_column, config.rejected_column) if name is not None]
    rows = enumerate(table.rows([*NEEDED, *typed]))
    columns: tuple[str, str, str] | None = None
    count = 0
    for id, value in with_pairs((table.place(number), row) for number, row in rows):
        if isinstance(value, Bad):
            yield f"{id}, {value.detail}" if value.detail else id, value.what
            continue
        if isinstance(value, BadRow):
            yield id, str(value)
            continue
        if columns is None:
            columns = _columns(config, table, value)
        prompt, chosen, rejected = (value.get(name) for name in columns)
        yield Row(id, prompt, chosen, rejected, value.get(TOOLS), value.get(VARIABLES), held_out)
        count += 1
        if count == config.limit:
            return


def _columns(config: PreferencesConfig, table: Table, first: Container[str]) -> tuple[str, str, str]:
    """Names of prompt, chosen and rejected. The prompt may be missing; what the first row lacks may stand in others."""

    def name(asked: str | None, usual: str) -> str:
        wanted = asked or usual
        return wanted if wanted in first else table.pick(asked, (usual,), f"data.{usual}_column")

    prompt = "prompt" if config.prompt_column is None else name(config.prompt_column, "prompt")
    return prompt, name(config.chosen_column, "chosen"), name(config.rejected_column, "rejected")
