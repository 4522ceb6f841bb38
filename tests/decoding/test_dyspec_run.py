"""`dyspec` with models: what the draft model reads, whole texts, and runs from config to report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.data.tasks.prompts import Prompt
from recipes.core.errors import UserError
from recipes.core.models.vision_language import TextModel
from recipes.core.runs.records import final_metrics
from recipes.decoding.dyspec.draft import Draft, grow_by_heap, grow_by_layers, likeliest, without_replacement
from recipes.decoding.dyspec.drafters import DraftModel, TreeDrafter
from recipes.decoding.dyspec.verification import multi_round
from recipes.decoding.exactness import fit, greedy_texts, matches
from recipes.decoding.speculation import Speculation, verify_with
from tests.decoding.conftest import VOCABULARY, tiny

PROMPTS = [Prompt(str(at), "", np.array(ids, np.int32)) for at, ids in enumerate([[3, 4, 5, 3, 4], [7], [9, 2, 9]])]
SMOKE = (
    "budget=smoke",
    "tracker=none",
    "trainer.threads=1",
    "model.steps=8",
    "draft.steps=4",
    "model.characters=20000",
)
TINY = ("data.limit=2", "generation.max_new_tokens=8", "tree.nodes=6", "tree.calibration=2")


def heap(draft: Draft) -> None:
    grow_by_heap(draft, 8, lambda share: share)


def layers(draft: Draft) -> None:
    grow_by_layers(draft, 12, 0.05, lambda share: share)


def drafter(
    model: Any, grow: Callable[[Draft], None] = heap, *, temperature: float = 1.0, seed: int = 0
) -> TreeDrafter:
    draft = DraftModel(model, VOCABULARY, temperature)
    return TreeDrafter(draft, lambda chances, random: without_replacement(chances, 8, random), grow, [0], seed)


@pytest.mark.parametrize("grow", [heap, layers])
def test_every_node_is_read_as_on_its_own_path(model: Any, grow: Callable[[Draft], None]) -> None:
    small, text = model.language_model, [3, 4]
    one = drafter(small, grow, temperature=0.4)
    one.begin(text, torch.zeros(0))
    for _ in range(3):  # the cache goes on from step to step
        tree = one.draft(text, 9)
        assert len(tree.draft.draws) > 2
        for node, draws in tree.draft.draws.items():
            path = [*text[:-1], *tree.ids[tree.shape.path(node)].tolist()]
            plain = (small(torch.tensor([path])).logits[0, -1].double() / 0.4).softmax(-1)
            torch.testing.assert_close(draws.probabilities, plain, atol=1e-4, rtol=0)
        accepted = tree.shape.path(len(tree.shape) - 1)  # its last node was not read
        one.learn(tree, torch.zeros(0), accepted, 7)
        text += [*tree.ids[accepted[1:]].tolist(), 7]


@pytest.mark.parametrize("grow", [heap, layers])
@pytest.mark.parametrize("same", [True, False])
def test_greedy_outputs_are_those_of_plain_decoding(model: Any, grow: Callable[[Draft], None], same: bool) -> None:
    kind = "llama" if "Llama" in type(model.language_model).__name__ else "gpt2"
    one = drafter(model.language_model if same else tiny(kind, seed=5), grow, temperature=0.5)
    run = Speculation(model, one, verify_with(0.0, torch.Generator()), [0], 20)
    for each, plain in zip(PROMPTS, greedy_texts(model, PROMPTS, [0], 20), strict=True):
        result = run.generate(each)
        assert matches(result.ids, plain) and len(result.ids) == len(plain.ids)
        assert all(step.read <= 13 for step in result.steps)
    assert len(one.calls) == 3 and all(one.calls) and len(one.drawn) > 5
    if same:
        assert len(result.steps) < len(result.ids)


def test_a_draft_of_temperature_0_is_a_chain_that_its_own_model_accepts(model: Any) -> None:
    one = drafter(model.language_model, temperature=0.0)
    run = Speculation(model, one, verify_with(0.0, torch.Generator()), [0], 18)
    result = run.generate(PROMPTS[0])
    assert result.ids == greedy_texts(model, PROMPTS[:1], [0], 18)[0].ids
    assert len(result.steps) == -(-len(result.ids) // 9)  # eight drafts and one more token a step
    assert one.calls[0] <= len(result.ids)


def test_sampled_outputs_have_the_distribution_of_the_target() -> None:
    model, text = TextModel(tiny("llama")), [3, 4, 5]
    first = (model.language_model(torch.tensor([text])).logits[0, -1].double() / 1.5).softmax(-1)
    counts, generator = np.zeros(VOCABULARY), torch.Generator().manual_seed(0)
    one = drafter(tiny("llama", seed=5), lambda draft: grow_by_heap(draft, 3, lambda share: share), temperature=0.7)
    run = Speculation(model, one, multi_round(1.5, generator), [], 2)
    for _ in range(400):
        counts[run.generate(Prompt("p", "", np.array(text, np.int32))).ids[0]] += 1
    result = fit(counts, first.numpy())
    assert result.p > 1e-4 and result.detects < 0.17
    assert len({*one.drawn}) > 20


def test_draws_of_a_seed_are_the_same_and_of_another_are_not(model: Any) -> None:
    shapes = []
    for seed in (0, 0, 1):
        one = drafter(model.language_model, seed=seed)
        one.begin([3, 4], torch.zeros(0))
        shapes.append(one.draft([3, 4], 9).ids.tolist())
    assert shapes[0] == shapes[1] != shapes[2]


def test_rows_of_a_larger_or_smaller_head_are_no_tokens(model: Any) -> None:
    small = DraftModel(model.language_model, VOCABULARY + 3, 1.0)
    assert small.distributions(torch.zeros(1, VOCABULARY))[0].tolist() == pytest.approx([1 / 23] * 23 + [0] * 3)
    large = DraftModel(model.language_model, VOCABULARY - 3, 1.0)
    assert large.distributions(torch.zeros(2, VOCABULARY)).shape == (2, 20)
    cold = DraftModel(model.language_model, VOCABULARY, 0.0)
    assert cold.distributions(torch.arange(23.0)[None])[0].tolist() == [0.0] * 22 + [1.0]
    assert likeliest(cold.distributions(torch.arange(23.0)[None])[0], 4).tokens == [22]


def composed(tmp_path: Path, *words: str) -> Any:
    return compose.compose("dyspec", [*SMOKE, *TINY, *words, f"outputs={tmp_path}"])


def test_a_run_writes_generations_and_what_drafting_cost(tmp_path: Path) -> None:
    metrics, arms = (
        {},
        ("dynamic", "chain", "threshold", "sequoia", "calibrated", "kary", "k_seq", "eagle2_like", "none"),
    )
    for arm in arms:
        outcome = runner.run(composed(tmp_path, f"arm={arm}"), False, "steelyard run dyspec", page=arm == "dynamic")
        metrics[arm] = final_metrics(outcome.folder)
        lines = [json.loads(line) for line in (outcome.folder / "generations.jsonl").read_text("utf-8").splitlines()]
        assert [sum(line["steps"]) for line in lines] == [len(line["ids"]) for line in lines] == [8, 8]
        assert metrics[arm]["matches_greedy"] == 1 and metrics[arm]["read_per_step"] <= 7
        if arm == "dynamic":
            plots = json.loads((outcome.folder / "plots.json").read_text("utf-8"))["plots"]
            assert "calibration" in {plot["name"] for plot in plots}
    assert len({round(each["nll"], 4) for each in metrics.values()}) == 1  # one output, whoever drafts
    assert metrics["none"]["draft_calls_per_step"] == 0 and metrics["none"]["tokens_per_step"] == 1
    assert 0 < metrics["threshold"]["draft_calls_per_step"] < metrics["chain"]["draft_calls_per_step"] <= 6
    assert metrics["dynamic"]["draft_calls_per_step"] <= 6
    assert 0 <= metrics["dynamic"]["draw_share"] <= 1


def test_sampled_arms_run_and_are_the_same_for_a_seed(tmp_path: Path) -> None:
    texts = []
    for number, arm in enumerate(("dynamic_sampled", "dynamic_sampled", "sequoia_sampled")):
        outcome = runner.run(composed(tmp_path / str(number), f"arm={arm}"), False, "", page=False)
        texts.append((outcome.folder / "generations.jsonl").read_text("utf-8"))
        assert "matches_greedy" not in final_metrics(outcome.folder)
    ids = [[json.loads(line)["ids"] for line in text.splitlines()] for text in texts]
    assert ids[0] == ids[1]


def test_a_target_of_the_user_needs_a_draft_model(tmp_path: Path) -> None:
    words = ["model=smollm2-135m", f"outputs={tmp_path}"]
    with pytest.raises(UserError, match="is missing; name a smaller model with the target's tokenizer"):
        compose.compose("dyspec", words)
