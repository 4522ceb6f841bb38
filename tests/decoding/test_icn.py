"""Ranks, clusters and exclusion of `icn` on numbers worked out by hand; lists of tiny models beside plain loops."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from recipes.core.models.head import output_head
from recipes.core.models.vision_language import TextModel
from recipes.decoding.icn.config import ClustersConfig, NavigationConfig, PromptConfig
from recipes.decoding.icn.keys import k_means
from recipes.decoding.icn.lister import Lister
from recipes.decoding.icn.method import (
    BEGINNINGS,
    CLUSTERS,
    END,
    Explored,
    SeenNgrams,
    in_main,
    mean_precision,
    normalise,
    precision,
    ranking,
    share_of_vocabulary,
)
from recipes.decoding.icn.topics import Topic, prompt_text
from recipes.decoding.icn.writer import Listing, Writer
from tests.core import tokenizer_kinds
from tests.decoding.conftest import tiny

KEYS = torch.tensor([[1, 0], [0.98, 0.2], [0.98, -0.2], [0, 1], [-0.7, 0.7]])
TOPIC = Topic("pets", "A list of pets:", {"cat": "cat", "dog": "dog", "red fox": "red fox", "fox": "red fox"})
OTHER = Topic("words", "Here is what they say, and why:", {"how": "how", "what": "what"})


def test_moving_the_query_moves_a_whole_cluster_and_a_ban_does_not() -> None:
    near, away = KEYS @ torch.tensor([4.0, 1.0]), KEYS @ torch.tensor([0.5, 3.0])
    torch.testing.assert_close(near, torch.tensor([4, 4.12, 3.72, 1, -2.1]))
    torch.testing.assert_close(near.softmax(0), torch.tensor([0.341, 0.384, 0.257, 0.017, 0.001]), atol=5e-4, rtol=0)
    torch.testing.assert_close(away, torch.tensor([0.5, 1.09, -0.11, 3, 1.75]))
    torch.testing.assert_close(away.softmax(0), torch.tensor([0.053, 0.095, 0.029, 0.641, 0.184]), atol=2e-3, rtol=0)
    assert ranking(near).tolist() == [1, 0, 2, 3, 4] and ranking(away)[0] == 3
    clusters = k_means(KEYS.numpy(), 2, 12, seed=0)
    assert len({*clusters[:3]}) == len({*clusters[3:]}) == 1 and clusters[0] != clusters[3]
    banned = Explored(list("abcde"))
    assert banned.choose(ranking(near), 1) == [1] and banned.choose(ranking(near), 2) == [0, 2]


def test_permuted_rows_permute_ranks_and_ties_go_by_id() -> None:
    weight, query, rows = torch.randn(40, 8), torch.randn(8), torch.randperm(40)
    assert rows[ranking(weight[rows] @ query)].tolist() == ranking(weight @ query).tolist()
    assert ranking(torch.tensor([1.0, 2, 1, 2])).tolist() == [1, 3, 0, 2]


def test_worked_precisions() -> None:
    assert mean_precision([True, False, True, True]) == pytest.approx(0.729, abs=5e-4)
    assert precision([True, False, True, True]) == 0.75 and precision([]) == mean_precision([]) == 0


def test_every_rank_behind_the_first_is_in_main_or_not() -> None:
    order, clusters = np.array([3, 0, 1, 2, 4, 5]), np.array([7, 8, 9, 7, 7, 8])
    assert in_main(order, clusters, 2, 5).tolist() == [False, False, True]
    assert share_of_vocabulary(order, clusters, 2) == pytest.approx(1 / 4)
    assert len(in_main(order, clusters, 2, 100)) == 4
    rows = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    alone = k_means(rows, 30, 12, seed=0)
    assert sorted(alone) == list(range(30)) and not in_main(np.arange(30), alone, 10, 30).any()
    assert share_of_vocabulary(np.arange(30), alone, 10) == 0


def test_chance_is_the_mean_over_all_orders() -> None:
    clusters, random = np.array([0, 0, 0, 1, 1, 2, 3]), np.random.default_rng(0)
    shares = [in_main(np.append([0], 1 + random.permutation(6)), clusters, 1, 4).mean() for _ in range(2000)]
    assert np.mean(shares) == pytest.approx(share_of_vocabulary(np.arange(7), clusters, 1), abs=0.02)


def test_clusters_do_not_depend_on_lengths_where_rows_are_normalised() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    longer = rows * np.random.default_rng(1).uniform(1, 9, (60, 1)).astype(np.float32)
    np.testing.assert_array_equal(k_means(rows, 6, 12, 0, True), k_means(longer, 6, 12, 0, True))


def test_what_is_excluded() -> None:
    texts = [" Apple", "apple", " App", " pear", "", " Pea", " fig"]
    order, clusters = range(7), np.array([0, 1, 1, 2, 3, 2, 4])
    assert Explored(texts).choose(order, 9) == [0, 1, 2, 3, 5, 6]  # by what tokens say; control tokens never
    ban = Explored(texts, BEGINNINGS)
    assert ban.choose(order, 1) == [0]  # "apple" says the same
    ban.add_item("*Apple*")
    assert ban.choose(order, 1) == [3]  # " App" begins an explored item
    ban.add_item("pear")
    assert ban.choose(order, 9) == [6]
    assert Explored(texts, CLUSTERS, clusters).choose(order, 9) == [0, 1, 3, 6]
    with pytest.raises(ValueError):
        Explored(texts, CLUSTERS)


def test_normalised_answers() -> None:
    for text in ("**North  Dakota**", "the north dakota.", '"North Dakota"', "NORTH DAKOTA"):
        assert normalise(text) == "north dakota"
    assert normalise(" ... ") == "" and normalise("Côte d'Ivoire") == "côte d'ivoire"


def test_ngrams_of_earlier_items_do_not_come_again() -> None:
    seen = SeenNgrams(3)
    seen.add([5])
    seen.add([6, 7])
    assert seen.excluded([]) == {END} and seen.excluded([5]) == {END} and seen.excluded([6]) == {7}
    assert seen.excluded([5, 7]) == set() and seen.excluded([6, 7]) == {END}
    with pytest.raises(ValueError):
        SeenNgrams(1)


def lister(kind: str = "llama", form: str = "plain") -> Lister:
    tokenizer = tokenizer_kinds.byte_level(False, False)
    model = TextModel(tiny(kind, 3, len(tokenizer) + 5))
    return Lister(model, tokenizer, PromptConfig(format=form, item_tokens=4), frozenset({2}))


def writer(kind: str = "llama", form: str = "plain", **options: Any) -> Writer:
    one = lister(kind, form)
    clusters = k_means(one.head.weight.numpy(), 20, 5, 0)
    return Writer(one, NavigationConfig(**{"items": 6, "n_tol": 2} | options), clusters)


def write(form: str = "plain", topic: Topic = TOPIC, seed: int = 0, **options: Any) -> Listing:
    return writer(form=form, **options).write([topic], seed)[0]


def greedy(model: Any, ids: list[int]) -> int:
    return int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())


def plainly(writer: Writer, topic: Topic) -> list[str]:
    """The loop of the paper's code: every token of every item with a forward over the whole prompt."""
    one, options, items, first_tokens = writer.lister, writer.options, list[str](), set[str]()
    model = one.model.language_model
    while len(items) < options.items:
        behind_list = one.ids(topic, [text for text in items if text] if options.listed else [])
        order = model(input_ids=torch.tensor([behind_list])).logits[0, -1].argsort(descending=True, stable=True)
        new = list[str]()
        for token in order.tolist():
            if one.texts[token] and one.texts[token] not in first_tokens and len(new) < options.n_tol:
                first_tokens.add(one.texts[token])
                ids, start = [token], one.ids(topic) if options.reg else behind_list
                while len(ids) < 4 and "\n" not in one.texts[ids[-1]] and ids[-1] != 2:
                    ids.append(greedy(model, start + ids))
                text = one.tokenizer.decode([each for each in ids if each != 2], skip_special_tokens=True)
                new.append(" ".join(text.partition("\n")[0].split()))
        items += new
    return items


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("options", [{}, {"reg": False}, {"listed": False}, {"n_tol": 3}], ids=str)
def test_lists_side_by_side_are_those_of_a_plain_loop(
    kind: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.decoding.icn.lister.COLUMNS", 40)  # some items a forward
    one = writer(kind, **options)
    for topic, listing in zip((TOPIC, OTHER), one.write([TOPIC, OTHER], 0), strict=True):
        assert [item.text for item in listing.items] == plainly(one, topic)
        assert len({one.lister.texts[item.token] for item in listing.items}) == 6 and listing.read > 0


def test_logits_are_products_of_query_and_keys() -> None:
    for kind in ("llama", "gpt2"):  # GPT-2's keys are its input embedding, too
        one = lister(kind)
        model = one.model.language_model
        hidden = model.base_model(input_ids=torch.tensor([one.ids(TOPIC)])).last_hidden_state[0, -1]
        torch.testing.assert_close(one.query(TOPIC), one.head.weight @ hidden, rtol=0, atol=1e-5)


def test_without_explored_items_navigation_is_plain_ranks() -> None:
    first = write(items=2)
    assert [item.token for item in first.items] == [item.token for item in write(listed=False).items][:2]
    assert first.items == write(listed=False, items=2).items == write(items=4).items[:2]


def test_a_ban_repeats_no_first_token_in_any_writing() -> None:
    one = writer(listed=False, exclude="beginnings", items=40, n_tol=5)
    tokens = [item.token for item in one.write([TOPIC], 0)[0].items]
    words = [normalise(one.lister.texts[token]) for token in tokens if normalise(one.lister.texts[token])]
    assert len({*tokens}) == len(tokens) and len({*words}) == len(words)


def test_a_ban_of_clusters_ends_where_none_is_left() -> None:
    one = writer(listed=False, exclude="clusters", items=40, n_tol=5)
    for listing in one.write([TOPIC, OTHER], 0):
        tokens = [item.token for item in listing.items]
        assert len(tokens) == len({*one.clusters[tokens]}) <= 20


def test_what_is_drawn_follows_from_seed_and_list_alone() -> None:
    options: dict[str, Any] = {"name": "sample", "listed": False, "items": 30}
    first = write(**options)
    assert first == write(**options) != write(seed=1, **options)
    assert first != write(topic=replace(TOPIC, id="others"), **options)
    beside = writer(**options).write([OTHER, TOPIC], 0)[1]
    assert [item.text for item in beside.items] == [item.text for item in first.items]
    cold = write(temperature=1e-4, **options)
    assert {item.token for item in cold.items} == {int(lister().query(TOPIC).argmax())}


@pytest.mark.parametrize("form", ["plain", "quoted"])
def test_a_list_that_is_written_on_has_no_item_twice(form: str) -> None:
    one = writer(form=form, name="no_repeat", reg=False, items=7)
    for listing in one.write([TOPIC, OTHER], 0):
        written = [item.text for item in listing.items if item.text]
        assert len(listing.items) == 7 and len({*written}) == len(written)


def test_without_ngrams_a_list_that_is_written_on_is_greedy() -> None:
    one = writer(name="no_repeat", reg=False, items=3, ngram=9)
    model, items = one.lister.model.language_model, list[str]()
    for item in one.write([TOPIC], 0)[0].items:
        prompt, ids = one.lister.ids(TOPIC, [text for text in items if text]), list[int]()
        while len(ids) < 4 and not (ids and one.lister.stops[ids[-1]]):
            logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, -1]
            logits[torch.from_numpy(one.lister.stops)] -= 1e9 * (not ids)  # an item has a token
            ids.append(int(logits.argmax()))
        assert item.text == one.lister.text(ids)
        items.append(item.text)


def test_a_list_ends_where_the_context_does_and_no_other_does() -> None:
    for options in ({"n_tol": 2}, {"name": "no_repeat", "reg": False}):
        long, short = (
            writer(items=40, **options).write([topic], 0)[0] for topic in (replace(TOPIC, instruction="a " * 50), TOPIC)
        )
        assert 0 < len(long.items) < len(short.items) < 40
        both = writer(items=40, **options).write([replace(TOPIC, instruction="a " * 50), TOPIC], 0)
        assert [len(each.items) for each in both] == [len(long.items), len(short.items)]


def test_prompts() -> None:
    assert prompt_text("Fruits:", ["fig", "red apple"], "plain") == "Fruits:\n1. fig\n2. red apple\n3."
    assert prompt_text("Fruits:", ["fig"], "quoted") == 'Fruits:\n\nAnswer:\n1. "fig"\n2. "'
    one = lister()
    first, writings = one.answer_tokens(TOPIC, "cat")
    assert one.texts[first].strip() in ("c", "cat", "ca") and first in writings
    assert {normalise(one.texts[each]) for each in writings} == {normalise(one.texts[first])}


def test_quoted_items_end_with_a_quote_or_say_nothing() -> None:
    one = lister(form="quoted")
    ids = one.tokenizer('red fox" and', add_special_tokens=False)["input_ids"]
    assert one.text(ids) == "red fox" and one.text(ids[:2]) == ""


def test_the_clusters_are_checked_against_the_vocabulary() -> None:
    from recipes.core.errors import UserError
    from recipes.decoding.icn.keys import vocabulary_clusters

    head = output_head(tiny("llama"))
    with pytest.raises(
        UserError, match=r"clusters.number=24, model=x: there are more clusters than the model's 23 tok"
    ):
        vocabulary_clusters(head, ClustersConfig(number=24), "model=x")
    assert len(vocabulary_clusters(head, ClustersConfig(number=4))) == 23
