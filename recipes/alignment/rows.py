"""Users' preference rows in `trl`'s format, as they stand in the data: plain, conversational, without a prompt."""

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any

from recipes.alignment.config import PreferencesConfig
from recipes.alignment.layouts import BadRow, with_pairs
from recipes.core.data.files.data_files import split_to_test_on
from recipes.core.data.files.json_records import Bad
from recipes.core.data.files.records import open_records
from recipes.core.data.files.tables import Table

# Columns that say something to a chat template.
TOOLS, VARIABLES = "tools", "chat_template_kwargs"
# What is read of a row, whatever its layout; other columns may hold anything.
NEEDED = ("prompt", "chosen", "rejected", "completion", "label", "info", "summaries", "choice", TOOLS, VARIABLES)


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

    def lines(self) -> list[str]:
        """One line a reason, the most frequent first."""
        return [f"{count:,} rows: {why} (first: {self.first[why]})" for why, count in self.counts.most_common()]


def read_rows(config: PreferencesConfig) -> Iterator[Row | tuple[str, str]]:
    """Rows of `data.path`, or (id, reason) for a line that is no row.

    Those of the split that is tested on come last: by default the published one, unless a share was typed.

    Raises:
        UserError: no such file, a format that is not known, or a missing column.
    """
    data = open_records(str(config.path), format=config.format)
    yield from _of_table(config, data.table(config.split), held_out=False)
    name = split_to_test_on(data, config.split, config.test_split, config.test_fraction)
    if name is not None:
        yield from _of_table(config, data.table(name, "test_split"), held_out=True)


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
