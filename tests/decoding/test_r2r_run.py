"""`r2r` with models: texts that two of them write, labels, and runs from config to report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.models.head import output_head
from recipes.core.models.vision_language import TextModel
from recipes.core.runs.records import final_metrics
from recipes.core.scoring.score import score
from recipes.core.scoring.statistics import Ask
from recipes.decoding.r2r.gates import above, always, by_chance, by_entropy, different, divergent, never
from recipes.decoding.r2r.labels import Asked, changes
from recipes.decoding.r2r.routing import Lagging, Pair, Place, Routed, answer, route
from tests.core import tokenizer_kinds
from tests.decoding.conftest import VOCABULARY, tiny

PROMPTS = [[3, 4, 5, 3, 4], [7], [9, 2, 9], [11, 12], [5, 5, 5, 5, 5, 5, 5]]
LIMIT = 12


@pytest.fixture(params=["llama", "gpt2"])
def pair(request: pytest.FixtureRequest) -> Pair:
    small, large = tiny(request.param, seed=5), tiny(request.param)
    return Pair(small, large, VOCABULARY, frozenset([0]), LIMIT, 3)


def alone(model: Any, prompt: Sequence[int]) -> list[int]:
    """Plain greedy decoding, without a cache."""
    ids = list[int]()
    while len(ids) < LIMIT and ids[-1:] != [0]:
        ids.append(int(model(torch.tensor([[*prompt, *ids]])).logits[0, -1].argmax()))
    return ids


class Parity:
    """Two answers come to the same if their tokens add up to an even number, or both to an odd one."""

    kind = "parity"

    def outcome(self, ids: Sequence[int], right: str) -> str:
        return str(sum(ids) % 2)


def asked(pair: Pair) -> Asked:
    names = [str(number) for number in range(len(PROMPTS))]
    return Asked(names, names, PROMPTS, names, answer(pair, pair.large, "", PROMPTS))


def test_never_and_always_are_the_two_models(pair: Pair) -> None:
    for decide, model in ((never, pair.small), (always, pair.large)):
        texts = route(pair, PROMPTS, decide)
        assert [one.ids for one in texts] == [alone(model, prompt) for prompt in PROMPTS]
        assert {one.usage for one in texts} == {float(decide is always)}
    scored = by_entropy().live
    for threshold, model in ((1e9, pair.small), (0.0, pair.large)):
        assert route(pair, PROMPTS, above(scored, threshold))[0].ids == alone(model, PROMPTS[0])
    greedy = answer(pair, pair.large, "", PROMPTS)
    assert [one.ids for one in greedy] == [alone(pair.large, prompt) for prompt in PROMPTS]
    assert all(len(one.gaps) == len(one.ids) and min(one.gaps) >= 0 for one in greedy)


def test_the_large_model_says_what_it_says_of_the_whole_text_and_reads_each_token_once(pair: Pair) -> None:
    random, reads = torch.Generator().manual_seed(0), list[Lagging]()

    def decide(place: Place, large: Lagging) -> torch.Tensor:
        reads.append(large)
        return torch.rand(len(place.rows), generator=random) < 0.4

    def checked(place: Place, large: Lagging) -> torch.Tensor:
        routed = decide(place, large)
        if at := routed.nonzero()[:, 0].tolist():
            logits = large.logits([place.rows[i] for i in at], [place.texts[i] for i in at])
            for says, i in zip(logits, at, strict=True):
                plain = pair.large(torch.tensor([place.texts[i]])).logits[0, -1]
                torch.testing.assert_close(says, plain, atol=1e-4, rtol=1e-4)
                assert place.texts[i][-1:] != [0]
            small = pair.small(torch.tensor([place.texts[at[0]]])).logits[0, -1]
            torch.testing.assert_close(place.logits[at[0]], small, atol=1e-4, rtol=1e-4)
        return routed

    texts = route(pair, PROMPTS, checked)
    assert 0 < sum(one.usage for one in texts) < len(PROMPTS)
    # The last token that it wrote is never read unless it is asked again.
    most = sum(len(prompt) + len(one.ids) - 1 for prompt, one in zip(PROMPTS, texts, strict=True))
    assert sum(large.read for large in {id(each): each for each in reads}.values()) <= most


def test_rewriting_all_that_differs_is_the_large_model(pair: Pair) -> None:
    texts, whole = route(pair, PROMPTS, different), asked(pair)
    assert [one.ids for one in texts] == [one.ids for one in whole.answers]
    for prompt, one in zip(PROMPTS, texts, strict=True):  # usage is the rate of tokens that differ
        says = pair.small(torch.tensor([[*prompt, *one.ids]])).logits[0, len(prompt) - 1 : -1].argmax(-1)
        assert one.routed == (says != torch.tensor(one.ids)).tolist()


def test_rewriting_what_diverges_keeps_the_answer_with_fewer_tokens(pair: Pair) -> None:
    whole, checker = asked(pair), Parity()
    texts = route(pair, PROMPTS, divergent(pair, whole, checker))  # type: ignore[arg-type]
    for one, large in zip(texts, whole.answers, strict=True):
        assert checker.outcome(one.ids, "") == checker.outcome(large.ids, "")
    routed = [sum(sum(one.routed) for one in each) for each in (texts, route(pair, PROMPTS, different))]
    assert 0 < routed[0] < routed[1]


def test_labels_are_those_of_branches_one_by_one(pair: Pair) -> None:
    whole, checker = asked(pair), Parity()
    rows = [(prompt, one.ids) for prompt, one in zip(PROMPTS, whole.answers, strict=True)]
    scores = score(TextModel(pair.small), rows, Ask(top_k=2), device="cpu")
    written = np.concatenate([one.ids for one in whole.answers])
    differs = scores["top_ids"][:, 0] != written
    labels = changes(pair, whole, checker, scores, differs)  # type: ignore[arg-type]
    assert differs.sum() > 10 and 0 < labels.sum() < differs.sum() and not labels[~differs].any()
    for row, (prompt, ids) in enumerate(rows):
        for at in range(len(ids)):
            token = int(scores.offsets[row]) + at
            if differs[token]:
                text = [*ids[:at], int(scores["top_ids"][token, 0])]
                while len(text) < LIMIT and text[-1] != 0:
                    text.append(int(pair.large(torch.tensor([[*prompt, *text]])).logits[0, -1].argmax()))
                assert labels[token] == (sum(text) % 2 != sum(ids) % 2)


def test_of_one_model_twice_nothing_differs_and_any_route_writes_the_same() -> None:
    model = tiny("llama")
    pair = Pair(model, model, VOCABULARY, frozenset([0]), LIMIT, 2)
    plain = [alone(model, prompt) for prompt in PROMPTS]
    for decide in (different, above(by_chance(len(PROMPTS), LIMIT, 0).live, 0.5)):
        texts = route(pair, PROMPTS, decide)
        assert [one.ids for one in texts] == plain
        assert all(not any(one.routed) for one in texts) or decide is not different


def test_chance_does_not_depend_on_the_batch() -> None:
    small, large = tiny("llama", seed=5), tiny("llama")
    texts = list[list[Routed]]()
    for size in (1, 4):
        pair = Pair(small, large, VOCABULARY, frozenset([0]), LIMIT, size)
        texts.append(route(pair, PROMPTS, above(by_chance(len(PROMPTS), LIMIT, 7).live, 0.6)))
    assert [one.ids for one in texts[0]] == [one.ids for one in texts[1]]
    assert [one.routed for one in texts[0]] == [one.routed for one in texts[1]]


SMOKE = ("budget=smoke", "tracker=none", "trainer.threads=1")
TINY = ("model.steps=12", "small.steps=6", "evaluation.max_new_tokens=10", "data.train=200", "data.router=16",
        "data.validation=8", "data.test=8", "router.epochs=2")  # fmt: skip


def final(outputs: Path, *words: str) -> tuple[dict[str, float], Path]:
    config = compose.compose("r2r", [*SMOKE, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run r2r", page="arm=router" in words).folder
    return final_metrics(folder), folder


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "generations.jsonl").read_text("utf-8").splitlines()]


def test_every_arm_runs_on_the_same_models(tmp_path: Path) -> None:
    metrics, texts = dict[str, dict[str, float]](), dict[str, list[list[int]]]()
    for arm in compose.arms("r2r"):
        if not arm.startswith("router_"):  # ablations; and so small a pair has no divergent token to recall
            metrics[arm], folder = final(tmp_path, *TINY, f"arm={arm}")
            lines, texts[arm] = written(folder), [line["ids"] for line in written(folder)]
            shown = json.loads((folder / "heatmap.json").read_text("utf-8"))["examples"]
            for one, line in zip(shown, lines, strict=False):
                assert [at for at, token in enumerate(one["tokens"]) if token["kind"] == "routed"] == line["routed"]
            assert len(lines) == 8 and len(shown) == 6
    assert len({each["accuracy/large"] for each in metrics.values()}) == 1
    assert (metrics["small"]["usage"], metrics["large"]["usage"]) == (0, 1)
    assert metrics["oracle_mismatch"]["matches_large"] == metrics["large"]["matches_large"] == 1
    assert metrics["oracle_divergent"]["same_answer"] == 1
    assert metrics["oracle_divergent"]["usage"] <= metrics["oracle_mismatch"]["usage"]
    assert {"accuracy@0.1", "auc", "threshold"} <= metrics["router"].keys()
    small = metrics["small"]["parameters"]
    assert metrics["large"]["parameters_additive"] == pytest.approx(small + metrics["large"]["parameters"])
    for threshold, arm in ((1.01, "small"), (0, "large")):
        _, folder = final(tmp_path, *TINY, "arm=router", f"route.threshold={threshold}")
        assert [line["ids"] for line in written(folder)] == texts[arm]


def user_model(folder: Path, kind: str, seed: int, eos: str = "</s>") -> Path:
    tokenizer = tokenizer_kinds.byte_level(eos=eos)
    tiny(kind, seed, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def questions(folder: Path, count: int = 24) -> Path:
    rows = [{"prompt": f"{number} and", "answer": str(number % 3)} for number in range(count)]
    path = folder / f"{count}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_a_users_two_models_of_either_type_answer_a_users_questions(tmp_path: Path) -> None:
    small, large = user_model(tmp_path / "small", "llama", 3), user_model(tmp_path / "large", "gpt2", 1)
    data, words = f"data.path={questions(tmp_path)}", ["small=causal-lm", f"small.path={small}", "router.epochs=2"]
    metrics, folder = final(tmp_path, *words, data, f"model={large}", "evaluation.max_new_tokens=3")
    assert {"accuracy", "usage", "share/divergent"} <= metrics.keys() and (folder / "heatmap.json").exists()
    with pytest.raises(UserError, match="500 new ones do not fit the context of 128 of the small model"):
        final(tmp_path, *words, data, f"model={large}", "evaluation.max_new_tokens=500")
    with pytest.raises(UserError, match="4 questions are too few: of each, router, threshold and measures"):
        final(tmp_path, *words, f"data.path={questions(tmp_path, 4)}", f"model={large}")
    with pytest.raises(UserError, match="no token is positive of the validation questions"):
        final(tmp_path, *words, data, f"model={small}", "arm=router_recall", "evaluation.max_new_tokens=2")
    other = user_model(tmp_path / "other", "llama", 1, "<|end|>")
    with pytest.raises(UserError, match="large model and small model have different vocabularies, of .* tokens: "):
        final(tmp_path, *words, data, f"model={other}")


def test_what_cannot_be_meant_is_refused_before_anything_runs() -> None:
    for words, message in (
        (["small=causal-lm", "small.path=x"], "small: causal-lm is not for data=written-arithmetic"),
        (["data=answers", "data.path=x.jsonl"], "model: transducer is not for data=answers; type model=/folder"),
        (["data.tasks=[ad]"], "there is no ad"),
        (["arm=small", "route.threshold=1"], "route.threshold: small has no scores; type route=router"),
        (["evaluation.usages=[0.1,0.1]"], "names none, or one twice"),
        (["router.inputs=[]", "label=x"], "names nothing, or something twice"),
        (["arm=router_recall", "route.threshold=0.5"], "and threshold both say where to cut"),
    ):
        with pytest.raises(UserError) as refused:
            compose.compose("r2r", words)
        assert message in refused.value.hint + refused.value.what, words


def test_more_questions_than_there_are_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        compose.compose("r2r", ["data.tasks=[multiply]", "data.digits=2", "data.test=5000"])
    assert "there are 400 different questions of 2 digits, and 6,800 are asked" in refused.value.hint


def test_the_head_of_the_small_model_makes_the_logits(pair: Pair) -> None:
    places = list[Place]()

    def decide(place: Place, large: Lagging) -> torch.Tensor:
        places.append(place)
        return never(place, large)

    route(pair, PROMPTS[:1], decide)
    torch.testing.assert_close(output_head(pair.small).logits(places[0].hidden), places[0].logits)
