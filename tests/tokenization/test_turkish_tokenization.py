"""Words, morphemes and correlations of `turkish-tokenization`, against the specification's worked numbers."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from recipes.tokenization.turkish_tokenization import method
from recipes.tokenization.turkish_tokenization.config import MeasureConfig
from recipes.tokenization.turkish_tokenization.method import Chains, normalise
from recipes.tokenization.turkish_tokenization.panel import MARK, WordMarks
from recipes.tokenization.turkish_tokenization.scores import TokenCounts, chance, shares

# Models of the first version of arXiv 2502.07057, the final paper's four first: Turkish MMLU and their scores.
ACCURACY = [72.10, 70.42, 61.68, 70.66, 51.29, 46.89, 29.37, 84.84]
TABLE = {
    "valid": [48.63, 45.80, 40.33, 50.67, 47.01, 45.27, 43.93, 42.14],
    "pure": [37.05, 30.91, 30.15, 32.96, 35.17, 36.08, 34.42, 28.68],
    "billions": [27.2, 70.6, 7.6, 32.3],
    "vocabulary": [256000, 128256, 151665, 255029],
    "tokens": [497015, 488535, 561866, 434526, 497173, 534930, 803971, 491137],
}
ROOTS, AFFIXES = ["ev", "göz", "gözlük", "kitap"], ["ler", "lar", "imiz", "den", "lük", "de", "n", "ki"]


@pytest.fixture
def chains() -> Chains:
    return Chains(ROOTS, AFFIXES, most=4, shortest=2)


@pytest.mark.parametrize(
    ("word", "lower"),
    [
        ("IŞIK", "ışık"),
        ("İSTANBUL", "istanbul"),
        (" Ev ", "ev"),
        ("i\u0307", "i\u0307"),
        ("s\u0327EHI\u0307R", "şehir"),
    ],
)
def test_turkish_letters(word: str, lower: str) -> None:
    assert normalise(word) == lower


def test_other_languages_keep_their_i() -> None:
    assert normalise("INDEX", turkish=False) == "index" and normalise("INDEX") == "ındex"


@pytest.mark.parametrize(
    ("score", "four", "eight"),
    [("valid", 0.900, 0.101), ("pure", 0.684, -0.510), ("billions", 0.591, None), ("vocabulary", 0.536, None),
     ("tokens", -0.797, -0.787)],
)  # fmt: skip
def test_correlations_of_the_papers_table(score: str, four: float, eight: float | None) -> None:
    assert method.correlation_parts(TABLE[score][:4], ACCURACY[:4]).mean() == pytest.approx(four, abs=5e-4)
    if eight is not None:
        assert method.correlation_parts(TABLE[score], ACCURACY).mean() == pytest.approx(eight, abs=5e-4)


def test_four_points_show_nothing() -> None:
    assert method.permutation_p(TABLE["valid"][:4], ACCURACY[:4], 1) == 3 / 24


def test_permutation_p_counts_all_orders() -> None:
    left, right = TABLE["pure"][:6], ACCURACY[:6]
    given = np.corrcoef(left, right)[0, 1]
    larger = [np.corrcoef(order, right)[0, 1] <= given + 1e-12 for order in permutations(left)]
    assert method.permutation_p(left, right, -1) == pytest.approx(np.mean(larger))


def test_parts_average_to_the_correlation_and_say_nothing_of_a_constant() -> None:
    from scipy.stats import spearmanr

    left = [1.0, 2.0, 2.0, 5.0, 0.0]
    right = [0.3, 0.1, 0.4, 0.4, 0.2]
    assert method.rank_parts(left, right).mean() == pytest.approx(spearmanr(left, right).statistic)
    assert method.correlation_parts(left, [7.0] * 5).tolist() == [0] * 5
    assert method.permutation_p([7.0] * 5, right, 1) == 1


WORKED = TokenCounts({"ev": 2, "ler": 3, "imiz": 1, "den": 1, "ki": 1, "tap": 1, "lar": 2}, 11, 0)


def test_the_worked_example() -> None:
    listed = Chains(["ev"], ["ler", "lar", "imiz", "den", "ki"], 4, 2)
    once = shares(WORKED, listed, MeasureConfig(), 1)
    assert once == {"valid": pytest.approx(100 * 6 / 7), "pure": pytest.approx(100 * 6 / 7)}
    often = shares(WORKED, listed, MeasureConfig(weighting="frequency"), 1)
    assert often["pure"] == pytest.approx(100 * 10 / 11)
    with_tap = Chains(["ev", "t"], ["ler", "lar", "imiz", "den", "ki", "ap"], 4, 1)  # t + ap has a parse
    assert shares(WORKED, with_tap, MeasureConfig(), 1) == {"valid": 100, "pure": pytest.approx(100 * 6 / 7)}


@pytest.mark.parametrize("weighting", ["unique", "frequency"])
@pytest.mark.parametrize("validity", ["either", "lexicon", "analyser"])
@pytest.mark.parametrize("denominator", ["all", "alphabetic"])
def test_pure_is_never_more_than_valid_and_words_never_lower_either(
    weighting: str, validity: str, denominator: str
) -> None:
    counts = TokenCounts({"ev": 4, "evler": 1, "12": 2, "q": 1, "evlerimiz": 1, "xyz": 3}, 12, 0)
    config = MeasureConfig(weighting=weighting, validity=validity, denominator=denominator)
    last = {"valid": 0.0, "pure": 0.0}
    steps = [([], []), (["ev"], []), (["ev"], ["ler"]), (["ev", "q"], ["ler", "imiz"]), ([*counts.words], [])]
    for roots, affixes in steps:
        now = shares(counts, Chains(roots, affixes, 4, 1), config, 1)
        assert 0 <= now["pure"] <= now["valid"] <= 100
        assert now["valid"] >= last["valid"] and now["pure"] >= last["pure"]
        last = now
    assert last == {"valid": 100, "pure": 100}
    assert shares(counts, Chains([], [], 4, 1), config, 1) == {"valid": 0, "pure": 0}


def test_single_letters_leave_and_letters_alone_stay() -> None:
    counts, chains = TokenCounts({"a": 5, "ev": 1, "12": 1, "x1": 1}, 8, 0), Chains(["a", "ev"], [], 1, 1)
    assert shares(counts, chains, MeasureConfig(), 1)["pure"] == 50
    assert shares(counts, chains, MeasureConfig(), 2)["pure"] == pytest.approx(100 / 3)
    assert shares(counts, chains, MeasureConfig(denominator="alphabetic"), 2)["pure"] == 100


def test_parses(chains: Chains) -> None:
    assert chains.parses("gözlükler") == (("gözlük", "ler"), ("göz", "lük", "ler"))
    assert chains.parses("evlerimizden") == (("ev", "ler", "imiz", "den"), ("ev", "ler", "imiz", "de", "n"))
    assert chains.parses("lerev") == chains.parses("e") == ()
    assert chains.is_pure("ler") and chains.is_valid("evler") and not chains.is_pure("evler")
    assert chains.is_valid("evler", "analyser") and not chains.is_valid("evler", "lexicon")
    alone = ["either", "lexicon"]  # an affix has no parse
    for validity in ("either", "lexicon", "analyser"):
        assert chains.is_valid("ler", validity) == chains.is_pure("ler", validity) == (validity in alone)
        assert chains.is_pure("ev", validity) and not chains.is_pure("evler", validity)
    every = Counter(map(len, Chains(["aa"], ["a", "aa"], 9, 2).parses("a" * 6)))
    assert every == {3: 1, 4: 3, 5: 1}  # ways to write 4 as ones and twos, and the root


def test_ways_to_cut_a_word(chains: Chains) -> None:
    assert chains.parse_cut("gözlükler") == ("gözlük", "ler") and chains.parse_cut("gözlükxy") == ("gözlükxy",)
    assert chains.greedy_cut("gözlüklerxy") == ("gözlük", "ler", "xy") and chains.greedy_cut("xyler") == ("xyler",)
    drawn = method.random_cut("evlerimizden", [1, 2, 5], np.random.default_rng(0))
    assert "".join(drawn) == "evlerimizden" and {len(part) for part in drawn[:-1]} <= {1, 2, 5}
    mark = WordMarks(chains.parse_cut, turkish=True)
    assert mark("Evler, GÖZLÜKLER 12?") == f"Ev{MARK}ler, GÖZLÜK{MARK}LER 12?"
    assert mark("a\u0307ev") == "a\u0307ev"  # composed it would be shorter


def test_boundaries_take_the_parse_that_agrees_best() -> None:
    parses = [("gözlük", "ler"), ("göz", "lük", "ler")]
    assert method.boundary_hits([3, 6], parses) == (2, 0, 0)
    assert method.boundary_hits([2], parses) == (0, 1, 1)
    assert method.f1(2, 1, 1) == pytest.approx(2 / 3) and method.f1(0, 0, 0) == 1 and method.f1(0, 0, 2) == 0


def test_chance_is_the_seeds() -> None:
    one, same, other = (chance(["a", "b"], seed) for seed in (0, 0, 1))
    assert one == same != other
