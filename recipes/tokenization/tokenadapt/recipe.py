"""TokenAdapt as an experiment: one model, its tokenizer swapped, the same held-out bytes read before and after."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from recipes.core.data.text.pieces import read_vocabulary
from recipes.core.data.text.text_ids import tokenizer_fingerprint
from recipes.core.data.text.windows import Texts, Window
from recipes.core.evaluation.scores import Scores
from recipes.core.models.head import output_head
from recipes.core.models.hf_folder import writer
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.scoring.bits import TextBits, bits_once, text_bits, warn_of_lost
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.training.toys.frozen import load_frozen, model_where
from recipes.tokenization.config import NoiseConfig
from recipes.tokenization.mapping import map_vocabularies
from recipes.tokenization.pictures import cut_texts
from recipes.tokenization.strings import StringVectors
from recipes.tokenization.tokenadapt.compose import Composer
from recipes.tokenization.tokenadapt.config import BASE, MEAN, RANDOM, TokenAdaptConfig
from recipes.tokenization.tokenadapt.results import (
    COMPOSED,
    CUTS,
    Prepared,
    heatmap,
    score_texts,
    score_vocabulary,
    write_composed,
    write_cuts,
)
from recipes.tokenization.tokenizers import load_new_tokenizer, train_tokenizer
from recipes.tokenization.transplant import transplant
from recipes.tokenization.vocabularies import Vocabularies


class TokenAdaptRecipe(Untrained):
    """A model that gets a new vocabulary."""

    def prepare(self, config: TokenAdaptConfig, device: str) -> Prepared:
        """Model, new tokenizer, rows, texts and what they cost before. Raises UserError."""
        model, tokenizer = load_frozen(config, device)
        texts, where = Texts(config.data), model_where(config.model)
        old = read_vocabulary(tokenizer, where, output_head(model.language_model).vocabulary)
        new_tokenizer = _new_tokenizer(config, texts, tokenizer)
        new = read_vocabulary(new_tokenizer, f"tokenizer.path={config.tokenizer.path}")
        mapped = map_vocabularies(old, tokenizer, new, new_tokenizer)
        both = Vocabularies(old, new, (tokenizer, new_tokenizer), mapped, where)
        windows = texts.windows(config.evaluation, config.seed)
        before = _bits_before(config, model, tokenizer, windows)
        warn_of_lost(before, "the old tokenizer")
        composer = Composer(
            both,
            lambda: StringVectors(config.strings.path, device),
            lambda: texts.training(config.tokenizer.share, config.seed)[0],
        )
        return Prepared(model, both, composer.rows(config.init), windows, before)

    def evaluate(
        self, config: TokenAdaptConfig, prepared: Prepared, model: object, curve: dict[int, Scores]
    ) -> Evaluation:
        """Swap the tokenizer, and read the texts again."""
        both, new = prepared.both, prepared.both.tokenizers[1]
        if config.init.name == BASE:
            return _evaluation(config, prepared, prepared.before, both.tokenizers[0])
        transplant(
            prepared.model.language_model,
            new,
            both.mapped,
            prepared.rows,
            fallback=config.init.name if config.init.name in (MEAN, RANDOM) else config.init.fallback,
            pad_to=config.init.pad_to,
            seed=config.seed,
        )
        texts, options = [window.text for window in prepared.windows], config.evaluation
        after = text_bits(prepared.model, new, texts, "evaluation.characters", options.batch_tokens)
        warn_of_lost(after, "the new tokenizer")
        return _evaluation(config, prepared, after, new)


def _new_tokenizer(config: TokenAdaptConfig, texts: Texts, like: Any) -> Any:
    if config.tokenizer.path:
        return load_new_tokenizer(config.tokenizer.path, like)
    training, fingerprint = texts.training(config.tokenizer.share, config.seed)
    return train_tokenizer(config.tokenizer, training, fingerprint, like, config.seed)


def _bits_before(config: TokenAdaptConfig, model: Any, tokenizer: Any, windows: Sequence[Window]) -> list[TextBits]:
    """What the old model says of the texts, computed once for all arms."""
    texts = [window.text for window in windows]
    key = [weights_hash(model), tokenizer_fingerprint(tokenizer), texts]
    options = ("evaluation.characters", config.evaluation.batch_tokens)
    return bits_once(key, lambda: text_bits(model, tokenizer, texts, *options))


def _evaluation(config: TokenAdaptConfig, prepared: Prepared, after: Sequence[TextBits], tokenizer: Any) -> Evaluation:
    scores = Scores()
    score_texts(prepared, after, scores)
    score_vocabulary(config, prepared, after, scores)
    files: dict[str, Callable[[Path], None]] = {
        CUTS: partial(write_cuts, prepared=prepared, after=after, tokenizer=tokenizer)
    }
    write = None
    if config.init.name != BASE:
        files[COMPOSED] = partial(write_composed, prepared=prepared)
        if config.save_model:
            write = writer(prepared.model.language_model, tokenizer)
    shown = None if config.init.name == BASE else heatmap(config, prepared, after)
    both = dict(zip(("old tokenizer", "new tokenizer"), prepared.both.tokenizers, strict=True))
    cuts = cut_texts(prepared.windows, both, NoiseConfig(), config.seed, config.evaluation.shown)
    return Evaluation(scores.overall(), scores, shown, cuts=cuts, files=files, model=write)


RECIPE = TokenAdaptRecipe
