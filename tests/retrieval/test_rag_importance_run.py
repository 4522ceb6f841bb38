"""Data importance from the shell to `sources.jsonl`: a user's texts, planted faults, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.data.tasks.labelled import LabelledText
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics
from recipes.retrieval.rag_importance.config import CorpusConfig
from recipes.retrieval.rag_importance.corpus import build_corpus

WORDS = {"fruit": "apple pear plum cherry fig grape", "tool": "hammer saw drill file plane rasp"}


def write_texts(folder: Path, count: int = 240) -> Path:
    """Texts of two labels; of every three sources, `liar` always gives the other label."""
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        label = ["fruit", "tool"][number % 2]
        text = f"{' '.join(rng.choice(WORDS[label].split(), 4))} {number}"
        source = ["north", "south", "liar"][int(rng.integers(3))] if number < count * 3 // 4 else "north"
        wrong = {"fruit": "tool", "tool": "fruit"}[label]
        rows.append({"text": text, "label": wrong if source == "liar" else label, "site": source})
    path = folder / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def final(outputs: Path, *words: str) -> tuple[dict[str, float], list[dict[str, object]]]:
    config = compose.compose("rag-importance", ["budget=smoke", "tracker=none", *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run rag-importance", page=False).folder
    lines = (folder / "sources.jsonl").read_text(encoding="utf-8").splitlines()
    return final_metrics(folder), [json.loads(line) for line in lines]


def test_a_users_sources_are_weighed(tmp_path: Path) -> None:
    path = write_texts(tmp_path)
    words = (f"data.path={path}", "data.source_column=site", "retrieval.used=3", "retrieval.items=12")
    metrics, sources = final(tmp_path, *words)
    everything, _ = final(tmp_path, *words, "arm=none")
    assert [each["source"] for each in sources][0] == "liar" and sources[0]["kept"] == 0
    assert metrics["accuracy"] > everything["accuracy"] and metrics["removed"] > 0
    assert not {"precision", "recall"} & metrics.keys()  # nothing was spoiled on purpose
    assert everything["removed"] == 0 and all(each["spoiled"] == 0 for each in sources)
    assert len(sources) == 3 and sum(int(str(each["passages"])) for each in sources) > 100


def test_planted_faults_of_a_users_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (f"data.path={write_texts(tmp_path)}", "corpus.sources=5", "retrieval.used=3", "retrieval.items=9")
    for arm in ("reweight", "random_prune", "shared", "sampled", "truncated", "oracle", "fake_prune", "count"):
        metrics, sources = final(tmp_path, *words, f"arm={arm}")
        assert "precision" in metrics or arm == "reweight"
        assert 0 <= metrics["accuracy"] <= 1 and len(sources) == (15 if arm == "fake_prune" else 5)
    assert "weights are learnt from 45 questions, the threshold from 22" in capsys.readouterr().err
    exact, _ = final(tmp_path, *words, "weights.form=b", "label=b")
    assert exact == final(tmp_path, *words)[0]


def test_bm25_retrieves_as_well(tmp_path: Path, steelyard_home: Path) -> None:
    metrics, _ = final(tmp_path, f"data.path={write_texts(tmp_path)}", "retrieval.name=bm25", "corpus.corruption=raw")
    assert metrics["accuracy"] > 0.5


def test_what_is_spoiled_is_known() -> None:
    texts = [LabelledText(str(number), f"text {number}", "x", str(number)) for number in range(2000)]
    labels = np.arange(2000) % 4
    noise = build_corpus(texts, labels, 4, CorpusConfig(sources=10), "noise", 0)
    assert ((noise.answers != labels) == noise.spoiled).all() and len(noise.names) == 10
    np.testing.assert_allclose(np.sort(noise.truth), np.repeat([0.2, 0.4, 0.6, 0.8, 1.0], 2), atol=0.12)
    fake = build_corpus(texts, labels, 4, CorpusConfig(), "fake", 0)
    assert fake.spoiled.sum() == 1000 and set(fake.source[fake.spoiled]) == set(range(50, 60))
    of = dict(zip((each.text for each in texts), labels, strict=True))
    right = np.array([of[text] for text in fake.texts])
    assert ((fake.answers != right) == fake.spoiled).all()
    raw = build_corpus(texts, labels, 4, CorpusConfig(), "raw", 0)
    assert not raw.spoiled.any() and (raw.truth == 1).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["retrieval.used=60"], "cannot be more than items=50"),
        (["use.shares=[]"], "is empty"),
        (["weights.form=b", "weights.approximation=sample"], "b is exact; type weights.form=a"),
        (["use.name=reweight", "weights.method=loo", "label=x"], "reweight takes weights for probabilities"),
        (["use.shares=[1.0]"], "must be >= 0 and < 1"),
    ],
)
def test_settings_that_cannot_be(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        compose.compose("rag-importance", words)
    assert message in str(refused.value)


def test_texts_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    rows = [{"text": f"word {number} {label}", "label": label, "site": number} for number in range(2) for label in "ab"]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="2 training texts are too few for a corpus and two sets of questions"):
        final(tmp_path, f"data.path={path}")
    rows[1]["site"] = 1.5
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    with pytest.raises(UserError) as refused:
        final(tmp_path, f"data.path={path}", "data.source_column=site")
    assert "its source is 1.5, no word and no whole number" in str(refused.value)
