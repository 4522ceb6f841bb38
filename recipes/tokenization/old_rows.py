"""The rows of an old model, from which those of new tokens are made; the model reads texts through any rows."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedTokenizerFast

from recipes.core.data.text.pieces import Speller, read_vocabulary
from recipes.core.data.text.text_ids import control_ids
from recipes.core.data.text.vocabulary_bytes import VocabularyBytes
from recipes.core.errors import UserError
from recipes.core.losses.kernels import weighted_cross_entropy
from recipes.core.models.head import decoder, output_head
from recipes.tokenization.mapping import role_id


class OldRows:
    """A frozen causal language model, its tokens, and its rows: one for each token, all its parts beside each other.

    The parts are the input row, and of a head of its own the head's row and bias. A tied head has no part.

    Args:
        model: A `TextModel`, frozen, on its device.
        tokenizer: Its tokenizer, byte-level or with word marks.
        where: Key and value that named it, for messages.

    Raises:
        UserError: the bytes of its tokens are not known.
    """

    def __init__(self, model: Any, tokenizer: Any, where: str) -> None:
        self.model, self.tokenizer, self.where = model, tokenizer, where
        language_model = model.language_model
        self._head, embedding = output_head(language_model), language_model.get_input_embeddings()
        embedding.padding_idx = None  # an id of the old vocabulary; rows come from anywhere here
        self.vocabulary: VocabularyBytes = read_vocabulary(tokenizer, where, self._head.vocabulary)
        self.width: int = embedding.weight.shape[1]
        self.tied = self._head.weight.data_ptr() == embedding.weight.data_ptr()
        tensors = [embedding.weight]
        if not self.tied:
            tensors.append(self._head.weight)
        if self._head.bias is not None:
            tensors.append(self._head.bias[:, None])
        self.rows: Tensor = torch.cat([tensor.detach().float() for tensor in tensors], 1)
        self._decoder = decoder(language_model)
        names = [name for name, weights in self._decoder.named_parameters() if weights is embedding.weight]
        self._name = names[0]
        self._known: dict[bytes, list[int]] = {}

    @property
    def parts(self) -> tuple[slice, ...]:
        """Input part, and head part with its bias if there is one."""
        width, whole = self.width, self.rows.shape[1]
        return (slice(0, width),) if whole == width else (slice(0, width), slice(width, whole))

    @cached_property
    def control(self) -> list[int]:
        """Ids of the control tokens that the model has rows for."""
        return sorted(token for token in control_ids(self.tokenizer) if token < len(self.rows))

    @cached_property
    def text_tokens(self) -> list[int]:
        """Ids of the tokens that stand for bytes."""
        return [token for token, data in enumerate(self.vocabulary.table) if data]

    @cached_property
    def _speller(self) -> Speller:
        return Speller(self.tokenizer, self.vocabulary, self.where)

    def spell(self, data: bytes) -> list[int]:
        """Old tokens that spell some bytes, by the merges alone; the unknown token of bytes that none spells."""
        if data not in self._known:
            unknown = role_id(self.tokenizer, "unk_token")
            self._known[data] = self._speller(data) or [self.text_tokens[0] if unknown is None else unknown]
        return self._known[data]

    @cached_property
    def _pipeline(self) -> dict[str, Any]:
        pipeline: dict[str, Any] = json.loads(self.tokenizer.backend_tokenizer.to_str())
        return pipeline

    @property
    def has_merges(self) -> bool:
        """Whether the tokenizer is a BPE."""
        return bool(self._pipeline["model"]["type"] == "BPE")

    def shorter(self) -> Speller:
        """Spells bytes by the first half of the merges, so that most of the later tokens have several pieces.

        Raises:
            UserError: the tokenizer has no merges.
        """
        model = self._pipeline["model"]
        if not self.has_merges:
            what = f"old tokens are to be spelt by half of the merges, and a {model['type']} has none"
            raise UserError(what, self.where, "give a model with a BPE, or type hypernetwork.objective=lm")
        # Llama 3 takes a word that is a token as it is, without merges: none would have several pieces.
        fewer = model | {"merges": model["merges"][: len(model["merges"]) // 2], "ignore_merges": False}
        backend = Tokenizer.from_str(json.dumps(self._pipeline | {"model": fewer}))
        return Speller(PreTrainedTokenizerFast(tokenizer_object=backend), self.vocabulary, self.where)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input rows [n, d], head rows [n, d] and head biases [n] of rows [n, width of a row]."""
        start, width = self.width, self.width
        new_in = rows[:, :width]
        new_out = new_in if self.tied else rows[:, start : start + width]
        return new_in, new_out, None if self._head.bias is None else rows[:, -1]

    def nll(self, rows: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the model pays for texts if its tokens had other rows; gradients flow into the rows alone.

        Args:
            rows: [n, width of a row] one row a token, all tokens that there are.
            ids: [texts, time] the tokens of texts, padded on the right.
            mask: [texts, time]

        Returns:
            Sum over all tokens but the first of each text, in nats, and each of them without gradient.
        """
        new_in, new_out, bias = self.split(rows)
        inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        hidden = functional_call(self._decoder, {self._name: new_in}, (), inputs).last_hidden_state
        head = replace(self._head, weight=new_out, bias=bias)
        predicted = mask[:, 1:].bool()
        targets = ids[:, 1:][predicted]
        return weighted_cross_entropy(
            hidden[:, :-1][predicted], head, targets, torch.ones_like(targets, dtype=torch.float32)
        )

    def pieces(self, tokens: Sequence[int], spell: Speller) -> list[list[int]]:
        """How old tokens are spelt by others; a token that none spells stays itself."""
        return [spell(self.vocabulary.table[token]) or [token] for token in tokens]
