"""A process of a run that waits for a partner which never answers, until it is told to end."""

import os
import sys
import time
from pathlib import Path

from recipes.core.training.parallel.exchange import KILL, Exchange


def main() -> None:
    """Says in the run folder that it is here."""
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    while not Exchange(Path(sys.argv[2])).was_asked(KILL):
        time.sleep(0.01)
    sys.exit(1)
