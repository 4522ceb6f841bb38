"""A Llama-type decoder with chunked cross-attention to neighbours, which a small bidirectional encoder reads.

    h = h + SelfAttention(norm(h))
    h = h + gate CCA(norm(h), E)             at the layers that are listed
    h = h + MLP(norm(h))

E is made once, at the first of these layers: the encoder reads each neighbour with its continuation, and attends to the
states of the chunk that it was looked up with.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP, apply_rotary_pos_emb

from recipes.core.losses.kernels import weighted_cross_entropy
from recipes.core.losses.objectives import IGNORE
from recipes.core.models.build import llama, local_seed
from recipes.core.models.config import SmallLMConfig
from recipes.core.models.head import OutputHead, output_head
from recipes.core.training.stages import Groups
from recipes.pretraining.retro.config import DECODER, EPSILON, READING, RetrievalConfig
from recipes.pretraining.retro.method import attend, chunked_cross_attention, split_chunks

R = TypeVar("R")
Rotary = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Projections of an attention whose queries are normalised states.

    Args:
        width: Of states.
        heads: How many.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width, eps=EPSILON)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def split(self, states: Tensor) -> Tensor:
        """[..., T, width] as [..., heads, T, width of a head]."""
        return states.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    @staticmethod
    def join(heads: Tensor) -> Tensor:
        """[G, heads, T, width of a head] as [G, T, width]."""
        return heads.transpose(1, 2).flatten(2)

    def forward(self, states: Tensor, context: Tensor | None, visible: Tensor, rotary: Rotary | None = None) -> Tensor:
        """[G, R, width] of states [G, R, width] that attend to `context` [G, S, width], None: to each other."""
        normed = self.norm(states)
        read = normed if context is None else context
        queries, keys = self.split(self.query(normed)), self.split(self.key(read))
        if rotary is not None:
            queries, keys = apply_rotary_pos_emb(queries, keys, *rotary)
        attended: Tensor = self.out(self.join(attend(queries, keys, self.split(self.value(read)), visible)))
        return attended

    def by_chunks(self, normed: Tensor, encoded: Tensor, visible: Tensor, size: int) -> Tensor:
        """[B, n, width] of normalised states that attend to `encoded` [B, l, S, width] of their chunks."""
        keys, values = self.split(self.key(encoded)), self.split(self.value(encoded))
        read = chunked_cross_attention(self.split(self.query(normed)), keys, values, visible, size)
        attended: Tensor = self.out(self.join(read))
        return attended


class EncoderLayer(nn.Module):
    """A bidirectional layer; the first one of an encoder attends to the chunk between self-attention and MLP."""

    def __init__(self, shape: LlamaConfig, reads_chunk: bool) -> None:
        super().__init__()
        width, heads = shape.hidden_size, shape.num_attention_heads
        self.attention = Attention(width, heads)
        self.chunk = Attention(width, heads) if reads_chunk else None
        self.norm, self.mlp = nn.RMSNorm(width, eps=EPSILON), LlamaMLP(shape)

    def forward(self, states: Tensor, visible: Tensor, chunks: Tensor, there: Tensor, rotary: Rotary) -> Tensor:
        """[G, k, r, width]; arguments as of `NeighbourEncoder`."""
        rows = states.flatten(0, 1)
        states = (rows + self.attention(rows, None, visible.flatten(0, 1), rotary)).view(states.shape)
        if self.chunk is not None:
            rows = states.flatten(1, 2)
            states = (rows + self.chunk(rows, chunks, there)).view(states.shape)
        mixed: Tensor = states + self.mlp(self.norm(states))
        return mixed


class NeighbourEncoder(nn.Module):
    """States of neighbours, each read by itself from position 0, with its chunk in view.

    Args:
        shape: Of the decoder, whose width and heads it shares.
        layers: How many.
    """

    def __init__(self, shape: LlamaConfig, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(shape, number == 0) for number in range(layers))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=EPSILON)

    def forward(self, states: Tensor, visible: Tensor, chunks: Tensor, there: Tensor, rotary: Rotary) -> Tensor:
        """[G, k, r, width] of k neighbours for each of G chunks.

        Args:
            states: [G, k, r, width] embeddings.
            visible: bool [G, k, r], where there is a token.
            chunks: [G, m, width] normalised states of the chunks.
            there: bool [G, m], where there is a token.
            rotary: Of positions 0 to r - 1.
        """
        for layer in self.layers:
            states = layer(states, visible, chunks, there, rotary)
        normed: Tensor = self.norm(states)
        return normed


class RetroLM(nn.Module):
    """The decoder; without retrieval it computes what `LlamaForCausalLM` computes.

    Args:
        language_model: A `LlamaForCausalLM`.
        retrieval: What it reads of neighbours; None: nothing.

    Attributes:
        gate: What the cross-attention is multiplied by; 0 leaves the decoder alone.
    """

    def __init__(self, language_model: Any, retrieval: RetrievalConfig | None) -> None:
        super().__init__()
        self.language_model = language_model
        self.gate, self.size = 1.0, 0
        self.cross, self.encoder = nn.ModuleDict(), None
        if retrieval is not None:
            shape = language_model.config
            self.size = retrieval.chunk
            self.encoder = NeighbourEncoder(shape, retrieval.encoder_layers)
            for layer in retrieval.layers:
                self.cross[str(layer)] = Attention(shape.hidden_size, shape.num_attention_heads)
            for module in (*self.cross.modules(), *self.encoder.modules()):
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=shape.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        readout: Callable[[Tensor, OutputHead], R],
        neighbours: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> R:
        """Run `readout(hidden [batch, time, width], output head)` inside the forward.

        Args:
            input_ids: [batch, time] without padding.
            readout: What is made of the states.
            neighbours: [batch, chunks, k, r] tokens; None: there are none.
            visible: bool, of the same shape: where there is a token.
        """
        decoder: Any = self.language_model.model
        hidden, encoded, seen = decoder.embed_tokens(input_ids), None, None
        rotary = self._rotary(hidden, input_ids.shape[1])
        for number, layer in enumerate(decoder.layers, 1):
            normed = layer.input_layernorm(hidden)
            hidden = hidden + layer.self_attn(hidden_states=normed, position_embeddings=rotary)[0]
            if neighbours is not None and self.gate and str(number) in self.cross:
                cross: Any = self.cross[str(number)]
                normed = cross.norm(hidden)
                if encoded is None:
                    encoded, seen = self._encode(normed, neighbours, visible)
                hidden = hidden + self.gate * cross.by_chunks(normed, encoded, seen, self.size)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return readout(decoder.norm(hidden), output_head(self.language_model))

    def groups(self) -> Groups:
        """Parameters of the decoder, and those that read neighbours."""
        reading = [parameter for part in (self.cross, self.encoder) if part for parameter in part.parameters()]
        return {DECODER: list(self.language_model.parameters()), READING: reading}

    def _encode(self, normed: Tensor, neighbours: Tensor, visible: Any) -> tuple[Tensor, Tensor]:
        """States [B, l, k r, width] of all neighbours of each chunk, and where there is one."""
        batch, count, k, length = neighbours.shape
        states = self.language_model.model.embed_tokens(neighbours.flatten(0, 1))
        chunks, there = split_chunks(normed, self.size)
        rotary = self._rotary(states, length)
        assert self.encoder is not None
        encoded = self.encoder(states, visible.flatten(0, 1), chunks.flatten(0, 1), there.repeat(batch, 1), rotary)
        return encoded.view(batch, count, k * length, -1), visible.flatten(2)

    def _rotary(self, like: Tensor, length: int) -> Rotary:
        rotary: Rotary = self.language_model.model.rotary_emb(like, torch.arange(length, device=like.device)[None])
        return rotary


def build_model(
    config: SmallLMConfig, retrieval: RetrievalConfig | None, inner: int, vocabulary: int, longest: int, seed: int
) -> RetroLM:
    """The model, initialised from `seed`; the decoder begins the same with retrieval and without.

    Args:
        config: Layers, width and heads.
        retrieval: What it reads of neighbours; None: nothing.
        inner: Width inside the MLPs.
        vocabulary: Of the tokenizer.
        longest: Tokens of the longest sequence.
        seed: Of the initialisation.
    """
    shape = llama(vocabulary, config.layers, config.width, config.heads, inner)
    shape.max_position_embeddings = max(shape.max_position_embeddings, longest)
    with local_seed(seed):
        return RetroLM(LlamaForCausalLM(shape), retrieval)


def token_losses(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Sum of the NLLs of a batch's predicted tokens, differentiable, and the NLLs [tokens], in order."""
    predicted = batch["labels"] != IGNORE
    targets = batch["labels"][predicted]

    def read(hidden: Tensor, head: OutputHead) -> tuple[Tensor, Tensor]:
        return weighted_cross_entropy(hidden[predicted], head, targets, torch.ones_like(targets, dtype=torch.float32))

    result: tuple[Tensor, Tensor] = model(
        batch["input_ids"], read, neighbours=batch.get("neighbours"), visible=batch.get("visible")
    )
    return result
