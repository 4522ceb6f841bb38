"""Ranking by letters: worked numbers, prompts and answers, orders read in one forward and behind a cache."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from recipes.core.errors import UserError
from recipes.retrieval.letters.config import GENERATE, TOP, ReadingConfig
from recipes.retrieval.letters.losses import pair_agreement, rank_losses
from recipes.retrieval.letters.orders import kendall_tau, name_scores, order_of, visible
from recipes.retrieval.letters.prompts import Asked, LetterPrompts, name_forms, without_names
from recipes.retrieval.letters.reading import Work, generate, last_logits, order_lists
from recipes.retrieval.listwise import chat_frame, fitting
from recipes.retrieval.windows import slide, slide_together, windows
from tests.core import tokenizer_kinds
from tests.retrieval.conftest import PASSAGES, random_model

S = torch.tensor([[1.0, 3.0, 2.0]])
R = torch.tensor([[2, 1, 3]])
ASKED = Asked("animal that barks", list(PASSAGES.values()))


def letter_prompts(longest: int | None = None, **options: Any) -> LetterPrompts:
    return LetterPrompts(chat_frame(tokenizer_kinds.byte_level(False, False)), 300, longest, "model=x", **options)


def test_worked_losses_and_their_gradient() -> None:
    scores = S.clone().requires_grad_()
    loss = rank_losses(scores, R)
    assert loss.item() == pytest.approx(0.127759, abs=1e-6)
    assert float(rank_losses(S, R, "ranknet")) == pytest.approx(0.584484, abs=1e-6)
    assert float(rank_losses(torch.tensor([[2.0, 3.0, 1.0]]), R)) == pytest.approx(0.066268, abs=1e-6)
    loss.sum().backward()
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, torch.tensor([[-0.0355, -0.0357, 0.0711]]), atol=5e-5, rtol=0)
    assert float(pair_agreement(S, R)) == pytest.approx(2 / 3)
    assert float(pair_agreement(torch.ones(1, 3), R)) == 0.5


@pytest.mark.parametrize("name", ["ranknet_weighted", "ranknet", "lambdarank", "listnet"])
def test_rank_losses_by_brute_force(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 5, generator=draw, dtype=torch.float64)
    ranks = torch.tensor([[2, 5, 1, 4, 3], [3, 1, 2, 0, 0], [1, 0, 0, 0, 0]])
    got = rank_losses(scores, ranks, name)
    assert got.tolist() == pytest.approx([brute(scores[row], ranks[row], name) for row in range(3)])
    assert float(got[2]) == 0  # one passage has no order
    torch.testing.assert_close(rank_losses(scores + 7, ranks, name), got)  # a constant changes nothing
    full = scores[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: rank_losses(s, ranks[:1], name), (full,))


def brute(scores: torch.Tensor, ranks: torch.Tensor, name: str) -> float:
    """One list, pair by pair."""
    s = [float(value) for value, rank in zip(scores, ranks, strict=True) if rank]
    r = [int(rank) for rank in ranks if rank]
    n, gains = len(r), [(2.0 ** (len(r) - rank) - 1) / 2.0 ** len(r) for rank in r]
    if n < 2:
        return 0.0
    if name == "listnet":
        total, mass = sum(map(math.exp, gains)), sum(map(math.exp, s))
        return -sum(math.exp(g) / total * (v - math.log(mass)) for g, v in zip(gains, s, strict=True))
    place = {i: 1 + sum(other > s[i] for other in s) for i in range(n)}
    best = sum(gain / math.log2(1 + rank) for gain, rank in zip(gains, r, strict=True))
    terms = []
    for i, j in itertools.permutations(range(n), 2):
        if r[i] < r[j]:
            change = abs(gains[i] - gains[j]) * abs(1 / math.log2(1 + place[i]) - 1 / math.log2(1 + place[j])) / best
            weight = {"ranknet_weighted": 1 / (r[i] + r[j]), "ranknet": 1.0, "lambdarank": change}[name]
            terms.append(weight * math.log1p(math.exp(s[j] - s[i])))
    return sum(terms) / len(terms)


def test_what_a_server_says_of_a_next_token() -> None:
    # A to E are tokens 0 to 4; others lie between, so that of the best ten tokens three are letters: C, E, A.
    logits = torch.tensor([[2.0, -1.0, 4.0, 0.5, 3.0, *(2.9 - 0.1 * number for number in range(7)), -5.0]])
    forms = [[token] for token in range(5)]
    whole = order_of(name_scores(logits, forms)[0])
    seen = order_of(name_scores(visible(logits, 10), forms)[0])
    assert "".join("ABCDE"[place] for place in whole) == "CEADB"
    assert "".join("ABCDE"[place] for place in seen) == "CEABD"
    assert kendall_tau(whole, seen) == pytest.approx(0.8)
    assert order_of(name_scores(visible(logits, logits.shape[1]), forms)[0]) == whole
    assert order_of(name_scores(visible(logits, 0), forms)[0]) == [0, 1, 2, 3, 4]
    assert order_of(torch.zeros(4)) == [0, 1, 2, 3]
    assert kendall_tau([0, 1, 2], [2, 1, 0]) == -1 and kendall_tau([1, 0, 2], [1, 0, 2]) == 1


def test_windows_are_those_of_the_paper_and_none_is_left_out() -> None:
    assert windows(100, 20, 10) == [(start, start + 20) for start in range(80, -1, -10)]
    assert windows(25, 20, 10) == [(5, 25), (0, 15)]
    assert windows(10, 20, 10) == [(0, 10)]  # N = w - st, where the official code ranks nothing
    hidden = [7, 3, 9, 1, 0, 8, 2, 6, 5, 4, 11, 10]  # of each place its true rank

    def oracle(part: Any) -> list[int]:
        return sorted(range(len(part)), key=lambda at: hidden[part[at]])

    ranked = [hidden[number] for number in slide(12, 4, 2, oracle)]
    assert ranked[:2] == [0, 1] and sorted(ranked) == list(range(12))
    counts, asked = [5, 1, 12], list[int]()

    def order(numbers: Any, parts: Any) -> list[list[int]]:
        asked.append(len(numbers))
        return [oracle(part) for part in parts]

    assert slide_together(counts, 4, 2, order) == [slide(count, 4, 2, oracle) for count in counts]
    assert asked == [3, 2, 1, 1, 1]  # the n-th windows of all lists side by side


def test_names_are_tokens_and_answers_can_be_read_back() -> None:
    prompts = letter_prompts()
    decode = prompts.frame.reader.tokenizer.decode
    assert decode(prompts.tokens(3)) == "ABC"
    prompt = prompts.prompt(ASKED)
    assert decode(prompt).endswith("[") and all(f"[{letter}] " in decode(prompt) for letter in "ABCDE")
    for order in ([1, 0, 4, 2, 3], [0], [2, 1, 0]):
        answer = prompts.answer(order)
        assert prompts.places(answer, len(order)) == order and answer[-1] == prompts.frame.reader.tokenizer.eos_token_id
    assert decode(prompts.answer([1, 0])[:-1]) == "B] > [A]"
    numbers = letter_prompts(kind="numeric")
    assert decode(numbers.tokens(2)) == "12" and numbers.places(numbers.answer([1, 0]), 2) == [1, 0]
    assert without_names("see [A], [b] and [12]") == "see (A), [b] and [12]"
    assert without_names("see [A] and [12]", "numeric") == "see [A] and (12)"
    forms = name_forms(prompts.frame.reader, "AB", prompts.tokens(2))
    assert [row[0] for row in forms] == prompts.tokens(2)
    assert all(decode([token]).strip() == name for name, row in zip("AB", forms, strict=True) for token in row)


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(UserError, match="27 passages have no letter each: there are 26"):
        letter_prompts().tokens(27)
    with pytest.raises(UserError, match="5 passages of one word are .* context of 40 with the answer of"):
        letter_prompts(40).prompt(ASKED)
    whole = letter_prompts().prompt(ASKED)
    room = len(whole) + 10
    assert len(letter_prompts(room).prompt(ASKED)) + len(letter_prompts().answer(range(5))) <= room


def test_as_many_words_are_kept_as_fit_whatever_the_limit_was() -> None:
    lengths = [3, 4000, 7]
    asked = list[int]()

    def build(words: int) -> int:
        asked.append(words)
        return sum(min(length, words) for length in lengths)

    for limit in (500, 10**9):
        asked.clear()
        assert fitting(build, limit, 300, 3, "model=x") == 290 and len(asked) < 40
    assert fitting(build, 100, 300, 3, "model=x") == 100
    assert fitting(build, 500, 300, 3, "model=x", kept=10) == 280 and fitting(build, 9, 3, 3, "model=x") == 1
    long = Asked("animal", [("", "animal " * 4000), *PASSAGES.values()])
    room = len(letter_prompts().prompt(ASKED)) + 200
    few, many = (replace(letter_prompts(room), words=words).prompt(long) for words in (300, 10**9))
    assert few == many and 0 <= room - len(many) - len(letter_prompts().answer(range(6))) < 6


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_one_forward_and_a_cache_say_the_same(kind: str) -> None:
    prompts = letter_prompts()
    model = random_model(kind, len(prompts.frame.reader.tokenizer))
    rows = [prompts.prompt(ASKED), prompts.prompt(Asked("tree", ASKED.passages[:3]))]
    logits = last_logits(model, rows)
    for row, ids in enumerate(rows):
        whole = model(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(logits[row], whole, atol=1e-4, rtol=1e-4)
    answers = generate(model, prompts, rows, [6, 3])
    for ids, answer, most in zip(rows, answers, (6, 3), strict=True):
        text = list(ids)
        for token in answer:
            assert token == int(model(torch.tensor([text])).logits[0, -1].argmax())
            text.append(token)
        assert len(answer) == most or answer[-1] == prompts.frame.reader.tokenizer.eos_token_id


def test_forwards_are_counted() -> None:
    prompts = letter_prompts()
    model = random_model("llama", len(prompts.frame.reader.tokenizer))
    lists = [ASKED, Asked("tree", ASKED.passages[:2]), Asked("one", ASKED.passages[:1])]
    once = order_lists(model, prompts, lists, ReadingConfig(), 20, 10, 2)
    assert [(each.work.prefills, each.work.decode_steps) for each in once] == [(1, 0), (1, 0), (0, 0)]
    assert [sorted(each.order) for each in once] == [list(range(5)), [0, 1], [0]]
    small = order_lists(model, prompts, lists, ReadingConfig(), 2, 1, 2)
    assert [each.work.prefills for each in small] == [4, 1, 0]
    everything = ReadingConfig(decode=TOP, visible=len(prompts.frame.reader.tokenizer), letter_merge="max")
    merged = ReadingConfig(letter_merge="max")
    same = [order_lists(model, prompts, lists, reading, 20, 10, 2) for reading in (everything, merged)]
    assert [each.order for each in same[0]] == [each.order for each in same[1]]
    nothing = order_lists(model, prompts, lists, ReadingConfig(decode=TOP, visible=0), 20, 10, 2)
    assert [each.order for each in nothing] == [list(range(5)), [0, 1], [0]]
    written = order_lists(model, prompts, lists, ReadingConfig(decode=GENERATE), 20, 10, 2)
    assert all(
        sorted(each.order) == list(range(len(asked.passages))) for each, asked in zip(written, lists, strict=True)
    )
    assert written[0].work.malformed == 1 and written[0].work.decode_steps > 0 and written[2].work == Work()
