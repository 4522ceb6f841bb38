"""What losses read of the reference is declared, and nothing else is computed or kept."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.alignment.config import ALL_STATES, LAST_STATES, LOSSES, NO_STATES, Reads
from recipes.alignment.losses import LOSSES as COMPUTED
from recipes.alignment.objectives import PreferenceModel, TokenScores
from recipes.alignment.pairs import TOKENS, PairItems, pair_collate
from recipes.alignment.reference_scores import LOGPS, STATES, AnswerScores, StepReference, choose_scores
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.models.head import output_head
from recipes.core.scoring.columns import column_tensor
from recipes.core.scoring.forward import HEAD
from recipes.core.scoring.sizes import is_worth_keeping, score_bytes
from recipes.core.training.model_options import cast_parameters
from tests.alignment.test_sparsepo_objectives import model, pair_set

PAIRS = pair_set()
DPO, TDPO = Reads(True, NO_STATES), Reads(True, LAST_STATES)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    return tmp_path


def config(*keys: str) -> Any:
    arm = [] if any(key.startswith("arm=") for key in keys) else ["arm=dpo"]
    return compose.compose("sparsepo", [*arm, *keys])


def test_the_config_names_what_each_loss_reads_of_the_reference() -> None:
    plain = config()
    for name in LOSSES:
        run = dataclasses.replace(plain, preference=dataclasses.replace(plain.preference, loss=name))
        needs = COMPUTED[name].needs
        assert run.reads == Reads("ref_logps" in needs, LAST_STATES if "kl" in needs else NO_STATES), name


@pytest.mark.parametrize(
    ("recipe", "arm", "reads"),
    [
        ("sparsepo", "sparsepo_common", Reads(True, "all")),
        ("sparsepo", "random", Reads(True, "last")),
        ("sparsepo", "simpo", Reads(False, "none")),
        ("aligndistil", "aligndistil", Reads(True, "none")),
        ("cdpo", "cdpo", Reads(True, "none")),
        ("t-reg", "self", Reads(True, "none")),
    ],
)
def test_arms_say_what_they_read(recipe: str, arm: str, reads: Reads) -> None:
    run: Any = compose.compose(recipe, [f"arm={arm}"])
    assert run.reads == reads


def test_dpo_keeps_log_probs_and_nothing_else(home: Path) -> None:
    scores, beside = choose_scores(config(), model(0), PAIRS, DPO, "cpu")
    assert beside is None and list(scores.columns(DPO)) == [LOGPS]
    [entry] = (home / "cache" / "token-scores").iterdir()
    assert sorted(path.name for path in entry.iterdir()) == ["logprob.npy", "manifest.json"]
    assert (entry / "logprob.npy").stat().st_size - 128 == scores.size == score_bytes(len(scores.logps), 0, 16, False)


def test_arms_share_what_one_that_reads_more_has_computed(home: Path) -> None:
    everything, _ = choose_scores(config(), model(0), PAIRS, Reads(True, ALL_STATES), "cpu")
    states = everything.columns(TDPO)[STATES]
    for reads in (DPO, TDPO):
        columns = choose_scores(config(), model(0), PAIRS, reads, "cpu")[0].columns(reads)
        assert np.array_equal(columns[LOGPS], everything.logps)
    assert np.array_equal(columns[STATES], states[:, -1:]) and states.shape[1] == 2
    assert len(list((home / "cache" / "token-scores").iterdir())) == 1


def test_scores_are_those_of_the_model_as_it_was(home: Path) -> None:
    reference = model(0)
    scores, _ = choose_scores(config(), reference, PAIRS, DPO, "cpu")
    scores.compute()
    before = scores.logps.copy()
    with torch.no_grad():
        reference.language_model.lm_head.weight.mul_(2)
    assert np.array_equal(scores.logps, before)


def test_what_nobody_reads_is_not_computed(home: Path) -> None:
    nothing = Reads(False, NO_STATES)
    scores, beside = choose_scores(config("reference.store=always"), model(0), PAIRS, nothing, "cpu")
    assert beside is None and scores.columns(nothing) == {} and not (home / "cache").exists()


def test_sizes_are_those_of_the_files(home: Path) -> None:
    scores, _ = choose_scores(config(), model(0), PAIRS, TDPO, "cpu")
    files = [home.rglob(f"{name}.npy") for name in ("logprob", "hidden")]
    assert scores.columns(TDPO).keys() == {LOGPS, STATES}
    assert sum(path.stat().st_size - 128 for found in files for path in found) == scores.size


def test_states_that_take_too_much_are_computed_beside_the_step(home: Path) -> None:
    size = AnswerScores(model(0), PAIRS, "cpu", (HEAD,)).size
    for part, kept in ((0.9, False), (1.1, True)):
        run = config(f"reference.max_gib={part * size / 2**30:.12f}")
        scores, beside = choose_scores(run, model(0), PAIRS, TDPO, "cpu")
        assert (beside is None) is kept and scores.layers == ((HEAD,) if kept else ())
    assert not (home / "cache" / "token-scores").exists()  # nothing was read yet
    kept_before = AnswerScores(model(0), PAIRS, "cpu", (HEAD,))
    assert kept_before.columns(TDPO)
    _, beside = choose_scores(config("reference.max_gib=1e-9"), model(0), PAIRS, TDPO, "cpu")
    assert beside is None  # what is there is used
    _, beside = choose_scores(config("reference.store=never"), model(0), PAIRS, TDPO, "cpu")
    assert isinstance(beside, StepReference)


def test_what_is_to_be_kept_and_has_no_room_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.core.scoring.sizes.free_bytes", lambda folder: 5)
    with pytest.raises(UserError, match="0.0 GiB are free") as raised:
        choose_scores(config("reference.store=always"), model(0), PAIRS, TDPO, "cpu")
    assert "reference.store=never" in str(raised.value)
    _, beside = choose_scores(config(), model(0), PAIRS, TDPO, "cpu")
    assert beside is not None


def test_a_pass_over_pairs_that_no_run_sees_is_not_worth_it(tmp_path: Path) -> None:
    assert score_bytes(1000, 30, 576, bf16=True) == 1000 * (4 + 30 * 576 * 2)
    assert is_worth_keeping(2**30, 1.0, 10_000, 1, tmp_path)
    assert not is_worth_keeping(2**30 + 1, 1.0, 10_000, 1, tmp_path)
    assert is_worth_keeping(1, 1.0, 80_000, 10_000, tmp_path)
    assert not is_worth_keeping(1, 1.0, 80_001, 10_000, tmp_path)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (("arm=dpo",), "log-probs of answers' tokens, kept on disk, at most 0.2 MiB; beside each step above 8 GiB"),
        (
            ("arm=random", "model=smollm2-135m", "data.path=x"),
            "and last hidden states of answers' tokens, kept on disk, 2,308 bytes a token;",
        ),
        (
            ("arm=sparsepo_common", "trainer.dtype=bfloat16", "reference.store=always"),
            "all layers of answers' tokens, kept on disk, at most 17.8 MiB",
        ),
        (("reference.store=never",), "log-probs of answers' tokens, computed beside each step"),
        (("arm=simpo",), "nothing that training reads"),
    ],
)
def test_a_dry_run_says_what_is_kept(keys: tuple[str, ...], text: str) -> None:
    assert text in dict(config(*keys).describe())["reference says"]


def test_in_bf16_a_policy_that_has_not_moved_is_where_its_reference_is() -> None:
    reference = model(0)
    kept = AnswerScores(reference, PAIRS, "cpu", (HEAD,), bf16=True)
    plain = AnswerScores(reference, PAIRS, "cpu", (HEAD,))
    assert kept.states.dtype == np.uint16 and not np.array_equal(kept.logps, plain.logps)
    exact = torch.from_numpy(plain.states)
    torch.testing.assert_close(column_tensor(kept.states).float(), exact, rtol=0.05, atol=0.05)
    head = output_head(reference.language_model).detach()
    batches = [
        pair_collate(0)([PairItems(PAIRS, columns)[i] for i in range(4)]) for columns in (kept.columns(TDPO), {})
    ]
    for batch, beside in zip(batches, (None, StepReference(reference, (HEAD,))), strict=True):
        scores = TokenScores(("ref_logps", "kl"), head, beside=beside)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            for side in scores(PreferenceModel(model(0)), batch)[:2]:
                assert side.ref_logps is not None and side.kl is not None
                assert float((side.logps - side.ref_logps)[side.mask.bool()].abs().max()) < 2e-2
                assert float(side.kl[side.mask.bool()].abs().max()) < 1e-3
    assert batches[0][TOKENS + STATES].dtype == torch.bfloat16


def test_a_reference_whose_policy_has_bf16_weights_has_them_too() -> None:
    reference = model(0)
    cast_parameters(reference, torch.bfloat16)
    scores, _ = choose_scores(config(), reference, PAIRS, TDPO, "cpu")
    columns = scores.columns(TDPO)
    assert columns[STATES].dtype == np.uint16 and columns[STATES].nbytes + columns[LOGPS].nbytes == scores.size
    batch = pair_collate(0)([PairItems(PAIRS, columns)[i] for i in range(4)])
    policy = model(0)
    cast_parameters(policy, torch.bfloat16)
    read = TokenScores(("ref_logps", "kl"), output_head(reference.language_model).detach())
    with torch.no_grad():
        sides = read(PreferenceModel(policy), batch)[:2]
    for side in sides:
        assert side.ref_logps is not None and side.kl is not None
        assert float((side.logps - side.ref_logps)[side.mask.bool()].abs().max()) < 2e-2
        assert float(side.kl[side.mask.bool()].abs().max()) < 1e-3
