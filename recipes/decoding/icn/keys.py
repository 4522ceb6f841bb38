"""Clusters of the keys: k-means on the rows of an output embedding, computed once and cached by their content."""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.errors import UserError
from recipes.core.models.head import OutputHead
from recipes.core.runs.progress import stage
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json
from recipes.decoding.icn.config import ClustersConfig

VERSION = 1
FILE = "clusters.npy"


def vocabulary_clusters(head: OutputHead, options: ClustersConfig, where: str = "") -> np.ndarray:
    """int32 [V] the cluster of each token of a vocabulary.

    Args:
        head: Its weight's rows are the keys.
        options: How many clusters, and how they are made.
        where: Key and value that named the model, for the message.

    Raises:
        UserError: more clusters than tokens are asked for.
    """
    if options.number > head.vocabulary:
        what = f"there are more clusters than the model's {head.vocabulary:,} tokens"
        raise UserError(what, f"clusters.number={options.number}, {where}", "type a smaller clusters.number")
    rows = head.weight.detach().float().cpu().numpy()
    key = {
        "rows": hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest(),
        "shape": list(rows.shape),
        "number": options.number,
        "steps": options.steps,
        "seed": options.seed,
        "normalise": options.normalise,
        "version": VERSION,
    }

    def build(folder: Path) -> None:
        with stage(f"clusters of {len(rows):,} keys"):
            np.save(folder / FILE, k_means(rows, options.number, options.steps, options.seed, options.normalise))

    clusters: np.ndarray = np.load(build_once("key-clusters", sha256_json(key)[:32], build) / FILE)
    return clusters


def k_means(rows: np.ndarray, number: int, steps: int, seed: int, normalise: bool = False) -> np.ndarray:
    """int32 [V] the nearest of `number` centres after so many steps of Lloyd's algorithm from rows that are drawn.

    Args:
        rows: float32 [V, d].
        number: Clusters.
        steps: Of Lloyd's algorithm, at most.
        seed: Draws the rows that centres start from.
        normalise: Divide rows by their length first.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if normalise:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    with warnings.catch_warnings():
        # Tokens that training never met have equal rows: they are one cluster, and others stay empty.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means: Any = KMeans(number, init="random", n_init=1, max_iter=steps, tol=0.0, random_state=seed).fit(rows)
    labels: np.ndarray = means.labels_.astype(np.int32)
    return labels
