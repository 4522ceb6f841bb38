"""Clusters of embeddings, what stands for each of them, and what it saves: pure numbers.

Source: arXiv 2406.00029.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RESTARTS, ITERATIONS = 5, 30
SILHOUETTES = range(2, 9)


class Clusters(NamedTuple):
    """A partition of points.

    Attributes:
        labels: int [n] cluster of each point, from 0; each has a point.
        centroids: [k, d] their means.
        course: J after each assignment, with the means that follow it.
    """

    labels: Ints
    centroids: Floats
    course: tuple[float, ...] = ()

    @property
    def sizes(self) -> Ints:
        """[k] points of each cluster."""
        return np.bincount(self.labels, minlength=len(self.centroids))

    @property
    def inertia(self) -> float:
        """J, the sum of squared distances to the centroids."""
        return self.course[-1]


def kmeans(
    points: np.ndarray, k: int, rng: np.random.Generator, restarts: int = RESTARTS, empty: str = "reseed"
) -> Clusters:
    """The best of some runs of Lloyd's algorithm, each from a start of k-means++.

    Args:
        points: [n, d].
        k: Clusters; fewer where there are fewer different points.
        rng: Draws the starts.
        restarts: How many runs.
        empty: What becomes of an empty cluster, as in `lloyd`.
    """
    values = np.asarray(points, np.float64)
    runs = [lloyd(values, spread_starts(values, k, rng), empty=empty) for _ in range(restarts)]
    return min(runs, key=lambda run: run.inertia)


def spread_starts(points: Floats, k: int, rng: np.random.Generator) -> Floats:
    """[<= k, d] different points, each drawn by its squared distance from those before it (k-means++)."""
    starts = [int(rng.integers(len(points)))]
    nearest = _squares(points, points[starts])[:, 0]
    while len(starts) < k and nearest.max() > 0:
        starts.append(int(rng.choice(len(points), p=nearest / nearest.sum())))
        nearest = np.minimum(nearest, _squares(points, points[starts[-1:]])[:, 0])
    return points[starts]


def lloyd(points: np.ndarray, starts: np.ndarray, iterations: int = ITERATIONS, empty: str = "reseed") -> Clusters:
    """Nearest centroid, of equally near ones the first; then means; until assignments repeat.

    Args:
        points: [n, d].
        starts: [k, d] centroids to begin with.
        iterations: Most assignments.
        empty: An empty cluster starts anew at the point farthest from its centroid ("reseed"), or goes ("drop").
    """
    centroids, labels, course = np.array(starts, np.float64), np.full(len(points), -1), list[float]()
    for _ in range(iterations):
        squares = _squares(points, centroids)
        new = squares.argmin(1)
        if empty == "reseed":
            new = _filled(new, squares[np.arange(len(points)), new], len(centroids))
        new = np.unique(new, return_inverse=True)[1]
        if np.array_equal(new, labels):
            break
        labels, centroids = new, means(points, new)
        course.append(inertia(points, labels, centroids))
    return Clusters(labels, centroids, tuple(course))


def _filled(labels: Ints, distances: Floats, k: int) -> Ints:
    """Labels with no empty cluster, as far as points lie off their centroid in a cluster that has others."""
    labels, distances = labels.copy(), distances.copy()
    for cluster in range(k):
        if (labels == cluster).any():
            continue
        free = distances * (np.bincount(labels, minlength=k)[labels] > 1)
        farthest = int(free.argmax())
        if free[farthest] > 0:
            labels[farthest], distances[farthest] = cluster, 0
    return labels


def means(points: np.ndarray, labels: np.ndarray) -> Floats:
    """[k, d] mean of the points of each cluster."""
    chosen = np.eye(labels.max() + 1)[labels]  # [n, k]
    return chosen.T @ points / chosen.sum(0)[:, None]


def inertia(points: np.ndarray, labels: np.ndarray, centroids: np.ndarray) -> float:
    """J = sum_i ||x_i - c_{label i}||^2."""
    return float(((points - centroids[labels]) ** 2).sum())


def _squares(points: np.ndarray, centroids: np.ndarray) -> Floats:
    """[n, k] squared distances."""
    return ((points[:, None] - centroids[None]) ** 2).sum(-1)


def silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    """Mean over points of (b - a) / max(a, b): a its mean distance within its cluster, b that to the nearest other.

    A point alone in its cluster counts 0, as everywhere.
    """
    distances = np.sqrt(_squares(points, points))
    chosen = np.eye(labels.max() + 1)[labels]
    sums, sizes = distances @ chosen, chosen.sum(0)
    rows = np.arange(len(points))
    within = sums[rows, labels] / np.maximum(sizes[labels] - 1, 1)
    others = sums / sizes
    others[rows, labels] = np.inf
    between = others.min(1)
    values = np.where(sizes[labels] > 1, (between - within) / np.maximum(np.maximum(within, between), 1e-300), 0)
    return float(values.mean())


def cluster_count(count: int, rule: str, k: int) -> int:
    """How many clusters of so many points: k, or sqrt(n / 2) rounded ("sqrt"); never more than points."""
    return min(max(round((count / 2) ** 0.5), 1) if rule == "sqrt" else k, count)


def by_silhouette(points: np.ndarray, rng: np.random.Generator, empty: str = "reseed") -> Clusters:
    """The clusters with the best silhouette of 2 to 8, of equally good ones the fewest; one of too few points."""
    tried = [kmeans(points, k, rng, empty=empty) for k in SILHOUETTES if k < len(points)]
    tried = [clusters for clusters in tried if len(clusters.centroids) > 1]
    if not tried:
        return kmeans(points, 1, rng)
    return max(tried, key=lambda clusters: silhouette(points, clusters.labels))


def agglomerate(points: np.ndarray, k: int) -> Clusters:
    """Clusters by Ward's linkage, by scikit-learn."""
    from sklearn.cluster import AgglomerativeClustering

    if k >= len(points):
        return from_labels(points, np.arange(len(points)))
    return from_labels(points, AgglomerativeClustering(k).fit_predict(points).astype(np.int64))


def from_labels(points: np.ndarray, labels: np.ndarray) -> Clusters:
    """The clusters that labels say, with their means."""
    centroids = means(points, labels)
    return Clusters(labels, centroids, (inertia(points, labels, centroids),))


def central(points: np.ndarray, clusters: Clusters, count: int = 1) -> list[Ints]:
    """The points of each cluster that lie nearest to its centroid, nearest first; clusters in order of falling size."""
    distances = ((points - clusters.centroids[clusters.labels]) ** 2).sum(-1)
    order = np.argsort(-clusters.sizes, kind="stable")
    members = [np.flatnonzero(clusters.labels == cluster) for cluster in order]
    return [each[np.argsort(distances[each], kind="stable")[:count]] for each in members]


def coverage(points: np.ndarray, kept: np.ndarray) -> float:
    """Mean over points [n, d] of length 1 of the highest cosine to one of those kept [m, d]; 0 if none is."""
    return float((points @ kept.T).max(1).mean()) if len(kept) else 0.0


def reduction(whole: float, part: float) -> float:
    """Share of the tokens that is saved."""
    return 1 - part / whole


def break_even(whole: float, part: float, summariser: float) -> float:
    """Questions on one product after which fewer tokens were read and written in all; infinite if that never comes."""
    return summariser / (whole - part) if part < whole else float("inf")
