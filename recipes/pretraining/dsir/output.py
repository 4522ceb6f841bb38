"""The selection as a file: `selection.jsonl`, one document a line with its score, in corpus order."""

import json
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recipes.core.data.text.corpora import CorpusShard
from recipes.core.storage.disk import make_folder, raising_disk_full
from recipes.core.storage.files import fsync_path
from recipes.pretraining.dsir.selection import ALONE, Corpus, Workers, over_shards, read_chosen


def write_selection(
    path: Path,
    corpus: Corpus,
    chosen: Sequence[NDArray[np.int64]],
    scores: NDArray[np.float64],
    workers: Workers = ALONE,
) -> None:
    """Write the chosen documents; `path` appears when all of it is there.

    Args:
        path: Lines of {"id", "text", "domain", "score"}.
        corpus: What the indices point into.
        chosen: Ascending indices within each shard.
        scores: Score of each chosen document, in corpus order: log-weight in nats, or the classifier's P(target).
        workers: Processes over shards; they must see the folder of `path`.

    Raises:
        UserError: a shard cannot be read; nothing is written.
        RunFailed: the disk is full; nothing is written.
    """
    make_folder(path.parent)
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.staging")
    staging.mkdir()
    split = np.split(scores, np.cumsum([len(part) for part in chosen])[:-1])
    parts = [staging / f"{index}.jsonl" for index in range(len(chosen))]
    jobs = [job for job in zip(corpus.shards, chosen, split, parts, strict=True) if len(job[1])]
    try:
        over_shards(_write_part, jobs, workers)
        whole = staging / path.name
        with raising_disk_full(path), whole.open("wb") as sink:
            for *_, part in jobs:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, sink)
                part.unlink()
        fsync_path(whole)
        os.replace(whole, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_part(shard: CorpusShard, chosen: NDArray[np.int64], scores: NDArray[np.float64], part: Path) -> None:
    with raising_disk_full(part), part.open("wb") as sink:
        for document, score in zip(read_chosen(shard, chosen), scores.tolist(), strict=True):
            record = {"id": document.id, "text": document.text, "domain": document.domain, "score": score}
            # A lone surrogate has no UTF-8; its backslash escape is valid JSON.
            sink.write(json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
