"""Next-X prediction: entities, masks, flows, guidance, distances, and sampling with and without a cache."""

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.pretraining.patches import from_patches, to_bytes, to_patches
from recipes.pretraining.xar.config import ContextConfig, EntityConfig, FlowConfig, NextXConfig, SamplerConfig
from recipes.pretraining.xar.entities import Layout, layout, training_frame
from recipes.pretraining.xar.images import Images
from recipes.pretraining.xar.method import (
    drift,
    frechet_distance,
    guidance_of,
    guided,
    interpolate,
    sampler_step,
    sampler_times,
    score,
    velocity,
)
from recipes.pretraining.xar.model import NextX, build_model
from recipes.pretraining.xar.sampling import Drawing
from recipes.pretraining.xar.training import FlowLoss, NoisyImages

SMALL = NextXConfig(layers=2, width=16, heads=2)
CLASSES, CHANNELS = 3, 4
KINDS = ("cell", "patch", "subsample", "scale", "image")


def net_of(entities: Layout, trained: bool = True) -> NextX:
    """A model; `trained`: with random weights where it begins at zero, or nothing would depend on anything."""
    net = build_model(SMALL, entities, CHANNELS, CLASSES, 0.9, 0).net
    if trained:
        random = torch.Generator().manual_seed(1)
        for parameter in net.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=random)
    return net.eval()


def states_of(entities: Layout, count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, times and labels of a few images."""
    random = torch.Generator().manual_seed(2)
    tokens = torch.randn(count, sum(entities.sizes), CHANNELS, generator=random)
    times = torch.rand(count, len(entities.sizes), generator=random)
    return tokens, times, torch.arange(count) % CLASSES


@pytest.mark.parametrize(
    ("kind", "size", "order"),
    [
        ("cell", 2, [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]),
        ("subsample", 2, [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15]),
        ("patch", 1, list(range(16))),
        ("image", 1, list(range(16))),
    ],
)
def test_entities_are_a_permutation_that_comes_back(kind: str, size: int, order: list[int]) -> None:
    entities = layout(EntityConfig(kind=kind, size=size), 4)
    raster = torch.arange(16.0).view(1, 16, 1)
    sequence = entities.sequence(raster)
    assert sequence.flatten().tolist() == order
    assert torch.equal(entities.raster(sequence), raster)
    assert entities.places.tolist() == [[number // 4, number % 4] for number in order]


def test_resolutions_are_means_of_squares_and_end_with_the_image() -> None:
    entities = layout(EntityConfig(kind="scale"), 4)
    raster = torch.arange(16.0).view(1, 16, 1)
    sequence = entities.sequence(raster).flatten().tolist()
    assert entities.sizes == [1, 4, 16] and layout(EntityConfig(kind="scale"), 6).sizes == [1, 4, 36]
    assert sequence[:5] == [7.5, 2.5, 4.5, 10.5, 12.5] and sequence[5:] == raster.flatten().tolist()
    assert torch.equal(entities.raster(entities.sequence(raster)), raster)
    assert entities.places[:3].tolist() == [[1.5, 1.5], [0.5, 0.5], [0.5, 2.5]]


def test_masks() -> None:
    entities = layout(EntityConfig(kind="cell", size=2), 4)
    assert entities.block_mask().sum(1).tolist() == [4 * (n + 1) for n in range(4) for _ in range(4)]
    doubled = entities.doubled_mask()
    assert doubled[:16, :16].equal(entities.block_mask()) and not doubled[:16, 16:].any()
    assert (doubled[16:, :16].sum(1) + doubled[16:, 16:].sum(1)).tolist() == entities.block_mask().sum(1).tolist()
    assert layout(EntityConfig(kind="image"), 4).block_mask().all()
    causal = torch.ones(16, 16, dtype=torch.bool).tril()
    assert layout(EntityConfig(kind="patch"), 4).block_mask().equal(causal)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_later_entities_change_no_bit_of_earlier_ones(kind: str) -> None:
    entities = layout(EntityConfig(kind=kind, size=2), 4)
    net, (tokens, times, labels) = net_of(entities), states_of(entities)
    start = entities.starts[-2]
    other, later = tokens.clone(), times.clone()
    other[:, start:], later[:, -1] = 5.0, 0.9
    frame = training_frame(entities, doubled=False)
    first, second = net(tokens, times, labels, frame), net(other, later, labels, frame)
    assert torch.equal(first[:, :start], second[:, :start]) and not torch.allclose(first[:, start:], second[:, start:])


def test_a_clean_context_is_that_of_sampling() -> None:
    """The last entity behind true ones, in one doubled forward, as behind the same ones at t = 0 in sampling."""
    entities = layout(EntityConfig(kind="cell", size=2), 4)
    net, (tokens, times, labels) = net_of(entities), states_of(entities)
    clean = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(3))
    both = torch.cat([torch.zeros_like(times), times], 1)
    doubled = net(torch.cat([clean, tokens], 1), both, labels, training_frame(entities, doubled=True))
    mixed = torch.cat([clean[:, :12], tokens[:, 12:]], 1)
    sampling = torch.cat([torch.zeros(2, 3), times[:, 3:]], 1)
    plain = net(mixed, sampling, labels, training_frame(entities, doubled=False))
    torch.testing.assert_close(doubled[:, 28:], plain[:, 12:], rtol=0, atol=1e-5)


def test_flow_worked() -> None:
    clean, noise, time = torch.tensor(2.0), torch.tensor(-1.0), 0.25
    state, flow = interpolate(clean, noise, torch.tensor(time)), velocity(clean, noise)
    assert (float(state), float(flow), float(state - time * flow)) == (1.25, -3.0, 2.0)
    assert float(score(state, flow, time)) == 4.0 and float(drift(state, flow, time)) == -4.0
    assert float(flow - time * score(state, flow, time)) == -4.0
    assert float(sampler_step(torch.tensor(-1.0), flow, 1.0, 0.0, None)) == 2.0
    # x + d dt + sqrt(2 t |dt|) xi; the last step takes no noise.
    assert float(sampler_step(state, flow, 0.5, 0.375, torch.tensor(2.0))) == pytest.approx(
        1.25 + 3.25 / 8 + 0.125**0.5 * 2
    )
    assert float(sampler_step(state, flow, 0.25, 0.0, torch.tensor(9.0))) == 1.25 + 1.0


def test_sampler_times_and_guidance() -> None:
    assert sampler_times(False, 4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert sampler_times(True, 4) == pytest.approx([1.0, 0.68, 0.36, 0.04, 0.0])
    weights = [guidance_of(2.7, True, n, 4) for n in range(4)]
    assert weights == pytest.approx([1, 1.5667, 2.1333, 2.7], abs=1e-4)
    assert guidance_of(2.7, False, 0, 4) == guidance_of(2.7, True, 0, 1) == 2.7 and guidance_of(1.0, True, 3, 4) == 1
    assert float(guided(torch.tensor(3.0), torch.tensor(1.0), 2.0)) == 5.0


def test_frechet_distance() -> None:
    mean, wide = np.zeros(2), np.diag([4.0, 9.0])
    assert frechet_distance((mean, np.eye(2)), (mean + 1, wide)) == pytest.approx(2 + 1 + 4)
    random = np.random.default_rng(0)
    covariance = np.cov(random.normal(size=(50, 4)), rowvar=False)
    assert frechet_distance((np.zeros(4), covariance), (np.zeros(4), covariance)) == pytest.approx(0, abs=1e-9)
    other = np.cov(random.normal(size=(50, 4)) @ random.normal(size=(4, 4)), rowvar=False)
    eigenvalues = np.linalg.eigvals(covariance @ other)
    expected = np.trace(covariance + other) - 2 * np.sqrt(eigenvalues.real).sum()
    assert frechet_distance((np.zeros(4), covariance), (np.zeros(4), other)) == pytest.approx(expected)


@pytest.mark.parametrize("sampler", ["ode", "sde"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_changes_nothing(kind: str, sampler: str) -> None:
    entities, steps = layout(EntityConfig(kind=kind, size=2), 4), 3
    net, labels = net_of(entities), torch.tensor([0, 2])
    drawn = []
    for cached in (True, False):
        random = torch.Generator().manual_seed(4)
        drawing = Drawing(net, entities, SamplerConfig(kind=sampler, steps=steps), labels, random, 0.1, 0.2, cached)
        drawn.append(drawing.draw())
        assert drawing.calls == steps * len(entities.sizes)
    torch.testing.assert_close(*drawn, rtol=0, atol=1e-5)


def test_without_guidance_no_class_is_not_asked() -> None:
    entities = layout(EntityConfig(kind="cell", size=2), 4)
    drawn = []
    for change in (0.0, 1.0):
        net = net_of(entities)
        net.labels.weight.data[CLASSES] += change
        random = torch.Generator().manual_seed(4)
        drawing = Drawing(net, entities, SamplerConfig(steps=2, guidance=1.0), torch.tensor([1]), random)
        drawn.append(drawing.draw())
    assert torch.equal(*drawn)


def items_of(entities: Layout, context: ContextConfig) -> NoisyImages:
    sequences = states_of(entities, 6)[0]
    names = [f"image {number}" for number in range(6)]
    images = Images(torch.zeros(6, 1, 8, 8), torch.arange(6) % CLASSES, names, names)
    return NoisyImages(sequences, images, len(entities.sizes), CLASSES, context, FlowConfig(), 0, 8)


@pytest.mark.parametrize("mode", ["noisy", "clean"])
def test_the_loss_begins_at_the_variance_of_the_target_and_adds_up(mode: str) -> None:
    entities, context = layout(EntityConfig(kind="cell", size=2), 4), ContextConfig(mode=mode)
    items, loss = items_of(entities, context), FlowLoss(entities, context)
    whole = items.collate(list(range(8)))
    at_start = build_model(SMALL, entities, CHANNELS, CLASSES, 0.9, 0)
    first, _ = loss(at_start, whole, loss.normalizer(whole))
    assert first.item() == pytest.approx(float((whole["noise"] - whole["clean"]).square().mean()), rel=1e-6)
    at_start.net.load_state_dict(net_of(entities).state_dict())
    total, metrics = loss(at_start, whole, loss.normalizer(whole))
    parts = [items.collate(numbers) for numbers in ([0, 1, 2], [3, 4, 5, 6, 7])]
    normalizer = torch.stack([loss.normalizer(part) for part in parts]).sum()
    halves = [loss(at_start, part, normalizer)[0] for part in parts]
    assert sum(half.item() for half in halves) == pytest.approx(total.item(), rel=1e-5)
    assert float(metrics["mse"][0] / metrics["mse"][1]) == pytest.approx(total.item(), rel=1e-5)


def test_items() -> None:
    entities = layout(EntityConfig(kind="cell", size=2), 4)
    items = items_of(entities, ContextConfig())
    batch = items.collate([0, 4])
    assert batch["ids"] == ["image 0", "image 1", "image 2", "image 3"]
    again = items.collate([4])
    assert torch.equal(again["noise"], batch["noise"][2:]) and torch.equal(again["times"], batch["times"][2:])
    assert len(set(batch["times"].flatten().tolist())) == 16
    shared = items_of(entities, ContextConfig(shared_noise=True)).collate([0, 1])["times"]
    assert torch.equal(shared, shared[:, :1].expand(-1, 4))


def test_the_average_follows_the_optimizer() -> None:
    entities = layout(EntityConfig(kind="image"), 2)
    model = build_model(SMALL, entities, CHANNELS, CLASSES, 0.999, 0)
    optimizer = torch.optim.SGD(model.net.parameters(), lr=1.0)
    model.follow(optimizer)
    seen, expected = [], torch.zeros(CHANNELS)
    for number in range(3):
        model.net.write.bias.grad = -torch.ones(CHANNELS)
        optimizer.step()
        weights = model.net.write.bias.detach().clone()
        share = min(0.999, (1 + number) / (10 + number)) if number else 0.0
        expected = share * expected + (1 - share) * weights
        seen.append(model.measured.write.bias.clone())
    torch.testing.assert_close(seen[-1], expected)
    assert not any(parameter.requires_grad for parameter in model.average.parameters())


def test_patches_of_pixels_come_back() -> None:
    pixels = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    patches = to_patches(pixels, 2)
    assert patches.shape == (2, 4, 12) and patches[0, 1, :4].tolist() == [2, 3, 6, 7]
    assert torch.equal(from_patches(patches, 2), pixels)
    assert to_bytes(torch.tensor([-2.0, -1, 0, 1]).view(1, 1, 2, 2))[0, ..., 2].tolist() == [[0, 0], [128, 255]]
