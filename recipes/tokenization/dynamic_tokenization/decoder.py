"""A decoder reads a prompt of merged tokens; what it says of the ordinary tokens behind it is measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recipes.core.data.config import DomainsConfig
from recipes.core.data.text.pieces import token_rows
from recipes.core.data.text.text_ids import TextIds, start_id
from recipes.core.data.text.windows import Texts, Window
from recipes.core.errors import UserError
from recipes.core.losses.kernels import token_nll
from recipes.core.messages import note
from recipes.core.models.head import last_hidden_state, output_head
from recipes.core.models.padded import batches
from recipes.core.models.text import check_context
from recipes.core.models.vision_language import TextModel
from recipes.core.runs.progress import progress
from recipes.core.scoring.bits import says
from recipes.core.training.toys.frozen import load_frozen, model_where
from recipes.tokenization.dynamic_tokenization.config import BITS, DynamicTokenizationConfig
from recipes.tokenization.dynamic_tokenization.cuts import Rows
from recipes.tokenization.dynamic_tokenization.token_rows import Predict, TokenRows, lookup_of
from recipes.tokenization.dynamic_tokenization.vocabulary import BaseVocabulary, Tokens, read_base
from recipes.tokenization.hypernetwork import predict_rows
from recipes.tokenization.hypernetwork_training import trained_hypernetwork
from recipes.tokenization.old_rows import OldRows


@dataclass(frozen=True)
class DecoderTask:
    """Prompts to read.

    Attributes:
        model: A frozen `TextModel` on its device.
        base: Its tokens.
        documents: Of the run.
        windows: Where each prompt is from.
        texts: Base tokens of each prompt, what begins a text included.
        targets: Base tokens behind it.
        config: Of the run.
    """

    model: TextModel
    base: BaseVocabulary
    documents: Texts
    windows: Sequence[Window]
    texts: Rows
    targets: Rows
    config: DynamicTokenizationConfig

    @staticmethod
    def load(config: DynamicTokenizationConfig, device: str) -> "DecoderTask":
        """Model and prompts. Raises UserError: they cannot be had."""
        model, tokenizer = load_frozen(config, device)
        base = read_base(tokenizer, output_head(model.language_model).vocabulary, model_where(config.model))
        options = config.evaluation
        check_context(model, options.prompt + options.target, "evaluation.prompt")
        assert isinstance(config.data, DomainsConfig)  # `check` refuses others
        documents = Texts(config.data)
        windows = documents.windows(options, config.seed)
        ids, room = TextIds(tokenizer).batch([window.text for window in windows]), options.prompt + options.target - 1
        kept = [(window, row[:room]) for window, row in zip(windows, ids, strict=True) if len(row) > options.target]
        if lost := sum(not says(tokenizer, row, each.text) for row, each in zip(ids, windows, strict=True)):
            what = "do not come back from the tokenizer: bytes that it has no token for are not counted"
            note(f"warning: {lost} of {len(windows)} stretches {what}")
        if left := len(windows) - len(kept):
            note(f"{left} of {len(windows)} stretches have no more than {options.target} tokens, and are left out")
        if not kept:
            what = f"no stretch of text has more than evaluation.target={options.target} tokens"
            raise UserError(what, documents.where, "type a smaller evaluation.target or larger evaluation.characters")
        prompts = [[start_id(tokenizer), *row[: -options.target]] for _, row in kept]
        targets = [row[-options.target :] for _, row in kept]
        return DecoderTask(model, base, documents, [window for window, _ in kept], prompts, targets, config)

    @property
    def lookup(self) -> Any:
        """Rows of the model's own tokens."""
        return lookup_of(self.model.language_model)

    def network(self) -> Predict:
        """A hypernetwork for the model, trained on the training documents if no run has done so before."""
        source = OldRows(self.model, self.base.tokenizer, model_where(self.config.model))
        texts, fingerprint = self.documents.training(1.0, 0)
        options, trainer = self.config.hypernetwork, self.config.trainer
        network = trained_hypernetwork(source, options, trainer, 0, texts, fingerprint).network()
        network.to(source.rows.device)
        return lambda pieces: predict_rows(network, pieces)[:, : source.width]

    @property
    def training(self) -> Rows:
        """Tokens of the training documents."""
        texts, _ = self.documents.training(1.0, 0)
        return TextIds(self.base.tokenizer).batch(texts)

    @property
    def names(self) -> list[tuple[str, str]]:
        """Id and document of each prompt."""
        return [(window.id, window.document) for window in self.windows]

    @cached_property
    def counts(self) -> list[float]:
        """Bytes of each target."""
        return [float(sum(len(self.base.table[token]) for token in target)) for target in self.targets]

    def values(self, texts: Rows, rows: TokenRows, tokens: Tokens) -> dict[str, list[float]]:
        """Bits per byte of what follows each prompt, which is cut in some way."""
        bits = target_bits(self, texts, rows)
        return {BITS: [value / max(size, 1) for value, size in zip(bits, self.counts, strict=True)]}


@torch.no_grad()
def target_bits(task: DecoderTask, prompts: Rows, rows: TokenRows) -> list[float]:
    """Bits of each target behind its prompt, both in one forward; padding stands behind both, where nobody sees it.

    Args:
        task: Model and targets.
        prompts: Tokens of each prompt.
        rows: Their rows.
    """
    bits, lookup, finished = [0.0] * len(prompts), task.lookup, 0
    lengths = [len(prompt) + len(target) for prompt, target in zip(prompts, task.targets, strict=True)]
    with progress("reading prompts", len(prompts)) as show:
        for group in batches(lengths, task.config.evaluation.batch_tokens):
            targets = [torch.tensor(task.targets[number]) for number in group]
            read = rows.of_texts([prompts[number] for number in group])
            nlls = _nlls(task, [torch.cat([row, lookup(target)]) for row, target in zip(read, targets, strict=True)],
                         [len(row) for row in read], targets)  # fmt: skip
            for number, value in zip(group, nlls, strict=True):
                bits[number] = value / math.log(2)
            show(finished := finished + len(group))
    return bits


def _nlls(task: DecoderTask, inputs: list[Tensor], prompts: list[int], targets: list[Tensor]) -> list[float]:
    """Nats of each target; the first of its tokens is predicted by the last of its prompt."""
    language_model = task.model.language_model
    embeds = pad_sequence(inputs, batch_first=True)
    mask = pad_sequence([torch.ones(len(each), dtype=torch.long) for each in inputs], batch_first=True)
    hidden = last_hidden_state(language_model, inputs_embeds=embeds, attention_mask=mask.to(embeds.device))
    states = [
        hidden[row, start - 1 : start - 1 + len(target)]
        for row, (start, target) in enumerate(zip(prompts, targets, strict=True))
    ]
    head = output_head(language_model)
    head = head.rows(slice(0, min(token_rows(task.base.tokenizer), head.vocabulary)))
    nll = token_nll(torch.cat(states), head, torch.cat(targets).to(hidden.device)).double().cpu().numpy()
    ends = np.cumsum([len(target) for target in targets])[:-1]
    return [float(part.sum()) for part in np.split(nll, ends)]
