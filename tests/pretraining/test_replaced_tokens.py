"""Replaced-token detection: the sheet's worked example, who gets which gradient, micro-batches, brute-force sums."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recipes.core.models.config import SmallEncoderConfig
from recipes.core.models.head import OutputHead
from recipes.core.models.small_encoder import build_encoder, special_tokens
from recipes.core.models.tokenizer import train_wordpiece
from recipes.pretraining.masked_lm import MaskedLM, MaskedLMLoss, draw, sample_tokens
from recipes.pretraining.masked_rows import Masker
from recipes.pretraining.masking_config import MaskingConfig
from recipes.pretraining.replaced_tokens import (
    Corrupted,
    ReplacedTokenLoss,
    ReplacedTokens,
    Sampling,
    detection_losses,
)

TEXTS = [f"sentence {n} goes on about things that nobody has ever seen" for n in range(40)]
CONFIG = SmallEncoderConfig(layers=1, width=16, heads=2, embedding=8, positions=16, vocabulary=200)
EXAMPLE = {
    "input_ids": torch.tensor([[5, 7, 3, 9]]),
    "attention_mask": torch.ones(1, 4, dtype=torch.long),
    "chosen": torch.tensor([[False, True, False, True]]),
}


@pytest.fixture(scope="module")
def tokenizer(session_home: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        return train_wordpiece(lambda: TEXTS, "texts of test_replaced_tokens", 200)


@pytest.fixture
def batch(tokenizer: Any) -> dict[str, Tensor]:
    rows = [tokenizer(text)["input_ids"][:size] for text, size in zip(TEXTS, (9, 16, 12, 5, 14, 10), strict=False)]
    masker = Masker(MaskingConfig(share=0.3, masked=0.85, any_token=0.0, short=0.0), tokenizer, 16, 3)
    return masker.batch(rows, range(6))


def build(tokenizer: Any, sampling: Sampling | None = None) -> ReplacedTokens:
    encoder = build_encoder(CONFIG, tokenizer, 0)
    narrow = build_encoder(replace(CONFIG, width=8, heads=1), tokenizer, 1)
    torch.manual_seed(0)
    model = ReplacedTokens(encoder, MaskedLM(narrow, encoder.embeddings), sampling=sampling)
    for part in model.parameters():
        if part.dim() > 1:
            nn.init.normal_(part, std=0.3)
    return model


class Fixed(nn.Module):
    """Gives what the sheet's example says the two networks give."""

    def forward(self, batch: dict[str, Tensor]) -> tuple[Corrupted, Tensor]:
        logits = torch.zeros(2, 10)
        logits[0, 7], logits[0, 8], logits[1, 8], logits[1, 9] = 2.0, 1.0, 1.0, 0.5
        nll = -torch.log_softmax(logits, 1)[[0, 1], [7, 9]]
        ids = batch["input_ids"].masked_scatter(batch["chosen"], torch.tensor([7, 8]))
        corrupted = Corrupted(ids, ids != batch["input_ids"], nll.sum(), nll, torch.tensor([7, 8]), torch.zeros(2, 1))
        return corrupted, torch.tensor([[-2.0, -1.0, -3.0, 0.5]])


def test_worked_example() -> None:
    corrupted, logits = Fixed()(EXAMPLE)
    assert corrupted.replaced.int().tolist() == [[0, 0, 0, 1]]
    assert float(corrupted.loss) / 2 == pytest.approx(1.455675, abs=1e-6)
    assert float(detection_losses(logits, corrupted.replaced).mean()) == pytest.approx(0.240714, abs=1e-6)
    whole, part = ReplacedTokenLoss(), ReplacedTokenLoss(0.0, 1.0, chosen_only=True)
    loss, metrics = whole(Fixed(), EXAMPLE, whole.normalizer(EXAMPLE))
    assert float(loss) == pytest.approx(13.491351, abs=1e-5)
    assert metrics["mlm_nll"].tolist() == pytest.approx([2.911350, 2]) and metrics["replaced"].tolist() == [1, 2]
    assert float(part(Fixed(), EXAMPLE, part.normalizer(EXAMPLE))[0]) == pytest.approx(0.393669, abs=1e-6)
    everything = EXAMPLE | {"chosen": torch.ones(1, 4, dtype=torch.bool)}
    both = [ReplacedTokenLoss(0.0, 1.0, only).carriers(everything) for only in (True, False)]
    assert torch.equal(*both)


def test_draws_follow_the_distribution_and_leave_out_what_is_forbidden() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0, 0.5]])
    expected = torch.softmax(logits / 0.7, 1)[0]
    draws = (torch.arange(4000) + 0.5) / 4000
    head, states = OutputHead(torch.eye(4)), logits.expand(4000, -1)
    drawn = sample_tokens(states, head, draws, 0.7)
    assert (drawn.bincount(minlength=4) / 4000).tolist() == pytest.approx(expected.tolist(), abs=5e-4)
    for temperature in (1.0, 1e4):
        assert 0 not in sample_tokens(states, head, draws, temperature, torch.zeros(4000, dtype=torch.long))
    assert draw(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([0.0])).tolist() == [1]
    assert draw(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([1 - 2**-24])).tolist() == [1]


def test_what_the_discriminator_reads(tokenizer: Any, batch: dict[str, Tensor]) -> None:
    corrupted = build(tokenizer).corrupt(batch)
    assert torch.equal(corrupted.ids[~batch["chosen"]], batch["input_ids"][~batch["chosen"]])
    wrong = build(tokenizer, Sampling(disallow_correct=True)).corrupt(batch)
    assert torch.equal(wrong.replaced, batch["chosen"]) and int(wrong.replaced.sum()) == len(wrong.nll)
    special = special_tokens(tokenizer)
    model = build(tokenizer, Sampling(special=special, temperature=50.0))
    with torch.no_grad():
        model.generator.head.bias[special] += 1000.0  # as sure as can be
    assert not special[model.corrupt(batch).drawn].any()
    only = torch.zeros(len(tokenizer)).index_fill_(0, torch.tensor([50]), 1.0)
    drawn = ReplacedTokens(build_encoder(CONFIG, tokenizer, 0), None, sampling=Sampling(frequencies=only))
    assert set(drawn.corrupt(batch).drawn.tolist()) == {50}


def test_gradients(tokenizer: Any, batch: dict[str, Tensor]) -> None:
    """The discriminator's loss moves nothing of the generator but the table that it reads, too."""
    model, loss = build(tokenizer), ReplacedTokenLoss(0.0, 1.0)
    loss(model, batch, loss.normalizer(batch))[0].backward()
    generator = {name for name, part in model.generator.named_parameters() if part.grad is not None and part.grad.any()}
    assert {name.split(".")[1] for name in generator} == {"embeddings"}
    assert model.encoder.embeddings.word_embeddings.weight.grad.any()
    alone = build(tokenizer)
    whole, plain = ReplacedTokenLoss(1.0, 0.0), MaskedLMLoss()
    first = whole(alone, batch, whole.normalizer(batch))[0]
    first.backward()
    assert not any(part.grad.any() for part in alone.head.parameters())
    second = plain(alone.generator, batch, plain.normalizer(batch))[0]
    assert float(first.detach()) == pytest.approx(float(second.detach()))


def test_micro_batches_are_the_whole_batch(tokenizer: Any, batch: dict[str, Tensor]) -> None:
    model, loss = build(tokenizer), ReplacedTokenLoss()
    total = loss.normalizer(batch)
    parts = [{name: values[rows] for name, values in batch.items()} for rows in (slice(0, 1), slice(1, 4), slice(4, 6))]
    assert torch.equal(total, torch.stack([loss.normalizer(part) for part in parts]).sum(0))
    whole = loss(model, batch, total)[0]
    [gradient] = torch.autograd.grad(whole, [model.encoder.embeddings.word_embeddings.weight])
    pieces = [loss(model, part, total)[0] for part in parts]
    [summed] = torch.autograd.grad(sum(pieces), [model.encoder.embeddings.word_embeddings.weight])  # type: ignore[arg-type]
    assert float(sum(pieces)) == pytest.approx(float(whole), rel=1e-5)
    assert torch.allclose(gradient, summed, atol=1e-6 * float(gradient.abs().max()))


def test_padding_changes_no_loss(tokenizer: Any, batch: dict[str, Tensor]) -> None:
    model, loss = build(tokenizer), ReplacedTokenLoss()
    short = {name: values[3:4, :5] for name, values in batch.items()}
    padded = {name: values[3:4] for name, values in batch.items()}
    losses = [float(loss(model, part, loss.normalizer(part))[0]) for part in (short, padded)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and math.isfinite(losses[0])
    nothing = short | {"chosen": torch.zeros_like(short["chosen"])}
    assert math.isfinite(float(loss(model, nothing, loss.normalizer(nothing))[0]))
