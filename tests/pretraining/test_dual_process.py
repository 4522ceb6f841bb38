"""Forgetting of embeddings: the paper's sequences, the schedule, what a reset touches, and that it survives a stop."""

import hashlib
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recipes.core.config.settings import TrainerConfig
from recipes.core.training.stages import generator
from recipes.core.training.task import TrainEvents, Training, TrainResult
from recipes.core.training.trainer import train
from recipes.pretraining.dual_process.config import ForgetConfig, PartsOfSpeechConfig, ToyBertConfig
from recipes.pretraining.dual_process.forgetting import Forgetting
from recipes.pretraining.dual_process.method import (
    draw_rows,
    draw_tokens,
    matched_rows,
    reset_steps,
    with_rows,
)
from recipes.pretraining.dual_process.model import TABLE, ToyBert
from recipes.pretraining.dual_process.recipe import Rows
from recipes.pretraining.dual_process.sequences import Sequences, Vocabulary, write_sequences

DATA, STEPS = PartsOfSpeechConfig(vocabulary=100), 8
WORDS = Vocabulary(DATA, 3)
ROWS = Rows(WORDS.train(8 * STEPS))
MODEL = ToyBertConfig(layers=1, width=8, inner=16)
TRAINER = TrainerConfig(max_steps=STEPS, batch_size=8, save_steps=100, log_steps=4, warmup_ratio=0.0)


class Recorder(TrainEvents):
    """Tables by step; asks to stop after one of them."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after, self.tables = stop_after, dict[int, torch.Tensor]()

    def on_step_end(self, step: int, model: nn.Module) -> None:
        assert isinstance(model, ToyBert)
        self.tables[step] = model.table.detach().clone()
        if step == self.stop_after:
            signal.raise_signal(signal.SIGTERM)


def fresh() -> ToyBert:
    return ToyBert(MODEL, DATA.rows, 3, 1.0)


def go(
    folder: Path, forget: ForgetConfig, events: Recorder | None = None, model: ToyBert | None = None, **changes: Any
) -> tuple[ToyBert, TrainResult, Forgetting]:
    """Train a tiny model; returns it, how it ended, and its objective, which knows the optimizer."""
    model, objective = model or fresh(), Forgetting(forget, 3, STEPS)
    training = Training(
        model,
        objective,
        ROWS,  # type: ignore[arg-type]
        ROWS.collate,
        before_step=objective.before_step,
        take_optimizer=objective.take_optimizer,
    )
    return model, train(training, replace(TRAINER, **changes), 3, folder, events or Recorder()), objective


def same(left: nn.Module, right: nn.Module) -> bool:
    one, other = left.state_dict(), right.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def hashes(model: nn.Module) -> dict[str, str]:
    parts = model.named_parameters()
    return {name: hashlib.sha256(part.detach().numpy().tobytes()).hexdigest() for name, part in parts}


def test_worked_sequences() -> None:
    kinds, nouns, adjectives = np.array([0.1, 0.3, 0.6, 0.8]), np.full(4, 2), np.full(4, 7)
    written = write_sequences(nouns, adjectives, kinds, 10, 11)
    masks = [11, 11, 11]
    expected = [[10, 7, 2, 7, *masks], [10, 7, 2, 2, *masks], [2, 10, 7, 2, *masks], [2, 10, 7, 7, *masks]]
    assert written.inputs.tolist() == expected
    assert written.slots.tolist() == [[7, 7, 7], [7, 2, 2], [7, 2, 2], [7, 7, 7]]
    # Noun x in the slot of the adjective y, and y in its: by class, query x is (y, x, x), query y (y, y, y).
    switched = write_sequences(adjectives, nouns, kinds, 10, 11)
    assert switched.classes is not None and switched.classes.tolist() == [[7, 2, 2], [7, 7, 7], [7, 7, 7], [7, 2, 2]]


def by_slot(sequences: Sequences) -> np.ndarray:
    """What copies from slots answers."""
    inputs = sequences.inputs
    first = (inputs[:, 0] == DATA.vocabulary)[:, None]
    adjective, noun = np.where(first, inputs[:, 1:3], inputs[:, [2, 0]]).T
    rest = np.where(inputs[:, 3] == adjective, adjective, noun)
    return np.stack([adjective, rest, rest], 1)


def test_slots_answer_every_set_and_classes_no_switched_one() -> None:
    sets = WORDS.sets(300)
    for name, sequences in sets.items():
        assert (by_slot(sequences) == sequences.slots).all(), name
        assert (sequences.classes is None) == ("switch" not in name)
        if sequences.classes is not None:
            assert not (sequences.classes == sequences.slots).all(1).any()
    for name, ranks in {"head_switch": range(20), "tail_switch": range(45, 50)}.items():
        tokens = sets[name].slots
        assert {*(tokens % 50).flatten().tolist()} <= {*ranks}
        assert not WORDS.ambiguous[tokens // 50, tokens % 50].any()
    assert sets["unseen"].slots.min() == 102 and sets["unseen"].slots.max() == 111


def test_training_sequences_follow_the_laws() -> None:
    train = WORDS.train(40_000)
    seen = np.concatenate([train.inputs, train.slots], 1)
    assert seen.max() == 101 and not np.isin(WORDS.unseen, seen).any()
    first, asks = train.inputs[:, 0] == 100, train.inputs[:, 3] == train.slots[:, 0]
    for kind in (first & asks, first & ~asks, ~first & asks, ~first & ~asks):
        assert kind.mean() == pytest.approx(0.25, abs=0.01)
    adjectives = train.slots[:, 0]
    swapped = np.isin(adjectives, np.flatnonzero(WORDS.ambiguous[0]))
    weights = np.arange(1, 51) ** -1.5 / (np.arange(1, 51) ** -1.5).sum()
    assert WORDS.ambiguous.sum(1).tolist() == [5, 5]
    assert swapped.mean() == pytest.approx(weights[WORDS.ambiguous[1]].sum() / 2, abs=0.01)
    top = 0 if not WORDS.ambiguous[1, 0] else 1
    assert (adjectives == 50 + top).mean() == pytest.approx(weights[top], abs=0.01)


@pytest.mark.parametrize(("every", "until", "count"), [(100, 1500, 14), (100, 4000 + 1, 40), (100, 0, 0), (1, 9, 8)])
def test_resets_are_counted_as_published(every: int, until: int, count: int) -> None:
    assert len(reset_steps(every, until, 4000)) == count


def test_what_is_drawn_is_a_function_of_seed_and_step() -> None:
    rows = draw_rows(3, 40, 500, 64, 2.0)
    assert torch.equal(rows, draw_rows(3, 40, 500, 64, 2.0)) and not torch.equal(rows, draw_rows(3, 41, 500, 64, 2.0))
    assert float(rows.mean()) == pytest.approx(0, abs=0.05) and float(rows.std()) == pytest.approx(2, abs=0.05)
    batch = torch.tensor([[5, 5, 9], [7, 9, 1]])
    assert draw_tokens(batch, 1.0, 1.0, 4, generator(0, 1))[0].tolist() == [1, 5, 7, 9]
    assert len(draw_tokens(batch, 0.0, 1.0, 4, generator(0, 1))[0]) == 0
    drawn = sum(len(draw_tokens(batch, 0.1, 1.0, 4, generator(0, step))[0]) for step in range(2000))
    assert drawn / 8000 == pytest.approx(0.1, abs=0.015)


def test_matched_rows_have_mean_and_covariance() -> None:
    mixing = torch.tensor([[2.0, 0, 0], [1, 0.5, 0], [0, 0, 1]])
    table = torch.randn(400, 3, generator=generator(0, 0)) @ mixing.T + torch.tensor([5.0, 0, -1])
    rows = matched_rows(table, 40_000, generator(0, 1))
    torch.testing.assert_close(rows.mean(0), table.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(rows.T.cov(), table.T.cov(), atol=0.1, rtol=0)


def test_a_table_stands_in_for_the_embedding_in_both_roles() -> None:
    model, ids = fresh(), torch.from_numpy(WORDS.train(5).inputs).long()
    assert MODEL.parameters(DATA.rows) == sum(part.numel() for part in model.parameters())
    assert model.bert.cls.predictions.decoder.weight is model.table
    chosen, rows = torch.tensor([0, int(ids[0, 1]), 100]), torch.randn(3, 8)
    before = model.table.detach().clone()
    logits = model(ids, with_rows(model.table, chosen, rows))
    logits.square().mean().backward()
    assert torch.equal(model.table, before) and model.table.grad is not None
    assert not model.table.grad[chosen].any() and model.table.grad.any(1).sum() == DATA.rows - 3
    model.table.data[chosen] = rows
    torch.testing.assert_close(model(ids), logits)


def test_a_reset_touches_the_embedding_and_its_moments_alone(tmp_path: Path) -> None:
    model, _, objective = go(tmp_path, ForgetConfig(mode="active", every=STEPS, std=2.0))
    optimizer, before = objective.optimizer, hashes(model)
    assert optimizer is not None and model.resets == 0 and optimizer.state[model.table]["exp_avg"].any()
    moments = {part: state["exp_avg"].clone() for part, state in optimizer.state.items()}
    objective.resets = frozenset({STEPS})
    objective.before_step(STEPS, model, [])
    after = hashes(model)
    assert {name for name in before if before[name] != after[name]} == {TABLE}
    assert float(model.table.detach().std()) == pytest.approx(2, abs=0.2) and float(model.drawn_std) == 2
    assert model.resets == 1 and moments.keys() - optimizer.state.keys() == {model.table}
    assert all(torch.equal(state["exp_avg"], moments[part]) for part, state in optimizer.state.items())


def test_moments_stay_where_they_are_not_cleared(tmp_path: Path) -> None:
    tables = {}
    for clear in (True, False):
        forget = ForgetConfig(mode="active", every=4, clear_moments=clear)
        model, _, objective = go(tmp_path / str(clear), forget)
        assert objective.optimizer is not None
        assert objective.optimizer.state[model.table]["step"] == (STEPS - 4 if clear else STEPS)
        tables[clear] = model.table
    assert not torch.equal(tables[True], tables[False])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ForgetConfig(mode="temporary", every=2, until=0), ForgetConfig(mode="none")),
        (ForgetConfig(mode="temporary", every=3, until=STEPS + 5), ForgetConfig(mode="active", every=3)),
        (ForgetConfig(mode="drift", share=0.0), ForgetConfig(mode="none")),
    ],
)
def test_equal_schedules_are_equal_runs(one: ForgetConfig, other: ForgetConfig, tmp_path: Path) -> None:
    assert torch.equal(go(tmp_path / "one", one)[0].table, go(tmp_path / "other", other)[0].table)


def test_probabilistic_forgetting_leaves_embeddings_bit_for_bit(tmp_path: Path) -> None:
    events = Recorder()
    model, _, _ = go(tmp_path / "half", ForgetConfig(mode="probabilistic", share=0.5), events)
    assert not torch.equal(events.tables[3], events.tables[4])
    assert all(torch.equal(events.tables[4], events.tables[step]) for step in range(5, STEPS + 1))
    frozen = fresh()
    frozen.table.requires_grad_(False)
    body, _, _ = go(tmp_path / "frozen", ForgetConfig(mode="none"), model=frozen)
    none, _, _ = go(tmp_path / "none", ForgetConfig(mode="probabilistic", share=0.0, begin=0.0))
    drawn, _, _ = go(tmp_path / "drawn", ForgetConfig(mode="probabilistic", share=0.5, begin=0.0))
    one, other = hashes(none), hashes(drawn)
    assert one == hashes(body) and {name for name in one if one[name] == other[name]} == {TABLE}
    assert not same(model, drawn)


@pytest.mark.parametrize(
    "forget", [ForgetConfig(mode="temporary", every=2, until=7), ForgetConfig(mode="probabilistic", share=0.5)]
)
def test_a_stop_at_any_step_changes_nothing(forget: ForgetConfig, tmp_path: Path) -> None:
    expected, _, _ = go(tmp_path / "whole", forget)
    assert expected.resets == (3 if forget.resets else 0)
    for stop_after in (2, 6):
        folder = tmp_path / f"stopped-{stop_after}"
        assert go(folder, forget, Recorder(stop_after))[1] == TrainResult("interrupted", stop_after, 0)
        resumed, result, _ = go(folder, forget)
        assert result == TrainResult("done", STEPS, stop_after) and same(expected, resumed), stop_after


def test_micro_batches_equal_the_batch(tmp_path: Path) -> None:
    forget = ForgetConfig(mode="drift", share=0.3)
    whole, parts = (go(tmp_path / str(size), forget, micro_batch_size=size)[0] for size in (8, 2))
    torch.testing.assert_close(whole.table, parts.table, rtol=1e-4, atol=1e-5)
