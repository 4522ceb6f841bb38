"""ICR: the worked numbers of its specification, and attention that is read behind a cache."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.models.context import NAMES
from recipes.core.runs.records import final_metrics
from recipes.retrieval.icr.attention import read_lists, tail_attention
from recipes.retrieval.icr.config import PromptConfig
from recipes.retrieval.icr.method import above_outliers, calibrate, contrastive_heads, passage_scores, retrieval_heads
from recipes.retrieval.icr.reading import OPENING, Prompts, attention_once
from recipes.retrieval.letters.prompts import Asked
from recipes.retrieval.listwise import chat_frame, cut_words, passage_list
from tests.core import tokenizer_kinds
from tests.retrieval.conftest import PASSAGES, model_folder, random_model, write_collection

SMOKE = ("budget=smoke", "tracker=none", "trainer.threads=1")
SPANS = [(0, 3), (3, 6)]


def test_calibration_turns_the_order_round() -> None:
    query, nothing = np.array([0.30, 0.10, 0.20, 0.25, 0.25, 0.15]), np.array([0.10, 0.08, 0.05, 0.24, 0.22, 0.14])
    plain = passage_scores(calibrate(query, nothing, "none"), SPANS, False)
    np.testing.assert_allclose(plain, [0.60, 0.65])
    scores = calibrate(query, nothing, "difference")
    np.testing.assert_allclose(passage_scores(scores, SPANS, True), [0.37, 0.05])
    assert scores[:3].mean() - 2 * scores[:3].std(ddof=1) == pytest.approx(-0.062498, abs=1e-6)
    assert not passage_scores(calibrate(nothing, nothing, "difference"), SPANS, True).any()


def test_an_outlier_is_left_out_where_there_are_tokens_enough() -> None:
    scores = np.array([0.10, 0.12, 0.08, 0.11, 0.09, 0.10, 0.10, -0.60])
    assert above_outliers(scores).tolist() == [True] * 7 + [False]
    assert passage_scores(scores, [(0, 8)], True)[0] == pytest.approx(0.70)
    assert passage_scores(scores, [(0, 8)], False)[0] == pytest.approx(0.10)
    # One of fewer than six can never lie so far out: (m - 1) / sqrt(m) <= 2.
    for count in range(1, 6):
        assert above_outliers(np.array([*[0.0] * (count - 1), -1e9])).all()
    assert above_outliers(np.full(8, 0.3)).all()


def test_heads_are_chosen_by_what_they_pay_to_right_passages() -> None:
    gold = np.array([[0.1, 0.5, 0.2], [0.2, 0.4, 0.9]])
    assert retrieval_heads(gold, 2).tolist() == [1, 2] and retrieval_heads(gold, 3).tolist() == [0, 1, 2]
    # The second head pays more to the right one than to the other, the first one more to both.
    paid = [np.array([[0.9, 0.95], [0.2, 0.1]]), np.array([[0.8, 0.9], [0.3, 0.1]])]
    assert contrastive_heads(paid, [0, 0], 0.01, 1).tolist() == [1]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_attention_behind_a_cache_is_that_of_whole_forwards(kind: str) -> None:
    model = random_model(kind, 23)
    lists, tails = [[5, 6, 8, 2, 9], [4, 4, 7]], [[3, 1, 2], [11, 12]]
    cache = read_lists(model, lists, "model")
    read = tail_attention(cache, tails, [(0, 3), (1, 2)])
    assert cache.columns == 5  # the cache stays as it was
    model.set_attn_implementation("eager")
    for row, (ids, tail) in enumerate(zip(lists, tails, strict=True)):
        whole = torch.stack(model(torch.tensor([ids + tail]), output_attentions=True).attentions)[:, 0]
        counted = slice(len(ids), None) if row == 0 else slice(len(ids) + 1, len(ids) + 2)
        columns = [*range(len(ids)), *range(5, 5 + len(tail))]
        for mine, theirs in ((read.mean, whole[:, :, counted].mean(2)), (read.last, whole[:, :, -1])):
            torch.testing.assert_close(mine[row][..., columns], theirs, atol=1e-5, rtol=1e-4)
        # Each row of attention sums to 1, so that all columns of all heads sum to layers x heads.
        assert float(read.mean[row].sum()) == pytest.approx(4, abs=1e-4)


def _prompts(longest: int | None = None, **options: Any) -> Prompts:
    tokenizer = tokenizer_kinds.byte_level(False, False)
    return Prompts(chat_frame(tokenizer), PromptConfig(**options), "full", longest, "model=x")


def test_a_passage_is_where_its_span_says(tmp_path: Path) -> None:
    prompts = _prompts()
    listed = passage_list(prompts.frame, "Some:", list(PASSAGES.values()), 300)
    decode = prompts.frame.reader.tokenizer.decode
    for number, (span, (title, text)) in enumerate(zip(listed.spans, PASSAGES.values(), strict=True), 1):
        assert decode(listed.ids[span.start : span.text]) == f"\n\n[{number}]"
        assert decode(listed.ids[span.text : span.end]) == " " + (f"{title}\n" if title else "") + text
    tail, span = prompts.tail("N/A")
    assert span == (0, len(tail)) and decode(tail).rstrip().endswith("Query: N/A")


def test_passages_are_cut_alike_and_never_dropped() -> None:
    asked = Asked("animal", list(PASSAGES.values()))
    whole = _prompts().passages(asked)
    room = len(whole.ids) + 120
    assert len(_prompts(room).passages(asked).ids) <= room and len(_prompts(room).passages(asked).spans) == 5
    with pytest.raises(UserError, match="5 passages of one word are .* more than the model's context of 40"):
        _prompts(40).passages(asked)


def test_scripts_without_spaces_and_long_titles_are_cut_too() -> None:
    assert cut_words(" a  b c ", 2) == "a b" and cut_words(" a  b ", 2) == "a  b" and cut_words("", 1) == ""
    assert cut_words("x" * 100, 2) == "x" * 80 and cut_words("a " + "x" * 50 + " b", 2) == "a " + "x" * 40
    asked = Asked("animal", [("a title " * 50, "\u8c61" * 500), ("", "b" * 500)])
    prompts = _prompts()
    tail = len(prompts.tail("animal")[0])
    room = len(passage_list(prompts.frame, OPENING, asked.passages, 2).ids) + tail
    assert len(prompts.passages(asked).ids) + tail > room >= len(_prompts(room).passages(asked).ids) + tail


def test_nothing_is_asked_that_says_nothing(tmp_path: Path, steelyard_home: Path) -> None:
    from recipes.core.models.vision_language import TextModel

    prompts = _prompts()
    model = TextModel(random_model("llama", len(prompts.frame.reader.tokenizer)))
    (read,) = attention_once(model, prompts, [Asked("N/A", list(PASSAGES.values()))])
    np.testing.assert_allclose(read.tokens[:, 0], read.tokens[:, 1], atol=1e-5)
    # All heads together are what their sums say.
    sums = [read.tokens[0, 0, start:end].sum() for start, _, end in read.spans]
    np.testing.assert_allclose(read.heads[0].sum(0), sums, rtol=1e-4)


def final(outputs: Path, *words: str) -> tuple[dict[str, float], Path]:
    config = compose.compose("icr", [*SMOKE, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run icr", page=False).folder
    return final_metrics(folder), folder


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_users_collection_and_model(tmp_path: Path, kind: str) -> None:
    folder, model = write_collection(tmp_path / "mine"), model_folder(tmp_path / "model", kind)
    metrics, run = final(tmp_path, f"data.path={folder}", f"model={model}")
    assert 0 <= metrics["RR@10"] <= 1 and metrics["tokens_read"] > 0
    lines = (run / "run.trec").read_text(encoding="utf-8").splitlines()
    assert all(len(line.split()) == 6 for line in lines) and {line.split()[0] for line in lines} == {
        "q1",
        "q2",
        "q3",
        "q4",
    }
    assert (run / "reranked.jsonl").read_text(encoding="utf-8").count("\n") == 4
    letters, _ = final(
        tmp_path, f"data.path={folder}", f"model={model}", "arm=letters", "prompt.window=2", "prompt.stride=1"
    )
    assert letters["RR@10"] > 0
    bm25, _ = final(tmp_path, f"data.path={folder}", "arm=bm25")
    assert bm25["RR@10"] == 1 and bm25["tokens_read"] == 0
    with pytest.raises(UserError, match="needs queries that are not tested on, and there are none"):
        final(tmp_path, f"data.path={folder}", f"model={model}", "arm=retrieval_heads")


def test_letters_begin_with_the_last_candidates_whatever_the_order_of_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def order(model: Any, prompts: Prompts, rows: list[Asked]) -> list[tuple[list[int], int]]:
        asked.extend([title for title, _ in row.passages] for row in rows)
        return [(list(range(len(row.passages))), 0) for row in rows]

    monkeypatch.setattr("recipes.retrieval.icr.recipe.letter_orders", order)
    folder, model = write_collection(tmp_path / "mine"), model_folder(tmp_path / "model")
    metrics, _ = final(tmp_path, f"data.path={folder}", f"model={model}", "arm=letters")
    assert asked[0] == ["Dog", "Cat"] and metrics["RR@10"] == 1  # as BM25 ranks them


def test_every_file_of_a_collection_is_part_of_a_run(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "mine")
    words = (f"data.path={folder}", "arm=bm25")
    first, second = final(tmp_path, *words), final(tmp_path, *words)
    assert first == second
    write_collection(folder, qrels=[("q1", "cat", 1)])
    third = final(tmp_path, *words)
    assert third[1] != first[1] and third[0]["RR@10"] == 0.5


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    for words, message in (
        (["prompt.window=5", "prompt.stride=6"], "leaves passages out"),
        (["arm=letters", "prompt.window=30"], "there are 26 letters"),
        (["scoring.heads=random"], "type scoring.mask=false"),
        (["data.measures=[hits]"], "there is no measure 'hits'"),
        (["data.measures=[AP]"], "lacks RR@10, by which claims are judged"),
        (["arm=random_heads", "scoring.tokens=last", "label=x"], "chosen heads are read over the whole question"),
        (["first_stage.name=run"], "type first_stage.path=FILE of a TREC run"),
    ):
        with pytest.raises(UserError) as refused:
            compose.compose("icr", words)
        assert message in refused.value.hint
    assert NAMES[0] == "max_position_embeddings"
