"""The mathematics of `sar` on worked numbers, and its answers beside a plain forward of the same model."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.attribution.sar import method
from recipes.attribution.sar.answers import Answer, Asking, Reading, choose
from recipes.attribution.sar.config import RelevanceConfig, UncertaintyConfig
from recipes.attribution.sar.facts import pairs
from recipes.attribution.sar.questions import Question, contains, is_right, repeats
from recipes.attribution.sar.relevance import (
    copied_tokens,
    likeness,
    stop_tokens,
    token_relevance,
    token_weights,
    without_each,
)
from recipes.attribution.sar.scoring import Evidence, rouge, uncertainties, uncertainty
from recipes.core.errors import UserError
from recipes.core.models.kv_cache import KVCache
from recipes.core.models.vision_language import TextModel
from tests.core import tokenizer_kinds

NLLS = [np.array(row) for row in ([0.2, 1.5, 0.1], [0.4, 0.3], [2.0])]
RELEVANCE = [np.array(row) for row in ([0.6, 0.1, 0.3], [0.5, 0.5], [0.0])]
LIKE = np.array([[1, 0.9, 0.2], [0.9, 1, 0.3], [0.2, 0.3, 1]])
T = 1e-3


def draws(seed: int, samples: int = 5) -> tuple[list[np.ndarray], np.ndarray]:
    random = np.random.default_rng(seed)
    like = random.random((samples, samples))
    return [random.exponential(2, random.integers(1, 9)) for _ in range(samples)], (like + like.T) / 2


def test_the_worked_example_of_the_specification() -> None:
    weights = [method.normalised(row) for row in RELEVANCE]
    tokens = method.token_sar(NLLS, weights)
    assert method.sums(NLLS) == pytest.approx([1.8, 0.7, 2.0])
    assert method.means(NLLS) == pytest.approx([0.6, 0.35, 2.0])
    assert tokens == pytest.approx([0.30, 0.35, 2.0]) and tokens.mean() == pytest.approx(0.883333, abs=1e-6)
    sentences = method.shifted(method.sums(NLLS), LIKE, T)
    assert sentences == pytest.approx([-6.161543, -5.246319, -5.204944], abs=1e-6)
    assert sentences.mean() == pytest.approx(-5.537602, abs=1e-6)
    both = method.shifted(tokens, LIKE, T)
    assert both == pytest.approx([-6.495307, -6.562503, -5.885285], abs=1e-6)
    assert both.mean() == pytest.approx(-6.314365, abs=1e-6)
    means, clusters = method.means(NLLS), np.array([0, 0, 1])
    assert method.semantic_entropy(means, clusters, "cluster") == pytest.approx(0.887030, abs=1e-6)
    assert method.semantic_entropy(means, clusters, "sample") == pytest.approx(0.516040, abs=1e-6)


def test_the_figure_of_the_paper() -> None:
    nlls, weights = np.array([0.238, 6.528, 0.966, 0.008]), np.array([0.757, 0.057, 0.097, 0.088])
    assert method.means([nlls])[0] == pytest.approx(1.935)
    assert method.token_sar([nlls], [weights])[0] == pytest.approx(0.6467, abs=1e-4)  # the paper prints .650


@pytest.mark.parametrize("seed", range(3))
def test_invariants(seed: int) -> None:
    nlls, like = draws(seed)
    uniform = [method.normalised(np.zeros(len(row))) for row in nlls]
    sums, means = method.sums(nlls), method.means(nlls)
    np.testing.assert_allclose(method.token_sar(nlls, uniform), means, atol=1e-12)
    assert method.shifted(sums[:1], np.ones((1, 1)), T) == pytest.approx(sums[:1])  # one sample
    np.testing.assert_allclose(method.shifted(sums, np.eye(5), T), sums)  # nobody agrees
    np.testing.assert_allclose(method.shifted(np.full(5, 2.0), np.ones((5, 5)), T), 2 - np.log(1 + 4 / T))
    np.testing.assert_allclose(method.shifted(sums + 3, like, T), method.shifted(sums, like, T) + 3)
    order = np.random.default_rng(seed).permutation(5)
    shuffled = method.shifted(sums[order], like[np.ix_(order, order)], T)
    np.testing.assert_allclose(shuffled, method.shifted(sums, like, T)[order])
    more = like.copy()
    more[0, 1] += 0.5
    assert method.shifted(sums, more, T)[0] < method.shifted(sums, like, T)[0]
    direct = np.exp(-sums) + (like * (1 - np.eye(5)) * np.exp(-sums)[None]).sum(1) / T
    np.testing.assert_allclose(method.shifted(sums, like, T), -np.log(direct), atol=1e-9)
    assert np.isfinite(method.shifted(sums + 2000, like, T)).all()
    with np.errstate(divide="ignore"):
        assert np.isinf(-np.log(np.exp(-np.float32(110.0))))  # what the direct form would do


def answer(text: str, nlls: Sequence[float] = (1.0,)) -> Answer:
    return Answer(tuple(range(len(nlls))), np.array(nlls), text)


def test_clusters_compare_with_the_first_member_in_sampling_order() -> None:
    near = [[abs(one - other) <= 1 for other in range(4)] for one in range(4)]
    assert method.meanings(4, lambda one, other: near[one][other]).tolist() == [0, 0, 1, 1]
    texts = [answer("It is Rome"), answer("it is róme!"), answer("It is Oslo")]
    exact = uncertainty(UncertaintyConfig(method="se"), Evidence(texts))
    assert exact == pytest.approx(-np.mean([np.log(2) - 1, -1]))
    vectors = np.array([[1.0, 0.0], [0.95, np.sqrt(1 - 0.95**2)], [0.0, 1.0]])
    embed = UncertaintyConfig(method="se", cluster="embed")
    assert uncertainty(embed, Evidence(texts, vectors=vectors)) == pytest.approx(exact)
    # Identical answers are the most similar ones: the sign that the official code lacks.
    assert uncertainty(UncertaintyConfig(method="ls"), Evidence(texts[:1] * 3)) == -1
    assert rouge(["the cat sat", "the cat ran"])[0, 1] == pytest.approx(2 / 3)


def test_a_score_that_is_no_number_names_its_question() -> None:
    with pytest.raises(UserError, match="no number") as raised:
        uncertainties(UncertaintyConfig(method="pe"), [Evidence([answer("a", [np.nan])])], ["question-7"])
    assert "question-7" in str(raised.value.where)


@pytest.fixture(scope="module")
def reading() -> Reading:
    return Reading(tokenizer_kinds.byte_level(), (".", "Q:", "A:"))


def cut(text: str, reading: Reading) -> Answer:
    ids = tuple(reading.tokenizer(text, add_special_tokens=False)["input_ids"])
    return Answer(ids, np.ones(len(ids)), reading.text(ids))


def letters(texts: Sequence[str]) -> torch.Tensor:
    """Vectors of texts that count letters, of length 1."""
    counts = torch.tensor([[float(text.count(chr(97 + letter))) for letter in range(26)] for text in texts])
    return torch.nn.functional.normalize(counts + 1e-3, dim=-1)


def test_one_position_is_left_out_and_no_other(reading: Reading) -> None:
    twice = cut("the cat the cat", reading)
    texts = without_each(twice, reading)
    assert len(texts) == len(twice.ids) > 3
    first, rest = twice.ids[0], twice.ids[1:]
    assert texts[0] == reading.text(rest) != "" and first in rest + (first,)
    assert all(text.count("cat") >= 1 for text in texts)  # a string `replace` would leave none


def test_relevance_is_what_is_lost(reading: Reading) -> None:
    question = Question("q", "where is the cat", ("tree",), "tree")
    whole, single, empty = cut("the cat sat on a tree", reading), cut("a", reading), Answer((3,), np.array([2.0]), "")
    answered = [(question, [whole, single, empty])]
    rows, alone, nothing = token_relevance(answered, reading, letters, True)[0]
    texts = without_each(whole, reading)
    vectors = letters([f"{question.text} {text}" for text in (whole.text, *texts)]).double()
    assert rows == pytest.approx((1 - (vectors[1:] @ vectors[0]).abs()).numpy(), abs=1e-6) and (rows >= 0).all()
    assert alone.tolist() == nothing.tolist() == [1.0]  # one token: tokenSAR is PE is LN-PE
    other = token_relevance(answered, reading, letters, False)[0][0]
    assert not np.allclose(rows, other)
    like = likeness(answered, letters, True)[0]
    assert (like == like.T).all() and (np.diag(like) == 1).all() and ((like >= 0) & (like <= 1)).all()


def test_weights_of_controls(reading: Reading) -> None:
    question = Question("q", "where is the cat", ("tree",), "tree")
    whole = cut("the cat sat on a tree", reading)
    answered = [(question, [whole, whole])]

    def weights(**keys: str) -> list[np.ndarray]:
        return token_weights(RelevanceConfig(**keys), answered, reading, letters, 0)[0]

    copied, stops = copied_tokens(question, whole, reading), stop_tokens(whole, reading)
    assert 0 < copied.sum() < len(copied) and 0 < stops.sum() < len(stops)
    plain, uniform, stopword = weights()[0], weights(weights="uniform")[0], weights(weights="stopword")[0]
    assert (uniform == 1 / len(uniform)).all()
    assert (stopword[stops] == 0).all() and np.ptp(stopword[~stops]) == 0
    zero = weights(copied="zero")[0]
    assert (zero[copied] == 0).all() and zero[~copied] == pytest.approx(plain[~copied] / plain[~copied].sum())
    one, other = weights(weights="shuffled")
    assert sorted(one) == pytest.approx(sorted(plain)) and one.tolist() != other.tolist()
    everything = [(Question("q", "the cat sat on a tree", ("x",), "x"), [whole])]
    row = token_weights(RelevanceConfig(copied="zero"), everything, reading, letters, 0)[0][0]
    assert row == pytest.approx(np.full(len(row), 1 / len(row)))  # nothing is left: equal weights


@pytest.mark.parametrize(
    ("text", "says", "over"),
    [
        (" It is Rome. So", "It is Rome", True),
        ("\n Rome\nmore", "Rome", True),
        (" Havana a: b", "Havana", True),
        (" Havana: b", "Havana: b", False),  # a stop that begins with a letter begins a word
        (" Rome q: x", "Rome", True),
        (".", "", True),
        (" Rome", "Rome", False),
    ],
)
def test_where_answers_end(text: str, says: str, over: bool, reading: Reading) -> None:
    ids = reading.tokenizer(text, add_special_tokens=False)["input_ids"]
    kept = ids[: reading.answer_tokens(ids)]
    assert (reading.text(ids), reading.text(kept), reading.is_over(ids)) == (says, says, over)
    assert not over or len(kept) < len(ids)


def test_a_character_of_several_tokens_is_one_of_each(reading: Reading) -> None:
    word = "x\N{LATIN SMALL LETTER E WITH ACUTE}\u6771"  # two bytes and three
    ids = reading.tokenizer(f" {word}. So", add_special_tokens=False)["input_ids"]
    kept = ids[: reading.answer_tokens(ids)]
    assert reading.text(kept) == word and len(kept) >= 6
    whole = Answer(tuple(kept), np.ones(len(kept)), reading.text(kept))
    question = Question("q", f"is it {word}", ("a",), "a")
    assert copied_tokens(question, whole, reading)[-5:].all() and not stop_tokens(whole, reading)[-5:].any()


def test_a_token_is_drawn_at_the_temperature_and_scored_at_one() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]]).repeat(4000, 1)
    uniform = np.random.default_rng(0).random(4000)
    tokens, nlls = choose(logits, uniform, 0.5)
    shares = np.bincount(tokens.numpy(), minlength=3) / 4000
    assert shares == pytest.approx((logits[0] / 0.5).softmax(-1).numpy(), abs=0.02)
    torch.testing.assert_close(nlls, -logits[0].log_softmax(-1)[tokens])
    assert choose(logits[:1], None, 0.5)[0].tolist() == [0] and choose(logits[:1], [0.9999999], 0.5)[0].tolist() == [2]


def test_answers_have_the_nll_of_a_plain_forward(reading: Reading) -> None:
    tokenizer = reading.tokenizer
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **shape)
    model = TextModel(LlamaForCausalLM(settings)).eval()
    prompts = [np.array(tokenizer(text)["input_ids"], np.int32) for text in ("the cat sat", "the cat ran far", "a")]
    ids = ["one", "two", "three"]

    def ask(samples: int, seed: int | None, which: Sequence[int] = (0, 1, 2)) -> list[list[Answer]]:
        asking = Asking(lambda: model, reading, 0.7, 6, "model=tiny", "cpu")
        key = ["tiny", [float(parameter.detach().sum()) for parameter in model.parameters()]]
        return asking.answers_once(key, [ids[at] for at in which], [prompts[at] for at in which], samples, seed)

    sampled = ask(3, 1)
    assert any(len(one.ids) > 2 for row in sampled for one in row)
    for prompt, row in zip(prompts, sampled, strict=True):
        for one in row:
            whole = torch.tensor([[*prompt.tolist(), *one.ids]])
            with torch.no_grad():
                logprobs = model.language_model(whole).logits[0].log_softmax(-1)
            targets = whole[0, len(prompt) :]
            expected = -logprobs[len(prompt) - 1 : -1].gather(1, targets[:, None])[:, 0]
            np.testing.assert_allclose(one.nlls, expected.numpy(), atol=1e-4)
    texts = [[one.ids for one in row] for row in sampled]
    assert [[one.ids for one in row] for row in ask(2, 1)] == [row[:2] for row in texts]  # first answers stay
    assert [[one.ids for one in row] for row in ask(3, 1, (1, 0))] == [texts[1], texts[0]]  # whoever is asked beside
    assert [[one.ids for one in row] for row in ask(3, 2)] != texts
    [greedy] = ask(1, None)[0]
    KVCache(model.language_model)  # compares logits once, and would refuse what follows
    with torch.no_grad():
        assert greedy.ids[0] == int(model.language_model(torch.tensor([prompts[0].tolist()])).logits[0, -1].argmax())
        model.language_model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="no probability") as raised:
        ask(1, 3)
    assert "question" in str(raised.value.where)


def test_right_answers_are_whole_words() -> None:
    assert contains("It is in Niger.", "niger") and not contains("It is in Nigeria", "Niger")
    assert (
        contains("São Tomé", "sao tome") and contains("日本の首都は東京です", "東京") and not contains("Roman", "Oman")
    )
    question = Question("q", "What is the capital of Malta?", ("Valletta", "La Valletta"), "x")
    assert is_right(question, "it is la valletta") and not is_right(question, "Malta")
    assert (
        repeats(question, "The capital of Malta is Malta")
        and not repeats(question, "Valletta")
        and repeats(question, "")
    )
    text = ": one\na b c d\nc d New_York e\n: two\nx y z w\n"
    assert pairs(text, "one") == [("a", "b"), ("c", "d"), ("New York", "e")] and pairs(text, "three") == []
