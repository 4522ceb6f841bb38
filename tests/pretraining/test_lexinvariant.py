"""Vectors drawn for each sequence: invariance, keys, permutations, look-ups, and the paper's toy language."""

import math
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.core.config import compose
from recipes.core.config.settings import TrainerConfig
from recipes.core.errors import UserError
from recipes.core.models.config import SmallLMConfig
from recipes.core.training.model_options import cast_parameters
from recipes.core.training.task import TrainEvents, Training
from recipes.core.training.trainer import train
from recipes.pretraining.lexinvariant.items import lexicon_collate, next_labels
from recipes.pretraining.lexinvariant.key import add_key
from recipes.pretraining.lexinvariant.lexicon import Lexicon, check_letters
from recipes.pretraining.lexinvariant.measures import draw, encipher, lookup_answers, window_nlls
from recipes.pretraining.lexinvariant.method import LOOKUP, draw_lookup, gaussian_table, permute, vote
from recipes.pretraining.lexinvariant.model import LexiconLM, batch_losses, build_model
from recipes.pretraining.lexinvariant.recipe import _count_steps
from recipes.pretraining.next_token import NextToken

LEXICON = Lexicon(tuple("abcdefgh"), 32, np.zeros(1, np.int64))
COUNT = LEXICON.count
SIZES = SmallLMConfig(width=16, heads=2, layers=1)


def _model(embedding: str = "gaussian_per_sequence") -> LexiconLM:
    return build_model(SIZES, LEXICON, embedding, 24, 0)


def _tokens(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(len(LEXICON.text), size=(count, 24))


def _logits(model: LexiconLM, tokens: np.ndarray, keys: Tensor | None = None) -> Tensor:
    def read(hidden: Tensor, heads: Any) -> Tensor:
        each = heads if len(heads) > 1 else heads * len(hidden)
        return torch.stack([head.logits(states) for head, states in zip(each, hidden, strict=True)])

    ids = torch.from_numpy(tokens)
    return model(ids, torch.ones_like(ids), torch.arange(len(ids))[:, None] if keys is None else keys, read)


def test_the_toy_language_of_the_paper() -> None:
    language = [np.array([*map("ab".index, text)]) for text in ("babbbb", "ababab")]
    texts = [encipher(text, np.array(key)) for text in language for key in permutations(range(2))]

    def probability(token: str, after: str) -> float:
        names = ["".join("ab"[i] for i in text) for text in texts]
        begun = [name for name in names if name.startswith(after)]
        return sum(name.startswith(after + token) for name in begun) / len(begun)

    assert [probability(*pair) for pair in (("a", "aba"), ("b", "aba"), ("a", "bab"))] == [0.5] * 3
    assert probability("a", "abab") == probability("b", "baba") == probability("b", "a") == 1


def test_permuted_text_with_permuted_vectors_has_permuted_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = _model(), _tokens()
    plain, tables = _logits(model, tokens), model.tables(torch.arange(4)[:, None])
    key = np.random.default_rng(1).permutation(COUNT)
    monkeypatch.setattr(model, "tables", lambda _: tables[:, np.argsort(key)])
    torch.testing.assert_close(_logits(model, encipher(tokens, key))[..., key], plain, atol=1e-5, rtol=1e-5)
    # Two tokens that do not occur: exchanging their vectors exchanges their logits and nothing else.
    swap = np.arange(COUNT)
    swap[[20, 30]] = 30, 20
    monkeypatch.setattr(model, "tables", lambda _: tables[:, swap])
    torch.testing.assert_close(_logits(model, tokens)[..., swap], plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("embedding", ["learned", "gaussian_per_sequence"])
def test_a_decoder_in_bfloat16_stands_between_vectors_in_float32(embedding: str) -> None:
    model, tokens = _model(embedding), _tokens()
    before = _logits(model, tokens)
    cast_parameters(model.decoder, torch.bfloat16)  # as trainer.dtype=bfloat16 does
    after = _logits(model, tokens)
    assert after.dtype == torch.float32 and not torch.equal(after, before)
    torch.testing.assert_close(after, before, atol=0.1, rtol=0.1)
    after.square().mean().backward()
    assert all(part.grad is not None and part.grad.dtype == part.dtype for part in model.decoder.parameters())


def test_enciphered_text_costs_the_same_in_the_mean() -> None:
    config: Any = compose.compose("lexinvariant", ["tracker=none"])
    model, text = _model(), np.tile(_tokens(1), (400, 1))
    key = np.random.default_rng(1).permutation(len(LEXICON.text))
    plain, cipher = (window_nlls(config, model, LEXICON, x).mean(1) for x in (text, encipher(text, key)))
    assert abs(plain.mean() - cipher.mean()) < 4 * (plain - cipher).std() / math.sqrt(len(text))
    assert plain.std() > 0


def test_vectors_follow_from_the_key_of_a_sequence() -> None:
    model = _model()
    one, other = model.tables(torch.tensor([[0, 1], [0, 2]]))
    torch.testing.assert_close(model.tables(torch.tensor([[0, 2]]))[0], other, atol=0, rtol=0)
    wide = [gaussian_table([0, 0, number], 1, 400)[0] for number in range(2)]
    cosine = wide[0] @ wide[1] / np.linalg.norm(wide[0]) / np.linalg.norm(wide[1])
    assert abs(cosine) < 5 / math.sqrt(400) and not torch.equal(one, other)
    assert all(COUNT not in value.shape for value in model.state_dict().values())
    fixed, batch = _model("gaussian_fixed"), _model("gaussian_per_batch")
    assert len(fixed.tables(torch.zeros(3, 1, dtype=torch.int64))) == len(batch.tables(torch.zeros(3, 1))) == 1
    assert len(batch.eval().tables(torch.zeros(3, 1, dtype=torch.int64))) == 3


@pytest.mark.parametrize("embedding", ["gaussian_per_sequence", "learned"])
def test_loss_is_that_of_whole_logits(embedding: str) -> None:
    model, tokens = _model(embedding), _tokens()
    tokens[1, 5] = LEXICON.end
    labels = torch.from_numpy(next_labels(tokens, tokens < COUNT))
    assert labels[1, 4] == labels[0, -1] == -100
    ids, objective = torch.from_numpy(tokens), NextToken(batch_losses)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    batch["keys"] = torch.arange(4)[:, None]
    loss, metrics = objective(model, batch, objective.normalizer(batch))
    loss.backward()
    gradient = model.marks.grad.clone()  # type: ignore[union-attr]
    model.zero_grad()
    logits = _logits(model, tokens)
    direct = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    direct.backward()
    torch.testing.assert_close(loss, direct)
    torch.testing.assert_close(gradient, model.marks.grad)
    torch.testing.assert_close(metrics["nll"][0] / metrics["nll"][1], direct.detach())


class Items:
    """Sequences of text, each a function of its index."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens = np.random.default_rng(index).integers(8, size=12)
        return {"id": str(index), "tokens": tokens, "labels": next_labels(tokens, tokens < 8), "index": index}


@pytest.mark.parametrize("embedding", ["gaussian_per_sequence", "gaussian_per_batch"])
def test_micro_batches_and_resuming_change_nothing(embedding: str, tmp_path: Path) -> None:
    def go(name: str, steps: int, micro: int | None = None) -> dict[str, Tensor]:
        model, items = _model(embedding), Items()
        options: dict[str, Any] = {"warmup_ratio": 0.0, "save_steps": 2, "threads": 1, "micro_batch_size": micro}
        config = TrainerConfig(batch_size=8, max_steps=steps, learning_rate=0.01, **options)
        training = Training(model, NextToken(batch_losses), items, lexicon_collate, before_step=_count_steps)  # type: ignore[arg-type]
        train(training, config, 3, tmp_path / name, TrainEvents())
        return {key: value.detach().clone() for key, value in model.state_dict().items()}

    whole = go("whole", 4)
    go("part", 2)
    torch.testing.assert_close(go("part", 4), whole, atol=0, rtol=0)
    torch.testing.assert_close(go("micro", 4, 2), whole, atol=1e-5, rtol=1e-4)


def test_permutations() -> None:
    tokens = np.array([3, 1, 4, 1, 5, 40, 3])
    assert permute(tokens, 40, 0.0, True, [0]) is tokens
    whole = permute(tokens, 40, 1.0, True, [0])
    key = np.random.default_rng([0]).permutation(40)
    assert whole[5] == 40 and np.array_equal(np.append(np.argsort(key), 40)[whole], tokens)
    long = np.random.default_rng(0).integers(200, size=20_000)
    for by_type in (True, False):
        changed = permute(long, 200, 0.2, by_type, [1]) != long
        assert 0.1 < changed.mean() < 0.3
        shares = [changed[long == token].mean() for token in range(200)]
        assert set(shares) <= {0.0, 1.0} if by_type else max(shares) < 0.5


def test_look_ups_ask_for_what_stood_before() -> None:
    symbols = LEXICON.halves[0]
    for number in range(20):
        lookup = draw_lookup(symbols, 99, (2, 5), 32, [number])
        rows = lookup.tokens[:30].reshape(-1, 3)
        pairs = {key: value for key, _, value in rows[: lookup.pairs].tolist()}
        assert len(lookup.tokens) == 32 and len({*pairs, *pairs.values()}) == 2 * lookup.pairs
        assert all(pairs[key] == value and arrow == 99 for key, arrow, value in rows.tolist())
        answers = np.flatnonzero(lookup.answers)
        assert answers[0] == 3 * lookup.pairs + 2 and set(lookup.tokens[answers]) <= {*pairs.values()}
        labels = next_labels(lookup.tokens, lookup.answers)
        assert set(lookup.tokens[np.flatnonzero(labels >= 0)]) == {99}


def test_answers_do_not_depend_on_what_stands_beside_them() -> None:
    model = _model()
    lookups = [draw(LEXICON.halves[1], LEXICON, 2, 5, [number]) for number in range(12)]
    answers = lookup_answers(model, lookups, LEXICON, 40)
    assert np.array_equal(answers, lookup_answers(model, lookups, LEXICON, 10_000))
    for number, lookup in enumerate(lookups):  # one by one, without padding
        logits = _logits(model, lookup.tokens[None, :-1], torch.tensor([[LOOKUP, number, 0]]))
        assert int(logits[0, -1].argmax()) == answers[number]


def test_votes_read_a_key() -> None:
    assert vote(np.array([0, 0, 0, 2]), np.array([1, 1, 2, 0]), 4).tolist() == [1, -1, 0, -1]
    from recipes.core.evaluation.scores import Scores

    class Reader:
        """Names the plain letter of every symbol but the first, of which it names another."""

        def predict(self, features: np.ndarray) -> np.ndarray:
            plain = np.argsort(key)[ciphers[:, 12:].reshape(-1)]
            return np.where(plain == 0, 1, plain)

    key, scores = np.random.default_rng(2).permutation(8), Scores()
    ciphers = encipher(_tokens(), key)
    add_key(scores, _model(), Reader(), list("wxyz"), ciphers, key, 100)  # type: ignore[arg-type]
    assert scores.overall()["key/all"] == pytest.approx(7 / 8)


def test_probabilities_are_averaged_over_tables() -> None:
    one, two = (compose.compose("lexinvariant", [f"evaluation.num_samples={s}", "tracker=none"]) for s in (1, 2))
    model, tokens = _model(), _tokens()
    tokens[0, 3] = LEXICON.end
    configs: list[Any] = [one, two]
    first, both = (window_nlls(config, model, LEXICON, tokens) for config in configs)
    second = -np.log(2 * np.exp(-both) - np.exp(-first))
    assert np.isnan(both[0, 2]) and np.isfinite(both).sum() == both.size - 1
    assert 1 < np.nanmean(second) < 8 and not np.allclose(second, first, equal_nan=True)


def test_text_of_another_script_is_refused() -> None:
    with pytest.raises(UserError, match="only 0% of the characters are letters from a to z"):
        check_letters(np.full((2, 5), 26), "korean")
