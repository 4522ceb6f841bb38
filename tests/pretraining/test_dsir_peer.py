"""DSIR's importance weights beside those of the package `data-selection` (extra `[peers]`), on real source files."""

import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from recipes.core.data.text.documents import open_documents
from recipes.core.data.text.ngrams import words_of
from recipes.pretraining.dsir.selection import Features, count, fit_log_ratio, score

data_selection = pytest.importorskip("data_selection")


def pieces() -> list[str]:
    """Some 600 pieces of 150 words from Python's standard library, prose of its docstrings included."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("[a-f]*.py"))
    texts = []
    for path in paths:
        words = path.read_text(encoding="utf-8", errors="ignore").split(" ")
        texts += [" ".join(words[start : start + 150]) for start in range(0, len(words), 150)]
    return texts[:600]


def written(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.mark.parametrize("ngrams", [1, 2])
def test_log_weights_equal_the_package(tmp_path: Path, ngrams: int) -> None:
    texts = pieces()
    (tmp_path / "raw").mkdir()
    raw = [written(tmp_path / "raw" / "0.jsonl", texts[:200]), written(tmp_path / "raw" / "1.jsonl", texts[200:])]
    target = written(tmp_path / "target.jsonl", texts[100:130])
    peer = data_selection.HashedNgramDSIR(raw, [target], str(tmp_path / "peer"), num_proc=1, ngrams=ngrams)
    peer.fit_importance_estimator(num_tokens_to_fit="all")
    peer.compute_importance_weights()
    folders = tmp_path / "peer" / "log_importance_weights", tmp_path / "peer" / "perexample_metadata"
    weights, lengths = (np.concatenate([np.load(folder / f"{i}.npy") for i in range(2)]) for folder in folders)

    source, features = open_documents(str(tmp_path / "raw"), key="data.source"), Features(10_000, ngrams)
    ratio = fit_log_ratio(count(open_documents(target, key="data.target"), features), count(source, features))
    scored = score(source, features, ratio)
    assert len(texts) > 300
    np.testing.assert_allclose(scored.scores, weights, rtol=0, atol=1e-6)
    assert scored.lengths.tolist() == lengths.tolist()


def test_words_equal_the_tokenizer_it_uses() -> None:
    nltk = pytest.importorskip("nltk")
    if tuple(map(int, nltk.__version__.split(".")[:2])) >= (3, 10):
        pytest.skip("NLTK 3.10 reads the pattern with another engine: accents are, superscripts are no word characters")
    text = (
        "It's \u4f60\u597d\u2026 na\u00efve_x \u0130stanbul 3.14 \u03a3\u03a3, e\u0301t\u00e9 \U0001f600!!\u00a0\u2003a"
    )
    assert words_of(text) == nltk.tokenize.WordPunctTokenizer().tokenize(text.lower())
