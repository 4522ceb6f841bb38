"""Sequences that a model is calibrated on, drawn by seed, and held-out ones that it is measured on."""

from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from recipes.compression.config import CalibrationConfig, HeldOutConfig
from recipes.core.data.config import DomainsConfig
from recipes.core.data.text.mixture import DomainCorpus
from recipes.core.data.text.packed import PackedTexts, pack
from recipes.core.data.text.splits import TEST, TRAIN
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.spelling import did_you_mean


class Corpora:
    """Texts by domain, as token ids; calibration reads their training documents, measurement the held-out ones.

    Args:
        config: Which documents.
        tokenizer: Of the model.

    Raises:
        UserError: they cannot be read.
    """

    def __init__(self, config: DomainsConfig, tokenizer: object) -> None:
        corpus = DomainCorpus(config)
        self.where = f"data.path={config.path}" if config.path else "data.domains"
        self._packed: PackedTexts = pack(corpus.parts(), corpus.fingerprint, tokenizer)
        corpus.warn_of_skipped()
        self._named = config.domains

    @property
    def domains(self) -> list[str]:
        """The domains that are named, or all that there are, by name."""
        return list(self._named or sorted({part.rpartition("/")[0] for part in self._packed.parts}))

    def calibration(self, domain: str, config: CalibrationConfig, seed: int) -> Tensor:
        """int64 [sequences, length] drawn without replacement from the training documents of a domain.

        Raises:
            UserError: there is no such domain, or it has no sequence of this length.
        """
        return self._draw(domain, TRAIN, config.sequences, config.length, seed, "calibration")

    def held_out(self, domain: str, config: HeldOutConfig) -> Tensor:
        """int64 [sequences, length] of the held-out documents of a domain: the same whatever the seed.

        Raises:
            UserError: as `calibration`.
        """
        return self._draw(domain, TEST, config.sequences, config.length, 0, "evaluation")

    def _draw(self, domain: str, split: str, count: int, length: int, seed: int, key: str) -> Tensor:
        if domain not in self.domains:
            raise UserError(f"domain {domain!r} has no documents", self.where, did_you_mean(domain, self.domains))
        rows = self._packed.sequences(f"{domain}/{split}", length)
        if not len(rows):
            tokens = len(self._packed.ids(f"{domain}/{split}"))
            raise UserError(
                f"domain {domain!r} has {tokens:,} {split} tokens, less than one sequence of {length:,}",
                self.where,
                f"give more text, or type a smaller {key}.length",
            )
        if len(rows) < count:
            note(f"{domain}: {len(rows):,} {split} sequences of {length:,} tokens, not {count:,} ({key}.sequences)")
        order = np.random.default_rng([seed, int.from_bytes(sha256(domain.encode()).digest()[:8], "big")])
        chosen = np.sort(order.permutation(len(rows))[:count])
        return torch.from_numpy(rows[chosen].astype(np.int64))


def effective_size(weights: Tensor) -> float:
    """How many equally weighted tokens say as much: (sum w)^2 / sum w^2; 0 where all weights are 0.

    Source:
        L. Kish, Survey Sampling (1965): the effective sample size of a weighted mean.
    """
    squares = float(weights.double().square().sum())
    return float(weights.double().sum()) ** 2 / squares if squares else 0.0


def warn_of_few_tokens(effective: float, width: int, layer: str) -> bool:
    """Say that a Hessian [width, width] has fewer (effective) tokens than rows; returns whether it has."""
    if effective >= width:
        return False
    note(
        f"warning: {effective:,.0f} effective calibration tokens for the {width:,} inputs of {layer}: its Hessian is "
        "singular but for damping; type a larger calibration.sequences"
    )
    return True
