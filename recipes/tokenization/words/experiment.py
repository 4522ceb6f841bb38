"""The run of a recipe of this kind: words and units, one training, errors on the way, another language at its end.

Held-out documents are whole, so that nothing that is measured was trained on. Windows of training begin at the same
places of the text in all arms of a seed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from recipes.core.data.text.windows import Texts
from recipes.core.errors import UserError
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.losses.objectives import WeightedCrossEntropy
from recipes.core.messages import note
from recipes.core.models.config import GPT2_POSITIONS
from recipes.core.models.run_models import describer
from recipes.core.recipe import Evaluation
from recipes.core.training.task import Training
from recipes.core.training.trainer import IDS
from recipes.tokenization.words import measures, method, names
from recipes.tokenization.words.config import FLAT, PADDING_COUNTED, WordRunConfig
from recipes.tokenization.words.corpus import (
    ADAPTED,
    BASE,
    Corpus,
    TrainingText,
    WordStream,
    check_spelling,
    flat_batch,
    hierarchy_batch,
)
from recipes.tokenization.words.files import WORDS, continue_text, heatmap, write_words
from recipes.tokenization.words.measures import Stretch, stretches
from recipes.tokenization.words.model import WordModel, flat_model
from recipes.tokenization.words.reading import Reader
from recipes.tokenization.words.units import Units


@dataclass
class Prepared:
    """What a run needs.

    Attributes:
        units: What words are spelt in.
        corpora: Training text, and that of another language if there is one.
        counts: How often each word comes in the former.
        stretches: Held-out text of both, by part.
        costs: FLOPs of a forward over a byte of each.
        device: Where the run computes.
        step: Steps done, as training goes on.
    """

    units: Units
    corpora: Sequence[Corpus]
    counts: Counter[bytes]
    stretches: dict[str, list[Stretch]]
    costs: Sequence[float]
    device: str
    step: int = field(default=0)


class SpellingLoss:
    """Mean NLL of all units and ends of words of a step."""

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Units and ends that a micro-batch predicts."""
        return batch["symbols"]

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The micro-batch's share of the loss, and what is logged."""
        spelled = model(batch["words"], batch["lengths"], batch["sequence"])
        total, count = spelled.nll.sum(), batch["symbols"]
        words = torch.full_like(count, len(spelled.right))
        return total / normalizer, {
            "nll": torch.stack([total.detach().float(), count]),
            "word_accuracy": torch.stack([spelled.right.sum().to(count.dtype), words]),
        }


class WordRecipe:
    """Trains a hierarchy over words, or a flat model of the same text."""

    def prepare(self, config: WordRunConfig, device: str) -> Prepared:
        """Words, units, training text and held-out text. Raises UserError."""
        texts = Texts(config.data)
        text, windows = TrainingText(config, texts), texts.windows(config.evaluation, config.seed)
        units = text.units()
        parts = [BASE] if config.adaptation.domain is None else [BASE, ADAPTED]
        corpora = [text.corpus(units, part) for part in parts]
        held_out = {
            part: stretches(
                [each for each in windows if (each.domain == config.adaptation.domain) == (part == ADAPTED)]
            )
            for part in parts
        }
        for part, rows in held_out.items():
            if not rows:
                domain = config.adaptation.domain if part == ADAPTED else "the first language"
                what = f"no held-out document of {domain} is long enough"
                raise UserError(what, texts.where, "give more text, or type a smaller evaluation.shortest")
        check_spelling(config, units, [window.text for window in windows])
        _check_context(config, corpora)
        costs = [cost_per_byte(config, corpus, units) for corpus in corpora]
        return Prepared(units, corpora, text.counts, held_out, costs, device)

    def build(self, config: WordRunConfig, prepared: Prepared) -> Training:
        """Model, loss and windows, all derived from the seed."""
        units, flat = prepared.units, config.model.kind == FLAT
        model: nn.Module = (
            flat_model(config.model, units, config.seed)
            if flat
            else WordModel(config.model, units, config.words.group, config.seed, config.faults, config.words.longest)
        )
        make = flat_batch if flat else hierarchy_batch

        def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
            windows = [window for item in items for window in item["windows"]]
            batch: dict[str, Any] = {**make(windows, units), IDS: [item["id"] for item in items]}
            if not flat and PADDING_COUNTED in config.faults:
                batch["symbols"] = float(config.words.longest + 1) * (batch["sequence"] >= 0).sum()
            return batch

        def count_step(step: int, model: nn.Module, batches: list[dict[str, Any]]) -> None:
            prepared.step = step + 1

        rates = item_rates(config, prepared)
        if rates[0] < 1:
            gflops = prepared.costs[0] * prepared.corpora[0].window_bytes / 1e9
            what = f"a window costs {gflops:.2g}, so that windows are shorter than the context"
            note(f"warning: words.gflops={config.words.gflops}: {what}")
        every = config.evaluation.watch_every
        steps = regular_steps(config.trainer.max_steps, every) | {config.base_steps}
        objective = WeightedCrossEntropy() if flat else SpellingLoss()
        readable = flat and units.tokenizer is not None
        describe = describer(model, units.tokenizer) if readable else None
        stream: Any = WordStream(prepared.corpora, rates, config)
        return Training(model, objective, stream, collate, {}, steps, count_step, describe)

    def watch(self, config: WordRunConfig, prepared: Prepared, model: nn.Module) -> Scores:
        """Bits of held-out text; where they are the target, and before another language comes, all that is measured."""
        return measure(config, prepared, model, prepared.step)

    def evaluate(
        self, config: WordRunConfig, prepared: Prepared, model: nn.Module | None, curve: dict[int, Scores]
    ) -> Evaluation:
        """What was measured before adaptation, where the loss was the target, and at the end."""
        last, base = max(curve), config.base_steps
        whole = curve[base] if base in curve else measure(config, prepared, model, base)  # it stopped early
        scores = Scores()
        measures.copy_rows(whole, scores, names.OF_ALL)
        step = measures.nearest_match(curve, base, config.evaluation.target, config.evaluation.tolerance)
        if step is not None:
            measures.copy_rows(curve[step], scores, names.OF_ALL, new=f"{names.MATCHED}/")
        if len(prepared.corpora) > 1:
            both = (names.BITS, names.ACCURACY)
            measures.copy_rows(whole, scores, both, f"{names.ADAPTED}/", f"{names.ADAPTED}/before/")
            for prefix in (names.ADAPTED, names.KEPT):
                measures.copy_rows(curve[last], scores, both, f"{prefix}/", f"{prefix}/")
        _add_costs(config, prepared, scores)
        parts = [part for group in prepared.stretches.values() for part in group]
        reader = Reader(config, prepared.units, model, prepared.device)
        read = reader.read([(part.text, part.before) for part in parts])
        options, written = config.evaluation, None
        if config.model.kind != FLAT and options.continued:
            written = [continue_text(reader, part.before, options.continued) for part in parts[: options.shown]]
        files = {WORDS: partial(write_words, parts=parts, read=read, continued=written)}
        return Evaluation(
            scores.overall(), scores, heatmap(parts, read, options.shown), plots=[_curve(curve)], files=files
        )


def measure(config: WordRunConfig, prepared: Prepared, model: Any, step: int) -> Scores:
    """What is measured of a model after so many steps."""
    scores, options, base = Scores(), config.evaluation, config.base_steps
    reader = Reader(config, prepared.units, model, prepared.device)
    for part, rows in prepared.stretches.items():
        if part == ADAPTED and step < base:
            continue
        prefix = f"{names.ADAPTED}/" if part == ADAPTED else f"{names.KEPT}/" if step > base else ""
        measures.define(scores, prefix)
        read = reader.read([(each.text, each.before) for each in rows])
        measures.add_clean(scores, rows, read, prepared.counts, options.rare, prefix)
        apart = abs(scores.overall()[f"{prefix}{names.BITS}"] - options.target)
        near = bool(options.perturbations) and apart <= options.tolerance
        if part == BASE and (step == base or (step < base and near)):
            measures.add_perturbed(scores, rows, read, reader, options)
    used = {row[0] for row in scores.rows}
    return Scores({name: metric for name, metric in scores.metrics.items() if name in used}, scores.rows)


def item_rates(config: WordRunConfig, prepared: Prepared) -> list[float]:
    """Windows of a training item, of each text: at `words.gflops`, else one of the first and as much work of others."""
    costs = [cost * corpus.window_bytes for cost, corpus in zip(prepared.costs, prepared.corpora, strict=True)]
    work = costs[0] if config.words.gflops is None else config.words.gflops * 1e9
    return [work / cost for cost in costs]


def cost_per_byte(config: WordRunConfig, corpus: Corpus, units: Units) -> float:
    """FLOPs of a forward over a byte of a text."""
    model, size = config.model, corpus.mean_size
    words = corpus.window_bytes / size
    if model.kind == FLAT:
        weights = model.passed_weights(model.width, model.layers) + model.width * units.size
        read = corpus.mean_units * words / 2
        attention = method.attention_cost(model.width, model.layers, read) / 2
        return method.flat_cost(weights + attention, corpus.mean_units, size)
    decoder = model.passed_weights(model.unit_width, model.decoder_layers)
    encoder = model.passed_weights(model.unit_width, model.encoder_layers) if model.encodes else 0
    unit, positions = encoder + decoder + model.unit_width * units.size, model.positions
    attention = method.attention_cost(model.width, model.layers, positions * words / 2) / 2
    backbone = model.passed_weights(model.width, model.layers) + model.map_weights(config.words.group)
    word = positions * (backbone + attention)
    # The formula has one mark and one hint before the units of a word.
    word += (model.marks - 1) * encoder + (model.slots - 1) * decoder
    return method.hierarchy_cost(unit, word, corpus.mean_units, size)


def _check_context(config: WordRunConfig, corpora: Sequence[Corpus]) -> None:
    """Refuse windows of more positions than the blocks know."""
    each = 1 if config.model.kind == FLAT else config.model.positions
    longest = each * max(corpus.longest_window for corpus in corpora)
    if config.model.architecture == "gpt2" and longest > GPT2_POSITIONS:
        what = f"a window has {longest:,} positions, and model.architecture=gpt2 has {GPT2_POSITIONS:,}"
        raise UserError(what, f"words.size={config.words.size}", "type a smaller one, or model.architecture=llama")


def _add_costs(config: WordRunConfig, prepared: Prepared, scores: Scores) -> None:
    corpus, name = prepared.corpora[0], f"run {config.seed}"
    step = config.base_steps * config.trainer.batch_size
    megabytes = step * corpus.window_bytes * item_rates(config, prepared)[0] / 1e6
    gflops = 3 * prepared.costs[0] * megabytes / 1e3  # a backward is twice a forward
    values = {
        "cost/flops_per_byte": ("FLOPs of a forward over a byte of the training text", prepared.costs[0]),
        "cost/gflops": ("GFLOPs of training before another language", gflops),
        "cost/megabytes": ("megabytes read in training, before another language", megabytes),
        "cost/units_per_byte": ("units per byte, without ends", corpus.mean_units / corpus.mean_size),
    }  # fmt: skip
    for metric, (title, value) in values.items():
        scores.define(metric, title, higher_is_better=False)
        scores.add(metric, name, name, value)


def _curve(curve: dict[int, Scores]) -> Plot:
    overall = {step: curve[step].overall() for step in sorted(curve)}
    labels = {"": "held-out text", f"{names.KEPT}/": "the same, later", f"{names.ADAPTED}/": "the other language"}
    series = {}
    for prefix, label in labels.items():
        points = [(float(step), values[f"{prefix}{names.BITS}"]) for step, values in overall.items()
                  if f"{prefix}{names.BITS}" in values]  # fmt: skip
        if points:
            series[label] = points
    return Plot("bits", "Bits per byte of held-out text", "step", "bits per byte", series)
