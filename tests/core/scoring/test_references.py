"""References: every token of a text is scored behind the start token, once for all."""

from pathlib import Path

import numpy as np
import pytest

from recipes.core.scoring.references import reference_scores
from recipes.core.scoring.rows import text_rows
from recipes.core.scoring.score import score
from tests.core.scoring.models import CountingModel, ids

BOS = 1


class Texts:
    """Texts as ids, with the attributes of `TokenizedCaptions`."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.texts = [ids(size, random) for size in (6, 1, 12, 3, 8, 3, 2)]
        self.lengths = np.array([len(text) for text in self.texts], np.int32)

    def ids(self, i: int) -> np.ndarray:
        return self.texts[i]


def test_a_split_is_scored_behind_the_start_token_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    model, texts = CountingModel(), Texts()
    first = reference_scores(model, texts, BOS, 24, "cpu")
    assert first.forwards == model.calls == 3  # texts of 12 and 8 tokens; 6, 3, 3 and 2; 1
    assert reference_scores(model, texts, BOS, 24, "cpu").forwards == 0
    assert reference_scores(model, texts, BOS + 1, 24, "cpu").forwards > 0
    expected = score(model, text_rows(texts.texts, BOS), device="cpu")
    for number, text in enumerate(texts.texts):
        assert len(first.nll(number)) == len(text)
        np.testing.assert_allclose(first.nll(number), expected.nll(number), atol=1e-5)
