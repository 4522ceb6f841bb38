"""Examples of heatmaps as reports read them."""

import pytest

from recipes.core.evaluation.heatmaps import heatmap_example


def test_an_example_holds_text_weight_kind_and_nll_of_each_token() -> None:
    assert heatmap_example("a", ["so", ""], [1.00004, 0], [0.25, 3], ["word", None], "data:x") == {
        "id": "a",
        "image": "data:x",
        "tokens": [
            {"text": "so", "weight": 1.0, "kind": "word", "nll": 0.25},
            {"text": "<end>", "weight": 0.0, "kind": None, "nll": 3.0},
        ],
    }
    assert heatmap_example("a", ["so"], [1], [2])["tokens"][0]["kind"] is None


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        heatmap_example("a", ["so", "it"], [1], [2, 3])
