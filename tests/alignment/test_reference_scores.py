"""What losses read of the reference is declared, and nothing else is computed or kept."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.alignment.config import ALL_STATES, LAST_STATES, LOSSES, NO_STATES, Reads
from recipes.alignment.losses import LOSSES as COMPUTED
from recipes.alignment.mismatched import add_mismatches
from recipes.alignment.objectives import Preference, PreferenceModel, TokenScores, scores_of
from recipes.alignment.pairs import TOKENS, PairItems, pair_collate
from recipes.alignment.reference_scores import (
    LOGPS,
    STATES,
    AnswerScores,
    StepReference,
    choose_scores,
    worth_keeping,
)
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.models.head import output_head
from recipes.core.scoring import score
from recipes.core.scoring.columns import column_tensor
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.scoring.forward import HEAD
from recipes.core.scoring.rows import rows_fingerprint
from recipes.core.scoring.sizes import is_worth_keeping, score_bytes
from recipes.core.training.model_options import cast_parameters
from recipes.core.training.task import TrainEvents, Training
from recipes.core.training.trainer import train
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
    assert AnswerScores(model(0), PAIRS, "cpu", (HEAD,)).columns(TDPO)
    _, beside = choose_scores(config("reference.max_gib=1e-9"), model(0), PAIRS, TDPO, "cpu")
    assert beside is not None  # what the cache holds by now decides nothing
    _, beside = choose_scores(config("reference.store=never"), model(0), PAIRS, TDPO, "cpu")
    assert isinstance(beside, StepReference)


@pytest.mark.parametrize("store", ["auto", "always"])
def test_what_is_to_be_kept_and_has_no_room_is_refused(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.core.scoring.sizes.free_bytes", lambda folder: 5)
    message = f"reference.store={store}: the reference's scores take 0.0 GiB, and 0.0 GiB are free"
    with pytest.raises(UserError, match=message) as raised:
        choose_scores(config(f"reference.store={store}"), model(0), PAIRS, TDPO, "cpu")
    assert "type reference.store=never" in str(raised.value)
    assert AnswerScores(model(0), PAIRS, "cpu", (HEAD,)).columns(TDPO)
    _, beside = choose_scores(config(f"reference.store={store}"), model(0), PAIRS, TDPO, "cpu")
    assert beside is None  # what is there takes no more room


def test_the_scores_of_several_models_count_together(home: Path) -> None:
    both = [AnswerScores(model(seed), PAIRS, "cpu", (HEAD,)) for seed in (0, 1)]
    assert worth_keeping(config(f"reference.max_gib={2.1 * both[0].size / 2**30:.12f}"), both)
    assert not worth_keeping(config(f"reference.max_gib={1.9 * both[0].size / 2**30:.12f}"), both)


def test_weights_and_rows_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Any] = []
    monkeypatch.setattr(score, "weights_hash", lambda model: hashed.append(model) or weights_hash(model))
    monkeypatch.setattr(score, "rows_fingerprint", lambda rows: hashed.append(rows) or rows_fingerprint(rows))
    scores, _ = choose_scores(config(), model(0), PAIRS, TDPO, "cpu")
    assert len(scores.logps) and len(hashed) == 2


def test_a_pass_over_pairs_that_no_run_sees_is_not_worth_it() -> None:
    assert score_bytes(1000, 30, 576, bf16=True) == 1000 * (4 + 30 * 576 * 2)
    assert is_worth_keeping(2**30, 1.0, 10_000, 1)
    assert not is_worth_keeping(2**30 + 1, 1.0, 10_000, 1)
    assert is_worth_keeping(1, 1.0, 80_000, 10_000)
    assert not is_worth_keeping(1, 1.0, 80_001, 10_000)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (("arm=dpo",), "log-probs of answers' tokens, kept on disk, at most 0.2 MiB; beside each step above 8 GiB"),
        (
            ("arm=random", "model=smollm2-135m", "data.path=x"),
            "and last hidden states of answers' tokens, kept on disk, 2,308 bytes a token in fp32;",
        ),
        (
            ("arm=random", "model=smollm2-135m", "data.path=x", "trainer.device=cuda"),
            "and last hidden states of answers' tokens, kept on disk, 1,156 bytes a token in bf16;",
        ),
        (
            ("arm=sparsepo_common", "trainer.dtype=bfloat16", "reference.store=always"),
            "all layers of answers' tokens, kept on disk, at most 17.8 MiB in bf16",
        ),
        (("reference.store=never",), "log-probs of answers' tokens, computed beside each step"),
        (("arm=simpo",), "nothing that training reads"),
    ],
)
def test_a_dry_run_says_what_is_kept(keys: tuple[str, ...], text: str) -> None:
    assert text in dict(config(*keys).describe())["reference scores"]


def test_what_is_computed_in_bf16_is_kept_in_it() -> None:
    reference = model(0)
    kept = AnswerScores(reference, PAIRS, "cpu", (HEAD,), bf16=True)
    plain = AnswerScores(reference, PAIRS, "cpu", (HEAD,))
    assert kept.states.dtype == np.uint16 and not np.array_equal(kept.logps, plain.logps)
    exact = torch.from_numpy(plain.states)
    torch.testing.assert_close(column_tensor(kept.states).float(), exact, rtol=0.05, atol=0.05)
    batch = pair_collate(0)([PairItems(PAIRS, kept.columns(TDPO))[i] for i in range(4)])
    assert batch[TOKENS + STATES].dtype == torch.bfloat16


@pytest.mark.parametrize("store", ["always", "never"])
@pytest.mark.parametrize("loss", ["tdpo1", "kto"])
def test_in_bf16_a_policy_that_has_not_moved_is_where_its_reference_is(loss: str, store: str, tmp_path: Path) -> None:
    """Through the trainer, whose autocast is around the model and not around the objective."""
    keys = ("trainer.precision=bf16", "trainer.batch_size=4", "trainer.max_steps=1", "trainer.log_steps=1")
    run, reference = config(f"preference.loss={loss}", f"reference.store={store}", "label=bf16", *keys), model(0)
    scores, beside = choose_scores(run, reference, PAIRS, run.reads, "cpu")
    items = PairItems(PAIRS, scores.columns(run.reads) if beside is None else {})
    if loss == "kto":
        items = add_mismatches(items, reference if beside is None else None, "cpu")
    objective = Preference(run.preference, scores_of(run.preference, output_head(reference.language_model), beside))
    data: Any = items
    steps: list[dict[str, float]] = []
    events = TrainEvents()
    events.on_metrics = lambda step, metrics, seconds: steps.append(metrics)  # type: ignore[method-assign]
    policy, before = PreferenceModel(model(0)), objective.before_step
    training = Training(policy, objective, data, pair_collate(0), before_step=before)
    train(training, run.trainer, 0, tmp_path, events)
    assert abs(steps[0]["margin"]) < 1e-3
    assert abs(steps[0].get("answer_kl", 0)) < 1e-4 and abs(steps[0].get("mismatched", 0)) < 1e-5


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
