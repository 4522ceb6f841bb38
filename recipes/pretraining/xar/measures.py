"""Exposure: the error of each entity's velocity where what comes before is true, drawn by the model, or estimated."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.pretraining.xar.card import ERROR, GAP, NEAR
from recipes.pretraining.xar.config import XarConfig
from recipes.pretraining.xar.entities import Layout, training_frame
from recipes.pretraining.xar.images import Images
from recipes.pretraining.xar.method import interpolate, velocity
from recipes.pretraining.xar.model import NextX
from recipes.pretraining.xar.training import draw_times

HALFWAY = 0.5  # time from which entities are estimated


@dataclass(frozen=True)
class Probe:
    """Test images with fixed draws of times and noise, the same for all arms with the same entities.

    Attributes:
        layout: Entities.
        images: Their labels and names.
        sequences: float32 [N, L, C] the true entities.
        times: [draws, N, K].
        noise: [draws, N, L, C].
        context_time: t of a context.
        batch: Images of a forward.
    """

    layout: Layout
    images: Images
    sequences: Tensor
    times: Tensor
    noise: Tensor
    context_time: float
    batch: int

    @torch.no_grad()
    def errors(self, net: NextX, context: Tensor | None = None) -> np.ndarray:
        """float64 [N, K] mean squared error of velocities, given a context [N, L, C]; None: the true one."""
        context = self.sequences if context is None else context
        parts = []
        for times, noise in zip(self.times, self.noise, strict=True):
            for rows in torch.arange(len(self.sequences)).split(self.batch):
                clean = self.sequences[rows]
                states = interpolate(clean, noise[rows], times[rows][:, self.layout.entity, None])
                velocities = self._velocities(net, context[rows], states, times[rows], noise[rows], rows)
                parts.append(self._by_entity((velocities - velocity(clean, noise[rows])).square().mean(2)))
        errors = torch.cat(parts).double().numpy()
        return np.asarray(errors.reshape(len(self.times), -1, len(self.layout.sizes)).mean(0))

    @torch.no_grad()
    def estimates(self, net: NextX) -> Tensor:
        """[N, L, C] what the model takes the true entities for, half noise, after the true ones: F - t v."""
        parts = []
        for rows in torch.arange(len(self.sequences)).split(self.batch):
            noise = self.noise[0][rows]
            times = torch.full((len(rows), len(self.layout.sizes)), HALFWAY)
            states = interpolate(self.sequences[rows], noise, torch.tensor(HALFWAY))
            velocities = self._velocities(net, self.sequences[rows], states, times, noise, rows)
            parts.append(states - HALFWAY * velocities)
        return torch.cat(parts)

    def _velocities(
        self, net: NextX, context: Tensor, states: Tensor, times: Tensor, noise: Tensor, rows: Tensor
    ) -> Tensor:
        """[B, L, C] of all entities at once, each behind a context of those before it, as in sampling."""
        device = net.write.weight.device
        earlier = torch.full_like(times, self.context_time)
        before = interpolate(context, noise, torch.tensor(self.context_time))
        tokens, both = torch.cat([before, states], 1).to(device), torch.cat([earlier, times], 1).to(device)
        frame = training_frame(self.layout, doubled=True).to(tokens.device)
        velocities: Tensor = net(tokens, both, self.images.labels[rows].to(device), frame)
        return velocities[:, states.shape[1] :].float().cpu()

    def _by_entity(self, errors: Tensor) -> Tensor:
        """Means [B, K] of errors [B, L]."""
        return torch.stack([part.mean(1) for part in errors.split(self.layout.sizes, 1)], 1)


def make_probe(config: XarConfig, layout: Layout, images: Images, sequences: Tensor) -> Probe:
    """Draw times and noise for the first test images, whose entities [N, L, C] are given."""
    random, draws = np.random.default_rng([config.seed, 1]), config.evaluation.draws
    images, sequences = images.first(config.evaluation.probes), sequences[: config.evaluation.probes]
    times = draw_times(random, (draws, len(sequences), len(layout.sizes)), config.flow.t_dist).astype(np.float32)
    noise = random.standard_normal((draws, *sequences.shape), np.float32)
    drawn = torch.from_numpy(times), torch.from_numpy(noise)
    return Probe(layout, images, sequences, *drawn, config.context.t, config.evaluation.batch)


def add_error(scores: Scores, probe: Probe, errors: np.ndarray) -> None:
    """The error of an image with a true context: over tokens, as the loss is."""
    scores.define(ERROR, "mean squared error of the velocity on test images, true context", False)
    means = errors @ (np.array(probe.layout.sizes) / sum(probe.layout.sizes))
    for name, group, value in zip(probe.images.names, probe.images.groups, means, strict=True):
        scores.add(ERROR, name, group, value)


def add_gaps(scores: Scores, probe: Probe, true: np.ndarray, drawn: np.ndarray, near: np.ndarray) -> Plot:
    """Exposure gaps: over all entities but the first, which has no context, and of each; and their picture."""
    texts = {GAP: "drawn by the model in place of the true one", NEAR: "the model's estimate of the true one"}
    names = list(zip(probe.images.names, probe.images.groups, strict=True))
    for metric, other in ((GAP, drawn), (NEAR, near)):
        scores.define(
            metric, f"error of the velocity with a context that is {texts[metric]}, minus that with it", False
        )
        for (name, group), value in zip(names, (other - true)[:, 1:].mean(1), strict=True):
            scores.add(metric, name, group, value)
    for entity in range(1, true.shape[1]):
        metric = f"{GAP}/entity_{entity + 1}"
        scores.define(metric, f"exposure gap of entity {entity + 1} of {true.shape[1]}", False)
        for (name, group), value in zip(names, (drawn - true)[:, entity], strict=True):
            scores.add(metric, name, group, value)
    series = {
        label: [(float(entity + 1), float(value)) for entity, value in enumerate(errors.mean(0))]
        for label, errors in (("true", true), ("drawn by the model", drawn), ("estimated", near))
    }
    return Plot("exposure", "Error of the velocity, by what comes before", "entity", "mean squared error", series)
