"""The model that takes any number of visual tokens, its loss, and what it costs."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from recipes.core.models.costs import LayerShape, mlp_macs, patch_macs
from recipes.core.training.toys.llava import AnswerLoss, answer_logits, text_config
from recipes.pruning.accounting import Prefill, prefill
from recipes.pruning.flex import PROJECTORS, TokenSampler
from recipes.pruning.tokenflex.config import TokenFlexConfig

TEXT_TOKENS = 3  # <s>, <sep> and the question


class FlexModel(nn.Module):
    """A projector and a language model that answer from cached features of an encoder.

    Args:
        projector: `projector(features, tokens)`.
        language_model: Reads what it makes.
    """

    visual_tokens: Tensor

    def __init__(self, projector: nn.Module, language_model: LlamaForCausalLM) -> None:
        super().__init__()
        self.projector, self.language_model = projector, language_model
        # Visual tokens it was trained on; a buffer, so that checkpoints keep it.
        self.register_buffer("visual_tokens", torch.zeros((), dtype=torch.long))

    def forward(self, features: Tensor, asked: Tensor, tokens: int) -> Tensor:
        """Features [B, L, C] and questions [B] to logits [B, V] of the answers, by way of `tokens` visual tokens."""
        llm = self.language_model
        return answer_logits(llm, llm.model, self.projector(features, tokens), asked)


class FlexLoss(AnswerLoss):
    """Cross-entropy of the answer at the number of visual tokens that the step drew, the same for all its batches.

    Args:
        sampler: What draws.
        processes: Of the run; each sees its part of a batch.
    """

    def __init__(self, sampler: TokenSampler, processes: int = 1) -> None:
        self.sampler, self.processes = sampler, processes
        self.tokens = sampler.at(0)

    def before_step(self, step: int, model: Any, batches: list[dict[str, Any]]) -> None:
        """Draw the number for the step."""
        self.tokens = self.sampler.at(step)
        model.visual_tokens += self.tokens * self.processes * sum(len(batch["answers"]) for batch in batches)

    def logits(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """At the number of tokens of this step."""
        logits: Tensor = model(batch["features"], batch["asked"], self.tokens)
        return logits

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, the share of right answers and the number of tokens."""
        loss, metrics = super().__call__(model, batch, normalizer)
        count = metrics["accuracy"][1]
        return loss, metrics | {"tokens": torch.stack([count * self.tokens, count])}


def build_model(config: TokenFlexConfig) -> FlexModel:
    """An untrained model. The language model of a seed is the same whatever the projector."""
    width, flex = config.model.encoder.width, config.flex
    options: dict[str, Any] = {
        "pixel_shuffle_mlp": {"factor": config.factor},
        "resampler": {"most": config.largest, "heads": config.decoder.heads},
    }.get(flex.projector, {"pool": flex.pool})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        language_model = LlamaForCausalLM(text_config(config.decoder, config.largest + 64))
        torch.manual_seed(config.seed)
        projector = PROJECTORS[flex.projector](width, config.decoder.width, **options)
    return FlexModel(projector, language_model)


def cost(config: TokenFlexConfig, tokens: int) -> Prefill:
    """Multiply-adds up to the first answer token of one question.

    Args:
        config: Of the run.
        tokens: Visual tokens.
    """
    encoder, data, decoder = config.model.encoder, config.data, config.decoder
    # The features are those of the last block but one.
    counts = prefill(
        LayerShape(encoder.width, 4 * encoder.width),
        [data.patches + 1.0] * (encoder.layers - 1),
        LayerShape(decoder.width, decoder.ffn, matrices=3),
        [float(tokens)] * decoder.layers,
        TEXT_TOKENS,
        projected=tokens,
        patch=patch_macs(data.patches, 3 * data.patch**2, encoder.width),
    )
    macs = projector_macs(config.flex.projector, tokens, data.patches, encoder.width, decoder.width)
    return dataclasses.replace(counts, projector_macs=macs)


def projector_macs(name: str, tokens: int, patches: int, width: int, out: int) -> float:
    """Multiply-adds of a projector; pooling is free.

    Args:
        name: Key of `recipes.pruning.flex.PROJECTORS`.
        tokens: K that it makes.
        patches: L that it makes them of.
        width: C of the features.
        out: D of the language model.

    Source:
        TokenFLEX notes, section 8: K (2 C 3C + 3C D) of the SwiGLU.
    """
    if name == "swiglu_pool":
        return float(tokens * (2 * width * 3 * width + 3 * width * out))
    if name == "mlp_pool":
        return mlp_macs(tokens, width, out, out)
    if name == "pixel_shuffle_mlp":
        return mlp_macs(tokens, width * patches // tokens, out, out)
    attention = 2 * patches * out * out + 2 * tokens * out * out + 2 * tokens * patches * out
    return mlp_macs(patches, width, out) + attention + mlp_macs(tokens, out, 2 * out, out)
