"""A model pruned to several shares of zeros, one after another, as an arm says.

Scores of gradients, of importance in general, of magnitude and of chance are those of the dense model: one pass gives
the zeros of every share. Wanda and SparseGPT prune block by block and read what the blocks before, as pruned, put out;
iterative blocking takes gradients anew behind each group of blocks.
"""

from collections.abc import Collection, Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recipes.compression.d_pruner import method
from recipes.compression.d_pruner.config import (
    BY_GRADIENT,
    BY_LAYER_OUTPUT,
    BY_OBS,
    DOMAIN,
    GENERAL,
    MAGNITUDE,
    SPARSEGPT,
    SUM_RANK,
    WANDA,
    DPrunerConfig,
)
from recipes.compression.d_pruner.gradients import GradientSums
from recipes.compression.d_pruner.layerwise import inverse_diagonals_once, prune_by_columns, prune_by_inputs
from recipes.compression.d_pruner.texts import Sequences
from recipes.compression.linears import LinearLayer, linears_of, zero_count
from recipes.compression.walk import Walk
from recipes.core.models.vision_language import TextModel
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.storage.files import sha256_json

Zeros = dict[str, Tensor]  # name of a linear layer -> bool [out, in]


class Pruner:
    """Prunes a model.

    Args:
        config: How.
        model: The dense model, frozen; it is changed.
        sequences: What it is calibrated on.
        where: Key and value that named the model, for messages.
        device: Where blocks are computed.

    Attributes:
        alike: Jaccard index of the zeros of dual scores with those of importance in general, and of the domain alone.
    """

    def __init__(self, config: DPrunerConfig, model: TextModel, sequences: Sequences, where: str, device: str) -> None:
        self._config, self._model, self._sequences = config, model, sequences
        self._where, self._device = where, device
        self._linears = linears_of(model.language_model, where)
        self._counts: dict[str, list[int]] = {}
        self._diagonals: dict[str, Tensor] = {}
        if config.prune.method in BY_OBS:
            self._diagonals = self._inverse_diagonals()

    def shares(self) -> Iterator[float]:
        """Prune to each share of the config in turn; the model is as it says until the next is asked for."""
        shares, options = self._config.prune.shares, self._config.prune
        dense = [linear.weight.to("cpu", copy=True) for linear in self._linears] if len(shares) > 1 else []
        for number, share in enumerate(shares):
            if number:
                for linear, weight in zip(self._linears, dense, strict=True):
                    linear.weight.copy_(weight)
            if options.method in BY_LAYER_OUTPUT:
                self._prune_by_walk(share)
            elif self._config.score.groups > 1 and options.method in BY_GRADIENT:
                self._prune_by_groups(share)
            else:
                self._set_zeros(self._zeros_of_dense[share])
            yield share

    @property
    def alike(self) -> dict[str, float]:
        """Jaccard index of the zeros that are left with those of importance in general, and of the domain alone."""
        return {name: shared / max(either, 1) for name, (shared, either) in self._counts.items()}

    @cached_property
    def _zeros_of_dense(self) -> dict[float, Zeros]:
        shares, rest = self._config.prune.shares, self._config.calibration.rest(self._device)
        zeros: dict[float, Zeros] = {share: {} for share in shares}
        for linear, scores in self._scores(range(len(self._linears))):
            for share in shares:
                zeros[share][linear.name] = _smallest(scores, share).to(rest)
        return zeros

    def _prune_by_walk(self, share: float) -> None:
        options, calibration = self._config.prune, self._config.calibration
        for step in self._walk(self._sequences.mixed(calibration.text)).steps(f"pruning to {share:g}"):
            if options.method == WANDA:
                prune_by_inputs(step, share)
            else:
                prune_by_columns(step, share, calibration.damp, compensates=options.method == SPARSEGPT)

    def _prune_by_groups(self, share: float) -> None:
        """Groups of blocks from the first to the last, each scored in the model whose groups before are pruned."""
        self._counts.clear()
        blocks = len(self._walk(self._sequences.domain).blocks)
        for group in np.array_split(np.arange(blocks), min(self._config.score.groups, blocks)):
            for linear, scores in list(self._scores(group.tolist())):
                linear.weight.masked_fill_(_smallest(scores, share).to(linear.weight.device), 0)

    def _scores(self, blocks: Collection[int]) -> Iterator[tuple[LinearLayer, Tensor]]:
        """Linear layers of some blocks, and the scores [out, in] of their weights in the model as it is."""
        if self._config.prune.method not in BY_GRADIENT:
            yield from ((linear, self._score(linear, None)) for linear in self._linears)
            return
        for step in self._walk(self._sequences.domain).backward("gradients on the domain"):
            if step.block.number not in blocks:
                step.run(lambda *_: None)
                continue
            sums = GradientSums(step.block)
            step.run(sums.add)
            for name, linear in step.block.linears.items():
                yield linear, self._score(linear, sums.means(name))
            if step.block.number == min(blocks):
                return

    def _score(self, linear: LinearLayer, means: tuple[Tensor, Tensor] | None) -> Tensor:
        """Of each weight of a layer; `means` are its gradient and Fisher diagonal."""
        weight, options, name = linear.weight.float(), self._config.score, self._config.prune.method
        if name == MAGNITUDE:
            return weight.abs()
        general = torch.zeros(0)
        if name in BY_OBS:
            general = method.general_importance(weight, self._diagonals[linear.name].to(weight))
        if name == GENERAL:
            return general
        if means is None:  # by chance
            draw = torch.Generator().manual_seed(int(sha256_json([self._config.seed, linear.name])[:15], 16))
            return torch.rand(weight.shape, generator=draw).to(weight)
        gradient, fisher = means
        domain = method.dual_score(gradient, weight, options.second_order_sign)
        if name == DOMAIN:
            return domain
        if name == SUM_RANK:
            return (method.rank_shares(general) + method.rank_shares(domain)) / 2
        regularised = method.scale_free(gradient, fisher, general, options.rho)
        dual = method.dual_score(regularised, weight, options.second_order_sign)
        self._count(_smallest(dual, self._config.prune.sparsity), general=general, domain=domain)
        return dual

    def _count(self, zeros: Tensor, **others: Tensor) -> None:
        for name, scores in others.items():
            alike = _smallest(scores, self._config.prune.sparsity)
            shared, either = self._counts.setdefault(name, [0, 0])
            self._counts[name] = [shared + int((zeros & alike).sum()), either + int((zeros | alike).sum())]

    def _set_zeros(self, zeros: Zeros) -> None:
        for linear in self._linears:
            linear.weight.masked_fill_(zeros[linear.name], 0)

    def _walk(self, rows: Tensor) -> Walk:
        batch = self._config.calibration.batch
        return Walk(self._model.language_model, rows, self._where, batch=batch, device=self._device)

    def _inverse_diagonals(self) -> dict[str, Tensor]:
        rows = self._sequences.general
        key = [weights_hash(self._model), sha256_json(rows.tolist())]
        return inverse_diagonals_once(key, lambda: self._walk(rows), self._config.calibration.damp)


def _smallest(scores: Tensor, share: float) -> Tensor:
    return method.smallest(scores, zero_count(share, scores.numel()))
