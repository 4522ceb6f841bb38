"""KL3M tokenizers as an experiment: one tokenizer a run, measured on held-out text; a model corrects lines with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from recipes.core.data.text.windows import Window
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.scores import Scores
from recipes.core.losses.objectives import WeightedCrossEntropy
from recipes.core.models.run_models import describer
from recipes.core.models.text import build_language_model
from recipes.core.recipe import Evaluation
from recipes.core.training.task import Training
from recipes.tokenization.kl3m import results
from recipes.tokenization.kl3m.config import BPE, DOMAIN, GENERAL, KL3MConfig, VocabularyConfig
from recipes.tokenization.kl3m.corpora import Corpora, Line
from recipes.tokenization.kl3m.correction import Format, NoisyLines, bits_behind, collate, correct, noisy_copy
from recipes.tokenization.kl3m.vocabularies import load_vocabulary
from recipes.tokenization.mapping import check_ends
from recipes.tokenization.pictures import cut_texts


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        tokenizer: What is measured.
        beside: Name -> another tokenizer that the picture shows.
        windows: Held-out text of the domain, and general.
        lines: What the model learns to correct; empty where nothing is trained.
        held_out: Lines that it is measured on.
        noisy: Their noisy copies.
        layout: Makes rows of tokens of them; None where nothing is trained.
        device: Where the run computes.
    """

    tokenizer: Any
    beside: dict[str, Any]
    windows: dict[str, list[Window]]
    lines: Sequence[str]
    held_out: Sequence[Line]
    noisy: Sequence[str]
    layout: Format | None
    device: str

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Noisy and clean line of each held-out one."""
        return [(noisy, line.text) for noisy, line in zip(self.noisy, self.held_out, strict=True)]


class KL3MRecipe:
    """Trains a tokenizer, counts its tokens, and may train a model to correct noisy lines with it."""

    def prepare(self, config: KL3MConfig, device: str) -> Prepared:
        """Texts and tokenizers. Raises UserError."""
        corpora, options = Corpora(config), config.tokenizer
        windows = corpora.windows()
        tokenizer = _load(corpora, options)
        beside = {}
        for corpus in (DOMAIN, GENERAL):
            other = replace(options, kind=BPE, path=None, corpus=corpus, max_chars=None)
            if other != options:
                beside[f"BPE of {corpus} text"] = _load(corpora, other)
        if not config.correction.trains:
            return Prepared(tokenizer, beside, windows, (), (), (), None, device)
        check_ends(
            tokenizer, f"tokenizer.path={options.path}" if options.is_given else f"tokenizer.kind={options.kind}"
        )
        held_out = corpora.held_out(windows[DOMAIN])
        noisy = [noisy_copy(line.text, config.noise, config.seed, f"noise of {line.id}") for line in held_out]
        lines = corpora.lines()
        return Prepared(tokenizer, beside, windows, lines, held_out, noisy, Format(tokenizer, lines), device)

    def build(self, config: KL3MConfig, prepared: Prepared) -> Training | None:
        """A small model from nothing that learns to correct; None where the arm corrects nothing."""
        if prepared.layout is None:
            return None
        model = build_language_model(config.model, prepared.tokenizer, config.seed)
        size = config.trainer.max_steps * config.trainer.batch_size
        lines = NoisyLines(prepared.lines, prepared.layout, config.noise, size, config.seed)
        steps = regular_steps(config.trainer.max_steps, config.correction.watch_every)
        items: Any = lines
        return Training(
            model, WeightedCrossEntropy(), items, collate, {}, steps, describe=describer(model, prepared.tokenizer)
        )

    def watch(self, config: KL3MConfig, prepared: Prepared, model: Any) -> Scores:
        """Bits per byte of held-out clean lines."""
        assert prepared.layout is not None
        scores = Scores()
        bits = bits_behind(model, prepared.layout, prepared.pairs, prepared.device)
        results.score_bits(prepared.held_out, bits.tolist(), scores)
        return scores

    def evaluate(self, config: KL3MConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """Everything about the tokenizer, and the lines that the model corrects."""
        tokenizer, windows, scores = prepared.tokenizer, prepared.windows, Scores()
        rows = {results.TEXTS: results.score_texts(tokenizer, windows, scores)}
        results.score_noise(tokenizer, windows[DOMAIN], config.noise, config.seed, scores)
        rows[results.TERM_TOKENS] = results.score_terms(tokenizer, scores)
        results.score_vocabulary(tokenizer, windows[DOMAIN], config.seed, scores)
        plots = [results.length_plot(tokenizer)]
        if prepared.layout is not None:
            written = correct(model, prepared.layout, prepared.pairs, prepared.device)
            corrections = results.score_corrections(prepared.held_out, prepared.noisy, written, scores)
            rows[results.CORRECTIONS] = corrections
            last = curve[max(curve)]
            scores.metrics |= last.metrics
            scores.rows += last.rows
        files: dict[str, Callable[[Path], None]] = {
            name: partial(results.write_rows, rows=some) for name, some in rows.items()
        }
        if config.tokenizer.is_trained:
            files["tokenizer.json"] = lambda path: tokenizer.backend_tokenizer.save(str(path))
        shown = [window for some in windows.values() for window in some]
        every = {config.variant: tokenizer} | prepared.beside
        cuts = cut_texts(shown, every, config.noise, config.seed, config.evaluation.shown)
        return Evaluation(scores.overall(), scores, plots=plots, cuts=cuts, files=files)


def _load(corpora: Corpora, options: VocabularyConfig) -> Any:
    return load_vocabulary(options, corpora.training(options.corpus) if options.is_trained else ())


RECIPE = KL3MRecipe
