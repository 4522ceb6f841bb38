"""Attributions of predictions by every method of the recipe: scores, which rank tokens, and their importance."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
    """

    scores: Tensor
    importance: Tensor
    forwards: float
    probed: Probed | None = None


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
            for number, free, (scores, importance, probed) in zip(numbers, batch.free, values, strict=True):
                results[number] = Attribution(scores.masked_fill(~free, 0).cpu(), importance.cpu(), cost, probed)
            done(len(numbers))
        return [results[number] for number in range(len(targets))]

    def batches(self, targets: Sequence[Target]) -> Iterator[list[int]]:
        """Numbers of predictions behind texts of one length, so that they need no padding."""
        groups: dict[int, list[int]] = {}
        for number, target in enumerate(targets):
            groups.setdefault(len(target.ids), []).append(number)
        for length, numbers in groups.items():
            size = max(1, TABLE_ELEMENTS // (length * self.reader.head.vocabulary))
            yield from (numbers[start : start + size] for start in range(0, len(numbers), size))

    def batch(self, targets: Sequence[Target]) -> Batch:
        """Predictions behind texts of one length, on the model's device."""
        device = self.reader.device
        return Batch(
            [target.id for target in targets],
            torch.tensor([target.ids for target in targets], device=device),
            torch.tensor([target.token for target in targets], device=device),
            torch.tensor([target.probability for target in targets], device=device),
            torch.tensor([target.free for target in targets], device=device),
        )

    def sampler(self, batch: Batch) -> Replace:
        """What replaces tokens of these texts."""
        return build_sampler(self._config.attribution.sampler, self.reader, batch.ids, self._tokenizer, self._tables)

    def _attribute(self, batch: Batch, name: str) -> list[tuple[Tensor, Tensor, Probed | None]]:
        """Scores, importance and probes of each prediction of a batch."""
        options = self._config.attribution
        if name == names.REAGENT:
            probed = probe(self.reader, batch, self.sampler(batch), self._config.reagent, self._config.seed)
            return [(one.scores, one.scores, one) for one in probed]
        if name == names.OCCLUSION:
            scores = self._occlusion(batch)
            return [
                (each, shares(each.clamp_min(0), free), None) for each, free in zip(scores, batch.free, strict=True)
            ]
        if name in names.OF_ATTENTION:
            scores = attention(self.reader, batch.ids, name)
        elif name == names.RANDOM:
            scores = torch.stack([self._draws(text, batch.ids.shape[1:]) for text in batch.names]).to(batch.ids.device)
        else:
            scores = self._gradients(batch, name)
        is_softmax = options.softmax and name not in (names.INPUT_X_GRADIENT, names.INTEGRATED, names.SHAP)
        return [
            (each, softmax(each, free) if is_softmax else shares(each, free), None)
            for each, free in zip(scores, batch.free, strict=True)
        ]

    def _draws(self, text: str, shape: Sequence[int]) -> Tensor:
        """Uniform numbers that belong to a prediction, whatever others stand beside it."""
        return torch.rand(*shape, generator=torch.Generator().manual_seed(seed_of(self._config.seed, "draws", text)))

    def _occlusion(self, batch: Batch) -> Tensor:
        """[n, t] what the prediction loses on average when one token is replaced."""
        scores, replace = (
            torch.zeros(batch.ids.shape, dtype=torch.float64, device=batch.ids.device),
            self.sampler(batch),
        )
        for row, text in enumerate(batch.names):
            places = batch.free[row].nonzero()[:, 0]
            count, length = len(places) * self._config.attribution.draws, len(batch.ids[row])
            is_replaced = torch.nn.functional.one_hot(places, length).bool().repeat_interleave(count // len(places), 0)
            drawn = replace(torch.full((count,), row, device=places.device), self._draws(text, (count, length)))
            texts = torch.where(is_replaced, drawn, batch.ids[row])
            read = self.reader.probabilities(texts, batch.targets[row].expand(count))
            scores[row, places] = (batch.whole[row] - read).double().unflatten(0, (len(places), -1)).mean(1)
        return scores

    def _gradients(self, batch: Batch, name: str) -> Tensor:
        """[n, t] length of what gradients of log p say of each token."""
        embeddings = self.reader.embeddings(batch.ids)
        if name in (names.GRADIENT_NORM, names.INPUT_X_GRADIENT):
            slopes = gradients(self.reader, embeddings, batch.targets)
            return (slopes * embeddings if name == names.INPUT_X_GRADIENT else slopes).norm(dim=-1)
        rows = []
        for row, text in enumerate(batch.names):
            one, target = embeddings[row : row + 1], batch.targets[row : row + 1]
            if name == names.INTEGRATED:
                baseline = torch.where(batch.free[row, :, None], 0.0, one)
                each = integrated_gradients(self.reader, one, baseline, target, self._config.attribution.points)
            else:
                each = self._shap(batch, row, text)
            rows.append(each.norm(dim=-1)[0])
        return torch.stack(rows)

    def _shap(self, batch: Batch, row: int, text: str) -> Tensor:
        """[1, t, H] gradient SHAP of one prediction, from texts in which every token that may be is replaced."""
        options, ids = self._config.attribution, batch.ids[row]
        numbers = torch.full((options.draws,), row, device=ids.device)
        replaced = self.sampler(batch)(numbers, self._draws(text, (options.draws, len(ids))))
        others = self.reader.embeddings(torch.where(batch.free[row], replaced, ids))
        one, seed = self.reader.embeddings(ids[None]), seed_of(self._config.seed, "shap", text)
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
    """[n, t] what the last token attends to, mean over heads.

    Args:
        reader: The model.
        ids: [n, t]
        name: Of the last layer; the mean over layers; or rollout, the product over layers of (A + I) / 2.
    """
    layers = [-1] if name == names.ATTENTION_LAST else None
    rows = []
    for text in ids:  # all layers of one text hold as much as a forward of many
        reader.rows += 1
        with attention_taps(reader.model, layers) as taps:
            last_hidden_state(reader.model, input_ids=text[None])
            columns = None if name == names.ROLLOUT else [-1]
            weights = [taps[layer].rows(columns)[0].mean(0) for layer in taps.layers]
        rows.append(rollout(torch.stack(weights))[-1] if name == names.ROLLOUT else torch.stack(weights).mean(0)[-1])
    return torch.stack(rows)


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
    size = max(1, reader.batch_tokens // embeddings.shape[1])
    parts = []
    for start in range(0, len(embeddings), size):
        leaf = embeddings[start : start + size].detach().requires_grad_()
        values = reader.log_probabilities(leaf, targets[start : start + size])
        parts.append(torch.autograd.grad(values.sum(), leaf)[0])
    return torch.cat(parts)


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
