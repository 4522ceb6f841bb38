"""Token importance as a table and as rows of the heatmap."""

import json
from pathlib import Path

import pytest

from recipes.core.evaluation.importance import Importance, WeighedText, importance_heatmap, relative, write_importance
from recipes.core.report.heatmap import Example, read_heatmap
from recipes.core.storage.files import write_json

ROWS = [Importance("deletion", [3, 1, 0, 0]), Importance("attention", [0, 0, 0.5, 0.5], layer=1)]
TEXT = WeighedText("row-0", ["The", " capital", "\n", ""], ROWS, [None, "evidence", None, None], "for ' Paris'")


def shown(folder: Path) -> Example:
    write_json(folder / "heatmap.json", importance_heatmap([TEXT], "What it is."))
    return read_heatmap(folder)[0]


def test_weights_are_shown_over_their_mean() -> None:
    assert relative([3, 1, 0, 0]).tolist() == [3, 1, 0, 0] and relative([0.5, 0.5, 0, 0]).tolist() == [2, 2, 0, 0]
    assert relative([0, 0]).tolist() == [0, 0] and relative([]).tolist() == []
    for wrong in ([-1, 1], [float("nan"), 1], [float("inf")]):
        with pytest.raises(ValueError, match="finite and not negative"):
            relative(wrong)


def test_a_heatmap_has_a_named_row_a_method_and_layer(tmp_path: Path) -> None:
    example = shown(tmp_path)
    assert [(label, [token.weight for token in tokens]) for label, tokens in example.rows] == [
        ("deletion", ["3.000", "1.000", "0.000", "0.000"]),
        ("attention, layer 1", ["0.000", "0.000", "2.000", "2.000"]),
    ]
    # What shows one row alone (a trial's page, trackers) shows the first.
    assert [token.weight for token in example.tokens] == ["3.000", "1.000", "0.000", "0.000"]
    assert [token.kind for token in example.rows[1][1]] == [None, "evidence", None, None]
    assert example.title == "for ' Paris'" and not example.has_losses


def test_a_row_of_another_length_is_refused() -> None:
    for row in (Importance("a", [1]), Importance("a", [1, 2, 3, 4, 5])):
        with pytest.raises(ValueError):
            importance_heatmap([WeighedText("x", TEXT.tokens, [ROWS[0], row])], "")


def test_the_table_has_a_line_a_token_of_each_method_and_layer(tmp_path: Path) -> None:
    write_importance(tmp_path / "importance.jsonl", [TEXT])
    lines = [json.loads(line) for line in (tmp_path / "importance.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 8
    assert lines[1] == {
        "text": "row-0",
        "method": "deletion",
        "layer": None,
        "position": 1,
        "token": " capital",
        "kind": "evidence",
        "weight": 1.0,
    }
    assert (lines[6]["layer"], lines[6]["token"], lines[6]["weight"]) == (1, "\n", 0.5)
