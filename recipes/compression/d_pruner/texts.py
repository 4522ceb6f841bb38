"""Both texts as sequences of tokens, and the model that reads them: the user's, an asset, or one trained on both."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recipes.compression.calibration import Corpora
from recipes.compression.d_pruner.config import DOMAIN, EQUAL, NAMED, OPEN, DPrunerConfig
from recipes.compression.d_pruner.texts_config import TrainedLMConfig
from recipes.core.data.text.mixture import DomainCorpus, Mixture
from recipes.core.data.text.packed import pack
from recipes.core.data.text.splits import TRAIN
from recipes.core.errors import UserError
from recipes.core.models.from_config import load_text_model
from recipes.core.models.text import build_language_model, build_text_tokenizer, check_context
from recipes.core.models.vision_language import TextModel
from recipes.core.storage.files import sha256_json
from recipes.core.training.sequences import MixtureItems, next_token_collate
from recipes.core.training.toys.language import train_small_lm

ROLES = (DOMAIN, OPEN)


@dataclass(frozen=True)
class Sequences:
    """What a model is calibrated and measured on, int64 [sequences, tokens] each.

    Attributes:
        general: Of the open text, for importance in general.
        domain: Of the domain, for gradients.
        held_out: Of both texts, by what they stand for.
    """

    general: Tensor
    domain: Tensor
    held_out: dict[str, Tensor]

    def mixed(self, text: str) -> Tensor:
        """Calibration sequences of the open text, of the domain, or as many of each, at most half of the longer."""
        if text in ROLES:
            return self.domain if text == DOMAIN else self.general
        sizes = len(self.domain), len(self.general)
        half = max(1, min(*sizes, max(sizes) // 2))
        return torch.cat([self.domain[:half], self.general[-half:]])


def load_model(config: DPrunerConfig, device: str) -> tuple[TextModel, Any]:
    """The model, frozen, in evaluation mode, and its tokenizer. Raises UserError: one of them cannot be had."""
    if isinstance(config.model, TrainedLMConfig):
        model, tokenizer = _trained(config, config.model)
    else:
        tokenizer = build_text_tokenizer(config.model, (), "")
        model = build_language_model(config.model, tokenizer, config.seed)
    check_context(model, config.calibration.length, "calibration.length")
    check_context(model, config.evaluation.length, "evaluation.length")
    model.requires_grad_(False).eval().to(device)
    return model, tokenizer


def load_sequences(config: DPrunerConfig, tokenizer: Any) -> Sequences:
    """Calibration sequences that the seed draws, and held-out ones.

    Where the open text stands for the domain too, its draw is cut in two: no sequence is in both.

    Raises:
        UserError: a text cannot be read, or is shorter than one sequence.
    """
    calibration, seed = config.calibration, config.seed
    held_out, drawn = {}, {}
    for role in ROLES:
        corpora, name = _corpora(config, role, tokenizer)
        held_out[role] = corpora.held_out(name, config.evaluation)
        drawn[role] = corpora.calibration(name, calibration, seed)
        if role == OPEN and calibration.roles != NAMED:
            doubled = type(calibration)(**{**vars(calibration), "sequences": 2 * calibration.sequences})
            both = corpora.calibration(name, doubled, seed)
            if len(both) < 2:
                what = f"the open text has one sequence of {calibration.length} tokens, and two draws are made of it"
                raise UserError(what, config.data.where(OPEN), "give more text, or type a smaller calibration.length")
            first, second = both[::2], both[1::2]
            drawn[OPEN], drawn[DOMAIN] = (first, second) if calibration.roles == EQUAL else (second, first)
    return Sequences(drawn[OPEN], drawn[DOMAIN], held_out)


def _corpora(config: DPrunerConfig, role: str, tokenizer: Any) -> tuple[Corpora, str]:
    """The documents of a text, and the name that they all have."""
    corpora = Corpora(config.data.of(role), tokenizer)
    corpora.where = config.data.where(role)
    return corpora, corpora.domains[0]


def _trained(config: DPrunerConfig, shape: TrainedLMConfig) -> tuple[TextModel, Any]:
    corpora = {role: DomainCorpus(config.data.of(role)) for role in ROLES}
    fingerprint = sha256_json([corpus.fingerprint for corpus in corpora.values()])

    def documents() -> Iterator[tuple[str, str]]:
        """Those of both that are trained on, by role."""
        for role, corpus in corpora.items():
            yield from ((f"{role}/{TRAIN}", text) for text in corpus.texts())

    tokenizer = build_text_tokenizer(shape, (text for _, text in documents()), fingerprint)
    packed = pack(documents(), fingerprint, tokenizer)
    for role in ROLES:
        if len(packed.ids(f"{role}/{TRAIN}")) < shape.length:
            what = f"the text to train on is shorter than one sequence of {shape.length} tokens"
            raise UserError(what, config.data.where(role), "give more text, or type model=FOLDER")

    def items() -> Any:
        mixture = Mixture(packed, ROLES, (0.5, 0.5), shape.length)
        return MixtureItems(mixture, shape.steps * shape.batch_size, shape.seed)

    what, key = f"{shape.steps:,} steps of both texts", {"texts": fingerprint}
    name = "a small language model"
    folder = train_small_lm(shape, config.trainer, shape.seed, tokenizer, key, items, next_token_collate, what, name)
    return load_text_model(str(folder), "model"), tokenizer
