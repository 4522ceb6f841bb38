"""Tables, verdicts and the line about a measurement: worked texts, orders, refusals."""

from dataclasses import replace

import pytest

from recipes.core.config.settings import EQUIVALENCE
from recipes.core.errors import UserError
from recipes.core.pages.tables import measurement_line, output, price_text, table, verdict_line, verdicts
from tests.core.pages.conftest import CLAIM, MACHINE, judged, priced


def test_a_table_has_the_best_arm_first_and_differences_to_the_claims_baseline(stored):
    columns = {"area": "auc difference", "loss": "loss"}
    assert table(stored(), {"columns": columns}) == (
        "| arm | area | loss |\n"
        "|---|---|---|\n"
        "| prior | .900 (+.400 [+.152, +.648]) | 3 |\n"
        "| ntp | .500 | 1 |\n"
        "| random | .200 (-.300 [-.500, -.100]) | - |\n"
    )


def test_arms_are_chosen_named_and_ordered(stored):
    trial, columns = stored(), {"area": "auc"}

    def shown(**options):
        return [line.split(" | ")[0][2:] for line in table(trial, {"columns": columns, **options}).splitlines()[2:]]

    assert shown(order="loss") == ["ntp", "prior", "random"]
    assert shown(order="planned") == ["prior", "ntp", "random"]
    assert shown(without=["ntp"]) == ["prior", "random"]
    assert shown(arms=["random", "ntp"]) == ["random", "ntp"]
    assert shown(arms={"random": "**random**", "ntp": None}) == ["**random**", "ntp"]
    assert table(trial, {"columns": columns, "corner": "trained on"}).startswith("| trained on | area |")


def test_a_claim_on_a_smaller_metric_has_the_smallest_first(stored):
    trial = stored(judged(claim=replace(CLAIM, metric="loss", direction=-1)))
    assert table(trial, {"columns": {"loss": "loss"}}).splitlines()[2] == "| ntp | 1 |"


def test_deviation_hundredths_and_another_baseline(stored):
    columns = {"%": "auc deviation percent", "to random": "auc minus random", "of one": "loss difference"}
    lines = table(stored(), {"columns": columns, "arms": ["prior", "random"], "baseline": "prior"}).splitlines()
    # Seeds 0 and 2 have both: .7 and .7, an interval of width zero.
    assert lines[2] == "| prior | 90.0 ± 10.0 | +.700 [+.700, +.700] | 3 |"
    assert lines[3] == "| random | 20.0 ± 14.1 | - | - |"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"columns": {"a": "acc"}}, "no metric 'acc'"),
        ({"columns": {"a": "auc twice"}}, "a column says 'twice'"),
        ({"columns": {"a": "auc minus"}}, "a column says 'minus'"),
        ({"columns": {"a": "auc minus ntpp"}}, "no arm 'ntpp'"),
        ({"columns": {"a": "auc"}, "arms": ["priro"]}, "no arm 'priro'"),
        ({"columns": {"a": "auc"}, "order": "acc"}, "no metric 'acc'"),
        ({"columns": {"a": "auc"}, "sort": "auc"}, "it has no option 'sort'"),
        ({}, "it needs columns"),
    ],
)
def test_what_is_not_there_is_refused(stored, options, what):
    with pytest.raises(UserError, match=what):
        table(stored(), options)


def test_verdicts_are_one_line_or_one_point_a_claim(stored):
    line = "PRIOR learns faster: **supported**, +.310 [+.244, +.375], three seeds"
    assert verdicts(stored(), {}) == f"{line}.\n"
    further = judged("inconclusive", replace(CLAIM, statement="it is cheap", arm="random"), 4)
    both = stored(judged(), further)
    assert verdicts(both, {}).splitlines() == [
        f"- {line}.",
        "- It is cheap: **inconclusive**, +.310 [+.244, +.375], three seeds; about 4 more seeds would settle it.",
    ]
    assert verdicts(both, {"arm": "random"}).startswith("It is cheap: ")
    with pytest.raises(UserError, match="no claim is about arm 'ntp'"):
        verdicts(both, {"arm": "ntp"})


def test_a_verdict_says_its_price_and_its_reservations(stored):
    trial, at_a_price = stored(), priced(judged(), True)
    assert verdict_line(trial, at_a_price) == (
        "**supported, at a price**, +.310 [+.244, +.375], three seeds; price: `nll/other` +5.07 [+4.65, +5.49]"
    )
    assert [price_text(one) for one in (at_a_price, priced(judged(), False), judged())] == [
        "`nll/other` +5.07 [+4.65, +5.49]",
        "none",
        "not measured",
    ]
    small = judged("contradicted", estimate=0.004, low=-0.006, high=0.015)
    assert verdict_line(trial, small).endswith("three seeds; too small to matter (less than .020)")
    assert verdict_line(trial, judged("contradicted", low=-0.4, high=-0.1)).endswith("three seeds")
    alike = judged("contradicted", replace(CLAIM, kind=EQUIVALENCE), estimate=0.23, low=0.21, high=0.25)
    assert verdict_line(trial, alike).endswith("three seeds; farther apart than .020")
    old = replace(trial, version=0)
    assert verdict_line(old, judged()).endswith("three seeds, version 0 of the recipe, which is at 1")


def test_the_line_about_a_measurement(stored):
    assert measurement_line(stored(), {}) == (
        "2026-11-28, one core (AMD EPYC), one thread a run, torch 2.13.0, commit 40ce46f. Three arms, three paired "
        "seeds: 9 runs in 10 min 8 s.\n\n    steelyard trial prior --seeds 3\n"
    )
    gpu = MACHINE | {"device": "cuda", "gpu": "NVIDIA H200"}
    assert "NVIDIA H200, torch 2.13.0, commit abcabca+changes" in measurement_line(
        stored(machines=(gpu,), commits=("abcabcabc+changes",)), {}
    )


def test_the_output_of_the_command_is_a_block_of_code(stored):
    lines = output(stored(priced(judged(), True)), {}).splitlines()
    assert lines[0] == "    prior: auc, difference to ntp"
    assert lines[4] == "    verdict: supported, at a price: nll/other +5.070 [+4.650, +5.490]"
    assert lines[-1] == "    published  by 8%"
