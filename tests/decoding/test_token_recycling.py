"""The matrix of candidates, its tree, and the other drafters, on numbers worked out by hand."""

import pytest
import torch

from recipes.decoding.token_recycling.drafters import Matrix, NgramCache, lookup
from recipes.decoding.token_recycling.method import Template, published_paths, random_paths, recycle, smaller
from recipes.decoding.trees import accept, greedy

MATRIX = torch.tensor([[0, 0], [2, 3], [4, 1], [0, 0], [0, 0]])
SMALL = [(0,), (1,), (0, 0)]


def logits_of(best: list[list[int]], vocabulary: int = 5) -> torch.Tensor:
    """Logits whose largest are these tokens, in this order."""
    logits = torch.zeros(len(best), vocabulary)
    for row, tokens in enumerate(best):
        for rank, token in enumerate(tokens):
            logits[row, token] = 10.0 - rank
    return logits


def test_the_worked_example_of_the_sheet() -> None:
    tree = Template(SMALL, 2).fill(MATRIX, 1)
    assert tree.ids.tolist() == [1, 2, 3, 4]
    logits = logits_of([[3, 0], [1, 0], [0, 1], [2, 0]])
    path, token = accept(tree, greedy(logits))
    assert [*tree.ids[path[1:]].tolist(), token] == [3, 0]
    matrix = MATRIX.clone()
    recycle(matrix, tree.ids, logits)
    assert matrix.tolist() == [[0, 0], [3, 0], [1, 0], [0, 1], [2, 0]]


def test_the_published_tree_has_80_nodes_in_six_levels() -> None:
    template = Template(published_paths(), 8)
    depths = torch.tensor(template.shape.depths).bincount().tolist()
    assert len(template.shape) == 81 and depths == [1, 8, 21, 25, 15, 8, 3]
    assert len(Template(published_paths(), 2).shape) < 81  # nodes of ranks that are not kept are left out


@pytest.mark.parametrize("nodes", [0, 1, 8, 16, 40, 80])
def test_smaller_trees_are_closed_under_parents(nodes: int) -> None:
    paths = smaller(published_paths(), nodes)
    assert len(paths) == nodes and all(path[:-1] in [(), *paths] for path in paths)
    assert len(Template(paths, 8).shape) == nodes + 1


def test_a_smaller_tree_keeps_the_smallest_ranks() -> None:
    assert smaller(published_paths(), 4) == [(0,), (1,), (2,), (0, 0)]  # ranks + depths 1, 2, 3, 2


def test_a_random_tree_has_the_same_levels() -> None:
    paths = random_paths(published_paths(), 8, torch.Generator().manual_seed(0))
    shape = Template(paths, 8).shape
    assert torch.tensor(shape.depths).bincount().tolist() == [1, 8, 21, 25, 15, 8, 3]
    assert paths != published_paths()


def test_a_template_ends_where_no_more_tokens_are_wanted() -> None:
    template = Template(SMALL, 2)
    assert template.up_to(1).fill(MATRIX, 1).ids.tolist() == [1, 2, 3]
    assert template.up_to(0).fill(MATRIX, 1).ids.tolist() == [1]
    assert template.up_to(2) is template


def test_of_a_token_that_was_read_twice_the_last_counts() -> None:
    matrix = MATRIX.clone()
    recycle(matrix, torch.tensor([1, 2, 1]), logits_of([[4, 0], [3, 0], [0, 2]]))
    assert matrix.tolist() == [[0, 0], [0, 2], [3, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize(("update", "changed"), [("all", {1, 2, 3, 4}), ("accepted", {1, 3}), ("root", {1})])
def test_which_tokens_give_new_candidates(update: str, changed: set[int]) -> None:
    drafter = Matrix(Template(SMALL, 2), 2, 5, update=update)
    drafter.matrix[:] = MATRIX
    tree = drafter.draft([0, 1], 5)
    drafter.learn(tree, logits_of([[3, 1], [1, 3], [1, 4], [2, 3]]), [0, 2], 1)
    assert {token for token in range(5) if drafter.matrix[token].tolist() != MATRIX[token].tolist()} == changed


def test_candidates_stay_or_go_between_prompts() -> None:
    for hot in (True, False):
        drafter = Matrix(Template(SMALL, 2), 2, 5, hot_start=hot)
        drafter.matrix[:] = MATRIX
        drafter.begin([1, 2], torch.zeros(1, 5))
        assert bool(drafter.matrix.any()) == hot


def test_a_prompt_teaches_where_asked_for() -> None:
    drafter = Matrix(Template(SMALL, 2), 2, 5, update_prefill=True)
    drafter.begin([1, 2, 4], logits_of([[3, 2], [0, 4]]))
    assert drafter.matrix.tolist() == [[0, 0], [3, 2], [0, 4], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ([1, 2, 3, 9, 1, 2, 3], [9, 1]),  # three tokens stood before
        ([1, 2, 3, 8, 2, 3, 7, 2, 3], [7, 2]),  # two, and their latest place counts
        ([5, 6, 7], []),
        ([4, 4], [4]),
        ([4], []),
    ],
)
def test_prompt_lookup_copies_what_followed(text: list[int], tokens: list[int]) -> None:
    assert lookup(text, 3, 2) == tokens


def test_the_n_gram_cache_holds_followers_latest_first() -> None:
    drafter = NgramCache(Template(SMALL, 2), 2, 5)
    drafter.begin([1, 2, 1, 3, 1, 2], torch.zeros(5, 5))
    assert drafter.matrix[1].tolist() == [2, 3] and drafter.matrix[2].tolist() == [1, 0]
    drafter.learn(drafter.draft([2], 0), torch.zeros(1, 5), [0], 4)
    assert drafter.matrix[2].tolist() == [4, 1]
