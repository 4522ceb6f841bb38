"""What is learnt of lists: losses over micro-batches, the teacher's ranks, and a list learnt by heart."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from recipes.core.errors import UserError
from recipes.core.models.vision_language import TextModel
from recipes.core.search.collection import Passages, Queries
from recipes.core.search.rankings import by_scores
from recipes.retrieval.letters.config import GENERATE, ReadingConfig, TuningConfig
from recipes.retrieval.letters.lists import ListItems, RankedList, list_collate, ranks_of, teach
from recipes.retrieval.letters.losses import rank_losses
from recipes.retrieval.letters.objective import Listwise, list_scores
from recipes.retrieval.letters.prompts import Asked
from recipes.retrieval.letters.reading import last_logits, order_lists
from tests.retrieval.conftest import PASSAGES, random_model
from tests.retrieval.test_letters import letter_prompts

LISTS = [
    RankedList("q1", Asked("animal that barks", list(PASSAGES.values())), [2, 1, 4, 5, 3]),
    RankedList("q2", Asked("tree with needles", list(PASSAGES.values())[2:]), [2, 1, 3]),
    RankedList("q3", Asked("machine", list(PASSAGES.values())[3:]), [2, 1]),
]
PROMPTS = letter_prompts()
ITEMS = ListItems(LISTS, PROMPTS)
NAMES = PROMPTS.tokens(5)


def language_model() -> TextModel:
    return TextModel(random_model("llama", len(PROMPTS.frame.reader.tokenizer))).requires_grad_(True)


def loss_of(objective: Listwise, model: TextModel, parts: list[list[int]]) -> torch.Tensor:
    batches = [list_collate([ITEMS[index] for index in part]) for part in parts]
    normalizer = torch.stack([objective.normalizer(batch) for batch in batches]).sum()
    return torch.stack([objective(model, batch, normalizer)[0] for batch in batches]).sum()


def by_hand(model: TextModel, coefficient: float, name: str) -> float:
    """The loss from the model's logits over whole texts, list by list."""
    total = 0.0
    for index, each in enumerate(LISTS):
        prompt, answer = ITEMS.prompts[index], ITEMS.answers[index]
        logits = model.language_model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].detach()
        lm = float(functional.cross_entropy(logits, torch.tensor(answer)))
        scores = logits[0, NAMES[: len(each.ranks)]]
        total += lm + coefficient * float(rank_losses(scores[None], torch.tensor([each.ranks]), name))
    return total / len(LISTS)


@pytest.mark.parametrize("name", ["ranknet_weighted", "ranknet", "lambdarank", "listnet"])
def test_micro_batches_are_the_whole_batch_and_the_whole_is_the_formula(name: str) -> None:
    model = language_model()
    objective = Listwise(TuningConfig(rank_loss=name, coefficient=3.0), NAMES, 10)
    whole, parts = loss_of(objective, model, [[0, 1, 2]]), loss_of(objective, model, [[0], [1, 2]])
    assert float(whole.detach()) == pytest.approx(by_hand(model, 3.0, name), rel=1e-5)
    weights = list(model.parameters())
    for one, other in zip(torch.autograd.grad(whole, weights), torch.autograd.grad(parts, weights), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_a_coefficient_of_zero_is_the_loss_of_written_orders() -> None:
    model = language_model()
    parts = [[0, 1, 2]]
    none = loss_of(Listwise(TuningConfig(coefficient=0.0), NAMES, 10), model, parts)
    generation = loss_of(Listwise(TuningConfig(objective="generation"), NAMES, 10), model, parts)
    ranking = loss_of(Listwise(TuningConfig(objective="ranking"), NAMES, 10), model, parts)
    both = loss_of(Listwise(TuningConfig(), NAMES, 10), model, parts)
    assert float(none.detach()) == float(generation.detach())
    assert float(both.detach()) == pytest.approx(float((generation + ranking).detach()), rel=1e-6)


def test_the_rank_loss_sets_in_where_it_is_to() -> None:
    model = language_model()
    late = Listwise(TuningConfig(rank_from=0.5), NAMES, 10)
    plain = float(loss_of(Listwise(TuningConfig(objective="generation"), NAMES, 10), model, [[0]]).detach())
    seen = []
    for step in range(10):
        late.before_step(step, model, [])
        seen.append(float(loss_of(late, model, [[0]]).detach()) == plain)
    assert seen == [True] * 5 + [False] * 5


def test_a_list_learnt_by_heart_is_written_and_read_alike() -> None:
    model = language_model()
    objective = Listwise(TuningConfig(), NAMES, 150)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = list_scores(model, ITEMS, NAMES, 2, "cpu").overall()
    for _ in range(150):
        optimizer.zero_grad()
        loss_of(objective, model, [[0, 1, 2]]).backward()
        optimizer.step()
    after = list_scores(model, ITEMS, NAMES, 2, "cpu").overall()
    assert after["rank_loss"] < before["rank_loss"] / 4 and after["pair_agreement"] == 1 and after["letter_mass"] > 0.9
    assert after["answer_nll"] < before["answer_nll"] / 4
    asked = [each.asked for each in LISTS]
    for decode in ("first_logit", GENERATE):
        read = order_lists(model.language_model, PROMPTS, asked, ReadingConfig(decode=decode), 20, 10, 2)
        assert [each.order for each in read] == [each.order for each in LISTS]
    for each, lists, answer in zip(read, LISTS, ITEMS.answers, strict=True):
        count = len(lists.ranks)
        assert each.work.malformed == 0 and each.work.prefills == 1
        assert each.work.decode_steps == len(answer) - 1 >= 4 * count - 3
    # The first letter that it writes is that of the largest logit.
    logits = last_logits(model.language_model, ITEMS.prompts)[:, NAMES]
    assert logits.argmax(1).tolist() == [each.order[0] for each in read]


def test_a_teacher_puts_what_is_relevant_first() -> None:
    assert ranks_of([0, 2, 0, 1], [0.9, 0.1, 0.5, 0.8]) == [3, 1, 4, 2]
    assert ranks_of([0, 0, -1], [0.5, 0.5, 0.5]) == [1, 2, 3]


def test_a_run_of_somebody_else_teaches(tmp_path: Any) -> None:
    names = list(PASSAGES)
    passages = Passages(names, *map(list, zip(*PASSAGES.values(), strict=True)))
    queries = Queries(["q1", "q2"], ["animal", "tree"], [{0: 1}, {3: 1}])
    rankings = [by_scores([0, 1, 2], [3, 2, 1]), by_scores([4], [1])]
    path = tmp_path / "gpt.trec"
    path.write_text("q1 Q0 oak 1 9 gpt\nq1 Q0 dog 2 8 gpt\nq2 Q0 pine 1 3 gpt\n")
    (taught,) = teach(TuningConfig(teacher="run", path=str(path)), queries, passages, rankings, "cpu")
    assert taught.id == "q1" and taught.order == [2, 1, 0]  # what the run lacks stands behind it
    assert np.array_equal(taught.ranks, [3, 2, 1])
    path.write_text("q2 Q0 pine 1 3 gpt\n")
    with pytest.raises(UserError, match="no query has 2 candidates and an order of them"):
        teach(TuningConfig(teacher="run", path=str(path)), queries, passages, rankings, "cpu")


def test_a_run_that_ranks_no_candidate_teaches_nothing(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = list(PASSAGES)
    passages = Passages(names, *map(list, zip(*PASSAGES.values(), strict=True)))
    queries = Queries(["q1", "q2", "q3"], ["animal", "tree", "car"], [{0: 1}, {3: 1}, {4: 1}])
    rankings = [by_scores([0, 1], [2, 1]), by_scores([2, 3], [2, 1]), by_scores([4, 0], [2, 1])]
    path = tmp_path / "gpt.trec"
    path.write_text("q1 Q0 dog 1 9 gpt\nq3 Q0 oak 1 9 gpt\n")  # nothing for q2, no candidate of q3
    (taught,) = teach(TuningConfig(teacher="run", path=str(path)), queries, passages, rankings, "cpu")
    assert taught.id == "q1" and taught.order == [1, 0]
    assert "2 of 3 queries have no 2 candidates, or no order of the teacher" in capsys.readouterr().err
