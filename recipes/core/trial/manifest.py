"""The manifest: what a trial or sweep is, written before anything runs and never changed after."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from recipes.core.config.settings import RunConfig
from recipes.core.errors import UserError
from recipes.core.runs import folder as runs
from recipes.core.storage.files import read_json, sha256_json, write_json
from recipes.core.trial.cells import Cell, PlannedCell, identity, threads_of, with_threads

VERSION = 2
NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """A planned trial or sweep.

    Attributes:
        kind: "trial" (arms x seeds, ends in a verdict) or "sweep" (any keys).
        recipe: Name of the recipe.
        command: What was typed.
        created: ISO time.
        threads: CPU threads of each cell.
        cells: All cells, in the order they start.
        version: Format of the file.
    """

    kind: str
    recipe: str
    command: str
    created: str
    threads: int
    cells: tuple[Cell, ...]
    version: int = VERSION

    @property
    def arms(self) -> list[str]:
        """Arms of the cells, in the order of the first seed."""
        return list(dict.fromkeys(cell.arm for cell in self.cells))

    @property
    def seeds(self) -> list[int]:
        """Seeds of the cells."""
        return sorted({cell.seed for cell in self.cells})

    def cell(self, name: str) -> Cell:
        """The cell of that name. Raises KeyError if there is none."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Cell]:
        return {cell.name: cell for cell in self.cells}


def is_trial(folder: Path) -> bool:
    """Whether a folder is that of a trial; a sweep has no page."""
    return (folder / NAME).is_file() and folder.absolute().parent.name == "trials"


def outputs_of(folder: Path) -> Path:
    """The outputs folder that a trial's or sweep's folder lies in."""
    return folder.parents[2]


def plan(
    kind: str, recipe: str, cells: Sequence[PlannedCell], command: str, jobs: int
) -> tuple[Path, Manifest, list[RunConfig]]:
    """Folder, manifest and configs of a set of cells: folder and manifest of the earlier start if there was one.

    Threads are divided among jobs unless they were typed. A trial that was started before keeps its threads: another
    number would make other runs of its cells.

    Args:
        kind: "trial" or "sweep".
        recipe: Name of the recipe.
        cells: The cells, checked; their configs name the outputs folder.
        command: What was typed.
        jobs: Cells that run at once on one machine.

    Returns:
        The folder, the manifest, and the config of each of its cells, in their order.

    Raises:
        UserError: the manifest found there is of another version, cannot be read, or is of other cells.
    """
    folder = Path(cells[0].config.outputs) / recipe / f"{kind}s" / identity(cells)
    earlier = read(folder) if (folder / NAME).exists() else None
    threads = earlier.threads if earlier else threads_of([cell.overrides for cell in cells], jobs)
    planned = with_threads(cells, threads)
    configs = {cell.folder: cell.config for cell in planned}
    manifest = earlier or Manifest(kind, recipe, command, runs.now(), threads, tuple(one.cell for one in planned))
    if {cell.folder for cell in manifest.cells} != configs.keys():
        raise UserError(
            "the manifest is of other cells than this command plans",
            where=str(folder / NAME),
            hint="the recipe or its config files changed; move this folder away, finished runs are still reused",
        )
    return folder, manifest, [configs[cell.folder] for cell in manifest.cells]


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, atomically."""
    tree = asdict(manifest)
    write_json(folder / NAME, tree | {"sha256": sha256_json(tree)})


_read: dict[Path, tuple[tuple[int, ...], Manifest]] = {}  # folder -> what `stat` said of the file, and what it held


def read_once(folder: Path) -> Manifest:
    """`read`, once in a process, and again when `stat` shows another file: a worker asks for it at every cell."""
    try:
        state = (folder / NAME).stat()
    except OSError:
        return read(folder)
    seen = state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
    known = _read.get(folder)
    if known is None or known[0] != seen:
        known = _read[folder] = seen, read(folder)
    return known[1]


def read(folder: Path) -> Manifest:
    """The manifest of a trial's or sweep's folder.

    Raises:
        UserError: there is none, it cannot be read, or it is of another version.
    """
    path = folder / NAME
    hint = "move its folder away and type the command again: finished runs are still reused"
    try:
        tree = read_json(path)
        claimed, version = tree.pop("sha256", None), tree["version"]
        if version == VERSION:
            if claimed != sha256_json(tree):
                raise ValueError("is not what was written")
            cells = tuple(Cell(**cell | {"overrides": tuple(cell["overrides"])}) for cell in tree.pop("cells"))
            return Manifest(**tree, cells=cells)
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        raise UserError("is no manifest of a trial or sweep, or damaged", where=str(path), hint=hint) from error
    raise UserError(f"is of version {version}, this Steelyard reads version {VERSION}", where=str(path), hint=hint)
