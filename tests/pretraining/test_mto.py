"""Masked token optimisation: worked numbers, invariants of rows and terms, and visible tokens kept apart."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import ViTConfig, ViTModel

from recipes.pretraining.mto import method
from recipes.pretraining.mto.config import BLOCK, HARD_BLOCK, INDEPENDENT, RANDOM, THRESHOLD, MtoConfig, ViTShape
from recipes.pretraining.mto.masks import MaskedItems, collate, draw_mask
from recipes.pretraining.mto.model import MaskedImageLoss, build_model
from recipes.pretraining.patches import to_patches

ROWS = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]])[None]
MASKED = torch.tensor([[False, False, True, True]])
PLAIN, FULL = MtoConfig().baseline, MtoConfig()
SHAPE = ViTShape(layers=3, width=16, heads=2)


def _pixels(images: int = 6, side: int = 8) -> Tensor:
    return torch.rand(images, 1, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def _batch(images: int = 6, vectors: bool = False) -> dict[str, Any]:
    mto = replace(PLAIN, mask_token=INDEPENDENT if vectors else "learned")
    items = MaskedItems(_pixels(images), "abcdef"[:images], images, mto, SHAPE, 0)
    return collate([items[row] for row in range(images)])


def test_worked_example() -> None:
    assert float(method.masked_mass(ROWS, MASKED)) == pytest.approx(0.4)
    assert float(method.masked_entropy(ROWS, MASKED)) == pytest.approx(0.959148, abs=1e-6)
    changed = method.recalibrate(ROWS[:, None], MASKED, 1 / 4)[0, 0]
    assert changed[0].tolist() == pytest.approx([0.571429, 0.428571, 0, 0], abs=1e-6)
    assert torch.equal(changed[1:], ROWS[0, 1:])


def _loops(rows: Tensor, masked: Tensor) -> tuple[float, float]:
    """Mass and normalised entropy of one image, word by word."""
    visible = [i for i in range(len(masked)) if not masked[i]]
    hidden = [j for j in range(len(masked)) if masked[j]]
    mass, entropy = 0.0, 0.0
    for i in visible:
        paid = [float(rows[i, j]) for j in hidden]
        mass += sum(paid) / len(visible)
        entropy += -sum(p / sum(paid) * math.log(p / sum(paid)) for p in paid) / math.log(len(hidden)) / len(visible)
    return mass, entropy


def test_terms_equal_loops() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.rand(3, 7, 7, generator=draw).softmax(-1)
    masked = torch.stack([torch.randperm(7, generator=draw) < count for count in (2, 3, 6)])
    tokens = torch.randn(3, 7, 5, generator=draw)
    cosines = torch.cosine_similarity(tokens[:, :, None], tokens[:, None], dim=-1)
    het = method.heterogeneity(tokens, masked, 0.1)
    for image in range(3):
        mass, entropy = _loops(rows[image], masked[image])
        assert float(method.masked_mass(rows, masked)[image]) == pytest.approx(mass, abs=1e-6)
        assert float(method.masked_entropy(rows, masked)[image]) == pytest.approx(entropy, abs=1e-6)
        among = (cosines[image] / 0.1).exp()
        assert float(het[image]) == pytest.approx(_loops(among, masked[image])[1], abs=1e-5)
    assert bool(((het >= 0) & (het <= 1)).all())


def test_heterogeneity_is_1_of_equal_tokens_and_uniform_rows_pay_their_share() -> None:
    tokens = torch.randn(1, 6, 4)
    masked = torch.tensor([[True, False, True, True, False, False]])
    tokens[masked] = torch.tensor([0.3, -1.0, 2.0, 0.1])
    assert float(method.heterogeneity(tokens, masked)) == pytest.approx(1, abs=1e-6)
    assert float(method.masked_mass(torch.full((1, 6, 6), 1 / 6), masked)) == pytest.approx(3 / 6, abs=1e-7)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_few_masked_tokens_or_no_visible_one(count: int) -> None:
    masked = (torch.arange(4) < count)[None]
    tokens = torch.randn(1, 4, 3)
    entropies = [method.masked_entropy(ROWS, masked), method.heterogeneity(tokens, masked)]
    assert [float(each) for each in entropies] == [0, 0]
    likeness = float(method.likeness(tokens, masked, torch.zeros(3)))
    assert 0 <= likeness <= 1 and (likeness == 0 if count in (0, 4) else True)
    assert float(method.masked_mass(ROWS, masked)) == (pytest.approx((0.25 + 0.7 + 0.1) / 3) if count == 1 else 0)


def test_likeness() -> None:
    tokens = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [5.0, 0.0], [-2.0, 0.0], [0.0, 4.0]]]) + 10
    masked, centre = torch.tensor([[False, False, True, True, True]]), torch.full((2,), 10.0)
    assert float(method.likeness(tokens, masked, centre)) == pytest.approx(1 / 3, abs=1e-6)
    assert float(method.likeness(tokens, masked, centre, 0.5)) == pytest.approx(0.25 / 3, abs=1e-6)


def test_recalibrated_rows() -> None:
    rows = torch.randn(2, 3, 6, 6).softmax(-1)
    masked = torch.tensor([[False, True, True, False, True, False], [True, True, True, True, True, False]])
    assert torch.equal(method.recalibrate(rows, masked, 0), rows)
    for theta in (1 / 6, 1.0):
        changed = method.recalibrate(rows, masked, theta)
        torch.testing.assert_close(changed.sum(-1), torch.ones(2, 3, 6))
        seen = masked[:, None, :, None].expand_as(rows)
        assert torch.equal(changed[seen], rows[seen])
        small = ~seen & masked[:, None, None] & (rows < theta)
        assert bool((changed[small] == 0).all()) and bool((changed[~seen & ~masked[:, None, None]] > 0).all())


def test_depth_weights() -> None:
    assert method.depth_weights(1).tolist() == [1]
    expected = [math.exp(-math.log(10) / 3 * layer) for layer in range(4)]
    assert method.depth_weights(4).tolist() == pytest.approx(expected, abs=1e-6)


def test_gradients_of_the_terms() -> None:
    masked = torch.tensor([[False, True, True, False, True]])
    scores = torch.randn(1, 5, 5, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(1, 5, 4, dtype=torch.float64, requires_grad=True)
    centre = torch.full((4,), 0.1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: method.masked_mass(s.softmax(-1), masked), scores)
    assert torch.autograd.gradcheck(lambda s: method.masked_entropy(s.softmax(-1), masked), scores)
    assert torch.autograd.gradcheck(lambda t: method.likeness(t, masked, centre), tokens)


def test_masks() -> None:
    for number in range(20):
        anywhere, block = (draw_mask(4, 6, kind, np.random.default_rng(number)) for kind in (RANDOM, BLOCK))
        assert anywhere.sum() == block.sum() == 6
        places = np.stack(np.divmod(np.flatnonzero(block), 4), 1)
        apart = np.abs(places[:, None] - places[None]).max(-1)
        assert apart.max(1).min() <= 2, "a patch from which all are near"
    masks = [draw_mask(4, 6, RANDOM, np.random.default_rng(number)) for number in range(400)]
    assert np.abs(np.mean(masks, 0) - 6 / 16).max() < 0.1


def test_without_the_method_it_is_the_model_of_transformers() -> None:
    model, batch = build_model(SHAPE, PLAIN, _pixels(), 0), _batch()
    config = ViTConfig.from_dict(model.encoder.config.to_dict())
    plain = ViTModel(config, add_pooling_layer=False, use_mask_token=True)
    plain.load_state_dict(model.encoder.state_dict(), strict=False)
    assert plain.embeddings.mask_token is not None and model.mask_token is not None
    plain.embeddings.mask_token.data[:] = model.mask_token.data
    with torch.no_grad():
        states = plain(batch["pixels"], bool_masked_pos=batch["masked"]).last_hidden_state[:, 1:]
        for keep_rows in (False, True):
            done = model(batch["pixels"], batch["masked"], keep_rows=keep_rows)
            torch.testing.assert_close(done.restored, model.head(states), atol=1e-5, rtol=1e-4)
        unmasked = plain(batch["pixels"]).last_hidden_state[:, 1:].mean(1)
        torch.testing.assert_close(model.features(batch["pixels"]), unmasked, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.stack(done.rows).sum(-1), torch.ones(3, 6, 17))


def test_blocked_visible_tokens_do_not_depend_on_masked_ones() -> None:
    mto = replace(PLAIN, recalibration=HARD_BLOCK, blocked_layers=3, mask_token=INDEPENDENT)
    model, batch = build_model(SHAPE, mto, _pixels(), 0), _batch(vectors=True)
    other = batch["pixels"] + 3 * torch.nn.functional.interpolate(
        batch["masked"].float().view(6, 1, 4, 4), scale_factor=2
    )
    with torch.no_grad():
        one = model(batch["pixels"], batch["masked"], batch["vectors"])
        two = model(other, batch["masked"], 50 * batch["vectors"])
    visible = ~batch["masked"]
    assert torch.equal(one.restored[visible], two.restored[visible])
    assert not torch.equal(one.restored[~visible], two.restored[~visible])
    everywhere = torch.cat([torch.zeros(6, 1, dtype=torch.bool), batch["masked"]], 1)
    assert all(float(method.masked_mass(rows, everywhere).sum()) == 0 for rows in one.rows)
    first = build_model(SHAPE, replace(mto, blocked_layers=1), _pixels(), 0)
    with torch.no_grad():
        masses = [
            method.masked_mass(rows, everywhere).mean()
            for rows in first(**{k: batch[k] for k in batch if k != "ids"}).rows
        ]
    assert masses[0] == 0 and min(masses[1:]) > 0.3


def _loss(mto: MtoConfig, micro: int) -> tuple[float, dict[str, Tensor], Any]:
    """Loss and gradients of a step, the second one, in micro-batches."""
    model, batch = build_model(SHAPE, mto, _pixels(), 0), _batch()
    loss = MaskedImageLoss(mto, model, 1)
    parts = [
        {name: batch[name][start : start + micro] for name in ("pixels", "masked")} for start in range(0, 6, micro)
    ]
    for step in range(2):
        loss.before_step(step, model, parts)
        model.zero_grad()
        normalizer = torch.stack([loss.normalizer(part) for part in parts]).sum()
        total = 0.0
        for part in parts:
            value, metrics = loss(model, part, normalizer)
            value.backward()
            total += float(value.detach())
    return total, {name: each.grad for name, each in model.named_parameters() if each.grad is not None}, metrics


@pytest.mark.parametrize("mto", [FULL, PLAIN, replace(FULL, recalibration=HARD_BLOCK)])
def test_micro_batches_are_the_whole_batch(mto: MtoConfig) -> None:
    (whole, gradients, _), (parts, others, _) = _loss(mto, 6), _loss(mto, 2)
    assert whole == pytest.approx(parts, abs=1e-6)
    torch.testing.assert_close(gradients, others, atol=1e-6, rtol=1e-4)


def test_weights_of_0_are_the_baseline() -> None:
    plain, gradients, _ = _loss(PLAIN, 6)
    recorded, others, _ = _loss(replace(PLAIN, recalibration=THRESHOLD, threshold=0), 6)  # rows pass as they are
    assert plain == pytest.approx(recorded, abs=1e-6)
    torch.testing.assert_close(gradients, others, atol=1e-6, rtol=1e-4)
    full, _, metrics = _loss(FULL, 6)
    extra = sum(w * float(metrics[name][0] / metrics[name][1]) for name, w in (("spa", 0.1), ("e", 0.01), ("r", 0.1)))
    assert full == pytest.approx(float(metrics["reconstruction"][0] / metrics["reconstruction"][1]) + extra, abs=1e-6)


def test_the_term_on_attention_reaches_queries_and_keys_and_not_the_head() -> None:
    model, batch = build_model(SHAPE, FULL, _pixels(), 0), _batch()
    done = model(batch["pixels"], batch["masked"])
    everywhere = torch.cat([torch.zeros(6, 1, dtype=torch.bool), batch["masked"]], 1)
    method.masked_mass(done.rows[1], everywhere).sum().backward()
    attention = model.encoder.layers[1].attention
    assert float(attention.q_proj.weight.grad.norm()) > 0 and float(attention.k_proj.weight.grad.norm()) > 0
    assert model.head.weight.grad is None and attention.v_proj.weight.grad is None


def test_what_stands_for_masked_patches() -> None:
    batch, states = _batch(vectors=True), {}
    for kind in ("learned", "frozen", "mean_patch", "independent"):
        model = build_model(SHAPE, replace(PLAIN, mask_token=kind), _pixels(), 0)
        states[kind] = model(batch["pixels"], batch["masked"], batch["vectors"]).tokens[0]
        trained = {name for name, each in model.named_parameters() if each.requires_grad}
        assert ("mask_token" in trained) == (kind == "learned")
    assert torch.equal(states["learned"], states["frozen"])
    spread = {kind: each[:, 1:][batch["masked"]] for kind, each in states.items()}
    positions = model.encoder.embeddings.position_embeddings[:, 1:].expand(6, -1, -1)[batch["masked"]]
    for kind in ("learned", "mean_patch"):
        assert float((spread[kind] - positions).detach().var(0).max()) < 1e-10
    assert float((spread["independent"] - positions).detach().var(0).min()) > 1e-5
    patch = to_patches(_pixels(), 2).mean((0, 1)).view(1, 1, 2, 2)
    embedded = model.encoder.embeddings.patch_embeddings.projection(patch).flatten()
    torch.testing.assert_close((spread["mean_patch"] - positions)[0], embedded, atol=1e-6, rtol=1e-4)


def test_layers_that_are_computed_anew_in_the_backward_have_the_same_rows() -> None:
    batch, gradients = _batch(), []
    for anew in (False, True):
        model = build_model(SHAPE, FULL, _pixels(), 0)
        if anew:
            model.encoder.gradient_checkpointing_enable()
        loss = MaskedImageLoss(FULL, model.train(), 1)
        loss.before_step(0, model, [batch])
        loss(model, batch, loss.normalizer(batch))[0].backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(*gradients)
