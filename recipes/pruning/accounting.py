"""What pruning saves, counted: multiply-adds (MACs) of layers and models at given numbers of tokens. No torch.

Papers print MACs as "FLOPs"; here a MAC is two FLOPs. Counted are projections, attention and MLPs of the prefill;
not embeddings, norms, the LM head, decoding, or selection, which callers add.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerShape:
    """One transformer layer.

    Attributes:
        width: Of a token.
        ffn: Hidden width of the MLP.
        matrices: Matrices of the MLP: 2, or 3 for SwiGLU. Papers that print 2 for a SwiGLU model count too little.
        kv_width: Width of keys and of values, less than `width` in grouped-query attention; None: `width`.
    """

    width: int
    ffn: int
    matrices: int = 2
    kv_width: int | None = None
    query_width: int | None = None

    def macs(self, tokens: float) -> float:
        """Multiply-adds of the layer.

        Args:
            tokens: Length of the sequence.

        Source:
            arXiv 2403.06764 (FastV): 4 n d^2 + 2 n^2 d + f n d m; with queries of width d_q and keys of width d_kv
            2 n d d_q + 2 n d d_kv + 2 n^2 d_q in place of 4 n d^2 + 2 n^2 d.
        """
        d, n = self.width, tokens
        queries = d if self.query_width is None else self.query_width
        projections = 2 * n * d * (queries + (queries if self.kv_width is None else self.kv_width))
        return projections + 2 * n * n * queries + self.matrices * n * d * self.ffn


VICUNA_7B = LayerShape(4096, 11008)
VICUNA_13B = LayerShape(5120, 13824)
CLIP_L = LayerShape(1024, 4096)


def model_macs(layer: LayerShape, tokens: Sequence[float]) -> float:
    """Multiply-adds of a stack of equal layers; `tokens` has the length of the sequence in each layer."""
    return sum(layer.macs(count) for count in tokens)


def flops(macs: float) -> float:
    """Floating-point operations, two for each multiply-add."""
    return 2 * macs


def patch_macs(patches: int, pixels: int, width: int) -> float:
    """Multiply-adds of a patch embedding; `pixels` numbers in a patch, all channels."""
    return patches * pixels * width


def mlp_macs(tokens: float, *widths: int) -> float:
    """Multiply-adds of linear layers in a row, from `widths[0]` to `widths[-1]`."""
    return tokens * sum(a * b for a, b in zip(widths, widths[1:], strict=False))


def avg_tokens(tokens: Sequence[float]) -> float:
    """Mean over the layers of the visual tokens that enter each: what tables call "retain 192"."""
    return sum(tokens) / len(tokens)


def tokens_by_layer(layers: int, tokens: float, stages: Sequence[tuple[int, float]]) -> list[float]:
    """Tokens entering each layer.

    Args:
        layers: Number of layers.
        tokens: At the start.
        stages: (layer, tokens from there on), pruning happens on entering that layer.
    """
    changes, out = dict(stages), []
    for layer in range(layers):
        tokens = changes.get(layer, tokens)
        out.append(tokens)
    return out


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


def wpr_macs(tokens: int, heads: int, iterations: int) -> float:
    """Multiply-adds of Zero-TPrune's votes in one layer."""
    return float(iterations * heads * tokens * tokens)
