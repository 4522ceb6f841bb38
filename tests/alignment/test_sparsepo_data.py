"""Judges, pairs, batches and samples of the alignment recipes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.alignment.judges import Judges, LexiconJudge, fit_human_judge
from recipes.alignment.pairs import (
    IGNORE,
    Pair,
    PairItems,
    PairSet,
    Prompt,
    by_row,
    pair_collate,
    valid_tokens,
)
from recipes.alignment.reviews import Review, read_lexicon, read_reviews
from recipes.alignment.sampling import _ended, _left_padded, sample, sampled_once
from recipes.alignment.sentiment import _judged
from recipes.core.models.vision_language import TextModel

JUDGE = LexiconJudge({"good": 2.0, "dull": -1.5, "well-made": 1.0})


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def pair(name: str = "a", prompt: int = 2, chosen: int = 3, rejected: int = 1) -> Pair:
    first, second = np.arange(10, 10 + chosen, dtype=np.int32), np.arange(20, 20 + rejected, dtype=np.int32)
    marks = (first % 2 == 0, second % 2 == 0)
    return Pair(name, np.arange(1, 1 + prompt, dtype=np.int32), first, second, (0.5, 0.2), marks)


@pytest.mark.parametrize(
    ("text", "total"),
    [(" a good film", 2.0), (" GOOD, but dull.", 0.5), (" goods and dulls", 0.0), (" well-made", 1.0), ("", 0.0)],
)
def test_the_lexicon_adds_up_words(text: str, total: float) -> None:
    assert JUDGE.score(text) == pytest.approx(total / (total**2 + 15) ** 0.5)


def test_a_word_marks_all_its_pieces_and_no_others() -> None:
    assert JUDGE.valences([" go", "od", " film", ", du", "ll", "", "!"]).tolist() == [2, 2, 0, -1.5, -1.5, 0, 0]
    assert JUDGE.valences([]).tolist() == []


def test_the_sum_over_words_is_the_score() -> None:
    pieces = [" good", " and", " dull", " good"]
    total = JUDGE.valences(pieces).sum()
    assert JUDGE.score("".join(pieces)) == pytest.approx(total / (total**2 + 15) ** 0.5)


def test_the_second_judge_learns_what_people_said() -> None:
    train = [
        Review(f"{i}", text, score) for i, (text, score) in enumerate([("a good film", 3.0), ("so dull", -3.0)] * 40)
    ]
    judge = fit_human_judge(train, [*train[:2], Review("x", "a good film so dull", 0.0)])
    good, dull = judge.scores(["good", "dull"])
    assert good > 0.5 > -0.5 > dull and judge.correlation > 0.9
    assert judge.scores([]).shape == (0,)


def test_the_files_of_the_asset(tmp_path: Path) -> None:
    (tmp_path / "reviews").write_bytes("1\t2.5\tA  caf\xe9 of a film\twith a tab\n".encode("latin-1"))
    (tmp_path / "lexicon").write_text("Good\t1.9\t0.9\t[1, 2]\n:)\t2.0\t1.1\t[2]\n")
    assert read_reviews(tmp_path / "reviews") == [Review("review 1", "A café of a film with a tab", 2.5)]
    assert read_lexicon(tmp_path / "lexicon") == {"good": 1.9, ":)": 2.0}


def test_couples_become_pairs_and_the_rest_is_counted() -> None:
    class Human:
        correlation = 0.0

    judges = Judges(JUDGE, Human(), ["", " good", " dull", " film"])  # type: ignore[arg-type]
    prompts = [Prompt(name, "So", ids(3)) for name in "abcde"]
    couples = [
        [ids(*answer) for answer in couple]
        for couple in ([[1, 0], [2]], [[3], [3]], [[3], [3, 0]], [[2], [3]], [[1], [2]])
    ]
    pairs, counts = _judged(prompts, couples, judges, 0.1, most=2)
    assert [made.id for made in pairs.pairs] == ["a", "d"]
    assert pairs.pairs[1].chosen.tolist() == [3] and pairs.pairs[1].rejected.tolist() == [2]
    assert (counts.kept, counts.ties, counts.equal, counts.unused) == (2, 1, 1, 1)
    assert pairs.pairs[0].important is not None and pairs.pairs[0].important[0].tolist() == [True, False]


def test_values_of_tokens_stay_with_their_tokens() -> None:
    pairs = PairSet([pair("a", 2, 3, 1), pair("b", 1, 2, 4)])
    tokens = np.concatenate([pairs.answer(number) for number in range(4)])
    items = PairItems(pairs, {"ids": tokens.astype(np.float32), "wide": np.stack([tokens, -tokens], 1)})
    batch = pair_collate(0)([items[1], items[0]])
    flat = batch["labels"][batch["labels"] != IGNORE]
    assert batch["tokens/ids"].tolist() == flat.tolist() == batch["tokens/wide"][:, 0].tolist()
    assert batch["ids"] == ["b", "a"] and batch["score_gap"].tolist() == pytest.approx([0.3, 0.3])
    lengths = (batch["labels"] != IGNORE).sum(1)
    assert by_row(flat, lengths)[0].tolist() == [10, 11, 0, 0]
    assert valid_tokens(lengths).sum(1).tolist() == [2, 3, 4, 1]
    marks = pairs.important()
    assert marks is not None and marks.tolist() == (tokens % 2 == 0).tolist()


def test_gradients_come_back_through_rows() -> None:
    values = torch.arange(3.0, requires_grad=True)
    (by_row(values, torch.tensor([1, 2])) * torch.tensor([[1.0, 9], [2, 3]])).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [1, 2, 3]


def test_the_fingerprint_follows_the_ids() -> None:
    assert PairSet([pair()]).fingerprint == PairSet([pair("b")]).fingerprint != PairSet([pair(chosen=4)]).fingerprint


def test_prompts_are_padded_on_the_left_and_completions_end_once() -> None:
    found, attention = _left_padded([ids(5), ids(6, 7)], pad_id=0)
    assert found.tolist() == [[0, 5], [6, 7]] and attention.tolist() == [[0, 1], [1, 1]]
    assert _ended(np.array([4, 2, 2, 2]), [2]).tolist() == [4, 2]
    assert _ended(np.array([4, 5]), [2]).tolist() == [4, 5]


def test_a_completion_ends_at_the_ends_that_the_model_names_as_well() -> None:
    def found(*ends: int | list[int] | None) -> list[int]:
        model = model_of_sixes()
        model.generation_config.eos_token_id = ends[0]
        return sample(TextModel(model), [ids(1)], 2, 4, 0.0, 0, "cpu")[0].tolist()

    assert found(None) == found(2) == [6, 6, 6, 6]
    assert found(6) == found([2, 6]) == [6]


def test_samples_of_other_settings_are_not_those_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))

    def drawn(*ends: int | list[int] | None, path: str = "") -> list[int]:
        model = model_of_sixes()
        model.generation_config.eos_token_id, model.config.name_or_path = ends[0], path
        return sampled_once("key", TextModel(model), [ids(1)], 1, 2, 4, 0.01, 0, "cpu")[0][0].tolist()

    def entries() -> int:
        return sum(each.is_dir() for each in (tmp_path / "cache/sampled-answers").iterdir())

    assert drawn(2) == drawn(None) == [6, 6, 6, 6] and entries() == 1
    assert drawn([2, 6]) == [6]
    assert drawn(2, path="owner/name") == [6, 6, 6, 6]  # its checkpoint may hold what changed samples of before
    assert entries() == 3


def model_of_sixes() -> LlamaForCausalLM:
    """A model that always says 6."""
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.model.embed_tokens.weight.fill_(1.0)
        model.lm_head.weight[6] = 1.0
        for layer in model.model.layers:
            for parameter in layer.parameters():
                parameter.zero_()
    return model
