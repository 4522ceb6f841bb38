"""Numbers of pages: worked texts."""

import pytest

from recipes.core.pages.numbers import count_word, percent_number, short_number, time_words


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.94, ".940"), (-0.0101, "-.010"), (5.0712, "5.07"), (25.24, "25.2"), (1234.6, "1,235"), (1.0, "1"), (64.0, "64")]
    + [(0.0, "0"), (0.0003, "3.0e-04"), (float("nan"), "nan")],
)
def test_values(value, text):
    assert short_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.3101, "+.310"), (-0.0002, "-.000"), (0.0, "+.000"), (1.0, "+1.00"), (-19.84, "-19.8"), (1e-15, "+.000")],
)
def test_differences_have_a_sign(value, text):
    assert short_number(value, signed=True) == text


def test_hundredths_counts_and_times():
    assert [percent_number(0.887), percent_number(0.0069), percent_number(-0.1, True)] == ["88.7", ".7", "-10.0"]
    assert [count_word(3), count_word(11)] == ["three", "11"]
    assert [time_words(45), time_words(608), time_words(7512)] == ["45 s", "10 min 8 s", "2 h 5 min"]
