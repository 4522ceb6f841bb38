"""`learn-your-tokens` from the shell on a user's text: every kind of unit, contexts, and what rare words cost."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics
from recipes.tokenization.words.experiment import WordRecipe, item_rates
from tests.core import tokenizer_kinds

QUICK = ("budget=smoke", "tracker=none", "trainer.threads=1", "words.size=6", "trainer.max_steps=3",
         "trainer.batch_size=2", "evaluation.windows=3", "evaluation.shortest=20", "evaluation.characters=80",
         "evaluation.watch_every=3", "data.test_fraction=0.3", "tokenizer.vocabulary=300",
         "words.gflops=0.001")  # fmt: skip


def composed(outputs: Path, *words: str) -> Any:
    return compose.compose("learn-your-tokens", [*QUICK, *words, f"outputs={outputs}"])


def run(outputs: Path, *words: str) -> tuple[Path, dict[str, float]]:
    folder = runner.run(composed(outputs, *words), False, "steelyard run learn-your-tokens", page=False).folder
    return folder, final_metrics(folder)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a user types for text."""
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [{"text": f"{text} Ünïcode, house-{number}"} for number, text in enumerate(tokenizer_kinds.texts()[:40])]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return f"data.path={file}"


@pytest.mark.parametrize("arm", ["e2e", "released", "e2e_sub", "joined", "fixed", "sub", "char_units", "word"])
def test_arms_on_a_users_text(arm: str, tmp_path: Path, text: str) -> None:
    folder, metrics = run(tmp_path / "out", text, f"arm={arm}")
    assert 0 < metrics["bits_per_byte"] < metrics["bits_per_character"] < 20
    assert 0 <= metrics["unit_accuracy"] <= 1 and "context_gain" in metrics and "rise" not in metrics
    assert 0 <= metrics["word_accuracy"] <= 1 and metrics["rare/bits_per_byte"] > 0
    lines = [json.loads(line) for line in (folder / "words.jsonl").read_text(encoding="utf-8").splitlines()]
    words = [word for line in lines for word in line["words"]]
    if arm != "fixed":
        assert all(word.endswith(" ") and " " not in word[:-1] for word in words) and ", " in words
    # Each model reads the same text, whatever its units.
    assert "".join(words).split()[:3] == "".join(lines[0]["words"]).split()[:3]
    each = [line["bits_per_byte"] for line in lines]
    assert min(each) <= metrics["bits_per_byte"] <= max(each)


def test_rare_words_are_those_of_the_training_text(tmp_path: Path, text: str) -> None:
    config = composed(tmp_path, text, "evaluation.rare=0")
    counts = WordRecipe().prepare(config, "cpu").counts
    assert (
        isinstance(counts, Counter) and counts[b"house "] > counts["Ünïcode ".encode()] > 9 and counts[b"zebra "] == 0
    )
    _, metrics = run(tmp_path / "out", text, "evaluation.rare=1000000")
    assert metrics["rare/bits_per_byte"] == pytest.approx(metrics["bits_per_byte"])


def test_equal_compute_is_more_windows_of_a_cheaper_model(tmp_path: Path, text: str) -> None:
    works = []
    for arm in ("e2e", "char", "sub", "char_units"):
        config = composed(tmp_path, text, f"arm={arm}", "words.gflops=0.05")
        prepared = WordRecipe().prepare(config, "cpu")
        (rate,) = item_rates(config, prepared)
        works.append(rate * prepared.costs[0] * prepared.corpora[0].window_bytes)
        stream = WordRecipe().build(config, prepared).dataset
        counts = [len(stream[number]["windows"]) for number in range(len(stream))]
        assert sum(counts) == pytest.approx(rate * len(counts), abs=1)
    assert works == pytest.approx([0.05e9] * 4)


def test_a_context_of_units_is_shorter_for_a_flat_model(tmp_path: Path, text: str) -> None:
    sizes = {}
    for arm in ("e2e", "char", "char_units"):
        prepared = WordRecipe().prepare(composed(tmp_path, text, f"arm={arm}"), "cpu")
        sizes[arm] = prepared.corpora[0].window_bytes
    assert sizes["e2e"] == sizes["char"] > 3 * sizes["char_units"]


def test_too_long_a_context_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="and model.architecture=gpt2 has 1,024"):
        run(tmp_path / "out", text, "arm=char", "words.size=400")
    assert not list((tmp_path / "out").glob("*/*/*/metrics.jsonl"))
