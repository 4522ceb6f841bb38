"""The search of ReAGent: probes of many predictions side by side, two forwards a step for all that have not stopped."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.attribution.reagent import method
from recipes.attribution.reagent.config import MEAN_LOGIT, ReagentConfig
from recipes.attribution.reagent.reader import Reader
from recipes.attribution.reagent.samplers import Replace
from recipes.core.text_recipe.items import seed_of

SUBSET, UPDATE, TEST = range(3)  # what the uniform numbers of a step are for


@dataclass(frozen=True)
class Batch:
    """Predictions behind texts, which are best of about one length.

    Attributes:
        names: What they are called, which decides what is drawn for each.
        ids: [n, t] right-padded with any tokens.
        lengths: [n] tokens of each text.
        targets: [n] the predicted tokens.
        whole: [n] their probabilities.
        free: bool [n, t] tokens that may be replaced; none that pads.
    """

    names: Sequence[str]
    ids: Tensor
    lengths: Tensor
    targets: Tensor
    whole: Tensor
    free: Tensor


@dataclass(frozen=True)
class Probed:
    """What the probes of one prediction say.

    Attributes:
        scores: [t] logarithm of their mean importance, by which tokens are ranked; -inf where the text is padded.
        steps: [probes] how many subsets each has replaced.
        stopped: bool [probes] whether its most important tokens alone brought the prediction back.
        rationale: bool [t] tokens that enough probes hold to be most important.
    """

    scores: Tensor
    steps: Tensor
    stopped: Tensor
    rationale: Tensor

    @property
    def importance(self) -> Tensor:
        """[t] mean importance; sums to 1."""
        return self.scores.exp()


def probe(reader: Reader, batch: Batch, replace: Replace, config: ReagentConfig, seed: int) -> list[Probed]:
    """Probe each prediction of a batch.

    Args:
        reader: The model.
        batch: The predictions.
        replace: Draws replacements.
        config: How it is probed.
        seed: With the name of a prediction and the number of a probe it decides what that probe draws.
    """
    search = _Search(reader, batch, replace, config, seed)
    for _ in range(config.fixed_steps or config.max_steps):
        if not len(search.active):
            break
        search.step()
    return search.results()


class _Search:
    """Scores and draws of all probes of a batch; row i is a probe of prediction i // probes."""

    def __init__(self, reader: Reader, batch: Batch, replace: Replace, config: ReagentConfig, seed: int) -> None:
        self._reader, self._batch, self._replace, self._config = reader, batch, replace, config
        count, device = config.probes, batch.ids.device
        self._text = torch.arange(len(batch.ids), device=device).repeat_interleave(count)
        self._free, self._lengths = batch.free[self._text], batch.lengths[self._text].tolist()
        self._draws = [
            torch.Generator().manual_seed(seed_of(seed, name, number))
            for name in batch.names
            for number in range(count)
        ]
        self._scores = torch.stack([self._uniform(row, 1)[0] for row in range(len(self._draws))]).double().to(device)
        kept = [method.stop_test_size(config.keep, int(free)) for free in batch.free.sum(1)]
        self._kept = torch.tensor(kept, device=device).repeat_interleave(count)
        self._stopped = torch.zeros(len(self._text), dtype=torch.bool, device=device)
        self._steps = torch.zeros(len(self._text), dtype=torch.int64, device=device)
        self.active = torch.arange(len(self._text), device=device)

    def step(self) -> None:
        """Replace a subset in each probe that has not stopped, give credit, and test whether it stops."""
        rows, config = self.active, self._config
        chances = torch.stack([self._uniform(row, 3) for row in rows.tolist()]).to(self._scores.device)
        subset = (chances[:, SUBSET] < config.ratio) & self._free[rows]
        texts = self._text[rows]
        batch, changed = self._batch, self._with(texts, subset, chances[:, UPDATE])
        drop = batch.whole[texts] - self._reader.probabilities(changed, batch.lengths[texts], batch.targets[texts])
        self._scores[rows] = method.update(self._scores[rows], subset, drop)
        self._steps[rows] += 1
        done = int(self._steps[rows[0]])  # the same in all that are active
        if config.fixed_steps is None and (done % config.test_every == 0 or done == config.max_steps):
            self._test(rows, texts, chances[:, TEST])

    def results(self) -> list[Probed]:
        """What the probes of each prediction say together."""
        config, device = self._config, self._scores.device
        divisor = self._steps.clamp_min(1)[:, None] if config.score == MEAN_LOGIT else 1.0
        logs = method.log_importance(self._scores, self._free, divisor).unflatten(0, (-1, config.probes))
        kept = method.most_important(self._scores, self._free, self._kept).unflatten(0, (-1, config.probes))
        steps, stopped = (values.unflatten(0, (-1, config.probes)) for values in (self._steps, self._stopped))
        fixed = torch.full_like(stopped[0], config.fixed_steps is not None, device=device)
        return [
            Probed(
                method.combine(logs[row], stopped[row] | fixed),
                steps[row],
                stopped[row],
                method.rationale(kept[row], config.overlap),
            )
            for row in range(len(logs))
        ]

    def _test(self, rows: Tensor, texts: Tensor, chances: Tensor) -> None:
        """Probes stop whose most important tokens alone leave the prediction among the `top_k` likeliest."""
        keep = method.most_important(self._scores[rows], self._free[rows], self._kept[rows])
        alone = self._with(texts, self._free[rows] & ~keep, chances)
        ranks = self._reader.ranks(alone, self._batch.lengths[texts], self._batch.targets[texts])
        stops = ranks < self._config.top_k
        self._stopped[rows[stops]] = True
        self.active = rows[~stops]

    def _with(self, texts: Tensor, replaced: Tensor, chances: Tensor) -> Tensor:
        return torch.where(replaced, self._replace(texts, chances), self._batch.ids[texts])

    def _uniform(self, row: int, count: int) -> Tensor:
        """[count, t] numbers of one probe, whatever others draw and however long they are."""
        length = int(self._lengths[row])
        drawn = torch.rand(count, length, generator=self._draws[row])
        return torch.nn.functional.pad(drawn, (0, self._batch.ids.shape[1] - length))
