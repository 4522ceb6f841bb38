"""The new tokenizers of a run: the user's, or some trained on other text than the hypernetwork has seen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from recipes.core.data.config import DomainsConfig
from recipes.core.data.text.pieces import read_vocabulary
from recipes.core.data.text.text_ids import control_ids
from recipes.core.data.text.windows import Texts
from recipes.tokenization.config import TokenizerConfig
from recipes.tokenization.mapping import map_vocabularies
from recipes.tokenization.old_rows import OldRows
from recipes.tokenization.tokenizers import (
    KEY,
    load_new_tokenizer,
    train_tokenizer,
    train_unigram,
)
from recipes.tokenization.vocabularies import Vocabularies
from recipes.tokenization.zett.config import GIVEN, ZettConfig


@dataclass(frozen=True)
class Target:
    """A new tokenizer.

    Attributes:
        name: What it is called in metrics.
        tokenizer: The tokenizer.
        both: Old vocabulary and its own.
    """

    name: str
    tokenizer: Any
    both: Vocabularies

    @property
    def tokens(self) -> list[int]:
        """Its tokens of text, shared ones too."""
        control = control_ids(self.tokenizer)
        return [token for token, data in enumerate(self.both.new.table) if data and token not in control]

    def pieces(self, source: OldRows) -> list[list[int]]:
        """Old tokens that spell each of `tokens`."""
        return [source.spell(self.both.new.table[token]) for token in self.tokens]


def load_targets(config: ZettConfig, source: OldRows) -> list[Target]:
    """All targets of a run. Raises UserError: one cannot be had."""
    options = config.tokenizer
    if options.path:
        tokenizers = {GIVEN: load_new_tokenizer(options.path, source.tokenizer)}
    else:
        texts = Texts(domains_config(config.data, options.domains))
        training, fingerprint = texts.training(1.0, config.seed)
        tokenizers = {
            name: _train(name, options.min_frequency, training, fingerprint, source) for name in options.targets
        }
    return [Target(name, tokenizer, _both(source, tokenizer, options.path)) for name, tokenizer in tokenizers.items()]


def domains_config(data: DomainsConfig, domains: Sequence[str] | None) -> DomainsConfig:
    """The same data set with other domains that ship; the user's data as they are."""
    ships = data.path is None and not data.paths
    return replace(data, domains=tuple(domains), weights=None) if ships and domains else data


def _train(name: str, min_frequency: int, texts: list[str], fingerprint: str, source: OldRows) -> Any:
    kind, size = name.split("-")
    if kind == "unigram":
        return train_unigram(int(size), texts, fingerprint, source.tokenizer)
    options = TokenizerConfig(vocabulary=int(size), min_frequency=min_frequency)
    return train_tokenizer(options, texts, fingerprint, source.tokenizer, 0)


def _both(source: OldRows, tokenizer: Any, path: str | None) -> Vocabularies:
    new = read_vocabulary(tokenizer, f"{KEY}={path}")
    mapped = map_vocabularies(source.vocabulary, source.tokenizer, new, tokenizer)
    return Vocabularies(source.vocabulary, new, (source.tokenizer, tokenizer), mapped, source.where)


def control_rows(target: Target) -> tuple[torch.Tensor, torch.Tensor]:
    """New control tokens that the old vocabulary has, and its ids of them."""
    mapped = target.both.mapped
    ids = torch.from_numpy((mapped.control & (mapped.copied >= 0)).nonzero()[0])
    return ids, torch.from_numpy(mapped.copied)[ids]
