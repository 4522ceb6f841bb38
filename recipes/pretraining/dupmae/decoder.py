"""The decoder of [CLS]: one transformer layer whose rows ask with h and read the text, each through its own mask."""

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu, scaled_dot_product_attention

START = 0.02  # standard deviation of first weights, as in BERT


class Decoder(nn.Module):
    """A layer of BERT with queries of one stream, and keys and values of another.

    Args:
        width: Of a token.
        heads: Of attention.
        inner: Width inside the feed-forward part.
        rate: Of dropout.
        epsilon: Of the normalisations.
    """

    def __init__(self, width: int, heads: int, inner: int, rate: float = 0.0, epsilon: float = 1e-12) -> None:
        super().__init__()
        self.heads, self.rate = heads, rate
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.attention_norm, self.norm = nn.LayerNorm(width, epsilon), nn.LayerNorm(width, epsilon)
        for layer in (self.query, self.key, self.value, self.output, self.up, self.down):
            nn.init.normal_(layer.weight, std=START)
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, context: Tensor, visible: Tensor) -> Tensor:
        """States of the rows.

        Args:
            queries: [B, L, d] stream that asks; the residual comes from it.
            context: [B, L, d] stream that is read.
            visible: bool [B, L, L], True where a row sees a token; each row sees one.

        Returns:
            [B, L, d]
        """
        queries, context = (part.to(self.query.weight.dtype) for part in (queries, context))
        asked, keys, values = self.query(queries), self.key(context), self.value(context)
        asked, keys, values = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (asked, keys, values))
        rate = self.rate if self.training else 0.0
        read = scaled_dot_product_attention(asked, keys, values, attn_mask=visible[:, None], dropout_p=rate)
        read = self._drop(self.output(read.transpose(1, 2).flatten(2)))
        states = self.attention_norm(queries + read)
        normed: Tensor = self.norm(states + self._drop(self.down(gelu(self.up(states)))))
        return normed

    def _drop(self, values: Tensor) -> Tensor:
        return dropout(values, self.rate, self.training)


def query_stream(embeddings: nn.Module, cls: Tensor, length: int, how: str) -> Tensor:
    """[B, L, d] h at every position.

    Args:
        embeddings: Of BERT.
        cls: [B, d] h.
        length: L.
        how: "layernorm": as embeddings are made, h + position + type, normalised (official code); "add": h + position.
    """
    repeated = cls[:, None].expand(-1, length, -1)
    if how == "layernorm":
        normed: Tensor = embeddings(inputs_embeds=repeated)
        return normed
    positions: Tensor = embeddings.position_embeddings.weight  # type: ignore[union-attr, assignment]
    return repeated + positions[:length]


def context_stream(embeddings: nn.Module, cls: Tensor, ids: Tensor) -> Tensor:
    """[B, L, d] h in row 0, then the embeddings of the tokens `ids` [B, L]."""
    return torch.cat([cls[:, None], embeddings(input_ids=ids)[:, 1:]], 1)
