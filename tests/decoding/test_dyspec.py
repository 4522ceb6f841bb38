"""Trees that grow at run time, their fixed rivals, and multi-round rejection: worked numbers and enumeration."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.decoding.dyspec.calibration import acceptance
from recipes.decoding.dyspec.draft import (
    Draft,
    Draws,
    Place,
    grow_best,
    grow_by_heap,
    grow_by_layers,
    grow_shape,
    likeliest,
    with_replacement,
    without_replacement,
)
from recipes.decoding.dyspec.shapes import chains, levels, sequoia
from recipes.decoding.dyspec.verification import children_of, multi_round, rounds
from recipes.decoding.exactness import fit
from recipes.decoding.trees import TokenTree, TreeShape, accept, greedy

A, B, C = 0, 1, 2
D, T = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)


def share(value: float) -> float:
    return value


def of_place(place: Place, seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(abs(hash((seed, place))))


def draft_of(
    behind: Callable[[list[int]], Tensor],
    draw: Any = None,
    *,
    deepest: int = 99,
    ends: Sequence[int] = (),
    seed: int = 0,
) -> Draft:
    """A draft whose distributions are a function of the tokens on the path."""

    def read(draft: Draft, nodes: Sequence[int]) -> Tensor:
        return torch.stack([behind([draft.ids[each] for each in draft.path(node)]) for node in nodes])

    keyed = draw or (lambda chances, place: without_replacement(chances, 20, of_place(place, seed)))
    return Draft(9, read, keyed, ends=ends, deepest=deepest)


def flat_or_sharp(path: list[int]) -> Tensor:
    """Random distributions that depend on the path, some nearly flat, some not."""
    logits = torch.randn(12, generator=of_place(tuple(path)), dtype=torch.float64)
    return (logits * (0.5 + sum(path) % 4)).softmax(-1)


# --- growth ---------------------------------------------------------------------------------------------------------


def test_the_heap_trace_of_the_sheet() -> None:
    sharp = torch.tensor([0.9, 0.08, 0.02], dtype=torch.float64)
    draft = draft_of(lambda path: sharp if path[-1] == A else D, lambda chances, place: likeliest_drawn(chances))
    grow_by_heap(draft, 6, share)
    assert draft.values[1:] == pytest.approx([1.0, 0.6, 0.54, 0.486, 0.4374, 0.4])
    assert draft.parents == [-1, 0, 1, 2, 3, 4, 0] and draft.ids[1:] == [A, A, A, A, A, B]
    assert sum(draft.values[1:]) == pytest.approx(3.4634)


def likeliest_drawn(chances: Tensor) -> Draws:
    """All tokens, the likeliest first, as draws without replacement would give them."""
    order = chances.argsort(descending=True)
    left = chances[order].flip(0).cumsum(0).flip(0)
    return Draws(chances, order.tolist(), (chances[order] / left).tolist())


@pytest.mark.parametrize("seed", range(4))
def test_values_fall_and_are_what_the_closed_form_says(seed: int) -> None:
    draft = draft_of(flat_or_sharp, seed=seed)
    grow_by_heap(draft, 30, share)
    assert len(draft) == 30 and draft.values[1:] == sorted(draft.values[1:], reverse=True)
    shown = draft.tree()
    for parent, children in children_of(shown).items():
        before, path = 0.0, draft.path(parent)
        steps = zip(path, path[1:], strict=False)
        reach = float(np.prod([float(draft.draws[up].probabilities[draft.ids[down]]) for up, down in steps]))
        assert len({draft.ids[child] for child in children}) == len(children)
        for child in children:
            assert draft.values[child] == pytest.approx(reach * (1 - before), abs=1e-12)
            before += float(draft.draws[parent].probabilities[draft.ids[child]])
    assert shown.shape.visible.sum(1).tolist() == [depth + 1 for depth in shown.shape.depths]


@pytest.mark.parametrize("seed", range(4))
def test_both_algorithms_grow_the_same_tree_from_the_same_draws(seed: int) -> None:
    by_heap, by_layers = draft_of(flat_or_sharp, seed=seed), draft_of(flat_or_sharp, seed=seed)
    grow_by_heap(by_heap, 25, share)
    grow_by_layers(by_layers, 99, by_heap.values[-1] - 1e-12, share)
    assert {*by_heap._places} == {*by_layers._places}
    paths = [
        {tuple(draft.ids[each] for each in draft.path(node)) for node in range(26)} for draft in (by_heap, by_layers)
    ]
    assert paths[0] == paths[1] and len(by_layers) == 25


def test_a_layer_that_reaches_the_size_fills_the_largest_values() -> None:
    draft = draft_of(flat_or_sharp)
    grow_by_layers(draft, 5, 1e-6, share)
    assert len(draft) == 5 and draft.values[1:] == sorted(draft.values[1:], reverse=True)


def test_layers_and_leaves_cost_as_few_forwards_as_they_can() -> None:
    calls: list[int] = []

    def counted(draft: Draft, nodes: Sequence[int]) -> Tensor:
        calls.append(len(nodes))
        return torch.stack([flat_or_sharp([draft.ids[each] for each in draft.path(node)]) for node in nodes])

    for grow in (lambda draft: grow_by_layers(draft, 20, 0.05, share), lambda draft: grow_by_heap(draft, 20, share)):
        calls.clear()
        draft = Draft(9, counted, lambda chances, place: without_replacement(chances, 20, of_place(place)), deepest=9)
        grow(draft)
        if len(calls) < len(draft.draws):
            assert len(calls) <= max(draft.depths) + 1
        else:  # one at a time, and leaves are never read
            assert set(calls) == {1} and set(draft.draws) == set(draft.parents[1:])


def test_a_certain_draft_makes_a_chain_and_ends_stay_leaves() -> None:
    certain = draft_of(lambda path: torch.eye(12).double()[len(path)])
    grow_by_heap(certain, 6, share)
    assert certain.parents == [-1, 0, 1, 2, 3, 4, 5] and certain.values[1:] == [1.0] * 6
    ended = draft_of(lambda path: torch.eye(12).double()[len(path)], ends=[3])
    grow_by_heap(ended, 6, share)
    assert ended.ids == [9, 1, 2, 3]
    shallow = draft_of(flat_or_sharp, deepest=0)
    grow_by_heap(shallow, 6, share)
    grow_by_layers(shallow, 6, 0.1, share)
    assert len(shallow) == 0 and not shallow.draws


def test_draws_are_without_replacement_and_do_not_depend_on_how_many_are_asked_for() -> None:
    counts = dict.fromkeys(permutations(range(3), 2), 0)
    for seed in range(1500):
        draws = without_replacement(D, 2, of_place((seed,)))
        first, second = draws.tokens
        counts[first, second] += 1
        assert draws.shares == pytest.approx([float(D[first]), float(D[second] / (1 - D[first]))])
        assert without_replacement(D, 3, of_place((seed,))).tokens[:2] == draws.tokens
    expected = np.array([float(D[a] * D[b] / (1 - D[a])) for a, b in counts])
    assert fit(np.array(list(counts.values())), expected).p > 1e-3
    assert without_replacement(torch.tensor([0.0, 1.0, 0.0]).double(), 3, of_place(())).tokens == [1]


# --- fixed shapes ---------------------------------------------------------------------------------------------------


def test_chains_and_levels() -> None:
    assert chains(1, 4).parents == (-1, 0, 1, 2, 3)
    assert chains(3, 7).parents == (-1, 0, 0, 0, 1, 2, 3, 4)
    assert levels((2, 2, 1), 10).parents == (-1, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6)
    assert levels((2, 2, 1), 5).parents == (-1, 0, 0, 1, 1, 2)


def test_a_shape_is_grown_layer_by_layer() -> None:
    draft = draft_of(flat_or_sharp)
    grow_shape(draft, levels((2, 2, 1), 10))
    assert tuple(draft.parents) == levels((2, 2, 1), 10).parents
    certain = draft_of(lambda path: torch.eye(12).double()[len(path)])
    grow_shape(certain, levels((2, 2, 1), 10))
    assert certain.parents == [-1, 0, 1, 2]  # nothing else could be drawn


def trees(nodes: int) -> Iterator[tuple[int, ...]]:
    """Parents of all trees of so many nodes."""
    for parents in product(*(range(node) for node in range(1, nodes))):
        yield (-1, *parents)


@pytest.mark.parametrize("rates", [[0.7, 0.4, 0.2], [0.5, 0.5], [0.9, 0.1, 0.05, 0.3]])
@pytest.mark.parametrize(("size", "depth"), [(1, 3), (4, 9), (6, 2), (6, 9)])
def test_sequoia_finds_the_best_of_all_trees(rates: list[float], size: int, depth: int) -> None:
    def tokens(shape: TreeShape) -> float:
        reached, seen = [1.0], [0] * len(shape)
        for parent in shape.parents[1:]:
            number = seen[parent]
            chance = float(np.prod([1 - rate for rate in rates[:number]])) * rates[number]
            seen[parent] += 1
            reached.append(reached[parent] * chance)
        return sum(reached)

    every = [TreeShape(parents) for parents in trees(size + 1)]
    fitting = [
        each
        for each in every
        if max(each.depths) <= depth and max(map(each.parents.count, range(size + 1))) <= len(rates)
    ]
    shape, expected = sequoia(rates, size, depth)
    assert len(shape) == size + 1 and list(shape.depths) == sorted(shape.depths) and max(shape.depths) <= depth
    assert expected == pytest.approx(tokens(shape)) == pytest.approx(max(map(tokens, fitting)))


def test_the_likeliest_paths_are_kept() -> None:
    draft = draft_of(flat_or_sharp, lambda chances, _: likeliest(chances, 12))
    nodes = grow_best(draft, 8, 4, 3)
    tree = draft.tree(nodes)
    assert len(tree.shape) == 9 and len(draft) > 8
    chances = [1.0]
    for node, parent in enumerate(tree.shape.parents[1:], 1):
        path = tree.ids[tree.shape.path(parent)].tolist()
        chances.append(chances[parent] * float(flat_or_sharp(path)[tree.ids[node]]))
    left_out = [draft.values[node] for node in range(len(draft) + 1) if node not in nodes]
    assert min(chances) >= max(left_out)


# --- verification ---------------------------------------------------------------------------------------------------


def drawn_orders(draft: Tensor, siblings: int, put_back: bool = False) -> Iterator[tuple[float, Draws]]:
    """All draws behind a node, with their probabilities."""
    tokens = range(len(draft))
    for order in product(tokens, repeat=siblings) if put_back else permutations(tokens, siblings):
        shares, left = [], 1.0
        for token in order:
            shares.append(float(draft[token]) / left)
            left -= 0 if put_back else float(draft[token])
        yield float(np.prod(shares)), Draws(draft, list(order), shares, put_back)


def emitted(
    target: Tensor, draft: Tensor, siblings: int, *, put_back: bool = False, drop: float = 0.0
) -> tuple[Tensor, float]:
    """Distribution of the first token that comes out, and the probability that a draft is accepted, by enumeration."""
    result, accepted = torch.zeros_like(target), 0.0
    for chance, draws in drawn_orders(draft, siblings, put_back):
        stays = [at for at, token in enumerate(draws.tokens) if float(draft[token]) >= drop]
        kept = Draws(draft, [draws.tokens[at] for at in stays], [draws.shares[at] for at in stays], put_back)
        reach, rest = chance, target
        for token, (each, after) in zip(kept.tokens, rounds(target, kept, len(kept.tokens)), strict=True):
            rest = after
            result[token] += reach * each
            accepted += reach * each
            reach *= 1 - each
        result += reach * rest
    return result, accepted


@pytest.mark.parametrize(("siblings", "rate"), [(0, 0.0), (1, 0.7), (2, 0.975), (3, 1.0)])
def test_the_worked_example_of_the_sheet(siblings: int, rate: float) -> None:
    result, accepted = emitted(T, D, siblings)
    torch.testing.assert_close(result, T, atol=1e-12, rtol=0)
    assert accepted == pytest.approx(rate)


@pytest.mark.parametrize("put_back", [False, True])
@pytest.mark.parametrize("siblings", [1, 2, 3, 4])
def test_any_draws_give_the_distribution_of_the_target(siblings: int, put_back: bool) -> None:
    random = torch.Generator().manual_seed(siblings)
    for scale in (0.5, 2.0, 6.0):
        target, draft = ((torch.randn(4, generator=random).double() * scale).softmax(-1) for _ in range(2))
        torch.testing.assert_close(emitted(target, draft, siblings, put_back=put_back)[0], target, atol=1e-9, rtol=0)
    equal, accepted = emitted(draft, draft, siblings, put_back=put_back)
    torch.testing.assert_close(equal, draft, atol=1e-9, rtol=0)
    assert accepted == pytest.approx(1.0)  # the first child is accepted


def test_a_draw_that_is_dropped_for_its_token_changes_the_distribution() -> None:
    assert emitted(T, D, 1, drop=0.2)[0].tolist() == pytest.approx([0.33, 0.55, 0.12])


@cache
def noise(*key: int) -> Tensor:
    return torch.randn(4, generator=of_place(key), dtype=torch.float64)


def target_of(path: list[int]) -> Tensor:
    return noise(7, *path) * 1.5


def draft_close_to(path: list[int]) -> Tensor:
    return (target_of(path) + noise(8, *path)).softmax(-1)


def logits_of(tree: TokenTree) -> Tensor:
    return torch.stack([target_of(tree.ids[tree.shape.path(node)].tolist()) for node in range(len(tree.shape))])


GROWTHS: dict[str, Callable[[Draft], Any]] = {
    "heap": lambda draft: grow_by_heap(draft, 5, share),
    "layers": lambda draft: grow_by_layers(draft, 6, 0.15, share),
    "levels": lambda draft: grow_shape(draft, levels((2, 1), 4)),
    "k_seq": lambda draft: grow_shape(draft, chains(2, 6)),
}


@pytest.mark.parametrize("name", GROWTHS)
def test_two_tokens_of_a_drafted_tree_have_the_distribution_of_the_target(name: str) -> None:
    first = target_of([9]).softmax(-1)
    joint = torch.stack([first[token] * target_of([9, token]).softmax(-1) for token in range(4)]).flatten().numpy()
    generator, counts = torch.Generator().manual_seed(1), np.zeros(16)
    verify = multi_round(1.0, generator)
    draw = with_replacement if name == "k_seq" else without_replacement
    for number in range(2000):
        draft = draft_of(
            draft_close_to, partial(lambda seed, chances, place: draw(chances, 6, of_place(place, seed)), number)
        )
        GROWTHS[name](draft)
        tree = draft.tree()
        path, token = verify(tree, logits_of(tree))
        tokens = [*tree.ids[path[1:]].tolist(), token]
        if len(tokens) == 1:  # the second comes with the next step
            tokens.append(int(torch.multinomial(target_of([9, *tokens]).softmax(-1), 1, generator=generator)))
        counts[4 * tokens[0] + tokens[1]] += 1
    result = fit(counts, joint)
    assert result.p > 1e-3 and result.detects < 0.07


def test_dropped_draws_are_noticed_with_as_many_texts() -> None:
    biased = np.array([0.33, 0.55, 0.12])
    counts = np.random.default_rng(0).multinomial(3000, biased)
    assert fit(counts, T.numpy()).p < 1e-3 and fit(counts, T.numpy()).detects < 0.05  # it is off by 0.08


def test_a_draft_equal_to_its_target_is_accepted_to_the_last_layer() -> None:
    draft = draft_of(lambda path: target_of(path).softmax(-1))
    grow_shape(draft, levels((2, 1, 1), 9))
    tree = draft.tree()
    path, _ = multi_round(1.0, torch.Generator().manual_seed(0))(tree, logits_of(tree))
    assert len(path) == 4


def test_a_cold_target_accepts_what_a_greedy_one_does() -> None:
    for seed in range(50):
        draft = draft_of(draft_close_to, seed=seed)
        grow_by_heap(draft, 8, share)
        tree = draft.tree()
        cold = multi_round(1e-6, torch.Generator())(tree, logits_of(tree))
        assert cold == accept(tree, greedy(logits_of(tree)))


# --- calibration ----------------------------------------------------------------------------------------------------


def test_acceptance_at_positions_is_that_of_the_rounds() -> None:
    random = torch.Generator().manual_seed(3)
    target, draft = ((torch.randn(6, 5, generator=random).double() * 2).softmax(-1) for _ in range(2))
    target[0] = draft[0]
    result = acceptance(target, draft, 4, torch.Generator().manual_seed(4))
    keys = draft / torch.empty_like(draft).exponential_(generator=torch.Generator().manual_seed(4))
    for row in range(6):
        tokens, reach = keys[row].topk(4).indices.tolist(), 1.0
        for at, (chance, _) in enumerate(rounds(target[row], Draws(draft[row], tokens, []), 4)):
            assert result.reached[row, at] == pytest.approx(reach, abs=1e-9)
            if reach > 1e-9:
                assert result.accepted[row, at] == pytest.approx(chance)
                assert result.shares[row, at] == pytest.approx(
                    float(draft[row, tokens[at]] / (1 - draft[row, tokens[:at]].sum()))
                )
            reach *= 1 - chance
    assert result.by_number()[0] == pytest.approx(result.accepted[:, 0].mean())


def test_calibrated_chances_rise_with_the_share_and_hit_the_mean() -> None:
    random = torch.Generator().manual_seed(5)
    logits = torch.randn(300, 20, generator=random).double() * 2
    best = (logits + torch.randn(300, 20, generator=random)).argmax(-1)  # of a greedy target
    result = acceptance(torch.nn.functional.one_hot(best, 20).double(), logits.softmax(-1), 3, random)
    chance = result.by_share()
    values = [chance(each) for each in np.linspace(0, 1, 50)]
    assert np.diff(values).min() > -1e-9 and 0 <= values[0] < values[-1] <= 1
    fitted = np.array([[chance(each) for each in row] for row in result.shares])
    error = (result.reached * (fitted - result.accepted)).sum() / result.reached.sum()
    assert abs(error) < 0.01
