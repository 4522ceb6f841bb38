"""Data set `corrupted-reviews`: sentences that people wrote, and the same with some words replaced by others' words."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from recipes.alignment.config import CorruptedConfig
from recipes.alignment.pairs import Pair, PairSet, PreferenceData
from recipes.alignment.reference import prompt_ids
from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.tasks.reviews import Review, Reviews
from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError

WORD = re.compile(r"[A-Za-z]+")  # what is replaced, and by what: no numbers, no marks


def load_corrupted(config: CorruptedConfig, reviews: Reviews, tokenizer: Any) -> PreferenceData:
    """Pairs of a sentence (chosen) and its corruption (rejected); the replaced words' tokens are the important ones.

    Args:
        config: How many, and how they are corrupted.
        reviews: The sentences, split.
        tokenizer: The model's; it has to tell where in the text its tokens stand.

    Raises:
        UserError: no sentence is long enough, or the tokenizer cannot tell where its tokens stand.
    """
    if not tokenizer.is_fast:
        what = "this tokenizer does not tell which part of a text its tokens are"
        raise UserError(what, "data=corrupted-reviews", "type another model, one with a tokenizer.json")
    running = [word for review in reviews.train for word in WORD.findall(review.text)]
    reader = TextIds(tokenizer)
    prompt = prompt_ids(config.prompt, reader)
    sets = []
    for part, most in ((reviews.train, config.pairs), (reviews.test, config.test_pairs)):
        pairs = (_pair(config, review, running, prompt, reader) for review in _long(part, config.min_words)[:most])
        sets.append(PairSet(list(pairs)))
        if not len(sets[-1]):
            hint = "type a smaller data.min_words"
            raise UserError("no sentence is long enough", f"data.min_words={config.min_words}", hint)
    train, test = sets
    asked = [test.pairs[i % len(test)].id for i in range(config.test_prompts)]
    prompts = [Prompt(f"{id} prompt {i}", config.prompt, prompt) for i, id in enumerate(asked)]
    facts = {"data/pairs": ("training pairs", True, float(len(train)))}
    return PreferenceData(train, test, prompts, None, facts)


def corrupt(text: str, words: int, running: Sequence[str], random: np.random.Generator) -> tuple[str, list[range]]:
    """A text with words replaced by words drawn from running text, so that frequent ones are drawn often.

    Args:
        text: Of at least `words` words.
        words: How many are replaced, each by another word than itself.
        running: What is drawn from.
        random: Draws.

    Returns:
        The new text, and where in it the new words stand.
    """
    matches = list(WORD.finditer(text))
    chosen = set(random.choice(len(matches), words, replace=False).tolist())
    parts, ranges, end, size = [], [], 0, 0
    for number, match in enumerate(matches):
        if number not in chosen:
            continue
        word = match.group()
        while word.lower() == match.group().lower():
            word = running[int(random.integers(len(running)))]
        kept = text[end : match.start()]
        parts += [kept, word]
        ranges.append(range(size + len(kept), size + len(kept) + len(word)))
        end, size = match.end(), size + len(kept) + len(word)
    return "".join(parts) + text[end:], ranges


def _long(reviews: Sequence[Review], words: int) -> list[Review]:
    return [review for review in reviews if len(WORD.findall(review.text)) >= words]


def _pair(config: CorruptedConfig, review: Review, running: Sequence[str], prompt: np.ndarray, reader: TextIds) -> Pair:
    # A generator of its own, so that other sentences do not decide what becomes of this one.
    random = np.random.default_rng([config.seed, *review.id.encode()])
    text, ranges = corrupt(review.text, config.words, running, random)
    sides = [_ids_and_marks(review.text, [], reader), _ids_and_marks(text, ranges, reader)]
    (chosen, good), (rejected, bad) = sides
    return Pair(review.id, prompt, chosen, rejected, None, (good, bad), config.prompt)


def _ids_and_marks(text: str, ranges: Sequence[range], reader: TextIds) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of a text, end of text included, and which of them reach into one of the places."""
    ids, spans = reader.with_offsets([text])[0]
    marks = [any(start < each.stop and end > each.start for each in ranges) for start, end in spans]
    return np.array([*ids, reader.tokenizer.eos_token_id], np.int32), np.array([*marks, False])
