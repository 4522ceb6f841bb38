"""What `run`, `trial` and `sweep` share: their keys, one of which has an option too."""

from collections.abc import Sequence
from typing import Any

import typer

OUTPUTS_KEY: Any = typer.Option("", "--outputs", metavar="FOLDER", help="Folder of runs; the same as outputs=FOLDER.")


def typed_keys(overrides: Sequence[str] | None, outputs: str) -> list[str]:
    """The typed `KEY=VALUE` words, with that of the outputs folder if it was typed as an option."""
    from recipes.core.overrides import quoted

    return [*(overrides or []), *([f"outputs={quoted(outputs)}"] if outputs else [])]
