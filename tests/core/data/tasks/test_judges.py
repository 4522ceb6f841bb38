"""Judges of texts, and the files they come from."""

from pathlib import Path

import pytest

from recipes.core.data.tasks.judges import LexiconJudge, fit_human_judge
from recipes.core.data.tasks.reviews import Review, read_lexicon, read_reviews

JUDGE = LexiconJudge({"good": 2.0, "dull": -1.5, "well-made": 1.0})


@pytest.mark.parametrize(
    ("text", "total"),
    [(" a good film", 2.0), (" GOOD, but dull.", 0.5), (" goods and dulls", 0.0), (" well-made", 1.0), ("", 0.0)],
)
def test_the_lexicon_adds_up_words(text: str, total: float) -> None:
    assert JUDGE.score(text) == pytest.approx(total / (total**2 + 15) ** 0.5)


def test_a_word_marks_all_its_pieces_and_no_others() -> None:
    assert JUDGE.valences([" go", "od", " film", ", du", "ll", "", "!"]).tolist() == [2, 2, 0, -1.5, -1.5, 0, 0]
    assert JUDGE.valences([]).tolist() == []


def test_the_sum_over_words_is_the_score() -> None:
    pieces = [" good", " and", " dull", " good"]
    total = JUDGE.valences(pieces).sum()
    assert JUDGE.score("".join(pieces)) == pytest.approx(total / (total**2 + 15) ** 0.5)


def test_the_second_judge_learns_what_people_said() -> None:
    train = [
        Review(f"{i}", text, score) for i, (text, score) in enumerate([("a good film", 3.0), ("so dull", -3.0)] * 40)
    ]
    judge = fit_human_judge(train, [*train[:2], Review("x", "a good film so dull", 0.0)])
    good, dull = judge.scores(["good", "dull"])
    assert good > 0.5 > -0.5 > dull and judge.correlation > 0.9
    assert judge.scores([]).shape == (0,)


def test_the_files_of_the_asset(tmp_path: Path) -> None:
    (tmp_path / "reviews").write_bytes("1\t2.5\tA  caf\xe9 of a film\twith a tab\n".encode("latin-1"))
    (tmp_path / "lexicon").write_text("Good\t1.9\t0.9\t[1, 2]\n:)\t2.0\t1.1\t[2]\n")
    assert read_reviews(tmp_path / "reviews") == [Review("review 1", "A café of a film with a tab", 2.5)]
    assert read_lexicon(tmp_path / "lexicon") == {"good": 1.9, ":)": 2.0}
