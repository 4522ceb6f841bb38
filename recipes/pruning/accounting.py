"""What pruning saves, counted: multiply-adds (MACs) of a prefill whose layers see fewer and fewer tokens. No torch.

What a layer costs at a number of tokens is in `recipes.core.models.costs`; decoding and selection are added by callers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from recipes.core.models.costs import LayerShape, flops, mlp_macs, model_macs

VICUNA_7B = LayerShape(4096, 11008)
VICUNA_13B = LayerShape(5120, 13824)
CLIP_L = LayerShape(1024, 4096)


def avg_tokens(tokens: Sequence[float]) -> float:
    """Mean over the layers of the visual tokens that enter each: what tables call "retain 192"."""
    return sum(tokens) / len(tokens)


@dataclass(frozen=True)
class Prefill:
    """Multiply-adds up to the first answer token, by part."""

    encoder_macs: float
    projector_macs: float
    llm_macs: float
    selection_macs: float = 0.0

    @property
    def macs(self) -> float:
        """All parts."""
        return self.encoder_macs + self.projector_macs + self.llm_macs + self.selection_macs

    def metrics(self) -> dict[str, float]:
        """The numbers to log; `flops` is twice `macs`."""
        parts = {"encoder_macs": self.encoder_macs, "projector_macs": self.projector_macs, "llm_macs": self.llm_macs}
        return {**parts, "selection_macs": self.selection_macs, "macs": self.macs, "flops": flops(self.macs)}


def prefill(
    encoder: LayerShape,
    encoder_tokens: Sequence[float],
    llm: LayerShape,
    visual_tokens: Sequence[float],
    text_tokens: float,
    *,
    projected: float,
    projector: Sequence[int] = (),
    patch: float = 0.0,
    selection: float = 0.0,
) -> Prefill:
    """Estimate of a prefill with pruning.

    Args:
        encoder: A layer of the vision encoder.
        encoder_tokens: Tokens in each of its layers that are run, special ones included.
        llm: A layer of the language model.
        visual_tokens: Visual tokens entering each of its layers.
        text_tokens: Text tokens, the same in each.
        projected: Tokens that go through the projector.
        projector: Its widths.
        patch: MACs of the patch embedding.
        selection: MACs of the pruner.
    """
    return Prefill(
        encoder_macs=model_macs(encoder, encoder_tokens) + patch,
        projector_macs=mlp_macs(projected, *projector),
        llm_macs=model_macs(llm, [text_tokens + count for count in visual_tokens]),
        selection_macs=selection,
    )


def divprune_macs(tokens: int, width: int) -> float:
    """Multiply-adds of all pairwise products, which is what its distances cost."""
    return float(tokens * tokens * width)
