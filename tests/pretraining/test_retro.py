"""Chunked cross-attention against a loop over tokens, and what a decoder with neighbours keeps."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from recipes.core.config import compose
from recipes.core.losses.objectives import IGNORE
from recipes.core.models.build import llama, local_seed
from recipes.core.models.config import SmallLMConfig, mlp_width
from recipes.core.scoring.neighbours import MISSING, cut_into_chunks
from recipes.pretraining.retro.config import RetrievalConfig
from recipes.pretraining.retro.items import Collate, lay_out
from recipes.pretraining.retro.method import (
    chunk_count,
    chunked_cross_attention,
    longest_shared_run,
    readable_chunk,
    split_chunks,
)
from recipes.pretraining.retro.model import RetroLM, build_model

SIZE, VOCABULARY = 4, 50
MODEL = SmallLMConfig(layers=3, width=16, heads=2)
RETRIEVAL = RetrievalConfig(chunk=SIZE, layers=(1, 3), encoder_layers=2, dropout=0)


def _model(retrieval: RetrievalConfig | None = RETRIEVAL, seed: int = 0) -> RetroLM:
    model = build_model(MODEL, retrieval, mlp_width(MODEL.width), VOCABULARY, 64, seed).eval()
    with local_seed(1):  # larger weights, so that what is read matters
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.3)
    return model


def _inputs(length: int, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, chunk_count(length, SIZE), 2, 2 * SIZE)
    return {
        "input_ids": torch.randint(VOCABULARY, (batch, length), generator=generator),
        "neighbours": torch.randint(VOCABULARY, shape, generator=generator),
        "visible": torch.rand(shape, generator=generator) < 0.8,
    }


def _logits(model: RetroLM, **inputs: Any) -> Tensor:
    with torch.no_grad():
        return model(inputs.pop("input_ids"), lambda hidden, head: head.logits(hidden), **inputs)


def test_which_chunk_each_token_reads() -> None:
    assert readable_chunk(12, 4).tolist() == [-1] * 3 + [0] * 4 + [1] * 4 + [2]
    assert readable_chunk(10, 4).tolist() == [-1] + [0] * 4 + [1] * 4 + [2]


def _by_token(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Token by token, softmax over what its chunk's neighbours show."""
    length = queries.shape[2]
    rows = []
    for place, chunk in enumerate(readable_chunk(length, SIZE)):
        outputs = torch.zeros_like(queries[:, :, place])
        for batch in range(len(queries)):
            if chunk >= 0 and bool(visible[batch, chunk].any()):
                seen = visible[batch, chunk]
                key, value = keys[batch, chunk][:, seen], values[batch, chunk][:, seen]
                weights = (key @ queries[batch, :, place, :, None] / queries.shape[-1] ** 0.5).softmax(1)
                outputs[batch] = (weights * value).sum(1)
        rows.append(outputs)
    return torch.stack(rows, 2)


@pytest.mark.parametrize("length", range(1, 3 * SIZE + 1))
def test_cross_attention_by_chunks_is_that_of_a_loop_over_tokens(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    count = chunk_count(length, SIZE)
    queries = torch.randn(2, 3, length, 5, generator=generator, requires_grad=True)
    keys, values = (torch.randn(2, count, 3, 6, 5, generator=generator, requires_grad=True) for _ in "kv")
    visible = torch.rand(2, count, 6, generator=generator) < 0.6
    visible[0, 0] = False  # no neighbour at all
    outputs, gradients = [], []
    for function in (partial(chunked_cross_attention, size=SIZE), _by_token):
        read = function(queries, keys, values, visible)
        weights = torch.linspace(-1, 1, read.numel()).view_as(read)
        gradients.append(torch.autograd.grad((read * weights).sum(), (queries, keys, values), allow_unused=True))
        outputs.append(read)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(*gradients, strict=True):
        assert bool(ours.isfinite().all())
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, atol=1e-5, rtol=1e-5)


def test_chunks_are_counted_from_the_end() -> None:
    chunks, there = split_chunks(torch.arange(1, 11)[None], 4)
    assert chunks.tolist() == [[[0, 0, 1, 2], [3, 4, 5, 6], [7, 8, 9, 10]]]
    assert there.tolist() == [[False, False, True, True], [True] * 4, [True] * 4]


def test_longest_run_that_neighbours_share() -> None:
    chunks = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4]])
    others = np.array(
        [[[9, 2, 3, 9, 9, 9]] * 2, [[1, 2, 9, 2, 3, 4], [9] * 6], [[8, 7, 6, 5, 0, 0]] * 2, [[0, 1, 2, 3, 4, 0]] * 2]
    )
    visible = np.ones(others.shape, bool)
    visible[3, :, 3] = False  # what is hidden ends a run
    assert longest_shared_run(chunks, others, visible).tolist() == [2, 3, 1, 2]


def test_without_neighbours_it_is_the_decoder_exactly() -> None:
    inputs, model = _inputs(10), _model()
    with local_seed(0):
        plain = LlamaForCausalLM(llama(VOCABULARY, 3, 16, 2, mlp_width(16))).eval()
    plain.load_state_dict(model.language_model.state_dict())
    with torch.no_grad():
        expected = plain(input_ids=inputs["input_ids"]).logits
    torch.testing.assert_close(_logits(model, input_ids=inputs["input_ids"]), expected, atol=1e-5, rtol=1e-5)
    alone = _logits(model, input_ids=inputs["input_ids"])
    assert not torch.allclose(_logits(model, **inputs), alone, atol=1e-2)
    model.gate = 0.0
    assert torch.equal(_logits(model, **inputs), alone)
    model.gate = 1.0
    for name, parameter in model.cross.named_parameters():
        if name.endswith("out.weight"):
            parameter.data.zero_()
    assert torch.equal(_logits(model, **inputs), alone)
    hidden = inputs | {"visible": torch.zeros_like(inputs["visible"])}
    assert torch.equal(_logits(_model(), **hidden), alone)


def test_the_decoder_begins_the_same_with_retrieval_and_without() -> None:
    models = [build_model(MODEL, each, 48, VOCABULARY, 64, 3) for each in (RETRIEVAL, None)]
    states = [model.language_model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("length", [10, 12])
def test_no_token_sees_what_was_looked_up_with_later_ones(length: int) -> None:
    model, inputs, reads = _model(), _inputs(length), readable_chunk(length, SIZE)
    before = _logits(model, **inputs)
    for chunk in range(chunk_count(length, SIZE)):
        changed = inputs | {"neighbours": inputs["neighbours"].clone()}
        changed["neighbours"][:, chunk] = (changed["neighbours"][:, chunk] + 7) % VOCABULARY
        after = _logits(model, **changed)
        first = int(np.flatnonzero(reads == chunk)[0])
        assert torch.equal(after[:, :first], before[:, :first]) and not torch.allclose(
            after[:, first], before[:, first]
        )
    for place in range(length):
        changed = inputs | {"input_ids": inputs["input_ids"].clone()}
        changed["input_ids"][:, place] = (changed["input_ids"][:, place] + 7) % VOCABULARY
        after = _logits(model, **changed)
        torch.testing.assert_close(after[:, :place], before[:, :place], atol=1e-5, rtol=1e-5)


def test_neighbours_have_no_order_and_are_encoded_once() -> None:
    model, inputs, calls = _model(), _inputs(11), []
    assert model.encoder is not None
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    before = _logits(model, **inputs)
    assert len(calls) == 1 and len(model.cross) == 2
    swapped = {name: inputs[name].flip(2) for name in ("neighbours", "visible")}
    torch.testing.assert_close(_logits(model, **inputs | swapped), before, atol=1e-5, rtol=1e-5)
    padded = inputs["neighbours"].masked_fill(~inputs["visible"], 3)
    torch.testing.assert_close(_logits(model, **inputs | {"neighbours": padded}), before, atol=1e-5, rtol=1e-5)


def test_a_wide_decoder_has_as_many_parameters() -> None:
    retrieval = ["retrieval.layers=[1,3]", "retrieval.encoder_layers=2", "retrieval.chunk=4"]
    words = ["model.layers=3", "model.width=16", "model.heads=2", *retrieval]
    base, wide = (compose.compose("retro", [*words, f"arm={arm}"]) for arm in ("retro", "gpt_wide"))
    retro = build_model(MODEL, RETRIEVAL, base.inner, VOCABULARY, 64, 0)
    gpt = build_model(MODEL, None, wide.inner, VOCABULARY, 64, 0)
    counts = [sum(each.numel() for each in model.parameters()) for model in (retro, gpt)]
    alone = sum(each.numel() for each in retro.language_model.parameters())
    assert counts[0] - alone == base.retrieval_parameters
    assert abs(counts[1] - counts[0]) <= 3 * MODEL.width * MODEL.layers / 2


def test_a_passage_stands_behind_the_first_chunk_and_the_same_tokens_are_predicted() -> None:
    chunks = cut_into_chunks(np.arange(20, 36), 0, SIZE)
    tokens, numbers = np.arange(1, 11), np.array([[0, 1, 2], [1, 2, 3], [3, 2, 1]])
    plain = lay_out(tokens, numbers, chunks, RETRIEVAL, 0)
    assert plain["numbers"].tolist() == [[0, 1], [1, 2], [3, 2]]
    plus = lay_out(tokens, numbers, chunks, RetrievalConfig(chunk=SIZE, passages=1), 0)
    assert plus["input_ids"].tolist() == [1, 2, *range(20, 28), *range(3, 11)]
    assert plus["labels"].tolist() == [2, *[IGNORE] * 8, *range(3, 11), IGNORE]
    assert plus["numbers"].tolist() == [[MISSING] * 2, [MISSING] * 2, [1, 2], [1, 2], [3, 2]]
    predicted = [part["labels"][part["labels"] != IGNORE].tolist() for part in (plain, plus)]
    assert predicted[0] == predicted[1]
    short = lay_out(tokens, np.full((3, 3), MISSING), chunks, RetrievalConfig(chunk=SIZE, passages=1), 0)
    assert short["input_ids"].tolist() == [1, 2, *[0] * 8, *range(3, 11)]
    batch = Collate(chunks)([plus, plus])
    assert batch["neighbours"].shape == (2, 5, 2, 2 * SIZE) and not bool(batch["visible"][:, :2].any())
