"""Whatever is drafted, what comes out is what plain decoding gives."""

from typing import Any

import numpy as np
import pytest
import torch

from recipes.core.data.tasks.prompts import Prompt
from recipes.core.errors import UserError
from recipes.decoding.exactness import GreedyText, fit, greedy_texts, matches
from recipes.decoding.generations import CHOSEN
from recipes.decoding.speculation import DRAFTED, Nothing, Speculation, check_lengths, verify_with
from recipes.decoding.token_recycling.drafters import Matrix, NgramCache, PromptLookup
from recipes.decoding.token_recycling.method import Template, published_paths, smaller
from tests.decoding.conftest import VOCABULARY

MOST = 24


def prompt(*ids: int, name: str = "p") -> Prompt:
    return Prompt(name, "", np.array(ids, np.int32))


PROMPTS = [prompt(3, 4, 5, 3, 4, name="a"), prompt(7, name="b"), prompt(9, 2, 9, 2, 9, name="c")]


def drafters() -> dict[str, Any]:
    tree, small = Template(published_paths(), 4), Template(smaller(published_paths(), 6), 4)
    return {
        "nothing": Nothing(),
        "matrix": Matrix(tree, 4, VOCABULARY),
        "small": Matrix(small, 4, VOCABULARY, update="accepted", update_prefill=True),
        "lookup": PromptLookup(3, 5),
        "ngram": NgramCache(small, 4, VOCABULARY),
    }


@pytest.mark.parametrize("name", drafters())
def test_greedy_outputs_are_those_of_plain_decoding(model: Any, name: str) -> None:
    plain = greedy_texts(model, PROMPTS, [0], MOST)
    run = Speculation(model, drafters()[name], verify_with(0.0, torch.Generator()), [0], MOST)
    for each, text in zip(PROMPTS, plain, strict=True):
        one = run.generate(each)
        assert matches(one.ids, text) and len(one.ids) == len(text.ids)
        assert all(1 <= len(step.tokens) <= 7 for step in one.steps)
        kinds = [kind for step in one.steps for kind in step.kinds]
        assert len(kinds) == len(one.ids) and set(kinds) <= {DRAFTED, CHOSEN}
    if name == "nothing":
        assert {len(step.tokens) for step in one.steps} == {1}
    if name == "matrix":
        assert len(one.steps) < len(one.ids)  # a model that repeats itself is easy to draft for


def test_nlls_are_those_of_the_plain_model(model: Any) -> None:
    one = Speculation(model, drafters()["matrix"], verify_with(0.0, torch.Generator()), [0], MOST).generate(PROMPTS[0])
    ids = torch.tensor([[*PROMPTS[0].ids.tolist(), *one.ids]])
    plain = model.language_model(ids).logits[0].log_softmax(-1)
    start = len(PROMPTS[0].ids) - 1
    expected = [-float(plain[start + at, token]) for at, token in enumerate(one.ids)]
    np.testing.assert_allclose([nll for step in one.steps for nll in step.nlls], expected, atol=1e-4)


def test_a_text_ends_at_the_first_end_inside_a_step(model: Any) -> None:
    plain = greedy_texts(model, PROMPTS, [0], MOST)[2].ids
    end = plain[3]
    first = plain.index(end)
    run = Speculation(model, drafters()["matrix"], verify_with(0.0, torch.Generator()), [end], MOST)
    run.generate(PROMPTS[0])
    one = run.generate(PROMPTS[2])
    assert one.ids == plain[: first + 1]
    assert len([nll for step in one.steps for nll in step.nlls]) == first + 1


def test_sampled_outputs_have_the_distribution_of_the_model(model: Any) -> None:
    # The second token too, which drafts of the first decide about.
    logits = model.language_model(torch.tensor([PROMPTS[0].ids.tolist()])).logits[0, -1]
    first = (logits.double() / 1.5).softmax(-1)
    rows = torch.tensor([[*PROMPTS[0].ids.tolist(), token] for token in range(VOCABULARY)])
    second = (model.language_model(rows).logits[:, -1].double() / 1.5).softmax(-1)
    joint = (first[:, None] * second).flatten().numpy()
    counts, generator = np.zeros(VOCABULARY**2), torch.Generator().manual_seed(0)
    run = Speculation(model, Matrix(Template(smaller(published_paths(), 6), 4), 4, VOCABULARY),
                      verify_with(1.5, generator), [], 2)  # fmt: skip
    for _ in range(500):
        one, other = run.generate(PROMPTS[0]).ids
        counts[one * VOCABULARY + other] += 1
    assert fit(counts, joint).p > 1e-4


def test_a_near_tie_may_turn_and_nothing_else() -> None:
    plain = GreedyText([1, 2, 3, 4], [1.0, 1.0, 1e-4, 1.0])
    assert matches([1, 2, 3, 4], plain) and matches([1, 2, 9], plain)
    assert not matches([1, 9, 3, 4], plain) and not matches([1, 2, 3], plain) and not matches([1, 2, 3, 4, 5], plain)


def test_a_fit_finds_what_it_says_it_finds() -> None:
    probabilities, random = np.array([0.5, 0.25, 0.15, 0.1]), np.random.default_rng(0)
    good = fit(random.multinomial(4000, probabilities), probabilities)
    assert good.p > 0.01 and good.distance < 3 * good.expected
    shift = np.array([good.detects, -good.detects, 0, 0])
    found = sum(fit(random.multinomial(4000, probabilities + shift), probabilities).p < 1e-3 for _ in range(200))
    assert found > 170
    with pytest.raises(ValueError, match="probability 0"):
        fit(np.array([1, 1]), np.array([1.0, 0.0]))


def test_continuations_that_do_not_fit_are_refused(model: Any) -> None:
    with pytest.raises(UserError, match="5 tokens of the prompt and 124 new ones do not fit the context of 128"):
        check_lengths(PROMPTS, 124, model)
    check_lengths(PROMPTS, 123, model)
