"""Clusters and what they cost: the worked numbers, and k-means against what must hold of it."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from recipes.retrieval.crag.method import (
    agglomerate,
    break_even,
    by_silhouette,
    central,
    cluster_count,
    coverage,
    from_labels,
    kmeans,
    lloyd,
    reduction,
    silhouette,
    spread_starts,
)

LINE = np.array([0.0, 1, 2, 9, 10, 11])[:, None]


def points(count: int = 30, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 4)) + 3 * rng.integers(3, size=(count, 1))


def test_the_worked_clusters() -> None:
    one = lloyd(LINE, LINE[[0, 2]], iterations=1)
    assert one.labels.tolist() == [0, 0, 1, 1, 1, 1] and one.centroids.ravel().tolist() == [0.5, 8.0]
    clusters = lloyd(LINE, LINE[[0, 2]])
    assert clusters.course == (50.5, 4.0) and clusters.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert clusters.centroids.ravel().tolist() == [1.0, 10.0] and clusters.sizes.tolist() == [3, 3]


def test_the_worked_savings() -> None:
    assert reduction(5165, 468) == pytest.approx(0.909390, abs=1e-6) and pytest.approx(11.036, abs=1e-3) == 5165 / 468
    assert break_even(5165, 468, 5165 + 4 * 64) == pytest.approx(1.154, abs=1e-3)
    assert break_even(100, 100, 50) == float("inf")


def test_what_holds_of_k_means() -> None:
    x = points()
    starts = [spread_starts(x, 4, np.random.default_rng(seed)) for seed in range(5)]
    runs = [lloyd(x, start) for start in starts]
    assert all((np.diff(run.course) <= 1e-9).all() for run in runs)
    best = kmeans(x, 4, np.random.default_rng(0))
    again = kmeans(x, 4, np.random.default_rng(0))
    assert best.inertia == again.inertia and (best.labels == again.labels).all()
    rng = np.random.default_rng(0)
    assert best.inertia == min(lloyd(x, spread_starts(x, 4, rng)).inertia for _ in range(5))
    assert best.sizes.sum() == 30 and best.sizes.min() > 0
    alone = kmeans(x, 30, np.random.default_rng(0))
    assert alone.inertia == pytest.approx(0)
    assert sorted(int(each[0]) for each in central(x, alone)) == list(range(30))  # all reviews, in some order
    np.testing.assert_allclose(kmeans(x, 1, np.random.default_rng(0)).centroids[0], x.mean(0))
    order = np.random.default_rng(3).permutation(30)
    moved = lloyd(x[order], starts[0])
    # Labels are numbered by centroid, so that the same starts give the same numbers.
    assert (moved.labels == runs[0].labels[order]).all()


def test_points_that_are_equal_and_clusters_that_are_empty() -> None:
    same = np.repeat(np.array([[0.0, 1], [1, 0]]), 5, 0)
    assert kmeans(same, 4, np.random.default_rng(0)).sizes.tolist() == [5, 5]
    far = np.array([[0.0], [100.0], [200.0]])
    reseeded = lloyd(LINE, far, iterations=1)
    assert reseeded.sizes.tolist() == [4, 1, 1] and reseeded.labels[[5, 4]].tolist() == [1, 2]
    dropped = lloyd(LINE, far, empty="drop")
    assert len(dropped.centroids) == 1 and dropped.labels.tolist() == [0] * 6


def test_how_many_clusters() -> None:
    assert [cluster_count(n, "sqrt", 4) for n in (2, 10, 25, 75)] == [1, 2, 4, 6]
    assert cluster_count(3, "fixed", 4) == 3 and cluster_count(75, "fixed", 4) == 4
    x, labels = points(), np.random.default_rng(0).integers(3, size=30)
    assert silhouette(x, labels) == pytest.approx(silhouette_score(x, labels))
    assert len(by_silhouette(LINE, np.random.default_rng(0)).centroids) == 2
    assert len(by_silhouette(LINE[:2], np.random.default_rng(0)).centroids) == 1
    assert agglomerate(LINE, 2).sizes.tolist() == [3, 3] and agglomerate(LINE, 6).inertia == 0


def test_what_stands_for_a_cluster_and_covers_it() -> None:
    clusters = from_labels(LINE, np.array([0, 0, 1, 1, 1, 1]))
    assert [each.tolist() for each in central(LINE, clusters, 2)] == [[3, 4], [0, 1]]  # the larger cluster first
    x = np.eye(3)
    assert coverage(x, x[:2]) == pytest.approx(2 / 3) and coverage(x, x) == 1 and coverage(x, x[:0]) == 0
