"""RETRO on a user's text: what is refused, what neighbours are, and what a run leaves."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import read_rows
from recipes.core.training.task import TrainEvents
from recipes.core.training.trainer import train
from recipes.pretraining.retro.recipe import RetroRecipe

SMALL = (
    "budget=smoke",
    "trainer.max_steps=4",
    "evaluation.watch_every=2",
    "tracker=none",
    "trainer.threads=1",
    "data.length=24",
    "retrieval.chunk=8",
    "data.test_fraction=0.3",
    "data.near_duplicates=null",
    "evaluation.questions=5",
)
WORDS = ["lamp", "lens", "lock", "ladder", "letter", "lemon", "leaf", "lake", "lion", "loaf"]


def _texts(folder: Path, count: int = 24) -> str:
    random = np.random.default_rng(0)
    lines = [{"text": " ".join(f"{word}{n % 5}" for word in random.choice(WORDS, 120))} for n in range(count)]
    path = folder / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return f"data.path={path}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("retrieval.chunk=24",), "leaves no second chunk in data.length=24; type 23 or less"),
        (("retrieval.layers=[2,4]",), "some of 1 to model.layers=2"),
        (("retrieval.layers=[2,1]",), "in order"),
        (("match_parameters=true", "label=x"), "for a decoder without retrieval"),
        (("model.architecture=gpt2",), "model.architecture=llama"),
        (("trainer.dtype=bfloat16",), "trainer.dtype: changes whole layers"),
        (("trainer.compile=true",), "trainer.compile: changes whole layers"),
        (("trainer.gradient_checkpointing=true",), "trainer.gradient_checkpointing: changes whole layers"),
        (("trainer.attention=eager",), "trainer.attention: is fixed"),
        (("trainer.nproc=2", "trainer.parallel=fsdp"), "trainer.parallel: fsdp shares out"),
        (("arm=retro_fit", "trainer.nproc=2"), "trainer.nproc: RETRO-fitting freezes"),
        (("arm=retro_fit", "retrieval.plain_share=0.1"), "stage plain begins after step 0 of 4 and has no step"),
    ],
)
def test_refused(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        compose.compose("retro", [*SMALL, *overrides, f"outputs={tmp_path}"])


@pytest.mark.parametrize("key", ["retrieval.k", "evaluation.bin_neighbours"])
def test_more_neighbours_than_chunks_are_refused(key: str, tmp_path: Path) -> None:
    config = compose.compose("retro", [*SMALL, _texts(tmp_path), f"{key}=100000", f"outputs={tmp_path}/out"])
    with pytest.raises(UserError, match=r"100,000 neighbours are looked for in a database of \d+ chunks") as caught:
        RetroRecipe().prepare(config, "cpu")
    assert f"type {key}=" in caught.value.hint


def test_one_document_has_no_neighbours_in_others(tmp_path: Path) -> None:
    for name in ("a", "b"):  # one of them is held out, whichever it is
        (tmp_path / f"{name}.txt").write_text(f"{name} " + "the lamp and the lens " * 60, encoding="utf-8")
    words = [*SMALL, f"data.path={tmp_path}", f"outputs={tmp_path}/out"]
    for share in ("0.01", "0.3", "0.5", "0.7", "0.9"):
        config = compose.compose("retro", [*words, f"data.test_fraction={share}"])
        try:
            RetroRecipe().prepare(config, "cpu")
        except UserError as error:
            if "one document" in error.what:
                assert "exclude_same_document=false" in str(error.hint)
                return
    pytest.fail("no split left one document to train on")


def test_neighbours_of_a_sequence_are_of_other_documents(tmp_path: Path) -> None:
    words = [*SMALL, _texts(tmp_path), f"outputs={tmp_path}/out"]
    prepared = RetroRecipe().prepare(compose.compose("retro", words), "cpu")
    documents = prepared.database.chunks.documents
    for sequences in (prepared.training, prepared.database.random(prepared.training, 0, True)):
        assert (sequences.numbers >= 0).all()
        taken, span = documents[sequences.numbers], sequences.documents[:, :, None, None]
        assert not ((taken >= span[:, 0]) & (taken <= span[:, -1])).any()
    held, end, names = prepared.held_out, prepared.database.tokenizer.eos_token_id, dict[int, set[str]]()
    for example in prepared.examples:  # a chunk is of the document that it begins in, not of its sequence's first
        before = int((held.tokens[example.row, : example.tokens[0]] == end).sum())
        assert example.group.endswith(f" {held.documents[example.row, 0] + before}")
        names.setdefault(example.row, set()).add(example.group)
    assert max(map(len, names.values())) > 1
    questions = prepared.questions
    assert (documents[questions.numbers[:, 0, 0]] == questions.documents[:, 0]).all()  # the database holds the answer
    assert len(prepared.database.questions(1000)) == 0  # no document has two chunks as long as that
    loose = compose.compose("retro", [*words, "arm=retro_same_document"])
    training = RetroRecipe().prepare(loose, "cpu").training
    taken, first, last = documents[training.numbers[..., 0]], training.documents[:, :1], training.documents[:, -1:]
    assert ((taken >= first) & (taken <= last)).mean() > 0.5


def test_fitting_leaves_what_reads_neighbours_alone_until_it_begins(tmp_path: Path) -> None:
    config = compose.compose("retro", [*SMALL, _texts(tmp_path), "arm=retro_fit", f"outputs={tmp_path}/out"])
    recipe = RetroRecipe()
    training = recipe.build(config, recipe.prepare(config, "cpu"))
    states, gates = [_states(training.model)], []

    class Events(TrainEvents):
        def on_step_end(self, step: int, model: Any) -> None:
            states.append(_states(model))
            gates.append(model.gate)

    train(training, config.trainer, config.seed, tmp_path / "run", Events())
    changed = [{name for name in new if not torch.equal(new[name], old[name])} for old, new in pairwise(states)]
    assert gates == [0, 0, 1, 1] and changed[2] | changed[3] == states[0].keys()
    assert changed[0] | changed[1] == {name for name in states[0] if name.startswith("language_model.")}


def _states(model: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("arm", ["retro_pp", "retro_fit", "retro_off", "gpt_passage"])
def test_an_arm_from_config_to_scores(arm: str, tmp_path: Path) -> None:
    words = [*SMALL, _texts(tmp_path), f"arm={arm}", f"outputs={tmp_path}/out"]
    runner.run(compose.compose("retro", words), False, "run")
    (table,) = tmp_path.glob(f"out/retro/{arm}/*/examples.parquet")
    scores = read_rows(table)
    values = scores.overall()
    assert {"loss", "loss/first", "answer", "share/high"} <= values.keys()
    assert sum(values[f"share/{name}"] for name in ("low", "middle", "high")) == pytest.approx(1)
    counts = {metric: sum(row[4] for row in scores.rows if row[0] == metric) for metric in values}
    bins = sum(count for name, count in counts.items() if name.startswith("loss/"))
    assert counts["loss"] == bins and counts["loss"] % 23 == 0  # every token but the first of each sequence
    lines = (table.parent / "neighbours.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["overlap"] >= json.loads(lines[-1])["overlap"] and json.loads(lines[0])["neighbours"]
