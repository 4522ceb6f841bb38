"""ELECTRA's arithmetic: rates of the sheet, Adam without correction, the copy gate, arms on a batch, operations."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from recipes.core.config import compose
from recipes.core.models.costs import flops
from recipes.core.models.tokenizer import train_wordpiece
from recipes.core.training.arguments import warmup_times_linear
from recipes.core.training.model_options import apply_options
from recipes.pretraining.electra.config import ElectraConfig
from recipes.pretraining.electra.method import copy_gate_nll, signal_to_noise
from recipes.pretraining.electra.model import Prepared, build_loss, build_model
from recipes.pretraining.electra.objectives import TwoStageLoss, loss_positions
from recipes.pretraining.electra.optimizer import without_bias_correction
from recipes.pretraining.masked_rows import Masker

TEXTS = [f"sentence {n} goes on about things that nobody has ever seen" for n in range(40)]
TINY = ("budget=smoke", "model.layers=1", "model.width=16", "model.heads=2", "data.length=16", "model.vocabulary=200")
ARMS = ("electra", "electra_15", "bert", "replace_mlm", "all_tokens_mlm", "adversarial", "two_stage", "tied")


@pytest.fixture(scope="module")
def tokenizer(session_home: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        return train_wordpiece(lambda: TEXTS, "texts of test_electra", 200)


def config_of(arm: str, *words: str) -> ElectraConfig:
    config: ElectraConfig = compose.compose("electra", [*TINY, f"arm={arm}", *words])
    return config


def case(config: ElectraConfig, tokenizer: Any) -> tuple[Any, dict[str, Tensor], Prepared]:
    masker = Masker(replace(config.masking, short=0.0), tokenizer, config.data.length, 3)
    rows: Any = None
    prepared = Prepared(rows, masker, tokenizer, None, "cpu")
    ids = [tokenizer(text)["input_ids"][:size] for text, size in zip(TEXTS, (9, 16, 12, 5), strict=False)]
    return build_model(config, prepared), masker.batch(ids, range(4)), prepared


def test_rates_of_the_sheet() -> None:
    rates = [5e-4 * warmup_times_linear(step, 1000, 100) for step in (0, 50, 100, 500, 1000)]
    assert rates == pytest.approx([0, 2.375e-4, 4.5e-4, 2.5e-4, 0])


def test_adam_without_bias_correction() -> None:
    """The first step is sqrt(10) times the rate; then as the formulas say, weights decay as before."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], lr=0.01, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.1)
    without_bias_correction(optimizer)
    mean, square, expected = torch.zeros(2), torch.zeros(2), weight.detach().clone()
    for step in range(5):
        gradient = torch.tensor([0.3, -0.7]) * (step + 1)
        weight.grad = gradient.double()
        optimizer.step()
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        moved = 0.01 * mean / (square.sqrt() + 1e-6)
        if not step:
            assert moved.abs().tolist() == pytest.approx([0.01 * math.sqrt(10)] * 2, rel=1e-3)
        expected = expected * (1 - 0.01 * 0.1) - moved
        assert weight.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert [optimizer.param_groups[0][name] for name in ("lr", "eps", "weight_decay")] == [0.01, 1e-6, 0.1]


def test_copy_gate() -> None:
    nll = -torch.tensor([0.5, 0.2, 0.5, 0.2], dtype=torch.float64).log()
    gate = torch.logit(torch.tensor([0.75, 0.75, 0.25, 0.25], dtype=torch.float64)).requires_grad_()
    replaced = torch.tensor([False, True, True, False])
    expected = [0.75 + 0.25 * 0.5, 0.25 * 0.2, 0.75 * 0.5, 0.25 + 0.75 * 0.2]
    assert torch.exp(-copy_gate_nll(gate, nll, replaced)).tolist() == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda *x: copy_gate_nll(*x, replaced), (gate, nll.requires_grad_()))
    sure = copy_gate_nll(torch.full((2,), torch.inf), nll[:2].detach(), torch.tensor([False, True]))
    assert sure.tolist() == pytest.approx([0.0, -math.log(1e-8)])


def test_signal_to_noise() -> None:
    gradients = torch.tensor([[1.0, 3.0], [3.0, 3.0]])
    assert signal_to_noise(gradients) == pytest.approx(math.sqrt(13) / math.sqrt(2))


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_learns_from_its_tokens_and_is_cut_into_micro_batches(arm: str, tokenizer: Any) -> None:
    config = config_of(arm)
    (model, batch, _), loss = case(config, tokenizer), build_loss(config)
    if isinstance(loss, TwoStageLoss):
        loss.second = True
    everything = arm in ("electra", "all_tokens_mlm", "adversarial", "two_stage", "tied")
    assert loss_positions(loss, batch) == int((batch["attention_mask"] if everything else batch["chosen"]).sum())
    total = loss.normalizer(batch)
    whole, _ = loss(model, batch, total)
    parts = [{name: x[rows] for name, x in batch.items()} for rows in (slice(0, 1), slice(1, 4))]
    table = model.encoder.embeddings.word_embeddings.weight
    [gradient] = torch.autograd.grad(whole, [table], retain_graph=True)
    [summed] = torch.autograd.grad(sum(loss(model, part, total)[0] for part in parts), [table])
    assert torch.allclose(gradient, summed, atol=1e-5 * float(gradient.abs().max()))
    whole.backward()
    blocks = [part for name, part in model.encoder.named_parameters() if not name.startswith("embeddings")]
    assert all(part.grad is not None and part.grad.any() for part in blocks if part.dim() > 1)


@pytest.mark.parametrize("arm", ["electra", "bert", "replace_mlm", "all_tokens_mlm", "adversarial"])
def test_encoders_in_bfloat16_have_heads_in_float32(arm: str, tokenizer: Any) -> None:
    """Without autocast, as on a CPU."""
    config = config_of(arm, "trainer.dtype=bfloat16")
    (model, batch, _), loss = case(config, tokenizer), build_loss(config)
    before = float(loss(model, batch, loss.normalizer(batch))[0].detach())
    apply_options(model, config.trainer)
    total, _ = loss(model, batch, loss.normalizer(batch))
    total.backward()
    assert float(total.detach()) == pytest.approx(before, rel=0.01) and model.head.dense.weight.dtype == torch.float32
    assert model.encoder.embeddings.word_embeddings.weight.dtype == torch.bfloat16


def test_arms_begin_with_one_encoder(tokenizer: Any) -> None:
    weights = [case(config_of(arm), tokenizer)[0].encoder.state_dict() for arm in ("electra", "bert", "gen_1")]
    assert all(torch.equal(weights[0][name], other[name]) for other in weights[1:] for name in weights[0])
    narrow = config_of("electra", "model.width=64", "model.heads=1").generator.model(
        config_of("electra", "model.width=64", "model.heads=1").model
    )
    assert (narrow.width, narrow.heads, narrow.shape.ffn, narrow.embedding, narrow.layers) == (16, 1, 64, 64, 1)


def test_two_stages(tokenizer: Any) -> None:
    config = config_of("two_stage", "trainer.max_steps=4")
    (model, batch, _), loss = case(config, tokenizer), build_loss(config)
    loss.before_step(0, model, [])
    loss(model, batch, loss.normalizer(batch))[0].backward()
    assert all(part.grad is None for part in model.encoder.parameters())
    model.zero_grad()
    loss.before_step(2, model, [])
    pairs = zip(model.encoder.parameters(), model.generator.encoder.parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    loss(model, batch, loss.normalizer(batch))[0].backward()
    assert all(part.grad is None for part in model.generator.parameters())
    assert any(part.grad is not None and part.grad.any() for part in model.encoder.parameters())


def test_generators_that_are_no_model(tokenizer: Any) -> None:
    for arm in ("uniform_generator", "disallow_correct"):
        model, batch, _ = case(config_of(arm), tokenizer)
        corrupted = model.corrupt(batch)
        assert not torch.isin(corrupted.drawn, torch.arange(5)).any()  # no special token
    assert torch.equal(corrupted.replaced, batch["chosen"])


@pytest.mark.parametrize("arm", ["electra", "bert", "replace_mlm", "all_tokens_mlm"])
def test_operations_are_those_that_torch_counts(arm: str, tokenizer: Any) -> None:
    """In a forward of full rows of which a whole number of tokens is masked."""
    config = config_of(arm, "masking.share=0.25")
    config = replace(config, model=replace(config.model, vocabulary=len(tokenizer)))
    model, _, prepared = case(config, tokenizer)
    batch = prepared.masker.batch([[2, *range(10, 24), 3]] * 4, range(4))
    assert batch["chosen"].sum() == 16
    for part in model.modules():
        if hasattr(part, "set_attn_implementation"):
            part.set_attn_implementation("eager")
    loss = build_loss(config)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        loss(model, batch, loss.normalizer(batch))
    generator, encoder, drawn = config.row_macs()
    assert counter.get_total_flops() == pytest.approx(4 * flops(generator + encoder + drawn), rel=1e-6)
