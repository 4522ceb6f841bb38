"""Draft trees: their shape, the one forward that reads them, the path that is accepted."""

from typing import Any

import pytest
import torch

from recipes.core.models.kv_cache import KVCache
from recipes.decoding.trees import TokenTree, TreeShape, accept, chain, greedy, read, sampled, softmax

SHAPE = TreeShape((-1, 0, 0, 1, 1, 3))
TREE = TokenTree(SHAPE, torch.tensor([4, 7, 2, 9, 1, 3]))


def test_a_node_sees_its_ancestors_and_itself() -> None:
    assert SHAPE.depths == (0, 1, 1, 2, 2, 3)
    assert SHAPE.visible.sum(1).tolist() == [depth + 1 for depth in SHAPE.depths]
    for node in range(len(SHAPE)):
        assert SHAPE.visible[node].nonzero()[:, 0].tolist() == SHAPE.path(node)


@pytest.mark.parametrize("parents", [(), (0,), (-1, 1), (-1, 0, 3, 1), (-1, -1)])
def test_what_is_no_tree_is_refused(parents: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no tree"):
        TreeShape(parents)


def test_a_tree_is_cut_below_a_depth() -> None:
    shape, nodes = SHAPE.up_to(2)
    assert shape.parents == (-1, 0, 0, 1, 1) and nodes == [0, 1, 2, 3, 4]
    assert SHAPE.up_to(0) == (TreeShape((-1,)), [0])


def test_logits_of_a_node_are_those_of_a_plain_forward_on_its_path(model: Any) -> None:
    text, cache = [5, 6, 8], KVCache(model.language_model)
    cache.extend(torch.tensor([text]))
    logits = read(cache, TREE)
    for node in range(len(SHAPE)):
        path = TREE.ids[SHAPE.path(node)].tolist()
        plain = model.language_model(torch.tensor([text + path])).logits[0, -1]
        torch.testing.assert_close(logits[node], plain, atol=1e-4, rtol=1e-4)


def test_an_accepted_path_is_what_the_cache_holds(model: Any) -> None:
    text, cache = [5, 6, 8], KVCache(model.language_model)
    cache.extend(torch.tensor([text]))
    start = cache.columns
    read(cache, TREE)
    cache.keep([[0, 1, 3]], start)
    assert cache.tokens() == [[*text, 4, 7, 9]]
    hidden = cache.extend(torch.tensor([[11]]))
    plain = model.language_model(torch.tensor([[*text, 4, 7, 9, 11]])).logits[0, -1]
    torch.testing.assert_close(cache.head.logits(hidden)[0, -1], plain, atol=1e-4, rtol=1e-4)


def test_a_chain_needs_no_mask_and_says_the_same(model: Any) -> None:
    one, other = KVCache(model.language_model), KVCache(model.language_model)
    for cache in (one, other):
        cache.extend(torch.tensor([[5, 6]]))
    masked = other.extend(torch.tensor([[4, 7, 9]]), visible=torch.ones(3, 3).tril().bool())
    torch.testing.assert_close(read(one, chain([4, 7, 9])), other.head.logits(masked[0]))


@pytest.mark.parametrize(
    ("choices", "path", "token"),
    [([7, 9, 0, 3, 0, 8], [0, 1, 3, 5], 8), ([7, 1, 0, 0, 2, 0], [0, 1, 4], 2), ([5, 0, 0, 0, 0, 0], [0], 5)],
)
def test_the_accepted_path_is_what_the_model_chooses(choices: list[int], path: list[int], token: int) -> None:
    logits = torch.nn.functional.one_hot(torch.tensor(choices), 10).float()
    assert accept(TREE, greedy(logits)) == (path, token)


def test_of_equal_siblings_the_first_is_taken() -> None:
    tree = TokenTree(TreeShape((-1, 0, 0)), torch.tensor([1, 5, 5]))
    assert accept(tree, lambda node: 5) == ([0, 1], 5)


def test_what_is_drawn_does_not_depend_on_the_tree() -> None:
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    for tree in (TREE, chain(TREE.ids[:1])):
        draw = sampled(logits, 0.7, torch.Generator().manual_seed(3))
        assert accept(tree, draw)[1] >= 0
        assert sampled(logits, 0.7, torch.Generator().manual_seed(3))(0) == sampled(
            logits, 0.7, torch.Generator().manual_seed(3)
        )(0)


@pytest.mark.parametrize("temperature", [1e-310, 1e-6, 1.0, 1e6])
def test_any_temperature_above_zero_gives_probabilities(temperature: float) -> None:
    chances = softmax(torch.tensor([[3.0, 1.0, -2.0], [800.0, 0.0, 799.0]]), temperature)
    torch.testing.assert_close(chances.sum(-1), torch.ones(2).double())
    if temperature < 1e-3:
        assert chances.tolist() == [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
