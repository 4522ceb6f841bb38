"""A language model over words: an encoder pools the units of each, a backbone reads words, a decoder spells the next.

Each distinct word of a batch is encoded once, among words of about its length; words are decoded so too.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoModelForCausalLM, GPT2Config

from recipes.core.models.build import llama, local_seed
from recipes.core.models.config import GPT2_POSITIONS, mlp_width
from recipes.core.models.padded import pool
from recipes.core.models.precision import exact
from recipes.core.models.vision_language import TextModel
from recipes.tokenization.words.config import (
    CONCATENATED,
    JOINED,
    LAST,
    PADDING_COUNTED,
    PADDING_SEEN,
    WordModelConfig,
)
from recipes.tokenization.words.method import visible
from recipes.tokenization.words.units import Units

SHORTEST = 4  # units: longer words are in buckets of twice the length each
NO_VOCABULARY = 4  # rows that hold what a config takes for special tokens; no unit has one
SCALE = 0.02  # deviation of first weights, as in the blocks


class Spelled(NamedTuple):
    """What the decoder gives to words [m].

    Attributes:
        nll: Nats of all units and the end.
        units: How many are predicted.
        right: bool, whether each is the likeliest.
        right_units: How many are.
    """

    nll: Tensor
    units: Tensor
    right: Tensor
    right_units: Tensor


def blocks(config: WordModelConfig, vocabulary: int, width: int, layers: int, heads: int) -> Any:
    """Config of a stack of blocks."""
    if config.architecture == "gpt2":
        return GPT2Config(
            vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=heads, n_positions=GPT2_POSITIONS,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
    return llama(vocabulary, layers, width, heads, mlp_width(width))


def flat_model(config: WordModelConfig, units: Units, seed: int) -> TextModel:
    """A flat decoder of units, its first weights drawn from a seed."""
    with local_seed(seed):
        shape = blocks(config, units.size, config.width, config.layers, config.heads)
        shape.bos_token_id = shape.eos_token_id = units.stop
        return TextModel(AutoModelForCausalLM.from_config(shape))


class WordModel(nn.Module):
    """The hierarchy.

    Args:
        config: Its shape.
        units: What words are spelt in.
        group: Most units of a word whose embeddings are put side by side.
        seed: Of its first weights.
        faults: Faults of a release that it repeats; words are then padded to the longest there may be.
        longest: How long that is.

    Source:
        arXiv 2501.10322, Section 2 (one mark, blocks of Llama, d < D); arXiv 2310.11628 (several marks, d = D).
    """

    def __init__(
        self,
        config: WordModelConfig,
        units: Units,
        group: int,
        seed: int,
        faults: Sequence[str] = (),
        longest: int = 0,
    ) -> None:
        super().__init__()
        self.faults, self.longest = faults, longest
        self.shape, self.end, self.stop, self.group = config, units.end, units.stop, group
        unit, word, slots = config.unit_width, config.width, config.slots
        with local_seed(seed):
            self.embedding = nn.Embedding(units.size, unit)
            nn.init.normal_(self.embedding.weight, std=SCALE)
            self.first = nn.Parameter(SCALE * torch.randn(slots, unit))  # the hint for the first word of a text
            if config.marks:
                self.marks = nn.Parameter(SCALE * torch.randn(slots, unit))
            if config.encodes:
                self.encoder = _stack(config, unit, config.encoder_layers, config.unit_heads)
            self.backbone = _stack(config, word, config.layers, config.heads)
            self.decoder = _stack(config, unit, config.decoder_layers, config.unit_heads)
            joined = {JOINED: slots, CONCATENATED: group}.get(config.pooling, 1)
            plain = unit == word and joined == 1
            self.to_word = nn.Identity() if plain else nn.Linear(joined * unit, word, bias=False)
            hints = unit * (slots if config.pooling == JOINED else 1)
            self.to_unit = nn.Identity() if plain else nn.Linear(word, hints, bias=False)
            self.head = nn.Linear(unit, units.size, bias=False)
            nn.init.normal_(self.head.weight, std=SCALE)

    def forward(self, words: Tensor, lengths: Tensor, sequence: Tensor, cut: Tensor | None = None) -> Spelled:
        """What the model gives to each running word behind those before it in its row.

        Args:
            words: int64 [n, longest] units of distinct words, padded with the end of words.
            lengths: int64 [n] units of each.
            sequence: int64 [B, T] numbers of running words, -1 for none.
            cut: bool [B, T] running words that a text breaks off in: their end is not predicted. None: no word is.

        Returns:
            Of the running words, row by row.
        """
        hints = self.hints(self.encode(words, lengths), sequence)
        running = sequence >= 0
        numbers = sequence[running]
        return self.spell(words[numbers], lengths[numbers], hints[running], None if cut is None else cut[running])

    def encode(self, words: Tensor, lengths: Tensor) -> Tensor:
        """[n, positions, D] vectors of distinct words."""
        parts, order = list[Tensor](), list[Tensor]()
        for rows, alike in self._alike(words, lengths):
            parts.append(self.to_word(self.pooled(alike, lengths[rows])))
            order.append(rows)
        return _restore(parts, order)

    def _alike(self, words: Tensor, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of words that are about as long, and their units, padded to the width of the widest."""
        if self.faults:
            padding = (0, self.longest - words.shape[1])
            yield torch.arange(len(words), device=words.device), functional.pad(words, padding, value=self.end)
            return
        for rows, width in buckets(lengths, words.shape[1]):
            yield rows, words[rows, :width]

    def pooled(self, words: Tensor, lengths: Tensor) -> Tensor:
        """[m, positions, width] of words [m, width of the widest]: what is mapped to their vectors."""
        config, embedded = self.shape, self.embedding(words)
        if config.pooling == CONCATENATED:
            side_by_side = embedded * visible(lengths, words.shape[1], 0)[..., None]
            return functional.pad(side_by_side, (0, 0, 0, self.group - words.shape[1])).flatten(1)[:, None]
        if marks := config.marks:
            embedded = torch.cat([self.marks.expand(len(words), -1, -1), embedded], 1)
        inside = visible(lengths, words.shape[1], marks) | (PADDING_SEEN in self.faults)
        seen = inside[:, None, None].expand(-1, 1, inside.shape[1], -1)
        if self.encoder.config._attn_implementation == "eager":  # it adds masks to scores
            seen = torch.zeros_like(seen, dtype=embedded.dtype).masked_fill(~seen, torch.finfo(embedded.dtype).min)
        states = self.encoder(inputs_embeds=embedded, attention_mask=seen).last_hidden_state
        if not marks:
            return pool(states, inside, "last" if config.pooling == LAST else "mean").to(states.dtype)[:, None]
        return states[:, :marks].flatten(1)[:, None] if config.pooling == JOINED else states[:, :marks]

    def hints(self, vectors: Tensor, sequence: Tensor) -> Tensor:
        """[B, T, slots, d] what the backbone says of each running word, from the words before it.

        Args:
            vectors: [n, positions, D] from `encode`.
            sequence: int64 [B, T] numbers of running words, -1 behind the last.
        """
        rows, time = sequence.shape
        positions, slots = vectors.shape[1], self.shape.slots
        inputs = vectors[sequence.clamp(min=0)].flatten(1, 2)
        mask = (sequence >= 0).long().repeat_interleave(positions, 1)
        states = self.backbone(inputs_embeds=inputs, attention_mask=mask).last_hidden_state
        hints = self.to_unit(states).view(rows, time, slots, -1)
        first = self.first.to(hints.dtype).expand(rows, 1, -1, -1)
        return torch.cat([first, hints[:, :-1]], 1)

    def spell(self, words: Tensor, lengths: Tensor, hints: Tensor, cut: Tensor | None = None) -> Spelled:
        """What the decoder gives to words, each from its hint alone.

        Args:
            words: int64 [m, longest] units, padded with the end of words.
            lengths: int64 [m]
            hints: [m, slots, d]
            cut: bool [m] words whose end is not predicted, as none is behind the end of a document.
        """
        parts, order = list[Spelled](), list[Tensor]()
        counts = lengths if cut is None else lengths - cut.long()
        if words.shape[1]:
            counts = torch.where(words[:, 0] == self.stop, lengths - 1, counts)
        for rows, alike in self._alike(words, lengths):
            parts.append(self._spell(alike, counts[rows], hints[rows]))
            order.append(rows)
        return Spelled(*(_restore(list(column), order) for column in zip(*parts, strict=True)))

    def _spell(self, words: Tensor, last: Tensor, hints: Tensor) -> Spelled:
        """As `spell`, of words of about the same length; `last` is the last place of each that is predicted."""
        logits = self.logits(words, hints)
        targets = functional.pad(words, (0, 1), value=self.end)
        counted = torch.arange(targets.shape[1], device=words.device) <= last[:, None]
        counted |= self.training and PADDING_COUNTED in self.faults
        nll = torch.zeros(targets.shape, dtype=torch.float32, device=words.device)
        picked = exact(logits[counted])
        values = functional.cross_entropy(picked, targets[counted], reduction="none")
        nll = nll.to(values.dtype).masked_scatter(counted, values)
        hit = torch.zeros_like(counted).masked_scatter(counted, picked.argmax(-1) == targets[counted])
        return Spelled(nll.sum(1), counted.sum(1), (hit | ~counted).all(1), hit.sum(1))

    def logits(self, words: Tensor, hints: Tensor) -> Tensor:
        """[m, longest + 1, V]: of each unit behind those before it in its word, and of what follows the last."""
        inputs = torch.cat([hints, self.embedding(words).to(hints.dtype)], 1)
        states = self.decoder(inputs_embeds=inputs).last_hidden_state
        logits: Tensor = self.head(states[:, self.shape.slots - 1 :])
        return logits


def buckets(lengths: Tensor, longest: int) -> Iterator[tuple[Tensor, int]]:
    """Rows of about the same length and the width that holds them: up to 4, 8, 16 units and so on.

    Args:
        lengths: int64 [rows] at most `longest`.
        longest: Width of all.
    """
    below, width = -1, SHORTEST
    while below < longest:
        rows = ((lengths > below) & (lengths <= width)).nonzero()[:, 0]
        if len(rows):
            yield rows, min(width, longest)
        below, width = width, 2 * width


def _restore(parts: list[Tensor], order: list[Tensor]) -> Tensor:
    """What was computed in parts, in the order of the rows."""
    return torch.cat(parts)[torch.cat(order).argsort()]


def _stack(config: WordModelConfig, width: int, layers: int, heads: int) -> Any:
    """Blocks that are given embeddings."""
    model = AutoModel.from_config(blocks(config, NO_VOCABULARY, width, layers, heads))
    model.set_input_embeddings(nn.Identity())
    return model
