"""Attributions of predictions by every method of the recipe: scores, which rank tokens, and their importance."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recipes.attribution.reagent import config as names
from recipes.attribution.reagent.config import ReagentRunConfig
from recipes.attribution.reagent.probes import Batch, Probed, probe
from recipes.attribution.reagent.reader import Reader
from recipes.attribution.reagent.samplers import Classes, Replace, build_sampler
from recipes.attribution.reagent.targets import Target
from recipes.core.models.head import last_hidden_state
from recipes.core.models.taps import attention_taps
from recipes.core.text_recipe.items import seed_of

TABLE_ELEMENTS = 2**25  # of what a model expects at all places of a batch of texts


@dataclass(frozen=True)
class Attribution:
    """What the tokens of a context are worth for a prediction.

    Attributes:
        scores: [t] larger is more important; may be negative.
        importance: [t] the same as shares that sum to 1, 0 for tokens that are never replaced.
        forwards: Texts that the model read for it.
        probed: What the probes say, of the method itself.
        gap: Of integrated gradients, nats by which their sum misses what it should be: the log-probability of the
            prediction over that at the beginning of the path.
    """

    scores: Tensor
    importance: Tensor
    forwards: float
    probed: Probed | None = None
    gap: float | None = None


class _Value(NamedTuple):
    """Scores and importance of one prediction, padded; of some methods what else is known."""

    scores: Tensor
    importance: Tensor
    probed: Probed | None = None
    gap: float | None = None


class Attributer:
    """Attributes predictions.

    Args:
        reader: The model.
        tokenizer: Its tokenizer.
        config: Of the run.
    """

    def __init__(self, reader: Reader, tokenizer: Any, config: ReagentRunConfig) -> None:
        self.reader, self._tokenizer, self._config = reader, tokenizer, config
        self._tables: dict[str, Classes] = {}

    def all(self, targets: Sequence[Target], name: str, done: Callable[[int], None]) -> list[Attribution]:
        """Attributions by one method, in the order of the predictions; `done` hears how many more there are."""
        results: dict[int, Attribution] = {}
        for numbers in self.batches(targets):
            before = self.reader.rows
            batch = self.batch([targets[number] for number in numbers])
            values = self._attribute(batch, name)
            cost = (self.reader.rows - before) / len(numbers)
            for row, (number, value) in enumerate(zip(numbers, values, strict=True)):
                length, scores = len(targets[number].ids), value.scores.masked_fill(~batch.free[row], 0)
                kept = (scores[:length].cpu(), value.importance[:length].cpu())
                results[number] = Attribution(*kept, cost, value.probed, value.gap)
            done(len(numbers))
        return [results[number] for number in range(len(targets))]

    def batches(self, targets: Sequence[Target]) -> Iterator[list[int]]:
        """Numbers of predictions whose texts are read together, those of like lengths beside each other."""
        order = sorted(range(len(targets)), key=lambda number: len(targets[number].ids))
        while order:
            count = 0
            for number in order:
                length = len(targets[number].ids)
                if count and (count + 1) * length * self.reader.head.vocabulary > TABLE_ELEMENTS:
                    break
                count += 1
            yield order[:count]
            order = order[count:]

    def batch(self, targets: Sequence[Target]) -> Batch:
        """Predictions on the model's device, their texts padded to one length."""
        device, longest = self.reader.device, max(len(target.ids) for target in targets)
        pads = [longest - len(target.ids) for target in targets]
        return Batch(
            [target.id for target in targets],
            torch.tensor([[*one.ids, *[0] * pad] for one, pad in zip(targets, pads, strict=True)], device=device),
            torch.tensor([len(target.ids) for target in targets], device=device),
            torch.tensor([target.token for target in targets], device=device),
            torch.tensor([target.probability for target in targets], device=device),
            torch.tensor([[*one.free, *[False] * pad] for one, pad in zip(targets, pads, strict=True)], device=device),
        )

    def sampler(self, batch: Batch, name: str | None = None) -> Replace:
        """What replaces tokens of these texts: a sampler by its name, that of attributions if None."""
        name = name or self._config.attribution.sampler
        return build_sampler(name, self.reader, batch.ids, batch.lengths, self._tokenizer, self._tables)

    def _attribute(self, batch: Batch, name: str) -> list[_Value]:
        """What a method says of each prediction of a batch."""
        options = self._config.attribution
        if name == names.REAGENT:
            probed = probe(self.reader, batch, self.sampler(batch), self._config.reagent, self._config.seed)
            return [_Value(one.scores, one.importance, one) for one in probed]
        if name == names.OCCLUSION:
            scores = self._occlusion(batch)
            return [
                _Value(each, shares(each.clamp_min(0), free)) for each, free in zip(scores, batch.free, strict=True)
            ]
        scores = torch.zeros(batch.ids.shape, dtype=torch.float64, device=batch.ids.device)
        if name == names.INTEGRATED:
            gaps = list[float]()
            for row, length in enumerate(batch.lengths.tolist()):
                values, gap = self._integrated(batch, row, length)
                scores[row, :length] = values.norm(dim=-1)[0].double()
                gaps.append(gap)
            rows = zip(scores, batch.free, gaps, strict=True)
            return [_Value(each, shares(each, free), gap=gap) for each, free, gap in rows]
        for row, length in enumerate(batch.lengths.tolist()):
            scores[row, :length] = self._one(batch, row, length, name).double()
        is_softmax = options.softmax and name not in (names.INPUT_X_GRADIENT, names.SHAP)
        return [
            _Value(each, softmax(each, free) if is_softmax else shares(each, free))
            for each, free in zip(scores, batch.free, strict=True)
        ]

    def _one(self, batch: Batch, row: int, length: int, name: str) -> Tensor:
        """[t] scores of one prediction by a method that reads its text alone."""
        ids, target = batch.ids[row : row + 1, :length], batch.targets[row : row + 1]
        if name in names.OF_ATTENTION:
            return attention(self.reader, ids[0], name)
        if name == names.RANDOM:
            return self._draws(batch.names[row], (length,)).to(ids.device)
        embeddings = self.reader.embeddings(ids)
        if name in (names.GRADIENT_NORM, names.INPUT_X_GRADIENT):
            slopes = gradients(self.reader, embeddings, target)
            return (slopes * embeddings if name == names.INPUT_X_GRADIENT else slopes).norm(dim=-1)[0]
        assert name == names.SHAP
        return self._shap(batch, row, length).norm(dim=-1)[0]

    def _integrated(self, batch: Batch, row: int, length: int) -> tuple[Tensor, float]:
        """[1, t, H] integrated gradients of one prediction, and the nats by which they do not add up."""
        ids, target, options = batch.ids[row : row + 1, :length], batch.targets[row : row + 1], self._config.attribution
        embeddings, begin = self.reader.embeddings(ids), torch.zeros((), device=ids.device)
        if options.baseline == names.MEAN:
            begin = self.reader.model.get_input_embeddings().weight.detach().mean(0)
        baseline = torch.where(batch.free[row, :length, None], begin, embeddings)
        values = integrated_gradients(self.reader, embeddings, baseline, target, options.points)
        with torch.no_grad():
            ends = self.reader.log_probabilities(torch.cat([baseline, embeddings]), target.expand(2))
        return values, abs(float(values.double().sum() - (ends[1] - ends[0]).double()))

    def _draws(self, text: str, shape: Sequence[int]) -> Tensor:
        """Uniform numbers that belong to a prediction, whatever others stand beside it."""
        return torch.rand(*shape, generator=torch.Generator().manual_seed(seed_of(self._config.seed, "draws", text)))

    def replaced(self, batch: Batch, row: int, replace: Replace, chances: Tensor) -> Tensor:
        """[n, t] texts of one prediction with all tokens replaced, by uniform numbers [n, its length]."""
        padded = torch.nn.functional.pad(chances, (0, batch.ids.shape[1] - chances.shape[1]))
        return replace(torch.full((len(chances),), row, device=batch.ids.device), padded.to(batch.ids.device))

    def _occlusion(self, batch: Batch) -> Tensor:
        """[n, t] what the prediction loses on average when one token is replaced."""
        scores, replace = (
            torch.zeros(batch.ids.shape, dtype=torch.float64, device=batch.ids.device),
            self.sampler(batch),
        )
        for row, length in enumerate(batch.lengths.tolist()):
            places, draws = batch.free[row].nonzero()[:, 0], self._config.attribution.draws
            count = len(places) * draws
            is_replaced = functional.one_hot(places, batch.ids.shape[1]).bool().repeat_interleave(draws, 0)
            drawn = self.replaced(batch, row, replace, self._draws(batch.names[row], (count, length)))
            texts = torch.where(is_replaced, drawn, batch.ids[row])
            read = self.reader.probabilities(
                texts, *(each[row].expand(count) for each in (batch.lengths, batch.targets))
            )
            scores[row, places] = (batch.whole[row] - read).double().unflatten(0, (len(places), draws)).mean(1)
        return scores

    def _shap(self, batch: Batch, row: int, length: int) -> Tensor:
        """[1, t, H] gradient SHAP of one prediction, from texts in which every token that may be is replaced."""
        options, ids = self._config.attribution, batch.ids[row]
        chances = self._draws(batch.names[row], (options.draws, length))
        drawn = torch.where(batch.free[row], self.replaced(batch, row, self.sampler(batch), chances), ids)
        one, others = (self.reader.embeddings(texts[:, :length]) for texts in (ids[None], drawn))
        seed = seed_of(self._config.seed, "shap", batch.names[row])
        return gradient_shap(self.reader, one, others, batch.targets[row : row + 1], options.samples, seed)


def shares(scores: Tensor, free: Tensor) -> Tensor:
    """[t] scores that are not negative over the sum of the free ones; equal shares where all are 0."""
    kept = scores.double().masked_fill(~free, 0)
    return kept / kept.sum() if float(kept.sum()) > 0 else free.double() / free.sum()


def softmax(scores: Tensor, free: Tensor) -> Tensor:
    """[t] softmax of the scores of free tokens."""
    return scores.double().masked_fill(~free, -torch.inf).softmax(-1)


@torch.no_grad()
def attention(reader: Reader, ids: Tensor, name: str) -> Tensor:
    """[t] what the last token attends to, mean over heads.

    Args:
        reader: The model.
        ids: [t]
        name: Of the last layer; the mean over layers; or rollout, the product over layers of (A + I) / 2.
    """
    reader.rows += 1
    is_rollout = name == names.ROLLOUT
    with attention_taps(reader.model, [-1] if name == names.ATTENTION_LAST else None) as taps:
        last_hidden_state(reader.model, input_ids=ids[None])
        weights = torch.stack([taps[layer].rows(None if is_rollout else [-1])[0].mean(0) for layer in taps.layers])
    return rollout(weights)[-1] if is_rollout else weights.mean(0)[-1]


def rollout(weights: Tensor) -> Tensor:
    """[t, t] attention [layers, t, t] followed through all layers, half of each token staying where it is.

    Source:
        arXiv 2005.00928.
    """
    both = 0.5 * weights + 0.5 * torch.eye(weights.shape[-1], device=weights.device)
    product = both[0]
    for layer in both[1:]:
        product = layer @ product
    return product


def gradients(reader: Reader, embeddings: Tensor, targets: Tensor) -> Tensor:
    """[n, t, H] gradient of log p of each target at embeddings [n, t, H]."""
    leaf = embeddings.detach().requires_grad_()
    return torch.autograd.grad(reader.log_probabilities(leaf, targets).sum(), leaf)[0]


def integrated_gradients(reader: Reader, embeddings: Tensor, baseline: Tensor, target: Tensor, points: int) -> Tensor:
    """[1, t, H] integrated gradients of log p, along `points` points from the baseline to the text, ends included."""
    from captum.attr import IntegratedGradients

    values: Tensor = IntegratedGradients(reader.log_probabilities).attribute(
        embeddings,
        baselines=baseline,
        additional_forward_args=(target,),
        n_steps=points,
        method="riemann_trapezoid",
        internal_batch_size=max(2, reader.batch_tokens // embeddings.shape[1]),
    )
    return values.detach()


def gradient_shap(
    reader: Reader, embeddings: Tensor, baselines: Tensor, target: Tensor, samples: int, seed: int
) -> Tensor:
    """[1, t, H] mean gradient at random points between baselines [n, t, H] and the text, times their difference."""
    from captum.attr import GradientShap

    with _local_draws(seed):
        values: Tensor = GradientShap(reader.log_probabilities).attribute(
            embeddings, baselines=baselines, n_samples=samples, stdevs=0.0, additional_forward_args=(target,)
        )
    return values.detach()


@contextmanager
def _local_draws(seed: int) -> Iterator[None]:
    """Seed the global generators, which `captum` draws from, and leave them as they were."""
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**32)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(state)
