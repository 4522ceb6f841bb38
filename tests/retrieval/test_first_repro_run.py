"""The reproduction of FIRST on a collection and a model of the user's: arms that differ in nothing but config."""

from pathlib import Path

import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics
from recipes.retrieval.first_repro.method import agreement
from tests.retrieval.conftest import encoder_folder, model_folder, write_collection
from tests.retrieval.test_first_run import SMOKE, mine


def final(outputs: Path, *words: str) -> dict[str, float]:
    config = compose.compose("first-repro", [*SMOKE, *words, f"outputs={outputs}"])
    return final_metrics(runner.run(config, False, "steelyard run first-repro", page=False).folder)


def test_orders_are_compared() -> None:
    assert agreement([[2, 4, 0, 1, 3], [0, 1]], [[2, 4, 0, 3, 1], [0, 1]]) == [(1.0, 0.8), (0.0, 1.0)]


def test_how_a_model_is_read(tmp_path: Path) -> None:
    words = [*mine(tmp_path / "mine"), f"model={model_folder(tmp_path / 'model')}", "evaluation.seen=[0,5,100000]"]
    none = final(tmp_path, *words, "arm=none")
    assert none["changed"] == 0 and none["changed@100000"] == 0 and none["tau@100000"] == 1
    assert (none["prefills"], none["decode_steps"]) == (1, 0)
    server = final(tmp_path, *words, "arm=none_server", "ranking.visible=0")
    assert server["changed"] == none["changed@0"] and server["gain"] == 0  # nothing is seen: the order stays
    merged = final(tmp_path, *words, "arm=merged", "tuning.objective=none", "label=merged-none")
    assert merged["pair_agreement"] == none["pair_agreement"]
    numeric = final(tmp_path, *words, "arm=numeric", "tuning.objective=none", "label=numeric-none")
    assert numeric["letter_mass"] != none["letter_mass"]


def test_a_single_candidate_has_no_order(tmp_path: Path) -> None:
    data, model = write_collection(tmp_path / "mine"), model_folder(tmp_path / "model")
    words = [f"data.path={data}", f"model={model}", f"tuning.encoder={encoder_folder(tmp_path / 'encoder')}"]
    with pytest.raises(UserError, match="no query has 2 candidates and an order of them"):
        final(tmp_path, *words, "arm=none", "first_stage.candidates=1")


def test_a_users_lists_fit_the_prompts_of_every_arm(tmp_path: Path) -> None:
    data = f"data.path={write_collection(tmp_path / 'mine')}"
    sizes = {arm: compose.compose("first-repro", [data, f"arm={arm}"]).tuning.passages for arm in ("lm", "numeric")}
    assert sizes == {"lm": 20, "numeric": 9}


def test_a_start_from_written_orders_and_another_first_stage(tmp_path: Path) -> None:
    encoder = encoder_folder(tmp_path / "encoder", positions=128)
    words = [*mine(tmp_path / "mine"), f"model={model_folder(tmp_path / 'model')}", f"first_stage.encoder={encoder}"]
    late = final(tmp_path, *words, "arm=lm_then_lm_rank")
    lm = final(tmp_path, *words, "arm=lm")
    both = final(tmp_path, *words, "arm=lm_rank")
    assert len({late["rank_loss"], lm["rank_loss"], both["rank_loss"]}) == 3
    (tmp_path / "mine" / "gpt.trec").write_text(
        "".join(f"{q} Q0 {p} {at} {9 - at} gpt\n" for q in ("q1", "q4", "q5", "q6")
                for at, p in enumerate(("dog", "cat", "oak", "pine", "car")))
    )  # fmt: skip
    dense = final(tmp_path, *words, "arm=after_dense")
    assert dense["forwards"] == 1 and -1 <= dense["gain"] <= 1


def test_settings_that_cannot_be() -> None:
    for words, message in (
        (["evaluation.seen=[5,5]"], "names a number twice"),
        (["prompt.names=numeric"], "type prompt.window=9 or less"),
    ):
        with pytest.raises(UserError) as refused:
            compose.compose("first-repro", words)
        assert message in refused.value.hint
