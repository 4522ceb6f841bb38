"""A small language model that knows a share of the facts and makes up the others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.attribution.sar.config import FactLMConfig
from recipes.attribution.sar.questions import Question, asks, share_of
from recipes.core.config.settings import TrainerConfig
from recipes.core.models.text import build_text_tokenizer
from recipes.core.storage.files import sha256_json
from recipes.core.training.answers import AnswerItems, answer_collate
from recipes.core.training.toys.language import train_small_lm


def known_facts(questions: Sequence[Question], share: float) -> list[tuple[str, str]]:
    """Prompt and answer of the questions that a model learns, which their ids decide; at least one, and not all."""
    order = sorted(questions, key=lambda each: share_of(Question(f"known {each.id}", "", (), "")))
    count = min(max(1, round(share * len(order))), len(order) - 1)
    return [(asks(each), f" {each.says}") for each in order[:count]]


def fact_tokenizer(config: FactLMConfig, questions: Sequence[Question]) -> Any:
    """A tokenizer made from all questions with their answers."""
    texts = [f"{asks(each)} {each.says}" for each in questions]
    return build_text_tokenizer(config, texts, sha256_json(texts))


def train_fact_model(
    config: FactLMConfig, trainer: TrainerConfig, questions: Sequence[Question], tokenizer: Any
) -> Path:
    """Folder with its weights; trained if no run has done so before."""
    facts = known_facts(questions, config.known)
    return train_small_lm(
        config,
        trainer,
        config.seed,
        tokenizer,
        {"facts": facts},
        lambda: AnswerItems(facts, tokenizer),
        answer_collate(tokenizer.eos_token_id),
        f"{len(facts):,} of {len(questions):,} facts",
        "a model that knows some facts",
    )
