"""What is pre-trained: a masked language model, beside it the decoder of [CLS] of some methods; its losses."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertForMaskedLM

from recipes.core.models.build import local_seed
from recipes.core.models.config import SmallEncoderConfig
from recipes.core.models.small_encoder import build_encoder
from recipes.pretraining.dupmae.config import BAG, ENHANCED, PretrainingConfig
from recipes.pretraining.dupmae.decoder import Decoder, context_stream, query_stream
from recipes.pretraining.dupmae.max_logits import max_logits
from recipes.pretraining.dupmae.method import bag_loss
from recipes.pretraining.masked_lm import MaskedLM, pair

MASKED, DECODED = "masked_nll", "decoder_nll"
PARTS = (MASKED, DECODED, BAG)
# How the names of weights begin in what is trained, and in a `BertForMaskedLM`.
NAMES = [
    ("lm.encoder.", "bert."),
    ("lm.head.dense.", "cls.predictions.transform.dense."),
    ("lm.head.norm.", "cls.predictions.transform.LayerNorm."),
    ("lm.head.bias", "cls.predictions.bias"),
]


def build_masked_lm(config: SmallEncoderConfig, tokenizer: Any, seed: int) -> MaskedLM:
    """An encoder with a head for masked words that shares its embeddings, drawn from a seed."""
    encoder = build_encoder(config, tokenizer, seed)
    with local_seed(seed):
        model = MaskedLM(encoder)
    model.head.norm.eps = encoder.config.layer_norm_eps
    return model


def as_transformers(lm: MaskedLM) -> BertForMaskedLM:
    """What `transformers` calls such a model; of its weights nothing is read."""
    with torch.device("meta"):
        return BertForMaskedLM(lm.encoder.config)


class DuplexAutoEncoder(nn.Module):
    """A masked language model and the weak decoders of a method.

    Args:
        lm: From `build_masked_lm`.
        config: Which decoders.
        seed: Of the decoder of [CLS].
    """

    def __init__(self, lm: MaskedLM, config: PretrainingConfig, seed: int) -> None:
        super().__init__()
        self.lm, self.options, shape = lm, config, lm.encoder.config
        if config.decodes:
            with local_seed(seed):
                sizes = (shape.hidden_size, shape.num_attention_heads, shape.intermediate_size)
                self.decoder = Decoder(*sizes, shape.hidden_dropout_prob, shape.layer_norm_eps)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each part of the loss its sum, and its values without gradient.

        `masked_nll` over masked tokens, `decoder_nll` over what the decoder predicts, `bag_nll` over texts.
        """
        inputs = {"input_ids": batch["masked_ids"], "attention_mask": batch["attention_mask"]}
        states, ids = self.lm.encoder(**inputs).last_hidden_state, batch["input_ids"]
        parts = {MASKED: self._nll(states, ids, batch["chosen"])}
        if self.options.decodes:
            parts[DECODED] = self._nll(self._decode(states[:, 0], batch), ids, batch["decoded"])
        if self.options.has_bag:
            mu = max_logits(self.lm.head(states), self.lm.output, batch["ordinary"])
            losses = bag_loss(mu, batch["types"], batch["type_weights"])
            parts[BAG] = losses.sum(), losses
        return parts

    def _nll(self, states: Tensor, ids: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Of the positions that are predicted; no other meets the vocabulary."""
        return self.lm.loss(self.lm.head(states[predicted]), ids[predicted])

    def _decode(self, cls: Tensor, batch: dict[str, Tensor]) -> Tensor:
        embeddings, ids = self.lm.encoder.embeddings, batch["decoder_ids"]
        context = context_stream(embeddings, cls, ids)
        queries = context
        if self.options.decoder_mask == ENHANCED:
            queries = query_stream(embeddings, cls, ids.shape[1], self.options.query_embed)
        states: Tensor = self.decoder(queries, context, batch["visible"])
        return states


class DuplexLoss:
    """L = mean over masked tokens + mean over decoded tokens + bow_weight x mean over texts.

    Args:
        bow_weight: Weight of the bag.
    """

    def __init__(self, bow_weight: float) -> None:
        self.weights = dict(zip(PARTS, (1.0, 1.0, bow_weight), strict=True))

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """[3] masked tokens, decoded tokens and texts of this micro-batch."""
        chosen = batch["chosen"]
        decoded = batch.get("decoded", chosen[:0])
        return torch.stack([chosen.sum(), decoded.sum(), torch.ones_like(chosen[:, 0]).sum()]).float()

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The share of this micro-batch in the loss, and its parts."""
        divisors = dict(zip(PARTS, normalizer.clamp_min(1), strict=True))
        parts = model(batch)
        loss = torch.stack([self.weights[name] * total / divisors[name] for name, (total, _) in parts.items()]).sum()
        return loss, {name: pair(values) for name, (_, values) in parts.items()}
