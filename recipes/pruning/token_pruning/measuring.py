"""One model, one pruner, several budgets: what is answered, what is kept and what it costs."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from recipes.core.models.costs import mlp_macs, model_macs, patch_macs
from recipes.core.process.clock import clock
from recipes.pruning.accounting import Prefill, avg_tokens
from recipes.pruning.adapters import Layout, Trace, prune
from recipes.pruning.draws import sample_seed
from recipes.pruning.options import FullOptions
from recipes.pruning.pruners import make
from recipes.pruning.token_pruning.agreement import agreement
from recipes.pruning.token_pruning.subjects import Batch, Subject, Terms
from recipes.pruning.tokens import Pruner

FULL = "1"  # label of the unpruned model
MIB = 2**20


@dataclass(frozen=True)
class Seen:
    """What pruning left of one sample, for pictures.

    Attributes:
        kept: Original patches that are left at the end of the model, ascending.
        patches: How many there were.
        made: Tokens that pruning made.
        answer: What was answered.
        right: Whether that is right.
    """

    kept: tuple[int, ...]
    patches: int
    made: int
    answer: str
    right: bool


@dataclass
class Tally:
    """All that was measured at one budget.

    Attributes:
        label: In the names of metrics.
        right: Question -> its score for each draw: 1 or 0; of a text its `Agreement.each`.
        recall: Question -> share of its evidence that was kept, for each draw.
        macs, llm: Multiply-adds of each sample's prefill: all, the language model's.
        tokens: Mean over layers of each sample's tokens that may be pruned.
        distance: Smallest cosine distance between kept tokens, as the unpruned model sees them, by sample.
        selection: Seconds of selection a sample, by batch.
        forward: Seconds of a prefill a sample, selection included, by timed batch.
        memory: Peak of the device's memory in bytes; 0 on a CPU.
        seen: Question -> what is left of its sample, of the first draw.
        embeddings: Text -> [d] for each draw; empty for questions.
        spearman: `Agreement.pairs` for each draw; empty for questions.
    """

    label: str
    right: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    recall: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    macs: list[float] = field(default_factory=list)
    llm: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)
    selection: list[float] = field(default_factory=list)
    forward: list[float] = field(default_factory=list)
    memory: int = 0
    seen: dict[str, Seen] = field(default_factory=dict)
    embeddings: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    spearman: list[float] = field(default_factory=list)

    def scores(self) -> dict[str, float]:
        """Question -> mean of its scores over draws."""
        return {name: fmean(draws) for name, draws in self.right.items()}


@dataclass
class Measured:
    """A run's tallies and its questions.

    Attributes:
        full: Of the unpruned model.
        tallies: Of each budget, the largest first.
        groups: Question -> image.
        shown: Batches whose questions the report shows.
        terms: What was measured.
    """

    full: Tally
    tallies: list[Tally]
    groups: dict[str, str] = field(default_factory=dict)
    shown: list[Batch] = field(default_factory=list)
    terms: Terms = Terms()

    @property
    def every(self) -> list[Tally]:
        """The unpruned model's tally, then those of the budgets."""
        return [self.full, *self.tallies]


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        budgets: (label, share or number of tokens).
        seed: Of the run.
        draws: Draws of a pruner that draws.
        positions: Rotary positions; None: the pruner's own.
        timed: Batches whose prefill is timed.
        pictures: Questions to show.
    """

    budgets: Sequence[tuple[str, float | int]]
    seed: int
    draws: int
    positions: str | None
    timed: int
    pictures: int


@torch.no_grad()
def measure(subject: Subject, pruner: Pruner, plan: Plan) -> Measured:
    """Run every batch unpruned and at every budget."""
    measured = Measured(Tally(FULL), [Tally(label) for label, _ in plan.budgets], terms=subject.terms)
    nothing = make(FullOptions())
    for number, batch in enumerate(subject.batches()):
        if number == 0:
            subject.prefill(batch)  # what is slow only once is not timed
        measured.groups |= dict(zip(batch.ids, batch.groups, strict=True))
        if sum(len(each.ids) for each in measured.shown) < plan.pictures:
            measured.shown.append(batch)
        timed = number < plan.timed
        features = subject.features(batch)
        _run(subject, nothing, 1.0, batch, plan, measured.full, 0, features, timed)
        for tally, (_, budget) in zip(measured.tallies, plan.budgets, strict=True):
            for draw in range(plan.draws):
                _run(subject, pruner, budget, batch, plan, tally, draw, features, timed)
    for tally in measured.every:
        _compare(tally, measured.full)
    return measured


def _run(
    subject: Subject,
    pruner: Pruner,
    budget: float | int,
    batch: Batch,
    plan: Plan,
    tally: Tally,
    draw: int,
    features: Sequence[Tensor],
    timed: bool,
) -> None:
    """One batch at one budget, into its tally."""
    seeds = [sample_seed(plan.seed, f"{draw}/{sample}") for sample in batch.samples]
    cuda = next(iter(batch.inputs.values())).is_cuda
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    guide, positions = batch.guide, plan.positions
    pruning = prune(subject.model, pruner, budget, seeds=seeds, guide=guide, positions=positions, names=batch.samples)
    with pruning as trace:
        seconds, answers = _time_answers(subject, batch, timed)
    if seconds is not None:
        tally.forward.append(seconds / len(seeds))
    if cuda:
        tally.memory = max(tally.memory, torch.cuda.max_memory_allocated())
    tally.selection.append(trace.selection_seconds / len(seeds))
    for cost in sample_costs(subject.layout, trace):
        tally.macs.append(cost.macs)
        tally.llm.append(cost.llm_macs)
    tally.tokens += visual_tokens(subject.layout, trace)
    tally.distance += [
        distance for one, kept in zip(features, trace.entering, strict=False)
        if (distance := min_distance(one[kept.to(one.device)])) is not None
    ]  # fmt: skip
    _judge(subject, batch, trace, answers, tally)


def _time_answers(subject: Subject, batch: Batch, timed: bool) -> tuple[float | None, Any]:
    """Seconds of a prefill (None: not timed) and the answers."""
    seconds = None
    if timed and not subject.one_forward:
        start = clock()
        subject.prefill(batch)
        seconds = clock() - start
    start = clock()
    answers = subject.answer(batch)
    if timed and subject.one_forward:
        seconds = clock() - start
    return seconds, answers


def _judge(subject: Subject, batch: Batch, trace: Trace, answers: Any, tally: Tally) -> None:
    embeddings = subject.embeddings(answers, trace)
    for index, (name, row) in enumerate(zip(batch.ids, batch.rows, strict=True)):
        answer, right = "", False
        if embeddings is None:
            answer = answers[index]
            right = subject.is_right(answer, batch.answers[index])
            tally.right[name].append(float(right))
        else:
            tally.embeddings[name].append(embeddings[row])
        kept = (trace.survivors if subject.layout.llm else trace.entering)[row]
        if batch.evidence is not None:
            evidence = batch.evidence[index]
            tally.recall[name].append(float(evidence[trace.entering[row]].sum() / evidence.sum()))
        if name not in tally.seen:
            patches = batch.counts[row] if batch.counts else subject.patches
            tally.seen[name] = Seen(tuple(kept.tolist()), patches, int(trace.made[row]), answer, right)


def _compare(tally: Tally, full: Tally) -> None:
    """Score texts, now that all of them are there."""
    unpruned = [draws[0] for draws in full.embeddings.values()]
    for pruned_ones in zip(*tally.embeddings.values(), strict=True):
        result = agreement(pruned_ones, unpruned)
        tally.spearman.append(result.pairs)
        for name, score in zip(tally.embeddings, result.each, strict=True):
            tally.right[name].append(score)


def sample_costs(layout: Layout, trace: Trace) -> list[Prefill]:
    """Multiply-adds of each sample's prefill; blocks of the encoder whose output nobody uses are not counted."""
    encoder, used = layout.encoder, layout.used_blocks
    pairs = trace.encoder_pairs if len(trace.encoder_pairs) else trace.encoder_tokens**2
    # Nothing is dropped in front of the first block: what enters it are all patches.
    rows = [
        sum(encoder.macs(count, among) for count, among in zip(row[:used], paired[:used], strict=True))
        + patch_macs(row[0] - layout.special, layout.patch_pixels, encoder.width)
        for row, paired in zip(trace.encoder_tokens.tolist(), pairs.tolist(), strict=True)
    ]
    ends = list(itertools.accumulate(trace.crops))
    parts = [sum(rows[end - count : end]) for end, count in zip(ends, trace.crops, strict=True)]
    if layout.llm is None:
        return [Prefill(part, 0.0, 0.0) for part in parts]
    joined = zip(parts, trace.projected.tolist(), trace.llm_visual.tolist(), trace.text_tokens.tolist(), strict=True)
    return [
        Prefill(
            part, mlp_macs(projected, *layout.projector), model_macs(layout.llm, [text + count for count in visual])
        )
        for part, projected, visual, text in joined
    ]


def visual_tokens(layout: Layout, trace: Trace) -> list[float]:
    """Mean over layers of the visual tokens of each sample: of the language model, else of the encoder."""
    if layout.llm is not None:
        return [avg_tokens(row) for row in trace.llm_visual.tolist()]
    return [avg_tokens([count - layout.special for count in row]) for row in trace.encoder_tokens.tolist()]


def min_distance(x: Tensor) -> float | None:
    """The smallest cosine distance between two of the tokens [n, d]; None for fewer than two."""
    if len(x) < 2:
        return None
    unit = normalize(x.float(), dim=1, eps=1e-12)
    alike = (unit @ unit.T).fill_diagonal_(-1.0)
    return 1 - float(alike.max())


def at_ratio(points: Sequence[tuple[float, dict[str, float]]], ratio: float) -> dict[str, float] | None:
    """Scores where a cost would be `ratio`, interpolated linearly between the measured points around it.

    Args:
        points: (cost, score of each question), in any order.
        ratio: The cost asked for.

    Returns:
        Question -> score; None outside the measured costs.
    """
    ordered = sorted(points, key=lambda point: point[0])
    for (low, before), (high, behind) in zip(ordered, ordered[1:], strict=False):
        if low <= ratio <= high:
            share = (ratio - low) / (high - low) if high > low else 1.0
            return {name: (1 - share) * before[name] + share * behind[name] for name in before}
    return None


def typical(seconds: Sequence[float]) -> float:
    """Median in milliseconds."""
    return 1e3 * median(seconds)
