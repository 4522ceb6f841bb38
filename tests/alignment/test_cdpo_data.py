"""Data set `chain-arithmetic`: selection of pairs, detectors; the tokenizer of characters."""

from collections import Counter

import numpy as np
import pytest

from recipes.alignment.cdpo.evaluation import add_detection
from recipes.alignment.pairs import Pair, PairItems, PairSet
from recipes.alignment.selection import select
from recipes.core.evaluation.scores import Scores
from recipes.core.models.tokenizer import character_tokenizer


def test_the_selection_of_the_paper() -> None:
    finals = [*"aaabbcdefg", "right", None]
    taken = Counter()
    for seed in range(20):
        selection = select(finals, "right", np.random.default_rng(seed))
        assert selection.positive == 10 and [finals[place] for place in selection.negatives] == ["a", "b"]
        assert selection.pair == (10, selection.negatives[0])
        taken[selection.negatives[0]] += 1
    assert set(taken) == {0, 1, 2}  # a random member of the group


@pytest.mark.parametrize(
    ("finals", "negatives"),
    [
        ("b", 1),  # one wrong answer is its own group
        ("bcde", 1),  # single answers beyond the first group are not taken
        ("bbbbcc", 1),  # the first group is half of the wrong answers
        ("bbccdde", 2),
        ("bbccddee", 2),
        ("rrr", 0),
        ("", 0),
    ],
)
def test_how_many_wrong_answers_are_taken(finals: str, negatives: int) -> None:
    selection = select([*finals], "r", np.random.default_rng(0))
    assert len(selection.negatives) == negatives
    assert (selection.pair is None) == ("r" not in finals or not negatives)


def test_detectors_of_first_wrong_tokens() -> None:
    def pair(rejected: int, wrong: int) -> Pair:
        marks = np.zeros(1, bool), np.arange(rejected) == wrong
        return Pair(str(wrong), np.zeros(1), np.zeros(1), np.zeros(rejected), (1.0, 0.0), marks)

    columns = {
        "log_s": np.log(np.array([0.5, 0.9, 0.1, 0.8, 0.5, 0.7, 0.2])),
        "ref_logps": np.array([-9.0, -1, -2, -3, -9, -2, -1]),
    }
    scores = Scores()
    metrics = add_detection(scores, PairItems(PairSet([pair(3, 1), pair(2, 1)]), columns))
    # Rejected tokens are 1 to 3 and 5 and 6, first wrong ones 2 and 6.
    assert metrics["critical/auroc_contrast"] == 1 and metrics["critical/hit_contrast"] == 1
    assert (
        metrics["critical/auroc_reference"] == pytest.approx((1.5 + 0.5) / 6) and metrics["critical/hit_reference"] == 0
    )
    assert metrics["critical/score_wrong"] == pytest.approx(0.15)
    assert metrics["critical/score_other"] == pytest.approx((0.9 + 0.8 + 0.7) / 3)
    assert metrics.keys() == scores.metrics.keys() and "critical/auroc_surprisal" not in metrics
    assert add_detection(Scores(), PairItems(PairSet([Pair("a", *[np.zeros(2)] * 3)]), {})) == {}


def test_a_token_a_character() -> None:
    made = character_tokenizer(["12+3 =\n1", "1"], "characters of the test", 300)
    assert made("1 +\n1")["input_ids"] == made.convert_tokens_to_ids(["1", " ", "+", "\n", "1"])
    assert made.decode(made("12 + 3\n")["input_ids"]) == "12 + 3\n"
    assert made("9")["input_ids"] == [made.unk_token_id] and len(made) == 4 + 7
    small = character_tokenizer(["aaabbc"], "a small vocabulary", 6)
    assert small.convert_ids_to_tokens(small("abc")["input_ids"]) == ["a", "b", small.unk_token]
