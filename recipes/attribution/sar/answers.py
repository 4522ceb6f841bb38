"""Answers of a model with the NLL of their tokens, kept while they are decoded: nothing is read or cut twice."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.errors import UserError
from recipes.core.models.kv_cache import KVCache
from recipes.core.runs.progress import progress
from recipes.core.scoring.sampling import end_ids
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json, write_json

VERSION = 2
ROWS, CUDA_ROWS = 64, 1024  # answers that grow together


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        ids: Its tokens up to where it ends; of an empty answer the token that ended it.
        nlls: float64 [tokens] their NLL in nats, at temperature 1.
        text: What it says; empty for an empty answer.
    """

    ids: tuple[int, ...]
    nlls: np.ndarray
    text: str


class Reading:
    """Token ids of answers as text, and where answers end.

    Args:
        tokenizer: The model's.
        stops: An answer ends with its line, or before the first of these, in any case; letters begin a word.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        marks = [(r"(?<!\w)" if stop[0].isalnum() else "") + re.escape(stop) for stop in ("\n", *stops)]
        self._stop = re.compile("|".join(marks), re.IGNORECASE)

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text, special tokens left out, blanks as they are."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def is_over(self, ids: Sequence[int]) -> bool:
        """Whether something in the tokens ends the answer."""
        return self._end(self.decode(ids)) is not None

    def text(self, ids: Sequence[int]) -> str:
        """What an answer says, without what ends it."""
        text = self.decode(ids)
        return text[: self._end(text)].strip()

    def answer_tokens(self, ids: Sequence[int]) -> int:
        """How many of the first `ids` are the answer: those whose text begins before the mark that ends it."""
        text = self.decode(ids)
        end = len(text[: self._end(text)].rstrip())
        return sum(start < end for start, _ in self.spans(ids))

    def spans(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """First character of the text that each token is a part of, and the one behind its last."""
        before = [self.decode(ids[:number]) for number in range(len(ids) + 1)]
        # Of a character that is cut the decoder makes another, which is no part of the text.
        starts = [len(commonprefix([part, before[-1]])) for part in before[:-1]]
        return [(start, max(len(part), start)) for start, part in zip(starts, before[1:], strict=True)]

    def _end(self, text: str) -> int | None:
        start = len(text) - len(text.lstrip())
        match = self._stop.search(text, start)
        return match.start() if match else None


@dataclass
class _Row:
    """An answer that grows."""

    question: int
    place: int
    ids: list[int]
    nlls: list[float]


@dataclass(frozen=True)
class Asking:
    """A model and how it answers.

    Attributes:
        load: Makes the `TextModel`; called only where answers are not in the cache.
        reading: Of its tokenizer.
        temperature: Of the softmax that answers are drawn from.
        max_new_tokens: Longest answer.
        where: Key and value that name the model.
        device: Where to compute.
    """

    load: Callable[[], Any]
    reading: Reading
    temperature: float
    max_new_tokens: int
    where: str
    device: str

    def answers_once(
        self, key: Sequence[Any], ids: Sequence[str], prompts: Sequence[np.ndarray], samples: int, seed: int | None
    ) -> list[list[Answer]]:
        """Answers to each question, made once and cached.

        Args:
            key: What they depend on beside the arguments and what this knows: the model, the ends of answers.
            ids: What each question is called.
            prompts: int32 ids of each.
            samples: Answers of a question.
            seed: Decides what is drawn; None: one greedy answer.

        Raises:
            UserError: the model cannot be asked so, or says that a token has no probability; names the question.
        """
        asked = [prompt.tolist() for prompt in prompts]
        whole = sha256_json([VERSION, *key, self.temperature, self.max_new_tokens, asked, samples, seed])[:32]

        def build(folder: Path) -> None:
            draws = None if seed is None else _draws(ids, samples, self.max_new_tokens, seed)
            answers = self._answer(ids, asked, draws)
            rows = [[[each.ids, each.nlls.tolist(), each.text] for each in row] for row in answers]
            write_json(folder / "answers.json", rows, durable=False)

        folder = build_once("answers-with-nll", whole, build)
        stored = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
        return [[Answer(tuple(ids), np.array(nlls), text) for ids, nlls, text in row] for row in stored]

    def _answer(self, ids: Sequence[str], prompts: Sequence[list[int]], draws: np.ndarray | None) -> list[list[Answer]]:
        """Questions that begin alike are asked together: what they share is read once."""
        model = self.load().language_model
        samples = 1 if draws is None else draws.shape[1]
        step = max(1, (CUDA_ROWS if self.device.startswith("cuda") else ROWS) // samples)
        order = sorted(range(len(prompts)), key=lambda number: prompts[number])
        rows = list[_Row]()
        with progress("answering questions", len(prompts)) as show, torch.no_grad():
            for start in range(0, len(order), step):
                rows += self._decode(model, prompts, order[start : start + step], draws, samples)
                show(min(start + step, len(order)))
        answers: list[list[Any]] = [[None] * samples for _ in prompts]
        for row in rows:
            if not np.isfinite(row.nlls).all():
                what = "the model gives a token of its answer no probability"
                raise UserError(what, f"{self.where}, question {ids[row.question]}", "look at the model's weights")
            answers[row.question][row.place] = self._finished(row)
        return answers

    def _decode(
        self, model: Any, prompts: Sequence[list[int]], chosen: Sequence[int], draws: np.ndarray | None, samples: int
    ) -> list[_Row]:
        """Grow all answers of some questions, one token of each at a time."""
        cache = KVCache(model, self.where)
        hidden = _read(cache, [prompts[number] for number in chosen]).repeat_interleave(samples, 0)
        cache.repeat(samples)
        head, ends = cache.head, {*end_ids(model), self.reading.tokenizer.eos_token_id}
        rows = [_Row(number, place, [], []) for number in chosen for place in range(samples)]
        alive = rows
        for step in range(self.max_new_tokens):
            uniform = None if draws is None else [draws[row.question, row.place, step] for row in alive]
            tokens, nlls = choose(head.logits(hidden).float(), uniform, self.temperature)
            for row, token, nll in zip(alive, tokens.tolist(), nlls.tolist(), strict=True):
                row.ids.append(token)
                row.nlls.append(nll)
            stays = [
                at for at, row in enumerate(alive) if row.ids[-1] not in ends and not self.reading.is_over(row.ids)
            ]
            if not stays or step + 1 == self.max_new_tokens:
                break
            if len(stays) < len(alive):
                cache.gather(stays)
                alive = [alive[at] for at in stays]
            hidden = cache.extend(tokens[stays][:, None])[:, 0]
        return rows

    def _finished(self, row: _Row) -> Answer:
        kept = self.reading.answer_tokens(row.ids)
        return Answer(tuple(row.ids[: kept or 1]), np.array(row.nlls[: kept or 1]), self.reading.text(row.ids))


def choose(logits: Tensor, uniform: Sequence[float] | None, temperature: float) -> tuple[Tensor, Tensor]:
    """A token for each row, and its NLL at temperature 1.

    Args:
        logits: float32 [rows, V]
        uniform: A number in [0, 1) for each row, which decides its token; None: the likeliest one.
        temperature: Of the softmax that tokens are drawn from.

    Returns:
        int64 [rows], float32 [rows]
    """
    logprobs = logits.log_softmax(-1)
    if uniform is None:
        tokens = logprobs.argmax(-1)
    else:
        mass = (logprobs.double() / temperature).softmax(-1).cumsum(-1)
        drawn = torch.tensor(uniform, dtype=torch.float64, device=mass.device)[:, None] * mass[:, -1:]
        tokens = torch.searchsorted(mass, drawn, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    return tokens, -logprobs.gather(-1, tokens[:, None])[:, 0]


def _draws(ids: Sequence[str], samples: int, tokens: int, seed: int) -> np.ndarray:
    """[questions, samples, tokens] uniform numbers; those of a sample depend on seed, question and place alone."""
    seeds = [int(sha256_json(id)[:12], 16) for id in ids]
    return np.stack([np.random.default_rng([seed, each]).random((samples, tokens)) for each in seeds])


def _read(cache: KVCache, prompts: Sequence[list[int]]) -> Tensor:
    """[prompts, width] what the head gets behind each; what they begin alike with is read once."""
    first, last = prompts[0], prompts[-1]  # in order: what these share, all share
    shortest = min(map(len, prompts)) - 1
    shared = next((at for at in range(shortest) if first[at] != last[at]), shortest)
    device = cache.model.device
    if shared:
        cache.extend(torch.tensor([first[:shared]], device=device))
        cache.repeat(len(prompts))
    rests = [prompt[shared:] for prompt in prompts]
    width = max(map(len, rests))
    padded = torch.tensor([[0] * (width - len(rest)) + rest for rest in rests], device=device)
    mask = torch.tensor([[0] * (width - len(rest)) + [1] * len(rest) for rest in rests], device=device)
    return cache.extend(padded, mask)[:, -1]
