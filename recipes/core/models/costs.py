"""What a transformer costs, counted: multiply-adds (MACs) of layers at given numbers of tokens. No torch.

Papers print MACs as "FLOPs"; here a MAC is two FLOPs. Counted are projections, attention and MLPs of a forward; not
embeddings, norms or the LM head, which callers add.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LayerShape:
    """One transformer layer.

    Attributes:
        width: Of a token.
        ffn: Hidden width of the MLP.
        matrices: Matrices of the MLP: 2, or 3 for SwiGLU. Papers that print 2 for a SwiGLU model count too little.
        kv_width: Width of keys and of values, less than that of queries in grouped-query attention; None: the same.
        query_width: Width of queries, all heads beside each other; None: `width`.
    """

    width: int
    ffn: int
    matrices: int = 2
    kv_width: int | None = None
    query_width: int | None = None

    def macs(self, tokens: float, pairs: float | None = None) -> float:
        """Multiply-adds of the layer.

        Args:
            tokens: Length of the sequence.
            pairs: How many pairs of a query and a key attention computes; None: all of the sequence.

        Source:
            arXiv 2403.06764 (FastV): 4 n d^2 + 2 n^2 d + f n d m; with queries of width d_q and keys of width d_kv
            2 n d d_q + 2 n d d_kv + 2 n^2 d_q in place of 4 n d^2 + 2 n^2 d.
        """
        d, n = self.width, tokens
        queries = d if self.query_width is None else self.query_width
        projections = 2 * n * d * (queries + (queries if self.kv_width is None else self.kv_width))
        return projections + 2 * (n * n if pairs is None else pairs) * queries + self.matrices * n * d * self.ffn


def decoder_shape(layer: Any) -> LayerShape:
    """The shape of a language model's layer, read off its weights.

    Args:
        layer: With projections `q_proj` and `k_proj` of the attention, and a gated MLP.
    """
    attention, mlp = layer.self_attn, layer.mlp
    return LayerShape(
        width=attention.q_proj.in_features,
        ffn=mlp.gate_proj.out_features,
        matrices=3,
        kv_width=attention.k_proj.out_features,
        query_width=attention.q_proj.out_features,
    )


def model_macs(layer: LayerShape, tokens: Sequence[float]) -> float:
    """Multiply-adds of a stack of equal layers; `tokens` has the length of the sequence in each layer."""
    return sum(layer.macs(count) for count in tokens)


def flops(macs: float) -> float:
    """Floating-point operations, two for each multiply-add."""
    return 2 * macs


def training_flops(macs: float) -> float:
    """Those of a forward of so many multiply-adds and its backward, which costs two forwards."""
    return 3 * flops(macs)


def patch_macs(patches: int, pixels: int, width: int) -> float:
    """Multiply-adds of a patch embedding; `pixels` numbers in a patch, all channels."""
    return patches * pixels * width


def mlp_macs(tokens: float, *widths: int) -> float:
    """Multiply-adds of linear layers in a row, from `widths[0]` to `widths[-1]`."""
    return tokens * sum(a * b for a, b in zip(widths, widths[1:], strict=False))
