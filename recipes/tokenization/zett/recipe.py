"""ZeTT as an experiment: a frozen model, tokenizers that it never saw, rows from an arm, the same held-out bytes."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipes.core.data.text.windows import Texts, Window
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.models.hf_folder import writer
from recipes.core.models.rows import mean_of_pieces
from recipes.core.models.vision_language import TextModel
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.scoring.bits import TextBits, text_bits, warn_of_lost
from recipes.core.training.toys.frozen import load_frozen, model_where
from recipes.tokenization.config import NoiseConfig
from recipes.tokenization.hypernetwork import Hypernetwork, predict_rows
from recipes.tokenization.hypernetwork_training import Trained, half_merged, trained_hypernetwork
from recipes.tokenization.old_rows import OldRows
from recipes.tokenization.pictures import cut_texts
from recipes.tokenization.strings import StringVectors
from recipes.tokenization.transplant import place_rows
from recipes.tokenization.vocabularies import copied_rows
from recipes.tokenization.zett.config import BASE, FVT, VARIANT, ZettConfig
from recipes.tokenization.zett.results import (
    CUTS,
    curve_plots,
    heatmap,
    score_held_out,
    score_texts,
    score_vocabulary,
    write_cuts,
)
from recipes.tokenization.zett.rows import RowMaker
from recipes.tokenization.zett.targets import Target, domains_config, load_targets
from recipes.tokenization.zett.variant import load_variant

KEY = "evaluation.characters"
ON_CURVE = 4  # texts that a learning curve is measured on


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        source: The old model.
        targets: New tokenizers; none of the arm `base`.
        maker: Makes their rows.
        trained: The hypernetwork, of the arms that have one.
        windows: What is measured.
        variant: A fine-tuned variant, and its own texts; None without one.
    """

    source: OldRows
    targets: Sequence[Target]
    maker: RowMaker
    trained: Trained | None
    windows: Sequence[Window]
    variant: tuple[OldRows, Sequence[Window]] | None


class ZettRecipe(Untrained):
    """A hypernetwork that is trained once for a model, and its baselines."""

    def prepare(self, config: ZettConfig, device: str) -> Prepared:
        """Model, targets, texts, hypernetwork and variant. Raises UserError."""
        model, tokenizer = load_frozen(config, device)
        source = OldRows(model, tokenizer, model_where(config.model))
        texts = Texts(config.data)
        windows = texts.windows(config.evaluation, config.seed)
        targets = [] if config.init.name == BASE else load_targets(config, source)
        variant = None
        if config.tuned.used:
            others = Texts(domains_config(config.data, config.tuned.domains))
            its_windows = others.windows(config.evaluation, config.seed)
            variant = load_variant(config, source, others, device), its_windows
        trained = None
        if config.predicts:
            training, fingerprint = texts.training(1.0, config.seed)
            trained = trained_hypernetwork(
                source, config.hypernetwork, config.trainer, config.seed, training, fingerprint
            )
        vectors = partial(StringVectors, config.strings.path, device)
        maker = RowMaker(config.init, source, vectors, lambda: texts.training(1.0, config.seed)[0], config.seed)
        return Prepared(source, targets, maker, trained, windows, variant)

    def evaluate(self, config: ZettConfig, prepared: Prepared, model: object, curve: dict[int, Scores]) -> Evaluation:
        """Give the model each new tokenizer, and read the texts."""
        scores, files = Scores(), dict[str, Callable[[Path], None]]()
        if config.init.name == BASE:
            return _of_base(config, prepared, scores)
        network = prepared.trained.network() if prepared.trained else None
        rows = {target.name: prepared.maker(target, network) for target in prepared.targets}
        read, write = dict[str, Sequence[TextBits]](), None
        for target in prepared.targets:
            changed = _changed(prepared.source.model, prepared, target, rows[target.name][0])
            read[target.name] = _read(config, changed, target.tokenizer, prepared.windows)
            longest, missing = config.hypernetwork.pieces, rows[target.name][1]
            score_vocabulary(target, prepared.source, longest, missing, config.seed, scores)
            if config.save_model and write is None:
                write = writer(changed.language_model, target.tokenizer)
        score_texts(read, prepared.windows, scores)
        for name, texts in read.items():
            warn_of_lost(texts, name)
        if prepared.variant:
            _score_variant(config, prepared, {name: part for name, (part, _) in rows.items()}, scores)
        _score_held_out(config, prepared, network, scores)
        tokenizers = {target.name: target.tokenizer for target in prepared.targets}
        files[CUTS] = partial(write_cuts, read=read, windows=prepared.windows, tokenizers=tokenizers)
        first = prepared.targets[0]
        shown = heatmap(first, prepared.source, read[first.name], prepared.windows, config.evaluation.shown)
        cuts = cut_texts(prepared.windows, tokenizers, NoiseConfig(), config.seed, config.evaluation.shown)
        plots = _curve(config, prepared)
        return Evaluation(scores.overall(), scores, shown, cuts=cuts, plots=plots, files=files, model=write)


def _of_base(config: ZettConfig, prepared: Prepared, scores: Scores) -> Evaluation:
    """The old tokenizer in place of every target, so that its texts stand beside theirs."""
    source, names = prepared.source, config.tokenizer.names
    bits = _read(config, source.model, source.tokenizer, prepared.windows)
    read = dict.fromkeys(names, bits)
    score_texts(read, prepared.windows, scores)
    warn_of_lost(bits, "the old tokenizer")
    if prepared.variant:
        variant, windows = prepared.variant
        its_bits = _read(config, variant.model, source.tokenizer, windows)
        score_texts(dict.fromkeys(names, its_bits), windows, scores, f"{VARIANT}/")
    cuts = partial(write_cuts, read={"old": bits}, windows=prepared.windows, tokenizers={"old": source.tokenizer})
    return Evaluation(scores.overall(), scores, files={CUTS: cuts})


def _changed(model: Any, prepared: Prepared, target: Target, rows: Tensor) -> TextModel:
    """A copy of a model with the rows of a target."""
    changed = copy.deepcopy(model.language_model)
    place_rows(changed, target.tokenizer, target.both.mapped, *prepared.source.split(rows))
    return TextModel(changed).eval()


def _read(config: ZettConfig, model: Any, tokenizer: Any, windows: Sequence[Window]) -> list[TextBits]:
    texts = [window.text for window in windows]
    return text_bits(model, tokenizer, texts, KEY, config.evaluation.batch_tokens)


def _score_variant(config: ZettConfig, prepared: Prepared, rows: dict[str, Tensor], scores: Scores) -> None:
    assert prepared.variant
    variant, windows = prepared.variant
    if config.tuned.rows == VARIANT:
        rows = {target.name: prepared.maker(target, source=variant)[0] for target in prepared.targets}
    read = {
        target.name: _read(
            config, _changed(variant.model, prepared, target, rows[target.name]), target.tokenizer, windows
        )
        for target in prepared.targets
    }
    score_texts(read, windows, scores, f"{VARIANT}/")


def _score_held_out(config: ZettConfig, prepared: Prepared, network: Hypernetwork | None, scores: Scores) -> None:
    """Old tokens of several pieces that `objective=rows` has not seen: by the network, or the mean of the pieces."""
    source = prepared.source
    if not source.has_merges or (network is None and config.init.name != FVT):
        return
    tokens, pieces, count = half_merged(source, config.hypernetwork, config.seed)
    pairs = [pair for pair in zip(tokens[count:], pieces[count:], strict=True) if len(pair[1]) > 1]
    if not pairs:
        return
    if network is not None:
        rows = predict_rows(network, [row for _, row in pairs])
    else:
        spelled = [(at, torch.tensor(row)) for at, (_, row) in enumerate(pairs)]
        rows = mean_of_pieces(len(pairs), spelled).apply(source.rows)
    score_held_out(source, [token for token, _ in pairs], rows, scores)


def _curve(config: ZettConfig, prepared: Prepared) -> list[Plot]:
    """Bits per byte of some texts through each target, by the network as it was on the way."""
    if prepared.trained is None or not prepared.trained.steps:
        return []
    windows = prepared.windows[:: -(-len(prepared.windows) // ON_CURVE)]

    def bits(target: Target, rows: Tensor) -> float:
        read = _read(config, _changed(prepared.source.model, prepared, target, rows), target.tokenizer, windows)
        return sum(float(one.bits.sum()) for one in read) / sum(one.size for one in read)

    curve: dict[str, list[tuple[float, float]]] = {target.name: [] for target in prepared.targets}
    for step in prepared.trained.steps:
        network = prepared.trained.network(step)
        for target in prepared.targets:
            curve[target.name].append((float(step), bits(target, prepared.maker(target, network)[0])))
    means = {}
    for target in prepared.targets:
        weights = copied_rows(target.both.mapped).with_others(mean_of_pieces(len(target.both.new), target.both.spelled))
        means[target.name] = bits(target, weights.apply(prepared.source.rows))
    return curve_plots(curve, means)


RECIPE = ZettRecipe
