"""TILDE: terms that a passage is likely to be asked by, of one forward over it; what expands passages, and a ranker.

The vocabulary's logits are read at the first position, which holds [DOC] for a passage and [QRY] for a query. The head
is the encoder's own embedding of tokens and a bias; a user's TILDE (`expansion.model`) brings its own.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import BertForMaskedLM

from recipes.core.config.settings import TrainerConfig
from recipes.core.errors import UserError
from recipes.core.models.config import MiniLMConfig
from recipes.core.models.dropout import without_dropout
from recipes.core.models.padded import batches, pad_rows
from recipes.core.models.sources import load_config, load_model, load_tokenizer
from recipes.core.runs.progress import progress
from recipes.core.scoring.fingerprints import module_hash
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json
from recipes.core.training.models import settings_beside, train_once
from recipes.core.training.task import Training
from recipes.retrieval.encoders import load_encoder
from recipes.retrieval.tildev2.config import ExpansionConfig
from recipes.retrieval.tildev2.method import likelihood_losses, likely_terms, term_sets

WEIGHTS, LIKELY = "tilde.safetensors", "likely.npy"
MARKS = {"passage": "[unused0]", "query": "[unused1]"}  # used as [DOC] and [QRY]
KEY = "expansion.model"
UNREAD = r"^(bert\.pooler|cls\.seq_relationship)\."
VERSION = 1
BIAS_RATE = 1e-3  # peak learning rate of the head's bias
Rows = Sequence[Sequence[int]]


class Tilde(nn.Module):
    """Logits of the vocabulary at the first position, by the encoder's own embedding of tokens and a bias.

    Args:
        body: A `BertModel`.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body, self.bias = body, nn.Parameter(torch.zeros(int(body.config.vocab_size)))

    @property
    def config(self) -> Any:
        """That of the encoder."""
        return self.body.config

    def begin(self, prior: Tensor) -> None:
        """Put the bias [V] where training begins."""
        self.bias.data.copy_(prior)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask [B, T] to logits [B, V]."""
        first = self.body(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        return nn.functional.linear(first, self.body.get_input_embeddings().weight, self.bias)


class TildeOfUser(Tilde):
    """The same with the head of a masked language model, as the official one has it.

    Args:
        model: A `BertForMaskedLM`.
    """

    def __init__(self, model: Any) -> None:
        nn.Module.__init__(self)
        self.body, self.head = model.bert, model.cls

    def begin(self, prior: Tensor) -> None:
        """Its head has learnt already where to begin."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask [B, T] to logits [B, V]."""
        logits: Tensor = self.head(self.body(input_ids=ids, attention_mask=mask).last_hidden_state[:, :1])
        return logits[:, 0]


def load_tilde(model: MiniLMConfig, config: ExpansionConfig, tokenizer: Any) -> Tilde:
    """A TILDE as it is before the run trains it.

    Args:
        model: The run's encoder, which it is made of unless the user has one.
        config: With the user's in `model`.
        tokenizer: Of the encoder; that of the user's TILDE must be the same.

    Raises:
        UserError: it cannot be loaded, is of another type or of another vocabulary.
    """
    if config.model is None:
        body, reader = load_encoder(model, None)
        if reader.get_vocab() != tokenizer.get_vocab():
            what = "has another vocabulary than what weighs terms"
            raise UserError(what, f"model.path={model.path}", "type model=FOLDER of an encoder with that tokenizer")
        return Tilde(body)
    where = f"{KEY}={config.model}"
    if load_config(config.model, KEY).model_type != "bert":
        raise UserError("is no model of type BERT", where, "give a TILDE or a masked language model of type BERT")
    if load_tokenizer(config.model, KEY).get_vocab() != tokenizer.get_vocab():
        raise UserError("has another vocabulary than the encoder", where, "give a TILDE with the encoder's tokenizer")
    loaded = load_model(BertForMaskedLM, config.model, KEY, unused=UNREAD, dtype=torch.float32)
    return TildeOfUser(without_dropout(loaded).eval())


def marked(tokenizer: Any, rows: Rows, kind: str) -> list[list[int]]:
    """Rows of ids with [DOC] or [QRY] in place of CLS.

    Args:
        tokenizer: Of a BERT-type encoder; one without unused tokens keeps CLS.
        rows: Ids with CLS and SEP.
        kind: "passage" or "query".
    """
    mark = mark_of(tokenizer, kind)
    return [with_mark(mark, row) for row in rows]


def mark_of(tokenizer: Any, kind: str) -> int | None:
    """The id of [DOC] ("passage") or [QRY] ("query"); None: the tokenizer has no unused tokens.

    It reads the whole vocabulary: what is timed query by query asks once.
    """
    mark: int | None = tokenizer.get_vocab().get(MARKS[kind])
    return mark


def with_mark(mark: int | None, row: Sequence[int]) -> list[int]:
    """Ids with a mark in place of CLS; None: as they are."""
    return list(row) if mark is None else [mark, *row[1:]]


class LikelihoodLoss:
    """Passages predict the terms of their queries, queries those of their passages.

    Args:
        stop: bool [V] the ids that are no terms.
    """

    def __init__(self, stop: Tensor) -> None:
        self.stop = stop

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Pairs of this micro-batch."""
        return torch.tensor(float(len(batch["query_ids"])))

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over pairs."""
        sides = ("passage", "query")
        logits = [model(batch[f"{side}_ids"], batch[f"{side}_mask"]).float() for side in sides]
        stop = self.stop.to(logits[0].device)
        passage, query = (term_sets(batch[f"{side}_ids"], len(stop), stop) for side in sides)
        losses = likelihood_losses(logits[0], logits[1], query, passage, ~stop)
        return losses.sum() / normalizer, {}


def prior(queries: Rows, passages: Rows, vocabulary: int, stop: frozenset[int]) -> Tensor:
    """[V] log-odds of each term in training queries and passages, the mean of both: where the head's bias begins.

    What is no term counts as never seen: the loss would leave it where it is, among the likeliest.
    """
    odds = []
    for rows in (queries, passages):
        counts = frequencies(rows, vocabulary)
        counts[sorted(stop)] = 0
        odds.append(np.log((counts + 0.5) / (len(rows) - counts + 0.5)))
    return torch.from_numpy(np.mean(odds, 0)).float()


def frequencies(rows: Rows, vocabulary: int) -> np.ndarray:
    """int64 [V] how many of the rows hold each id."""
    counts = np.zeros(vocabulary, np.int64)
    for row in rows:
        counts[list(set(row))] += 1
    return counts


class Pairs(Dataset[Any]):
    """Queries with the passages that answer them, as ids.

    Args:
        queries: Rows of ids, marked.
        passages: Rows of ids of all passages, marked.
        numbers: The passage of each query.
    """

    def __init__(self, queries: Rows, passages: Rows, numbers: Sequence[int]) -> None:
        self.queries, self.passages, self.numbers = queries, passages, numbers

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def fingerprint(self) -> str:
        """Hash of all pairs."""
        return sha256_json([[list(self.queries[i]), list(self.passages[n])] for i, n in enumerate(self.numbers)])

    def __getitem__(self, index: int) -> tuple[int, Sequence[int], Sequence[int]]:
        return index, self.queries[index], self.passages[self.numbers[index]]


def collate(items: list[tuple[int, Sequence[int], Sequence[int]]]) -> dict[str, Any]:
    """Pairs as a batch."""
    batch: dict[str, Any] = {"ids": [f"pair {number}" for number, _, _ in items]}
    for place, side in ((1, "query"), (2, "passage")):
        batch[f"{side}_ids"], batch[f"{side}_mask"] = pad_rows([item[place] for item in items])  # type: ignore[misc]
    return batch


def tilde_trainer(config: ExpansionConfig, trainer: TrainerConfig) -> TrainerConfig:
    """How TILDE is trained, whatever the run does: AdamW, one cycle."""
    steps = max(config.steps, 1)
    return settings_beside(
        trainer,
        steps,
        config.batch_size,
        config.learning_rate,
        adam_beta2=0.999,
        warmup_ratio=0.1,
        schedule="linear",
        log_steps=steps,
    )


def train_tilde(
    model: Tilde, config: ExpansionConfig, trainer: TrainerConfig, pairs: Pairs, stop: frozenset[int]
) -> Tilde:
    """The TILDE trained on pairs, if no run has done so before.

    Args:
        model: As it begins; it is changed.
        config: Steps, batch, rate.
        trainer: The run's: device, threads, precision.
        pairs: What it learns from.
        stop: Ids that are no terms.
    """
    vocabulary = int(model.config.vocab_size)
    model.begin(prior(pairs.queries, [pairs.passages[number] for number in pairs.numbers], vocabulary, stop))
    key = [module_hash(model, model.config), pairs.fingerprint, sorted(stop), VERSION]

    def training() -> Training:
        no_terms = torch.zeros(vocabulary, dtype=torch.bool)
        no_terms[sorted(stop)] = True
        return Training(model, LikelihoodLoss(no_terms), pairs, collate, {"bias": BIAS_RATE})

    def save(trained: Any, folder: Path) -> None:
        weights = {name: value.detach().cpu().clone().contiguous() for name, value in trained.state_dict().items()}
        save_file(weights, folder / WEIGHTS)

    folder = train_once(
        "tilde-models", key, tilde_trainer(config, trainer), config.seed, training, save,
        name="TILDE, which expands passages,", what=f"{len(pairs):,} queries and passages",
    )  # fmt: skip
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.eval().requires_grad_(False)


def likely_once(model: Tilde, rows: Rows, top: int, device: str, batch_tokens: int) -> np.ndarray:
    """int32 [rows, top] the likeliest terms of passages, or all of them; computed once for a TILDE and its passages."""
    top = min(top, int(model.config.vocab_size))
    key = sha256_json([module_hash(model, model.config), [list(row) for row in rows], top, VERSION])

    def build(folder: Path) -> None:
        terms = np.zeros((len(rows), top), np.int32)
        for group, logits in vocabulary_logits(model, rows, device, batch_tokens, "reading passages with TILDE"):
            terms[group] = likely_terms(logits, top).cpu().numpy()
        np.save(folder / LIKELY, terms)

    loaded: np.ndarray = np.load(build_once("tilde-terms", key[:32], build) / LIKELY, mmap_mode="r")
    return loaded


def vocabulary_logits(
    model: Tilde, rows: Rows, device: str, batch_tokens: int, what: str
) -> Iterator[tuple[list[int], Tensor]]:
    """Numbers of rows, and their logits [numbers, V], batch by batch, without gradient.

    Args:
        model: A TILDE; it is moved to the device.
        rows: Marked ids.
        device: Where to compute.
        batch_tokens: Padded tokens of a forward.
        what: What is being done, for people.
    """
    model.to(device).eval()
    done = 0
    with progress(what, len(rows)) as show, torch.no_grad():
        for group in batches([len(row) for row in rows], batch_tokens):
            ids, mask = (part.to(device) for part in pad_rows([rows[number] for number in group]))
            yield group, model(ids, mask).float()
            show(done := done + len(group))
