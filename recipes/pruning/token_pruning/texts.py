"""A sentence encoder and long texts: whether it still finds the same texts similar with fewer words inside."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from recipes.core.data.text.documents import open_documents
from recipes.core.data.text.domains import domain_documents
from recipes.core.data.text.shards import Document, Skipped
from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.models.padded import pool
from recipes.core.models.sentences import ASSET, load_bert
from recipes.core.storage.assets import asset_path
from recipes.pruning.adapters import Trace, layout
from recipes.pruning.token_pruning.agreement import FEWEST
from recipes.pruning.token_pruning.checkpoint import DTYPES, KEY
from recipes.pruning.token_pruning.config import PassagesConfig, TokenPruningConfig
from recipes.pruning.token_pruning.subjects import Batch, Subject, Terms

CHUNK = 256  # texts that are tokenized at once


@dataclass(frozen=True)
class Passage:
    """A text as the encoder takes it: the ids of its tokens, CLS and SEP included."""

    id: str
    text: str
    ids: list[int]


class Texts(Subject):
    """A BERT-type sentence encoder, judged by the similarities between its embeddings.

    Args:
        config: The run's config.
        device: Where to run.

    Raises:
        UserError: the model or the texts cannot be used.
    """

    terms = Terms("agreement", "rank agreement of similarities with the unpruned encoder", "word tokens", "text")
    patches = 0

    def __init__(self, config: TokenPruningConfig, device: str) -> None:
        assert isinstance(config.data, PassagesConfig)
        path = config.model.path or str(asset_path(ASSET))  # type: ignore[union-attr]
        self.config, self.device = config, device
        model, self.tokenizer = _load(path, config.data, config.trainer.precision)
        self.model = model.to(device)
        self.layout = layout(self.model)
        passages = read_passages(config.data, config.seed, self.tokenizer, config.evaluation.examples)
        self.passages = sorted(passages, key=lambda each: len(each.ids))  # equal ones in a batch: little padding
        self.counts = sorted({len(each.ids) - self.layout.special for each in passages})

    def batches(self) -> Iterator[Batch]:
        """Passages of similar length, padded."""
        size = self.config.evaluation.batch_size
        for start in range(0, len(self.passages), size):
            passages = self.passages[start : start + size]
            padded = self.tokenizer.pad({"input_ids": [each.ids for each in passages]}, return_tensors="pt")
            names = [each.id for each in passages]
            yield Batch(
                inputs={name: padded[name].to(self.device) for name in ("input_ids", "attention_mask")},
                samples=names,
                rows=list(range(len(names))),
                ids=names,
                groups=names,
                questions=[each.text for each in passages],
                words=[self.tokenizer.convert_ids_to_tokens(each.ids)[1:-1] for each in passages],
            )

    def answer(self, batch: Batch) -> Tensor:
        states: Tensor = self.model(**batch.inputs).last_hidden_state
        return states

    def embeddings(self, answers: Any, trace: Trace) -> Tensor:
        return normalize(pool(answers, trace.output_mask), dim=1)


def read_passages(config: PassagesConfig, seed: int, tokenizer: Any, examples: int | None = None) -> list[Passage]:
    """Draw the texts that are long enough.

    Args:
        config: Which texts, how many and how long.
        seed: Of the draw.
        tokenizer: The encoder's.
        examples: Take no more than these.

    Raises:
        UserError: the texts cannot be read, or fewer than three are long enough.
    """
    documents = _documents(config)
    random.Random(seed).shuffle(documents)
    wanted = min(config.texts, examples or config.texts)
    passages: list[Passage] = []
    for passage in _long(documents, config, tokenizer):
        if len(passages) == wanted:
            break
        passages.append(passage)
    if len(passages) < FEWEST:
        where = "evaluation.examples" if wanted < FEWEST else f"data.path={config.path}"
        raise UserError(
            f"{len(passages)} of {len(documents)} texts are used, and similarities have an order from {FEWEST} texts "
            "on",
            where,
            f"data.min_tokens={config.min_tokens} leaves out shorter ones; a text file is one text, a folder of them "
            "many",
        )
    return passages


def _documents(config: PassagesConfig) -> list[Document]:
    if config.path is None:
        return domain_documents("wiki-en")
    opened = open_documents(
        config.path, key="data.path", text_column=config.text_column, split=config.split, on_error=config.on_error
    )
    skipped = Skipped()
    documents = list(opened.read(skipped))
    skipped.warn(f"data.path={config.path}")
    return documents


def _long(documents: list[Document], config: PassagesConfig, tokenizer: Any) -> Iterable[Passage]:
    """Those with enough tokens, cut to the most."""
    reader = TextIds(tokenizer)
    for start in range(0, len(documents), CHUNK):
        chunk = documents[start : start + CHUNK]
        rows = reader.with_special_tokens([each.text for each in chunk], config.max_tokens)
        for document, ids in zip(chunk, rows, strict=True):
            if len(ids) >= config.min_tokens:
                yield Passage(document.id, document.text, ids)


def _load(path: str, data: PassagesConfig, precision: str) -> tuple[Any, Any]:
    """The encoder and its tokenizer."""
    # Similarities of texts lie so close that bfloat16 would shuffle them: only where it is asked for.
    model, tokenizer = load_bert(path, KEY, DTYPES[precision])
    if data.max_tokens > (positions := model.config.max_position_embeddings):
        raise UserError(
            f"has {positions} positions, fewer than data.max_tokens={data.max_tokens}",
            f"{KEY}={path}",
            f"type data.max_tokens={positions}",
        )
    return model, tokenizer
