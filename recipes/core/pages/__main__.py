"""`python -m recipes.core.pages`: write pages from stored trials, or store a trial.

python -m recipes.core.pages                                                    # make docs
python -m recipes.core.pages store outputs/RECIPE/trials/HASH docs/results/RECIPE/NAME.json
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from recipes.core.errors import SteelyardError, UserError
from recipes.core.messages import note


def main(words: Sequence[str]) -> int:
    """Do what was typed; the exit code."""
    try:
        match list(words):
            case []:
                from recipes.core.pages.markers import pending, write_pages

                for path in write_pages():
                    note(f"written: {path}")
                for name in dict.fromkeys(marker.name or f"list of {marker.kind}" for marker in pending()):
                    note(f"still as it was typed: {name}")
            case ["store", folder, target]:
                from recipes.core.pages.store import store

                note(f"written: {store(Path(folder), Path(target))}")
            case _:
                raise UserError("takes nothing, or store FOLDER docs/results/RECIPE/NAME.json", " ".join(words))
    except SteelyardError as error:
        note(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
