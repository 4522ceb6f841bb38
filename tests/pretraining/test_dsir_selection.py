"""DSIR's engine over sharded corpora: the same outcome however it is sharded, cached by shard, whole or absent."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.core.data.text.ngrams import bucket_of, words_of
from recipes.core.errors import UserError
from recipes.pretraining.dsir import method
from recipes.pretraining.dsir.heuristic import train_classifier
from recipes.pretraining.dsir.output import write_selection
from recipes.pretraining.dsir.selection import (
    ALONE,
    Counts,
    Features,
    LogRatio,
    Scored,
    Workers,
    count,
    fit_log_ratio,
    score,
    select,
    sparse_chosen,
    split_by_shard,
)
from tests.core.data.text.memory import Memory
from tests.pretraining.weights import log_weights

FEATURES = Features(buckets=500)


@dataclass(frozen=True)
class Pool:
    shards: list[Memory]


def pool(texts: list[str], sizes: list[int]) -> Pool:
    ends = np.cumsum(sizes)
    cuts = [(int(end - size), int(end)) for end, size in zip(ends, sizes, strict=True)]
    return Pool([Memory(f"shard-{i}", tuple(texts[a:b]), a) for i, (a, b) in enumerate(cuts)])


def sentences(size: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{word}" for word in rng.zipf(1.5, rng.integers(1, 30)) % 97) for _ in range(size)]


RAW, TARGET = sentences(60), pool(sentences(9, seed=1), [9])


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def selected(source: Pool, folder: Path, size: int = 20, workers: Workers = ALONE, seed: int = 3) -> bytes:
    """The whole way from corpora to the selection's file."""
    raw = count(source, FEATURES, workers)
    scored = score(source, FEATURES, fit_log_ratio(count(TARGET, FEATURES), raw), workers=workers)
    keys = method.gumbel_keys(scored.scores, np.random.default_rng(seed), temperature=3)
    chosen = select(scored, keys, size)
    parts = split_by_shard(chosen, raw.documents)
    write_selection(folder / "selection.jsonl", source, parts, scored.scores[chosen], workers)
    return (folder / "selection.jsonl").read_bytes()


def test_scores_equal_the_math_on_dense_counts(own_home: Path) -> None:
    source = pool(RAW, [30, 30])
    dense = np.zeros((len(RAW), 500), np.int64)
    for row, text in zip(dense, RAW, strict=True):
        words = words_of(text)
        for ngram in words + [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]:
            row[bucket_of(ngram, 500)] += 1
    raw, target = count(source, FEATURES), count(TARGET, FEATURES)
    assert raw.ngrams.tolist() == dense.sum(0).tolist() and raw.documents.tolist() == [30, 30]
    scored = score(source, FEATURES, fit_log_ratio(target, raw, smoothing=0.5))
    p, q = method.fit(target.ngrams, 0.5), method.fit(raw.ngrams)
    assert scored.scores.tolist() == pytest.approx(log_weights(dense, p, q).tolist())
    assert scored.lengths.tolist() == [len(words_of(text)) for text in RAW]


def test_the_file_holds_the_chosen_with_their_scores(own_home: Path, tmp_path: Path) -> None:
    source = pool(RAW, [60])
    lines = [json.loads(line) for line in selected(source, tmp_path).splitlines()]
    assert len(lines) == 20 and [int(line["id"]) for line in lines] == sorted(int(line["id"]) for line in lines)
    scored = score(source, FEATURES, fit_log_ratio(count(TARGET, FEATURES), count(source, FEATURES)))
    for line in lines:
        index = int(line["id"])
        assert line == {
            "id": str(index),
            "text": RAW[index],
            "domain": "even" if index % 2 == 0 else "",
            "score": scored.scores[index],
        }


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=4))
def test_sharding_changes_nothing(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 60]
    sizes = np.diff(edges).tolist()

    def outcome(source: Pool) -> list[dict[str, object]]:
        lines = selected(source, tmp_path_factory.mktemp("selection")).splitlines()
        return [{**json.loads(line), "domain": None} for line in lines]

    assert outcome(pool(RAW, sizes)) == outcome(pool(RAW, [60]))


@pytest.mark.parametrize("backend", ["loky", pytest.param("ray", marks=pytest.mark.slow)])
def test_workers_change_nothing(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    pytest.importorskip("joblib" if backend == "loky" else "ray")
    alone = selected(pool(RAW, [31, 29]), tmp_path / "alone")
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "other"))
    assert selected(pool(RAW, [31, 29]), tmp_path / backend, workers=Workers(2, backend)) == alone
    assert len(list((tmp_path / "other/cache/ngram-scores").glob("*/scores.npy"))) == 2
    with pytest.raises(UserError, match=r"^broken: is cut off$"):
        count(Pool([Memory("broken", tuple(RAW), cut=True), *TARGET.shards]), FEATURES, Workers(2, backend))
    if backend == "ray":  # or it would run, and speak, until the last test of this process
        import ray

        ray.shutdown()


def test_other_seeds_and_sizes_read_no_text(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pool(RAW, [30, 30])
    ratio = fit_log_ratio(count(TARGET, FEATURES), count(source, FEATURES))
    before = score(source, FEATURES, ratio)
    monkeypatch.setattr(Memory, "read", lambda self: pytest.fail("read again"))
    assert score(source, FEATURES, ratio).scores.tolist() == before.scores.tolist()


def test_a_broken_shard_keeps_the_others(own_home: Path) -> None:
    whole = pool(RAW, [20, 20, 20]).shards
    broken = Memory("broken.jsonl", tuple(RAW[20:40]), cut=True)
    with pytest.raises(UserError, match=r"^broken.jsonl: is cut off$"):
        count(Pool([whole[0], broken, whole[2]]), FEATURES)
    assert len(list((own_home / "cache/ngram-counts").glob("*/ngrams.npy"))) == 2


def test_a_shard_that_breaks_while_written_leaves_nothing(own_home: Path, tmp_path: Path) -> None:
    sources = Pool([Memory("a", tuple(RAW[:30])), Memory("b", tuple(RAW[30:]), cut=True)])
    parts = split_by_shard(np.arange(0, 60, 2), np.array([30, 30]))
    with pytest.raises(UserError, match="b: is cut off"):
        write_selection(tmp_path / "out" / "selection.jsonl", sources, parts, np.zeros(30))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_shard_that_has_shrunk_is_told(own_home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shard-0: has fewer documents than when it was scored"):
        write_selection(tmp_path / "s.jsonl", pool(RAW[:5], [5]), [np.array([2, 7])], np.zeros(2))


def test_too_large_a_selection_names_both_numbers() -> None:
    scored = Scored(np.zeros(4), np.array([5, 9, 0, 1]), np.array([True, True, True, False]))
    with pytest.raises(UserError) as told:
        select(scored, np.zeros(4), 3)
    assert str(told.value) == (
        "select.n: 3 documents were asked for and the source has 2; 2 of 4 are left out as too short or of low "
        "quality\n  use select.n=2 or less, or loosen the filters"
    )
    with pytest.raises(UserError, match=r"^select.n: 5 documents were asked for and the source has 2\n"):
        select(Scored(np.zeros(2), np.array([5, 9]), np.ones(2, bool)), np.zeros(2), 5)


def test_the_filters_leave_out_short_and_poor_documents() -> None:
    scored = Scored(np.array([9.0, 8, 7, 6, 5]), np.array([0, 3, 4, 9, 9]), np.array([1, 1, 1, 0, 1], bool))
    assert select(scored, scored.scores, 2).tolist() == [1, 2]
    assert select(scored, scored.scores, 2, min_words=4).tolist() == [2, 4]


def test_corpora_without_words_or_anything_in_common_are_told(own_home: Path) -> None:
    nothing, some = count(pool(["", " "], [2]), FEATURES), count(pool(["a b"], [1]), FEATURES)
    with pytest.raises(UserError, match="data.target: no word in 2 documents"):
        fit_log_ratio(nothing, some)
    with pytest.raises(UserError, match="data.source: no word in 0 documents"):
        fit_log_ratio(some, count(Pool([]), FEATURES))
    other = Counts(1 - some.ngrams.clip(max=1), some.documents)
    with pytest.raises(UserError, match="data.target: the target has no n-gram in common with the source"):
        fit_log_ratio(other, some)


def test_quality_is_judged_when_asked_for(own_home: Path) -> None:
    prose = " ".join(f"the w{i} of it" for i in range(8)) + " .,.,." + " and more words of the kind a b c" * 2
    source = pool([prose, "short"], [2])
    ratio = LogRatio(np.zeros(500))
    assert score(source, FEATURES, ratio).quality.tolist() == [True, True]
    assert score(source, FEATURES, ratio, quality=True).quality.tolist() == [True, False]


def test_chosen_documents_become_a_matrix(own_home: Path) -> None:
    source, chosen = pool(RAW, [10, 0, 50]), np.array([1, 9, 10, 59])
    parts = split_by_shard(chosen, np.array([10, 0, 50]))
    assert [part.tolist() for part in parts] == [[1, 9], [], [0, 49]]
    alone = count(pool([RAW[i] for i in chosen], [4]), FEATURES).ngrams
    rows = sparse_chosen(source, FEATURES, parts)
    assert rows.shape == (4, 500) and np.asarray(rows.sum(0)).ravel().tolist() == alone.tolist()


def test_a_classifier_scores_shards_too(own_home: Path) -> None:
    source = pool(RAW, [30, 30])
    target = sparse_chosen(TARGET, FEATURES, [np.arange(9)])
    raw = sparse_chosen(source, FEATURES, [np.arange(30), np.arange(30)])
    model = train_classifier(target, raw, seed=0)
    assert score(source, FEATURES, model).scores.tolist() == pytest.approx(model.probabilities(raw).tolist())


def test_a_lone_surrogate_is_written_as_json(own_home: Path, tmp_path: Path) -> None:
    write_selection(tmp_path / "s.jsonl", pool(["x \ud800 y"], [1]), [np.array([0])], np.ones(1))
    assert json.loads((tmp_path / "s.jsonl").read_text())["text"] == "x \ud800 y"
