"""Data set `sentiment`: sentences that people began and the reference finished, twice each, judged by a lexicon."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recipes.alignment.config import SentimentConfig
from recipes.alignment.pairs import Pair, PairSet, PreferenceData
from recipes.core.data.tasks.judges import Judges, LexiconJudge, human_judge
from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.tasks.reviews import Review, Reviews, load_lexicon
from recipes.core.data.text.text_ids import TextIds, token_texts
from recipes.core.errors import UserError
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.scoring.sampling import sample_once

VERSION = 1


@dataclass(frozen=True)
class Counts:
    """What became of the sampled couples: `kept` pairs, `ties` by score, `equal` texts, `unused` beyond the number."""

    kept: int
    ties: int
    equal: int
    unused: int


def encode(reviews: Sequence[Review], tokenizer: Any) -> list[np.ndarray]:
    """Token ids of each sentence, begun as the tokenizer begins texts, end-of-text token included."""
    return [np.array(ids, np.int32) for ids in TextIds(tokenizer).documents([review.text for review in reviews])]


def load_sentiment(
    config: SentimentConfig, reviews: Reviews, tokenizer: Any, reference: Any, device: str
) -> PreferenceData:
    """Sample and judge pairs, or find those made before.

    Args:
        config: How.
        reviews: The sentences, split.
        tokenizer: The model's.
        reference: The `TextModel` that is sampled from.
        device: Where to sample.

    Raises:
        UserError: not one couple of samples is decided by the judge.
    """
    judges = Judges(LexiconJudge(load_lexicon()), human_judge(reviews), token_texts(tokenizer))
    prompts = [_prompts(config, part, tokenizer) for part in (reviews.train, reviews.test)]
    asked = [prompts[0][: config.prompts], prompts[1][: config.test_prompts]]
    key = {
        "data": {name: value for name, value in asdict(config).items() if name not in ("path", "pairs")},
        "model": weights_hash(reference),
        "prompts": [[prompt.ids.tolist() for prompt in part] for part in asked],
        "version": VERSION,
    }
    sides = []
    for index, part in enumerate(asked):
        couples = sample_once(
            ["sentiment", index, key],
            reference,
            [prompt.ids for prompt in part],
            2,
            tokenizer.eos_token_id,
            config.max_new_tokens,
            config.temperature,
            config.seed + index,
            device,
        )
        sides.append(_judge_couples(part, couples, judges, config.min_gap, (config.pairs, config.test_prompts)[index]))
    (train, counts), (test, _) = sides
    if not len(train) or not len(test):
        raise UserError(
            "no couple of samples differs in its score",
            where=f"data.min_gap={config.min_gap:g}",
            hint="type more data.prompts and data.test_prompts, or more reference.steps for better samples",
        )
    return PreferenceData(train, test, asked[1], judges, _facts(counts, judges))


def _facts(counts: Counts, judges: Judges) -> dict[str, tuple[str, bool, float]]:
    return {
        "data/pairs": ("training pairs", True, counts.kept),
        "data/ties": ("couples of samples dropped as ties", False, counts.ties),
        "data/equal": ("couples of samples that were the same", False, counts.equal),
        "data/human_judge": (
            "correlation of the second judge with people, held-out sentences",
            True,
            judges.human.correlation,
        ),
    }


def _prompts(config: SentimentConfig, reviews: Sequence[Review], tokenizer: Any) -> list[Prompt]:
    prompts, reader = [], TextIds(tokenizer)
    for review in reviews:
        words = review.text.split(" ")
        if len(words) <= config.prompt_words:
            continue
        text = " ".join(words[: config.prompt_words])
        ids = np.array([*reader.start, *reader.ids(text)], np.int32)
        prompts.append(Prompt(review.id, text, ids))
    return prompts


def _judge_couples(
    prompts: Sequence[Prompt], couples: Sequence[Sequence[np.ndarray]], judges: Judges, min_gap: float, most: int
) -> tuple[PairSet, Counts]:
    """Pairs of the couples whose scores differ, the better one chosen, and what became of the others."""
    pairs: list[Pair] = []
    dropped = {"ties": 0, "equal": 0, "unused": 0}
    for prompt, answers in zip(prompts, couples, strict=True):
        scores = [judges.score(ids) for ids in answers]
        if np.array_equal(answers[0], answers[1]):
            dropped["equal"] += 1
        elif abs(scores[0] - scores[1]) < min_gap:
            dropped["ties"] += 1
        elif len(pairs) == most:
            dropped["unused"] += 1
        else:
            best = int(scores[1] > scores[0])
            chosen, rejected = answers[best], answers[1 - best]
            marks = (judges.important(chosen), judges.important(rejected))
            both = (scores[best], scores[1 - best])
            pairs.append(Pair(prompt.id, prompt.ids, chosen, rejected, both, marks, prompt.text))
    return PairSet(pairs), Counts(len(pairs), **dropped)
