"""Models that answer questions: small ones trained in the run on the questions of a task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recipes.core.config.settings import TrainerConfig
from recipes.core.data.text.text_ids import TextIds
from recipes.core.losses.objectives import IGNORE
from recipes.core.models.from_config import load_text_model
from recipes.core.models.text import build_text_tokenizer
from recipes.core.training.toys.language import train_small_lm
from recipes.decoding.pair_config import TransducerConfig
from recipes.decoding.questions import Question, Questions


@dataclass(frozen=True)
class Reader:
    """A model that answers, and its tokenizer."""

    model: Any
    tokenizer: Any


def transducer(config: TransducerConfig, questions: Questions, trainer: TrainerConfig, run_seed: int) -> Reader:
    """A model that has learned to answer the training questions; trained if no run has done so before."""
    seed = run_seed if config.seed is None else config.seed
    texts = [each.prompt + each.answer for each in questions.train]
    tokenizer = build_text_tokenizer(config, texts, questions.fingerprint)
    folder = train_small_lm(
        config,
        trainer,
        seed,
        tokenizer,
        {"questions": questions.fingerprint},
        lambda: AnswerItems(questions.train, tokenizer),
        answer_collate(tokenizer.eos_token_id),
        f"{len(questions.train):,} questions",
        f"a model of {config.layers} layers",
    )
    return Reader(load_text_model(str(folder), "model"), tokenizer)


class AnswerItems:
    """Questions with their answers as token ids."""

    def __init__(self, questions: Sequence[Question], tokenizer: Any) -> None:
        reader = TextIds(tokenizer)
        self._prompts = reader.batch([each.prompt for each in questions])
        self._answers = reader.batch([each.answer for each in questions])
        self._start, self._end = reader.start, tokenizer.eos_token_id

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        prompt, answer = [*self._start, *self._prompts[index]], [*self._answers[index], self._end]
        return {"id": f"question {index}", "prompt": prompt, "answer": answer}


def answer_collate(pad_id: int) -> Any:
    """Makes batches of such items, in which the tokens of answers carry loss and those of prompts do not."""

    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        rows, longest = len(items), max(len(item["prompt"]) + len(item["answer"]) for item in items) - 1
        ids, labels = torch.full((rows, longest), pad_id), torch.full((rows, longest), IGNORE)
        attention = torch.zeros(rows, longest, dtype=torch.int64)
        for row, item in enumerate(items):
            text, start = [*item["prompt"], *item["answer"]], len(item["prompt"]) - 1
            ids[row, : len(text) - 1] = torch.tensor(text[:-1])
            labels[row, start : len(text) - 1] = torch.tensor(item["answer"])
            attention[row, : len(text) - 1] = 1
        predicted = labels != IGNORE
        batch = {"input_ids": ids, "attention_mask": attention, "labels": labels, "weights": predicted.float()}
        return batch | {"normalizer": predicted.sum().float(), "ids": [item["id"] for item in items]}

    return collate


def quality(tokenizer: Any, ids: np.ndarray, right: str, match: str) -> float:
    """1 if an answer is right, white space aside; else 0."""
    text, right = (" ".join(each.split()) for each in (tokenizer.decode(ids, skip_special_tokens=True), right))
    return float(text == right if match == "exact" else right.casefold() in text.casefold())
