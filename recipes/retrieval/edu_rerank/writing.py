"""A language model as the writer: documents with the EDUs of a plan in tags, and the text behind them.

Source: arXiv 2305.17779, section 4.2. Tags are text (`<e>`), no new tokens: any causal language model reads them.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch

from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.models.build import local_seed
from recipes.core.models.dropout import evaluation
from recipes.core.models.text import context
from recipes.core.runs.progress import progress
from recipes.core.scoring.sampling import end_ids, generate
from recipes.core.scoring.score import score
from recipes.core.search.collection import id_seed
from recipes.retrieval.edu_rerank.config import PlansConfig, WriterConfig
from recipes.retrieval.edu_rerank.documents import Document
from recipes.retrieval.edu_rerank.training import Lesson, Row
from recipes.retrieval.listwise import chat_frame

OPEN, CLOSE, ASK = " <e>", " </e>", "\nSummary:"
Ids = tuple[int, ...]


class Prompts:
    """Prompts of documents, joined from ids of their EDUs, so that tags move no other token.

    Args:
        tokenizer: Of the writer.
        config: How long they are.
    """

    def __init__(self, tokenizer: Any, config: WriterConfig) -> None:
        self._frame, self._config = chat_frame(tokenizer), config
        self._eos = int(tokenizer.eos_token_id)
        read = self._frame.reader.ids
        self._open, self._close = read(OPEN), read(CLOSE)
        self._behind = [*read(ASK), *self._frame.behind]
        self._edus: dict[str, list[list[int]]] = {}
        self._cut = 0

    def prompt(self, document: Document, plan: Sequence[int]) -> Ids:
        """A document, EDUs of the plan in tags. Raises UserError: not even its first EDU has room."""
        chosen, ids = set(plan), list(self._frame.before)
        for number, edu in enumerate(self._edus_with_room(document)):
            ids += [*self._open, *edu, *self._close] if number in chosen else edu
        return (*ids, *self._behind)

    def edus(self, document: Document) -> int:
        """How many EDUs of a document stand in its prompts."""
        return len(self._edus_with_room(document))

    def target(self, document: Document) -> Ids:
        """The reference and the end of text, cut to the longest text."""
        return (*self._frame.reader.ids(f" {document.reference}")[: self._config.summary_tokens - 1], self._eos)

    def note_cut(self) -> None:
        """Say how many documents did not fit."""
        if self._cut:
            limit = f"writer.prompt_tokens={self._config.prompt_tokens}"
            note(f"warning: {self._cut:,} of {len(self._edus):,} documents are cut to {limit}")

    def _edus_with_room(self, document: Document) -> list[list[int]]:
        """Ids of the first EDUs that fit, were they all in tags: the same with every plan."""
        if document.id not in self._edus:
            room = self._config.prompt_tokens - len(self._frame.before) - len(self._behind)
            edus = [self._frame.reader.ids(f" {edu}") for edu in document.units.edus]
            ends = np.cumsum([len(edu) + len(self._open) + len(self._close) for edu in edus])
            first = edus[: int((ends <= room).sum())]
            if not first:
                what = f"has no room for the first EDU of document {document.id}, of {len(edus[0]):,} tokens"
                where = f"writer.prompt_tokens={self._config.prompt_tokens}"
                raise UserError(what, where, "type a larger writer.prompt_tokens")
            self._cut += len(first) < len(edus)
            self._edus[document.id] = first
        return self._edus[document.id]


def check_room(model: Any, config: WriterConfig) -> None:
    """Refuse prompts and texts that are together longer than a model's context. Raises UserError."""
    longest, asked = context(model), config.prompt_tokens + config.summary_tokens
    if longest is not None and asked > longest:
        what = f"with writer.summary_tokens={config.summary_tokens} more than the model's context of {longest}"
        hint = f"type writer.prompt_tokens={max(longest - config.summary_tokens, 16)} or less"
        raise UserError(what, f"writer.prompt_tokens={config.prompt_tokens}", hint)


def with_rows(
    config: WriterConfig, prompts: Prompts, documents: Sequence[Document], lessons: Sequence[Lesson], seed: int
) -> list[Lesson]:
    """Lessons with what the writer learns from: up to three prompts of each document with the same text behind.

    L = lambda NLL(R | oracle's plan) + lambda_UL UL(R | random plan) + beta NLL(R | no tags). A random plan has as
    many EDUs as the oracle's, of the others; a document whose EDUs are all in the oracle's has none.
    """
    followed, random_weight, plain = config.weights
    results = list[Lesson]()
    for document, lesson in zip(documents, lessons, strict=True):
        draw = np.random.default_rng((seed, id_seed(f"random plan {document.id}")))
        others = np.setdiff1d(np.arange(prompts.edus(document)), lesson.plan)  # tags of what is cut would be none
        drawn = draw.permutation(others)[: len(lesson.plan)].tolist()
        target = prompts.target(document)
        plans = [(followed, lesson.plan, False), (random_weight if drawn else 0.0, drawn, True), (plain, (), False)]
        rows = [Row(prompts.prompt(document, plan), target, weight, bad) for weight, plan, bad in plans if weight]
        results.append(replace(lesson, rows=tuple(rows)))
    return results


def write_texts(
    config: WriterConfig, plans: PlansConfig, writer: Any, tokenizer: Any, asked: Sequence[tuple[Ids, int]], seed: int
) -> list[tuple[str, float, int]]:
    """Texts behind prompts, with their log-probabilities.

    Args:
        config: How it writes.
        plans: Has the nucleus.
        writer: A `TextModel` on its device.
        tokenizer: Its tokenizer.
        asked: Prompts, and how many texts of each.
        seed: Of what is drawn.

    Returns:
        For each prompt, one after the other, as many (text, log p of its tokens, tokens).
    """
    rows, start = list[tuple[Ids, list[int]]](), 0
    with evaluation(writer), torch.no_grad(), progress("writing texts", len(asked)) as show:
        while start < len(asked):
            count = asked[start][1]
            # What is drawn of a prompt depends on its place alone, so that `batch_size` changes no text.
            size = 1 if config.search == "nucleus" else max(1, config.batch_size // count)
            part = _first_alike(asked[start : start + size])
            with local_seed(int(np.random.SeedSequence((seed, start)).generate_state(1)[0])):
                texts = _generate(config, plans, writer.language_model, tokenizer, part, count)
            rows += [(ids, texts[number * count + one]) for number, ids in enumerate(part) for one in range(count)]
            show(start := start + len(part))
    return _scored(writer, tokenizer, rows)


def _first_alike(asked: Sequence[tuple[Ids, int]]) -> list[Ids]:
    """Prompts from the first one on that want as many texts as it does."""
    count = asked[0][1]
    return [ids for ids, _ in takewhile(lambda ask: ask[1] == count, asked)]


def _scored(writer: Any, tokenizer: Any, rows: Sequence[tuple[Ids, list[int]]]) -> list[tuple[str, float, int]]:
    device = str(next(writer.parameters()).device)
    full = [(list(prompt), ids) for prompt, ids in rows if ids]
    sums = iter(())
    if full:
        scores = score(writer, full, device=device)
        sums = iter(np.add.reduceat(np.asarray(scores["logprob"], np.float64), scores.offsets[:-1]).tolist())
    results = list[tuple[str, float, int]]()
    for _, ids in rows:
        text = " ".join(tokenizer.decode(ids, skip_special_tokens=True).split())
        results.append((text, next(sums) if ids else 0.0, len(ids)))
    return results


def _generate(
    config: WriterConfig, plans: PlansConfig, model: Any, tokenizer: Any, prompts: Sequence[Ids], count: int
) -> list[list[int]]:
    """So many texts of each prompt, their ends left out."""
    eos = int(tokenizer.eos_token_id)
    options: dict[str, Any] = {"no_repeat_ngram_size": config.no_repeat, "num_return_sequences": count}
    options |= {"eos_token_id": eos, "max_new_tokens": config.summary_tokens}
    if config.search == "nucleus":
        options |= {"do_sample": True, "top_p": plans.top_p, "top_k": 0, "num_beams": 1}
    else:
        options |= {"do_sample": False, "num_beams": max(config.beams, count)}
    texts = generate(model, [np.array(ids) for ids in prompts], str(model.device), options)
    ends = {eos, *end_ids(model)}
    return [[token for token in ids.tolist() if token not in ends] for ids in texts]  # an end is the last of its text
