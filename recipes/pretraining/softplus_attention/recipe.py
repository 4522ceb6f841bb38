"""Softplus attention as an experiment: trained at one length, read at up to 16 times as many tokens."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.core.data.text.mixture import DomainCorpus, Mixture, load_mixture
from recipes.core.data.text.splits import TEST
from recipes.core.errors import UserError
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.evaluation.texts import token_nlls
from recipes.core.losses.objectives import WeightedCrossEntropy
from recipes.core.models.attention_functions import set_attention, use_attention
from recipes.core.models.text import build_language_model, build_text_tokenizer
from recipes.core.recipe import Evaluation
from recipes.core.training.sequences import MixtureItems, next_token_collate
from recipes.core.training.task import Training
from recipes.pretraining.softplus_attention.config import (
    ALIBI,
    EVALUATION,
    LOSS,
    RISE,
    AttentionConfig,
    SoftplusAttentionConfig,
)
from recipes.pretraining.softplus_attention.kernel import Kernel
from recipes.pretraining.softplus_attention.method import Rows
from recipes.pretraining.softplus_attention.positions import NoRotation, stretched


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share.

    Attributes:
        mixture: Packed texts.
        tokenizer: Made from their training documents.
        windows: Domain -> int32 [stretches, longest] of held-out text.
        device: Where to compute.
    """

    mixture: Mixture
    tokenizer: Any
    windows: dict[str, np.ndarray]
    device: str


class SoftplusAttentionRecipe:
    """A small decoder whose rows of attention are made in another way."""

    def prepare(self, config: SoftplusAttentionConfig, device: str) -> Prepared:
        """Tokenised and packed domains. Raises UserError: a domain has no stretch of the longest length."""
        corpus = DomainCorpus(config.data)
        tokenizer = build_text_tokenizer(config.model, corpus.texts(), corpus.fingerprint)
        mixture = load_mixture(config.data, corpus, tokenizer)
        windows = {name: _windows(config, mixture, name) for name in mixture.domains}
        return Prepared(mixture, tokenizer, windows, device)

    def build(self, config: SoftplusAttentionConfig, prepared: Prepared) -> Training:
        """The decoder; all arms of a seed share initialisation and data order."""
        model = build_language_model(config.model, prepared.tokenizer, config.seed)
        decoder: Any = model.language_model
        decoder.config.max_position_embeddings = max(decoder.config.max_position_embeddings, config.longest)
        use_attention(decoder, _kernel(config.attention, training=True))
        if config.attention.positions == ALIBI:
            decoder.model.rotary_emb = NoRotation(config.model.width // config.model.heads)
        items: Any = MixtureItems(prepared.mixture, config.trainer.max_steps * config.trainer.batch_size, config.seed)
        steps = regular_steps(config.trainer.max_steps, config.evaluation.watch_every)
        return Training(model, WeightedCrossEntropy(), items, next_token_collate, {}, steps)

    def watch(self, config: SoftplusAttentionConfig, prepared: Prepared, model: Any) -> Scores:
        """Loss at the training length, as it is trained."""
        return _losses(config, prepared, model, (1,))

    def evaluate(
        self, config: SoftplusAttentionConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]
    ) -> Evaluation:
        """Loss of the same stretches at every length."""
        set_attention(model.language_model, _kernel(config.attention, training=False))
        scores = _losses(config, prepared, model, config.evaluation.multiples)
        _add_rises(scores, config.evaluation.multiples)
        points = [
            (config.data.length * each, scores.overall()[f"{LOSS}/{each}x"]) for each in config.evaluation.multiples
        ]
        plot = Plot(
            "loss-by-length",
            "Loss of the same text by the length it is read at",
            "tokens",
            "nats per token",
            {config.variant: points},
        )
        return Evaluation(scores.overall(), scores, plots=[plot])


def _kernel(config: AttentionConfig, training: bool) -> Kernel:
    power = None if training and config.apply == EVALUATION else config.power
    bias = config.phi == "sigmoid" and not config.divide
    return Kernel(Rows(config.phi, config.scale, config.divide, power, bias), config.positions == ALIBI)


def _windows(config: SoftplusAttentionConfig, mixture: Mixture, domain: str) -> np.ndarray:
    windows = mixture.packed.sequences(f"{domain}/{TEST}", config.longest)[: config.evaluation.windows]
    if not len(windows):
        tokens = len(mixture.packed.ids(f"{domain}/{TEST}"))
        raise UserError(
            f"domain {domain!r} has {tokens:,} held-out tokens, less than a stretch of {config.longest:,}",
            "evaluation.multiples",
            "give more text, leave the domain out with data.domains=[...], or type a smaller evaluation.multiples",
        )
    return windows


def _losses(config: SoftplusAttentionConfig, prepared: Prepared, model: Any, multiples: tuple[int, ...]) -> Scores:
    """`loss/<k>x` of every stretch: cut into pieces of k training lengths, each read by itself."""
    scores = Scores()
    rotary = model.language_model.model.rotary_emb
    for multiple in multiples:
        scores.define(f"{LOSS}/{multiple}x", f"nats per token, sequences {multiple} times as long as trained on", False)
        length = config.data.length * multiple
        for domain, windows in prepared.windows.items():
            pieces = np.ascontiguousarray(windows).reshape(-1, length)
            with stretched(rotary, config.attention.stretch, multiple):
                nlls = token_nlls(model, pieces, prepared.device, max(length, config.evaluation.batch_tokens))
            means = nlls.reshape(len(windows), -1).mean(1, dtype=np.float64)
            for number, value in enumerate(means):
                name = f"{domain} {number}"
                scores.add(f"{LOSS}/{multiple}x", name, name, float(value))
    return scores


def _add_rises(scores: Scores, multiples: tuple[int, ...]) -> None:
    """`rise/<k>x`: how much more a stretch costs at k times the training length than at that length."""
    losses: dict[str, dict[str, float]] = defaultdict(dict)
    for metric, example, _, value, _ in scores.rows:
        losses[metric][example] = value
    for multiple in multiples:
        if multiple > 1:
            scores.define(
                f"{RISE}/{multiple}x", f"nats per token more at {multiple} training lengths than at one", False
            )
            for example, value in losses[f"{LOSS}/{multiple}x"].items():
                scores.add(f"{RISE}/{multiple}x", example, example, value - losses[f"{LOSS}/1x"][example])


RECIPE = SoftplusAttentionRecipe
