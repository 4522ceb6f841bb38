"""Images drawn entity by entity, with the keys and values of finished entities in a cache."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from recipes.pretraining.xar.config import LINEAR, SDE, SamplerConfig
from recipes.pretraining.xar.entities import Layout, sampling_frame
from recipes.pretraining.xar.method import guidance_of, guided, interpolate, sampler_step, sampler_times
from recipes.pretraining.xar.model import KeyValues, NextX


@dataclass
class Drawing:
    """How a batch of images is drawn.

    Attributes:
        net: The model, in evaluation mode.
        layout: Entities.
        sampler: Steps, guidance.
        labels: int64 [B] classes asked for.
        random: Where noise comes from; on the CPU.
        context_time: t of finished entities.
        context_noise: Standard deviation of noise added to them; what is returned stays without.
        cached: Whether keys and values are kept; else all finished entities are computed anew in each step.
    """

    net: NextX
    layout: Layout
    sampler: SamplerConfig
    labels: Tensor
    random: torch.Generator
    context_time: float = 0.0
    context_noise: float = 0.0
    cached: bool = True
    calls: int = field(default=0, init=False)

    @torch.no_grad()
    def draw(self) -> Tensor:
        """[B, L, C] entities one behind the other; K x S calls of the model."""
        cache, finished, context = KeyValues(), list[Tensor](), list[Tensor]()
        for entity in range(len(self.layout.sizes)):
            drawn = self._entity(entity, context, cache)
            finished.append(drawn)
            context.append(self._as_context(drawn))
        return torch.cat(finished, 1)

    def _entity(self, entity: int, context: list[Tensor], cache: KeyValues) -> Tensor:
        """One entity [B, m, C]; its first step also brings the entity before into the cache."""
        times = sampler_times(self.sampler.kind == SDE, self.sampler.steps)
        shape = (len(self.labels), self.layout.sizes[entity], self.net.read.in_features)
        states = self._noise(shape)
        for number, (time, after) in enumerate(zip(times, times[1:], strict=False)):
            first = 0 if not self.cached else entity if number else max(entity - 1, 0)
            velocities = self._velocities(states, time, entity, first, context, cache)
            noise = self._noise(shape) if self.sampler.kind == SDE else None
            states = sampler_step(states, velocities, time, after, noise)
        return states

    def _velocities(
        self, states: Tensor, time: float, entity: int, first: int, context: list[Tensor], cache: KeyValues
    ) -> Tensor:
        """[B, m, C] of an entity at a time, guided; entities from `first` on are computed, those before are cached."""
        before = [*context[first:entity], states]
        tokens = torch.cat(before, 1)
        times = torch.full((len(states), len(before)), self.context_time, device=states.device)
        times[:, -1] = time
        labels, weight = self.labels, self._guidance(entity)
        if self.sampler.guidance > 1:  # both halves at every entity, or the cache would have rows of one half only
            tokens, times = tokens.repeat(2, 1, 1), times.repeat(2, 1)
            labels = torch.cat([labels, torch.full_like(labels, self.net.classes)])
        frame = sampling_frame(self.layout, entity, first).to(states.device)
        kept = sum(self.layout.sizes[first:entity]) if self.cached else 0
        self.calls += 1
        velocities: Tensor = self.net(tokens, times, labels, frame, cache if self.cached else None, kept)
        velocities = velocities[:, -states.shape[1] :]
        if self.sampler.guidance == 1:
            return velocities
        conditional, unconditional = velocities.chunk(2)
        return guided(conditional, unconditional, weight)

    def _guidance(self, entity: int) -> float:
        linear = self.sampler.schedule == LINEAR
        return guidance_of(self.sampler.guidance, linear, entity, len(self.layout.sizes))

    def _as_context(self, drawn: Tensor) -> Tensor:
        """What later entities see of a finished one; the same numbers are drawn, however much noise there is."""
        added, later = self._noise(drawn.shape), self._noise(drawn.shape)
        time = torch.tensor(self.context_time, device=drawn.device)
        return interpolate(drawn + self.context_noise * added, later, time)

    def _noise(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.random).to(self.labels.device)
