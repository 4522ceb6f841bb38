"""Lexinvariant models as an experiment: text and look-ups in training, then text, its cipher and new symbols."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.text.mixture import DomainCorpus, Mixture, load_mixture
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.models.text import build_text_tokenizer
from recipes.core.recipe import Evaluation
from recipes.core.storage.files import write_text
from recipes.core.training.sequences import MixtureItems
from recipes.core.training.task import Training
from recipes.pretraining.lexinvariant.config import LETTERS, LexinvariantConfig
from recipes.pretraining.lexinvariant.items import LexiconItems, lexicon_collate
from recipes.pretraining.lexinvariant.key import add_key, fit_key_probe
from recipes.pretraining.lexinvariant.lexicon import Lexicon, check_letters, make_lexicon
from recipes.pretraining.lexinvariant.measures import (
    add_cipher,
    add_lookups,
    add_positions,
    cipher_key,
    encipher,
    window_nlls,
)
from recipes.pretraining.lexinvariant.model import batch_losses, build_model
from recipes.pretraining.next_token import NextToken


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share.

    Attributes:
        mixture: Packed texts, as ids of the tokenizer.
        lexicon: Tokens of the run.
        names: Of the held-out sequences.
        windows: int64 [sequences, T] held-out text, as numbers of the lexicon.
    """

    mixture: Mixture
    lexicon: Lexicon
    names: list[str]
    windows: np.ndarray


class LexinvariantRecipe:
    """A small decoder whose tokens have other vectors in every sequence."""

    def prepare(self, config: LexinvariantConfig, device: str) -> Prepared:
        """Tokenised and packed domains. Raises UserError: there is too little text, or too few letters in it."""
        corpus = DomainCorpus(config.data)
        tokenizer = build_text_tokenizer(config.model, corpus.texts(), corpus.fingerprint)
        mixture = load_mixture(config.data, corpus, tokenizer)
        lexicon = make_lexicon(tokenizer, config.alphabet, config.lookups.symbols)
        names, windows = [], []
        for domain in mixture.domains:
            rows = lexicon.fold[mixture.test(domain)[: config.evaluation.windows]]
            if config.alphabet == LETTERS:
                check_letters(rows, domain)
            names += [f"{domain} {number}" for number in range(len(rows))]
            windows.append(rows)
        return Prepared(mixture, lexicon, names, np.concatenate(windows))

    def build(self, config: LexinvariantConfig, prepared: Prepared) -> Training:
        """The decoder; all arms of a seed share its initialisation, texts and look-ups."""
        model = build_model(config.model, prepared.lexicon, config.lexicon.embedding, config.data.length, config.seed)
        texts = MixtureItems(prepared.mixture, config.trainer.max_steps * config.trainer.batch_size, config.seed)
        items: Any = LexiconItems(texts, prepared.lexicon, config.lookups, config.lexicon, config.seed)
        steps = regular_steps(config.trainer.max_steps, config.evaluation.watch_every)
        return Training(model, NextToken(batch_losses), items, lexicon_collate, {}, steps, _count_steps)

    def watch(self, config: LexinvariantConfig, prepared: Prepared, model: Any) -> Scores:
        """Loss by position, and look-ups."""
        scores = Scores()
        nlls = window_nlls(config, model, prepared.lexicon, prepared.windows)
        add_positions(scores, prepared.names, nlls, config.evaluation.buckets)
        add_lookups(scores, config, model, prepared.lexicon)
        return scores

    def evaluate(
        self, config: LexinvariantConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]
    ) -> Evaluation:
        """The same, the same text in a cipher, and how much of its key the states tell."""
        scores, lexicon, names, options = Scores(), prepared.lexicon, prepared.names, config.evaluation
        key = cipher_key(lexicon)
        ciphers = encipher(prepared.windows, key)
        plain, enciphered = (window_nlls(config, model, lexicon, rows) for rows in (prepared.windows, ciphers))
        points = add_positions(scores, names, plain, options.buckets)
        hidden_points = add_positions(Scores(), names, enciphered, options.buckets)
        add_cipher(scores, names, plain, enciphered)
        shown = add_lookups(scores, config, model, lexicon)
        if config.alphabet == LETTERS:
            texts = MixtureItems(prepared.mixture, options.probe_windows, config.seed)
            rows = lexicon.fold[np.stack([texts[index]["tokens"] for index in range(len(texts))])]
            probe = fit_key_probe(model, rows, lexicon, options.batch_tokens)
            add_key(scores, model, probe, names, ciphers, key, options.batch_tokens)
        series = {config.variant: points, f"{config.variant}, enciphered": hidden_points}
        title = "Perplexity of held-out text by position"
        plot = Plot("perplexity-by-position", title, "first position", "perplexity", series, y_log=True)
        files = {"lookups.jsonl": lambda path: _write_lines(path, shown)}
        return Evaluation(scores.overall(), scores, plots=[plot], files=files)


def _count_steps(step: int, model: Any, _: list[dict[str, Any]]) -> None:
    """Vectors that are shared by a batch follow from the steps done before it."""
    model.step = step


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


RECIPE = LexinvariantRecipe
