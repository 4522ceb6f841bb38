"""The hypernetwork and what it is trained on: invariants of the sheet, worked numbers, gradients."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerFast

from recipes.core.config.settings import TrainerConfig
from recipes.core.data.text.pieces import token_rows
from recipes.core.data.text.text_ids import start_id
from recipes.core.errors import UserError
from recipes.core.models.vision_language import TextModel
from recipes.core.scoring.bits import text_bits
from recipes.tokenization import hypernetwork_training
from recipes.tokenization.config import HypernetworkConfig, SampledConfig
from recipes.tokenization.hypernetwork import (
    Forms,
    Hypernetwork,
    auxiliary_loss,
    predict_rows,
    squared_errors,
)
from recipes.tokenization.hypernetwork_training import (
    RowItems,
    RowLoss,
    TransferLoss,
    half_merged,
    trained_hypernetwork,
)
from recipes.tokenization.old_rows import OldRows
from recipes.tokenization.sampled_tokenizers import TokenizerSampler, draw_vocabulary, substrings
from tests.core import tokenizer_kinds
from tests.tokenization.test_ground import TEXTS, tiny

SAMPLED = SampledConfig(vocabulary=400, texts=4, characters=60, runs=1)
CONFIG = HypernetworkConfig(
    layers=1, steps=6, batch_size=4, length=12, identity_steps=6, identity_batch=64, snapshots=2, sampled=SAMPLED
)  # fmt: skip


def source(kind: str = "gpt2") -> OldRows:
    tokenizer = tokenizer_kinds.byte_level(bos=True)
    model = TextModel(tiny(kind, token_rows(tokenizer))).requires_grad_(False).eval()
    return OldRows(model, tokenizer, "model")


def network(old: OldRows) -> Hypernetwork:
    return Hypernetwork(old.rows, old.width, CONFIG, 0)


def test_worked_numbers() -> None:
    rows, single = torch.tensor([[0.1, 0.0], [0.0, 0.2], [9.0, 9.0]]), torch.tensor([True, True, False])
    old = torch.tensor([[0.0, 0.0], [0.0, 0.0], [6.0, 0.0]])  # mean norm 2
    one = (slice(0, 2),)
    assert float(auxiliary_loss(rows, old, single, one)) == pytest.approx(0.0125)
    two = (slice(0, 1), slice(1, 2))
    # of the second part all old rows are 0: their mean norm would be, too
    shifted = torch.tensor([[0.0, 0.0], [0.0, 0.0], [6.0, 6.0]])
    parts = [0.01 / 2 / 2, 0.04 / 2 / 2]
    close = auxiliary_loss(torch.tensor([[0.1, 0.0], [0.0, 0.2], [9.0, 9.0]]), shifted, single, two)
    assert float(close) == pytest.approx(sum(parts) / 2)
    assert squared_errors(rows[:2], old[:2], two).tolist() == pytest.approx([0.005, 0.02])
    assert squared_errors(rows[:2], old[:2], one).tolist() == pytest.approx([0.01, 0.04])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_predictions_begin_with_the_mean_and_deviation_of_the_old_rows(kind: str) -> None:
    old = source(kind)
    assert old.tied == (kind == "gpt2") and old.rows.shape[1] == (16 if kind == "gpt2" else 32)
    rows = predict_rows(network(old), [[token] for token in range(len(old.rows))])
    torch.testing.assert_close(rows.mean(0), old.rows.mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(rows.std(0), old.rows.std(0), atol=1e-4, rtol=0)
    read = network(old).in_scale(old.rows)
    torch.testing.assert_close(read.std(0), torch.full_like(read[0], 0.02), atol=1e-5, rtol=0)


def test_a_row_depends_on_its_pieces_alone() -> None:
    old, net = source(), network(source())
    pieces = [[7], [8, 9], [300, 20, 21], [5], [8, 9], list(range(30, 45))]
    rows = predict_rows(net, pieces)
    order = [4, 2, 0, 5, 1, 3]
    close: Any = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(predict_rows(net, [pieces[at] for at in order]), rows[order], **close)
    for chunk in (1, 2, 5):
        torch.testing.assert_close(predict_rows(net, pieces, chunk), rows, **close)
    torch.testing.assert_close(rows[1], rows[4], **close)
    assert not torch.allclose(predict_rows(net, [[9, 8]]), rows[1:2], **close)
    cut = predict_rows(net, [list(range(30, 37))])  # what comes behind the seventh piece is not read
    torch.testing.assert_close(cut[0], rows[5], **close)
    forms = Forms.of(pieces, 7)
    assert forms.first.tolist() == [7, 8, 300, 5, 8, 30] and forms.single.tolist() == [
        True,
        *[False] * 2,
        True,
        *[False] * 2,
    ]
    assert Forms.of([[7], [8, 9]], 1).single.tolist() == [True, False]  # what is cut to one piece is no old token
    assert len(predict_rows(net, [])) == 0 and len(old.rows)


def test_the_old_tokens_are_spelt_by_themselves() -> None:
    old = source()
    tokens = old.text_tokens
    assert [old.spell(old.vocabulary.table[token]) for token in tokens] == [[token] for token in tokens]
    shuffled, pieces, count = half_merged(old, CONFIG, 0)
    assert sorted(shuffled) == tokens and count == round(0.9 * len(tokens))
    assert all(
        old.vocabulary.join(row) == old.vocabulary.table[token] for token, row in zip(shuffled, pieces, strict=True)
    )
    assert 0 < sum(len(row) > 1 for row in pieces) < len(tokens) / 2
    pipeline = json.loads(old.tokenizer.backend_tokenizer.to_str())
    pipeline["model"]["ignore_merges"] = True  # as Llama 3 has it: tokens are taken whole, also with half of the merges
    whole = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(pipeline)), eos_token="</s>")
    assert half_merged(OldRows(old.model, whole, "model"), CONFIG, 0)[1] == pieces
    unigram = tokenizer_kinds.unigram()
    other = OldRows(TextModel(tiny("gpt2", token_rows(unigram))), unigram, "model.path=/u")
    with pytest.raises(UserError, match="half of the merges, and a Unigram has none"):
        other.shorter()


def test_sampled_tokenizers_hold_all_bytes_and_give_texts_back() -> None:
    old = source()
    sampler = TokenizerSampler(SAMPLED, [*TEXTS, *tokenizer_kinds.texts()], old.spell, 7, 0)
    one, again, other = sampler(3), sampler(3), sampler(4)
    assert one.tokens == again.tokens != other.tokens
    assert len(one.tokens) == 400 and {bytes([byte]) for byte in range(256)} <= set(one.tokens)
    assert len(set(one.tokens)) == 400 and max(map(len, one.tokens)) <= 15
    for text in ("the cat  sat\n\n", "ünïcode 猫が座った", "\t\x00 \ud7ff🙂", "e\u0301"):
        ids = one.backend.encode(text).ids
        assert one.backend.decode(ids) == " " + text
        assert b"".join(one.tokens[token] for token in ids) == b" " + text.encode()
    joined = [b"".join(old.vocabulary.table[piece] for piece in old.spell(token)) for token in one.tokens]
    assert joined == one.tokens


def test_the_best_substrings_are_kept() -> None:
    assert substrings("abc", 2, 1) == ["a", "ab", "b", "bc", "c"] and substrings("abcde", 2, 4) == ["a", "ab", "e"]
    quiet, draw = replace(SAMPLED, vocabulary=300, noise=False), np.random.default_rng(0)
    kept = draw_vocabulary({"a": 4, "ab": 6, "abc": 9, "b": 1}, ["a", "b", "ĠĠ"], replace(quiet, vocabulary=300), draw)
    assert list(kept) == ["a", "b", "ĠĠ", "abc", "ab"] and kept["ĠĠ"] == 0
    assert kept["a"] == kept["b"] == pytest.approx(np.log(1 / 20)) and kept["abc"] == pytest.approx(np.log(9 / 20))
    loud = replace(quiet, noise=True, noise_scale=1.0, noise_deviation=0.0)
    drawn = draw_vocabulary({f"{at}": 1 for at in range(100)}, ["a"], loud, np.random.default_rng(1))
    assert min(drawn.values()) == -1e5  # what noise makes negative comes last


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_model_reads_through_its_own_rows_as_it_does(kind: str) -> None:
    """Rows of the old tokens, put in from outside, cost what the model says; gradients reach the rows alone."""
    old = source(kind)
    read = text_bits(old.model, old.tokenizer, [TEXTS[1]], "length")[0]
    ids = torch.tensor([[start_id(old.tokenizer), *read.ids]])
    rows = old.rows.clone().requires_grad_()
    loss, nll = old.nll(rows, ids, torch.ones_like(ids))
    np.testing.assert_allclose(nll.numpy() / np.log(2), read.bits, rtol=1e-4)
    loss.backward()
    assert rows.grad is not None and rows.grad[ids[0]].abs().sum() > 0
    assert all(weights.grad is None for weights in old.model.parameters())


def test_micro_batches_are_the_whole_batch() -> None:
    """Of loss and gradient; and the base never gets any."""
    old, net = source("llama"), network(source("llama"))
    texts = [*TEXTS, *tokenizer_kinds.texts()]
    loss = TransferLoss(old, TokenizerSampler(SAMPLED, texts, old.spell, 7, 0), CONFIG)
    loss.before_step(2, net, [])
    halves = [{"texts": texts[:1]}, {"texts": texts[1:4]}]
    whole = {"texts": texts[:4]}
    total = loss.normalizer(whole)
    assert total == sum(loss.normalizer(half) for half in halves)

    def gradient(batches: list[dict[str, Any]]) -> tuple[float, torch.Tensor]:
        net.zero_grad()
        values = [loss(net, batch, total)[0] for batch in batches]
        for value in values:
            value.backward()
        return sum(value.item() for value in values), torch.cat(
            [w.grad.flatten() for w in net.parameters() if w.grad is not None]
        )

    (one, ones), (other, others) = gradient([whole]), gradient(halves)
    assert one == pytest.approx(other, rel=1e-5)
    torch.testing.assert_close(ones, others, atol=1e-4, rtol=1e-3)
    assert all(weights.grad is None for weights in old.model.parameters())


def test_gradients_of_the_row_losses() -> None:
    torch.manual_seed(0)
    old, single = torch.randn(4, 6, dtype=torch.float64), torch.tensor([True, False, True, True])
    parts = (slice(0, 3), slice(3, 6))
    rows = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: auxiliary_loss(rows, old, single, parts), (rows,))
    assert torch.autograd.gradcheck(lambda rows: squared_errors(rows, old, parts).sum(), (rows,))


class Copies(nn.Module):
    """Says the row of the first piece."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, forms: Forms) -> torch.Tensor:
        return self.rows[forms.first]


def test_rows_that_are_right_cost_nothing() -> None:
    old = source()
    items = RowItems(old.text_tokens, [[token] for token in old.text_tokens], 10, 0)
    batch = RowItems.collate([items[at] for at in range(10)])
    loss, _ = RowLoss(old, 7)(Copies(old.rows), batch, torch.tensor(10.0))
    assert float(loss) == 0 and len(set(batch["tokens"].tolist())) == 10


def test_held_out_rows_are_no_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of the first steps nor of those behind."""
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))  # where nothing is trained yet
    old, targets = source(), set[int]()

    class Spy(RowLoss):
        def __call__(self, model: nn.Module, batch: dict[str, Any], normalizer: torch.Tensor) -> Any:
            targets.update(batch["tokens"].tolist())
            return super().__call__(model, batch, normalizer)

    monkeypatch.setattr(hypernetwork_training, "RowLoss", Spy)
    config = replace(CONFIG, objective="rows", identity_batch=10**6, held_out=0.3)
    trained_hypernetwork(old, config, TrainerConfig(threads=1, device="cpu"), 0, TEXTS, "held-out-test")
    tokens, _, count = half_merged(old, config, 0)
    assert targets == set(tokens[:count])


@pytest.mark.parametrize("objective", ["lm", "rows"])
def test_it_is_trained_once_and_kept_on_the_way(objective: str) -> None:
    old, texts = source(), [*TEXTS, *tokenizer_kinds.texts()]
    config = replace(CONFIG, objective=objective)
    before = {name: values.clone() for name, values in old.model.state_dict().items()}
    options: Any = (TrainerConfig(threads=1, device="cpu"), 0, texts, "hypernetwork-test")
    trained = trained_hypernetwork(old, config, *options)
    assert trained.steps == [3, 6]
    pieces = [[7], [8, 9]]
    middle, end = (predict_rows(trained.network(step), pieces) for step in (3, None))
    assert not torch.allclose(middle, end) and torch.equal(predict_rows(trained.network(6), pieces), end)
    again = trained_hypernetwork(old, config, *options)
    assert torch.equal(predict_rows(again.network(), pieces), end)
    assert all(torch.equal(values, before[name]) for name, values in old.model.state_dict().items())
