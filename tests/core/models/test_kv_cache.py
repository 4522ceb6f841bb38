"""Keys and values kept: whatever was done to rows, the model says of them what it says of their tokens alone."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertLMHeadModel

from recipes.core.errors import UserError
from recipes.core.models.head import last_hidden_state, output_head
from recipes.core.models.kv_cache import KVCache
from tests.core.models.heads import FALCON_H1, SIZES, V

Rows = list[list[int]]
WINDOW = {"sliding_window": 3}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 1},
    "gpt2": {"n_layer": 2, "n_head": 2},
    "qwen2": WINDOW | {"use_sliding_window": True, "max_window_layers": 1},
    "gemma2": WINDOW,
}
TREE = [-1, 0, 0, 1, 1, 2]  # parents


def build(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | KINDS.get(kind, {}) | options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


@torch.no_grad()
def alone(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """[tokens, V] logits of a text in a forward without a cache."""
    return model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]


@torch.no_grad()
def same(cache: KVCache, hidden: torch.Tensor, model: Any, tokens: Sequence[int], tolerance: float = 1e-5) -> None:
    """The last of `tokens` has these hidden states."""
    expected = alone(model, tokens)[-1]
    assert float((cache.head.logits(hidden) - expected).abs().max()) <= tolerance * float(expected.abs().max())


def ancestors(parents: Sequence[int]) -> torch.Tensor:
    """bool [nodes, nodes] whether the second is the first or stands above it."""
    visible = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            visible[node] |= visible[parent]
    return visible


def path(parents: Sequence[int], node: int) -> list[int]:
    return [] if node < 0 else [*path(parents, parents[node]), node]


class Text:
    """Rows as lists of tokens, and a cache to which the same is done."""

    def __init__(self, model: Any, draw: Any) -> None:
        self.model, self.draw, self.cache = model, draw, KVCache(model)
        self.rows: Rows = [[] for _ in range(draw(st.integers(1, 3)))]

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def ids(self, *shape: int) -> torch.Tensor:
        torch.manual_seed(self.number(0, 99))
        return torch.randint(V, shape)

    def extend(self) -> None:
        width = self.number(1, 4)
        starts = [self.number(0, width - 1) for _ in self.rows]
        ends = [self.number(start, width) for start in starts]
        ids, mask = self.ids(len(self.rows), width), torch.zeros(len(self.rows), width)
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            mask[row, start:end] = 1
        hidden = self.cache.extend(ids, mask)
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            for at in range(start, end):
                self.rows[row].append(int(ids[row, at]))
                same(self.cache, hidden[row, at], self.model, self.rows[row])

    def gather(self) -> None:
        chosen = [self.number(0, len(self.rows) - 1) for _ in range(self.number(1, 3))]
        self.cache.gather(chosen)
        self.rows = [list(self.rows[row]) for row in chosen]

    def repeat(self) -> None:
        if len(self.rows) < 3:
            self.cache.repeat(2)
            self.rows = [list(row) for row in self.rows for _ in range(2)]

    def truncate(self) -> None:
        lengths = [self.number(0, len(row)) for row in self.rows]
        self.cache.truncate(lengths)
        self.rows = [row[:length] for row, length in zip(self.rows, lengths, strict=True)]

    def tree(self) -> None:
        ids, start = self.ids(len(self.rows), len(TREE)), self.cache.columns
        hidden = self.cache.extend(ids, visible=ancestors(TREE))
        kept = [path(TREE, self.number(-1, len(TREE) - 1)) for _ in self.rows]
        for row, tokens in enumerate(self.rows):
            for node in range(len(TREE)):
                same(self.cache, hidden[row, node], self.model, [*tokens, *ids[row, path(TREE, node)].tolist()])
            tokens += ids[row, kept[row]].tolist()
        self.cache.keep(kept, start)

    def catch_up(self) -> None:
        shared = [self.number(0, len(row)) for row in self.rows]
        fresh = [self.ids(self.number(1, 3)).tolist() for _ in self.rows]
        self.rows = [[*row[:at], *more] for row, at, more in zip(self.rows, shared, fresh, strict=True)]
        for row, hidden in zip(self.rows, self.cache.catch_up(self.rows), strict=True):
            same(self.cache, hidden, self.model, row)

    def fork(self) -> None:
        self.cache.fork().extend(self.ids(len(self.rows), 2))

    def check(self) -> None:
        assert self.cache.tokens() == self.rows
        assert self.cache.lengths.tolist() == [len(row) for row in self.rows]
        places = [places[valid].tolist() for places, valid in zip(self.cache.positions, self.cache.valid, strict=True)]
        assert places == [list(range(len(row))) for row in self.rows]


STEPS = ("extend", "gather", "repeat", "truncate", "tree", "catch_up", "fork")


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_rows_are_lists_of_tokens(model: Any, data: st.DataObject) -> None:
    text = Text(model, data.draw)
    for step in ["extend", *data.draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=6)), "extend"]:
        if max(map(len, text.rows)) < 40:
            getattr(text, step)()
            text.check()


def test_positions_count_tokens_and_no_padding() -> None:
    cache = KVCache(build("llama"))
    cache.extend(torch.full((2, 4), 5), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]]))
    cache.extend(torch.full((2, 2), 6), torch.tensor([[1, 1], [0, 1]]))
    assert cache.positions.tolist() == [[0, 0, 0, 1, 2, 3], [0, 1, 2, 0, 0, 3]]
    cache.truncate(4)  # what is left moves to the left
    assert cache.tokens() == [[5, 5, 6, 6], [5, 5, 5, 6]] and cache.columns == 4
    cache.extend(torch.full((2, 3), 7), visible=ancestors([-1, 0, 0]))
    assert cache.positions.tolist() == [[0, 1, 2, 3, 4, 5, 5]] * 2


def test_a_tree_grows_layer_by_layer(model: Any) -> None:
    cache = KVCache(model)
    cache.catch_up([[3, 4]])
    first = cache.extend(torch.tensor([[5, 6]]), visible=ancestors([-1, -1]))
    wide = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]]).bool()
    second = cache.extend(torch.tensor([[7, 8]]), visible=wide)
    for hidden, tokens in zip([*first[0], *second[0]], [[5], [6], [5, 7], [6, 8]], strict=True):
        same(cache, hidden, model, [3, 4, *tokens], 1e-4)
    assert cache.positions.tolist() == [[0, 1, 2, 2, 3, 3]]


def test_catching_up_reads_what_is_new() -> None:
    model = build("llama")
    cache, read = KVCache(model), []
    model.model.register_forward_pre_hook(
        lambda _, args, given: read.append(given["input_ids"].tolist()), with_kwargs=True
    )
    cache.catch_up([[1, 2, 3]])
    cache.catch_up([[1, 2, 3, 4, 5]])
    cache.catch_up([[1, 2, 3, 4, 5]])  # its last state is asked for once more
    cache.catch_up([[1, 2, 9]])
    cache.catch_up([[1, 2]])
    assert read == [[[1, 2, 3]], [[4, 5]], [[5]], [[9]], [[2]]] and cache.tokens() == [[1, 2]]
    with pytest.raises(UserError, match="a text without a token cannot be continued"):
        cache.catch_up([[]])


def test_a_repeated_row_is_copied_when_it_goes_on_and_a_fork_leaves_the_other() -> None:
    cache = KVCache(build("llama"))
    cache.catch_up([[1, 2, 3]])
    fork = cache.fork()
    fork.repeat(4)
    keys = [each._layers.layers[0].keys for each in (cache, fork)]
    assert len(keys[1]) == 4 and keys[0].data_ptr() == keys[1].data_ptr() and keys[1].stride(0) == 0
    fork.extend(torch.tensor([[4], [5], [6], [7]]))
    assert cache.tokens() == [[1, 2, 3]] and fork.tokens()[3] == [1, 2, 3, 7]


def test_rows_that_went_on_by_themselves_are_joined(model: Any) -> None:
    cache = KVCache(model)
    cache.catch_up([[1, 2, 3, 4], [5, 6], [7, 8, 9]])
    first, second, third = (cache.fork() for _ in range(3))
    for row, part in enumerate((first, second, third)):
        part.gather([row])
    second.catch_up([[5, 6, 7, 8, 9]])
    joined = KVCache.join([third, second])
    rows = [[7, 8, 9, 1], [5, 6, 7, 8, 9, 2, 3]]
    for hidden, row in zip(joined.catch_up(rows), rows, strict=True):
        same(joined, hidden, model, row)
    assert (third.tokens(), second.tokens(), cache.columns) == ([[7, 8, 9]], [[5, 6, 7, 8, 9]], 4)
    with pytest.raises(ValueError, match="none of them empty"):
        KVCache.join([first, KVCache(model)])


def test_hidden_tokens_need_positions_of_their_own() -> None:
    """A mask that drops tokens: the model sees the last of five alone, at its true place."""
    model, places = build("llama"), torch.arange(5)[None]
    cache = KVCache(model)
    cache.extend(torch.tensor([[1, 2, 3, 4]]))
    hidden = cache.extend(torch.tensor([[5]]), visible=torch.tensor([[0, 0, 0, 0, 1]]).bool(), positions=places[:, 4:])
    mask = torch.eye(5, dtype=torch.bool)[None, None]
    inputs = {"input_ids": torch.tensor([[1, 2, 3, 4, 5]]), "attention_mask": mask, "position_ids": places}
    with torch.no_grad():
        expected = last_hidden_state(model, **inputs)[0, -1]
    torch.testing.assert_close(hidden[0, 0], expected, atol=1e-5, rtol=1e-5)


def test_a_model_in_training_stays_in_training() -> None:
    model = build("gpt2", resid_pdrop=0.5).train()
    cache = KVCache(model)
    hidden = cache.catch_up([[1, 2, 3]])[0]
    assert model.training
    same(cache, hidden, model.eval(), [1, 2, 3])


REFUSED = {
    "mamba": ({"state_size": 4}, "it keeps a state instead of keys and values"),
    "falcon_h1": (FALCON_H1, "it keeps a state instead of keys and values"),
    "llama4_text": ({}, "it has layers of chunked_attention"),
    "gpt_neo": ({"attention_types": [[["local"], 2]], "num_layers": 2}, "windows that count columns, not positions"),
    "bloom": ({"n_head": 2}, "BloomForCausalLM takes no cache with positions and a mask"),
    "mpt": ({"d_model": 16, "n_heads": 2, "n_layers": 2}, "gives other logits with a cache than without"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_kinds_of_memory_are_refused_by_name(kind: str) -> None:
    options, reason = REFUSED[kind]
    model = build(kind, **options)
    with pytest.raises(UserError, match=reason) as caught:
        KVCache(model, "model.path=x")
    assert caught.value.where == "model.path=x" and type(model).__name__ in caught.value.what


def test_an_encoder_and_attention_without_masks_are_refused() -> None:
    model = build("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UserError, match="attention of flash_attention_2, which takes no mask of single tokens"):
        KVCache(model)
    model.config.is_encoder_decoder = True
    with pytest.raises(UserError, match="the cache of LlamaForCausalLM cannot be handled here: it has an encoder"):
        KVCache(model)


def test_the_context_is_a_limit_and_a_refused_token_leaves_no_trace() -> None:
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 8}
    scaled = build("llama", rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0, **factors})
    for model, longest in ((build("gpt2", max_position_embeddings=9), 9), (scaled, 8)):
        cache = KVCache(model)
        cache.catch_up([[1] * longest])
        with pytest.raises(UserError, match=f"a text of {longest + 1} tokens does not fit the model's context"):
            cache.extend(torch.tensor([[2]]))
        assert cache.tokens() == [[1] * longest]


def test_what_cannot_be_meant_is_refused() -> None:
    cache = KVCache(build("llama"))
    cache.extend(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1, 1], [1, 0]]))
    with pytest.raises(ValueError, match=r"rows of \[2, 1\] tokens cannot be cut to \[2, 2\]"):
        cache.truncate(2)
    for columns in ([[0], [1]], [[1, 0], [0]], [[2], [0]]):
        with pytest.raises((ValueError, IndexError)):
            cache.keep(columns)
    with pytest.raises(ValueError, match="columns of 1 rows for 2"):
        cache.keep([[0]])
    with pytest.raises(ValueError, match="for 2 rows"):
        cache.extend(torch.tensor([[1]]))
    with pytest.raises(ValueError, match="visible has 3 columns for 2 new tokens behind 2"):
        cache.extend(torch.tensor([[1, 2]] * 2), visible=torch.ones(2, 3).bool())
    cache.extend(torch.tensor([[1, 2]] * 2), visible=torch.eye(2).bool())
    with pytest.raises(ValueError, match="the rows hold branches of a tree"):
        cache.extend(torch.tensor([[1]] * 2))


def test_the_head_is_the_models() -> None:
    model = build("gemma2", final_logit_softcapping=5.0)
    assert KVCache(model).head == output_head(model)


def test_a_head_that_is_not_the_models_is_refused() -> None:
    """BERT's head has a dense layer that no output head holds."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    model = BertLMHeadModel(BertConfig(is_decoder=True, vocab_size=40, **sizes)).eval()
    with pytest.raises(UserError, match="BertLMHeadModel"):
        KVCache(model)
