"""Rows of users' pairs for the tests."""

from recipes.alignment.config import PreferencesConfig
from recipes.alignment.rows import Dropped, Row, no_rows, open_tables, read_rows


def rows_of(config: PreferencesConfig) -> tuple[list[Row], int]:
    """The rows that can be read of `data.path`, and how many cannot. Raises UserError if none can."""
    good, bad = [], Dropped()
    for row in read_rows(config, open_tables(config)):
        if isinstance(row, Row):
            good.append(row)
        else:
            bad.add(row[1], row[0])
    if not good:
        raise no_rows(config, bad)
    return good, sum(bad.counts.values())
