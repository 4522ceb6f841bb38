"""Models that answer questions: small ones trained in the run on the questions of a task."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.core.config.settings import TrainerConfig
from recipes.core.models.from_config import load_text_model
from recipes.core.models.text import build_text_tokenizer
from recipes.core.training.answers import AnswerItems, answer_collate
from recipes.core.training.toys.language import train_small_lm
from recipes.decoding.pair_config import TransducerConfig
from recipes.decoding.questions import Questions


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
        lambda: AnswerItems([(each.prompt, each.answer) for each in questions.train], tokenizer),
        answer_collate(tokenizer.eos_token_id),
        f"{len(questions.train):,} questions",
        f"a model of {config.layers} layers",
    )
    return Reader(load_text_model(str(folder), "model"), tokenizer)


def quality(tokenizer: Any, ids: np.ndarray, right: str, match: str) -> float:
    """1 if an answer is right, white space aside; else 0."""
    text, right = (" ".join(each.split()) for each in (tokenizer.decode(ids, skip_special_tokens=True), right))
    return float(text == right if match == "exact" else right.casefold() in text.casefold())
