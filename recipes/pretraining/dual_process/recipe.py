"""Forgetting of embeddings as an experiment: what a model answers from context, and what from memory."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.evaluation.curves import add_area, regular_steps
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.recipe import Evaluation
from recipes.core.storage.files import write_text
from recipes.core.training.stages import generator
from recipes.core.training.task import Training
from recipes.pretraining.dual_process.config import (
    BINS,
    CLASS,
    LATE,
    MATCHED,
    SWITCH,
    UNSEEN,
    WATCHED,
    DualProcessConfig,
)
from recipes.pretraining.dual_process.forgetting import Forgetting
from recipes.pretraining.dual_process.method import draw_rows, matched_rows, with_rows
from recipes.pretraining.dual_process.model import ToyBert
from recipes.pretraining.dual_process.sequences import Sequences, Vocabulary

PREDICTIONS = "predictions.jsonl"
UNSEEN_STREAM, MATCHED_STREAM = 2**31, 2**31 + 1  # no step of a run has these numbers


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share.

    Attributes:
        vocabulary: Who is what.
        train: All sequences of training, in the order drawn.
        sets: Sequences to measure on.
        device: Where to compute.
    """

    vocabulary: Vocabulary
    train: Sequences
    sets: dict[str, Sequences]
    device: str


class Rows:
    """Training sequences by number."""

    def __init__(self, sequences: Sequences) -> None:
        self.sequences = sequences

    def __len__(self) -> int:
        return len(self.sequences.inputs)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, numbers: list[int]) -> dict[str, Any]:
        """Numbers as a batch: `input_ids` [batch, 7], `targets` [batch, 3], `ids`."""
        inputs, targets = self.sequences.inputs[numbers], self.sequences.slots[numbers]
        return {
            "input_ids": torch.from_numpy(inputs).long(),
            "targets": torch.from_numpy(targets).long(),
            "ids": [f"sequence {number}" for number in numbers],
        }


class DualProcessRecipe:
    """A small masked language model whose embeddings are forgotten."""

    def prepare(self, config: DualProcessConfig, device: str) -> Prepared:
        """Sequences, drawn from the seed. Raises UserError: a set would have no tokens."""
        vocabulary = Vocabulary(config.data, config.seed)
        sets = vocabulary.sets(config.evaluation.sequences)
        train = vocabulary.train(config.trainer.max_steps * config.trainer.batch_size)
        return Prepared(vocabulary, train, sets, device)

    def build(self, config: DualProcessConfig, prepared: Prepared) -> Training:
        """The model; all arms of a seed share its body's initialisation and the order of sequences."""
        steps, rows = config.trainer.max_steps, Rows(prepared.train)
        model = ToyBert(config.model, config.data.rows, config.seed, config.forget.initial_std)
        objective = Forgetting(config.forget, config.seed, steps)
        return Training(
            model,
            objective,
            rows,  # type: ignore[arg-type]
            rows.collate,
            watch_steps=regular_steps(steps, config.evaluation.watch_every),
            before_step=objective.before_step,
            take_optimizer=objective.take_optimizer,
        )

    def watch(self, config: DualProcessConfig, prepared: Prepared, model: Any) -> Scores:
        """The sets of the claims, just before a reset where one is due."""
        scores = Scores()
        for name in WATCHED:
            _add(scores, name, prepared.sets[name], _answers(config, prepared, model, name))
        return scores

    def evaluate(
        self, config: DualProcessConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]
    ) -> Evaluation:
        """All sets, by slot and, where tokens stand in each other's slots, by class."""
        scores, answers = Scores(), dict[str, np.ndarray]()
        for name, sequences in prepared.sets.items():
            answers[name] = _answers(config, prepared, model, name)
            _add(scores, name, sequences, answers[name])
        _add(scores, MATCHED, prepared.sets[UNSEEN], _answers(config, prepared, model, MATCHED))
        late = dict(sorted(curve.items())[-config.evaluation.last :])
        for name in WATCHED:
            title = f"{name}, mean over the last {config.evaluation.last} measurements"
            add_area(scores, late, name, f"{LATE}/{name}", title, True)
        scores.define("resets", "times that embeddings were drawn anew", True)
        scores.add("resets", "model", "model", float(model.resets))
        files: dict[str, Callable[[Path], None]] = {PREDICTIONS: partial(_write, sets=prepared.sets, answers=answers)}
        return Evaluation(scores.overall(), scores, plots=[_bins(scores.overall())], files=files)


@torch.no_grad()
def _answers(config: DualProcessConfig, prepared: Prepared, model: ToyBert, name: str) -> np.ndarray:
    """int64 [n, 3] the likeliest tokens; tokens never trained on have embeddings that no step has touched."""
    table: Tensor = model.table
    unseen = torch.from_numpy(prepared.vocabulary.unseen)
    if name == UNSEEN:
        rows = draw_rows(config.seed, UNSEEN_STREAM, len(unseen), table.shape[1], float(model.drawn_std))
        table = with_rows(table, unseen, rows)
    elif name == MATCHED:
        rows = matched_rows(table[: config.data.vocabulary], len(unseen), generator(config.seed, MATCHED_STREAM))
        table = with_rows(table, unseen, rows)
    inputs = torch.from_numpy(prepared.sets[UNSEEN if name == MATCHED else name].inputs).long()
    mode = model.training
    model.to(prepared.device).eval()
    parts = [
        model(part.to(prepared.device), table.to(prepared.device)).argmax(-1).cpu()
        for part in inputs.split(config.evaluation.batch)
    ]
    model.train(mode)
    answers: Tensor = torch.cat(parts)
    return answers.numpy()


def _add(scores: Scores, name: str, sequences: Sequences, answers: np.ndarray) -> None:
    """Share of sequences whose three masks are filled by slot, `name`, and by class, `class/<name>`."""
    targets = {name: sequences.slots}
    if sequences.classes is not None:
        targets[f"{CLASS}/{name}"] = sequences.classes
    for metric, expected in targets.items():
        by = "class" if metric.startswith(CLASS) else "slot"
        scores.define(metric, f"share of sequences of {name} answered by {by}, all three tokens", True)
        for number, right in enumerate((answers == expected).all(1)):
            example = f"{name} {number}"
            scores.add(metric, example, example, float(right))


def _bins(metrics: dict[str, float]) -> Plot:
    series = {
        by: [(float(bin_), metrics[f"{start}{SWITCH}/bin_{bin_}"]) for bin_ in range(1, BINS + 1)]
        for by, start in (("slot", ""), ("class", f"{CLASS}/"))
    }
    title = "Tokens in each other's slots: answered by slot, or by class"
    return Plot("switch-by-frequency", title, "fifth of frequency, 1: most frequent", "share of sequences", series)


def _write(path: Path, sets: dict[str, Sequences], answers: dict[str, np.ndarray]) -> None:
    """One line a sequence: its set, its tokens, what its masks hold by slot and by class, what the model says."""
    lines = []
    for name, sequences in sets.items():
        for number, (inputs, slots, answer) in enumerate(
            zip(sequences.inputs, sequences.slots, answers[name], strict=True)
        ):
            line = {"set": name, "tokens": inputs.tolist(), "slot": slots.tolist(), "model": answer.tolist()}
            if sequences.classes is not None:
                line["class"] = sequences.classes[number].tolist()
            lines.append(json.dumps(line))
    write_text(path, "\n".join(lines) + "\n")


RECIPE = DualProcessRecipe
