"""What the language model writes: summaries of clusters, in rounds where they do not fit, and answers."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.errors import UserError
from recipes.core.models.text import context
from recipes.core.scoring.fingerprints import module_hash
from recipes.core.scoring.sampling import sample, settings_key
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json, write_json
from recipes.core.training.toys.frozen import model_where
from recipes.retrieval.crag.config import CRAGConfig
from recipes.retrieval.listwise import Frame

ASKED = "Summarise these reviews of one product in at most {words} words. Keep every distinct praise and complaint.\n\n"
BETWEEN, BEHIND = "\n\n", "\n\nSummary:"
FEWEST_SUMMARIES = 2  # that must fit into a prompt, or rounds would never end

Ids = list[int]


@dataclass(frozen=True)
class Written:
    """What the model wrote behind a prompt.

    Attributes:
        ids: Its tokens, an end of text left out.
        seconds: Of the batch that it was in, by prompt.
    """

    ids: Ids
    seconds: float


@dataclass(frozen=True)
class Summary:
    """What stands for a group of reviews.

    Attributes:
        ids: Its tokens; none where the model wrote nothing.
        tokens: That the model read and wrote for it.
    """

    ids: Ids
    tokens: int


class Writer:
    """A language model and what it is asked.

    Args:
        config: Of the run.
        model: A `TextModel` on its device.
        tokenizer: Its tokenizer.
        frame: What stands around a prompt.
    """

    def __init__(self, config: CRAGConfig, model: Any, tokenizer: Any, frame: Frame) -> None:
        self._config, self._model, self._tokenizer, self._frame = config, model, tokenizer, frame
        self._longest, self._where = context(model), model_where(config.model)

    def write(self, prompts: Sequence[Ids], most: int, temperature: float = 0.0, seed: int = 0) -> list[Written]:
        """At most so many tokens behind each prompt, computed once; equal prompts at temperature 0 are written once.

        Raises:
            UserError: a prompt does not fit.
        """
        longest = max(map(len, prompts), default=0)
        if self._longest is not None and longest + most > self._longest:
            what = f"a prompt of {longest:,} tokens and {most} to write are more than its context of {self._longest:,}"
            raise UserError(what, self._where, "type smaller draws.sizes, or data.reviews=N")
        rows = [list(row) for row in (dict.fromkeys(map(tuple, prompts)) if not temperature else map(tuple, prompts))]
        eos = int(self._tokenizer.eos_token_id)
        language_model = self._model.language_model
        key = [module_hash(language_model, language_model.config), settings_key(self._model, eos), rows, most,
               temperature, seed, self._config.answers.batch_size]  # fmt: skip

        def build(folder: Path) -> None:
            write_json(folder / "written.json", self._rows(rows, most, temperature, seed, eos))

        file = build_once("written-texts", sha256_json(key)[:32], build) / "written.json"
        texts = [Written(*each) for each in json.loads(file.read_text(encoding="utf-8"))]
        if temperature:
            return texts
        number_of = {tuple(row): number for number, row in enumerate(rows)}
        return [texts[number_of[tuple(prompt)]] for prompt in prompts]

    def _rows(self, prompts: Sequence[Ids], most: int, temperature: float, seed: int, eos: int) -> list[Any]:
        """Batches of similar length, the longest first."""
        size, device = self._config.answers.batch_size, str(next(self._model.parameters()).device)
        order = np.argsort([-len(prompt) for prompt in prompts], kind="stable")
        rows: list[Any] = [None] * len(prompts)
        special = set(self._tokenizer.all_special_ids)
        for number, start in enumerate(range(0, len(order), size)):
            batch = order[start : start + size]
            asked = [np.array(prompts[row], np.int32) for row in batch]
            begun = time.perf_counter()
            texts = sample(self._model, asked, eos, most, temperature, seed + number, device)
            seconds = (time.perf_counter() - begun) / len(batch)
            for row, ids in zip(batch, texts, strict=True):
                rows[row] = [[token for token in ids.tolist() if token not in special], seconds]
        return rows

    def summarise(self, groups: Sequence[Sequence[Ids]]) -> list[Summary]:
        """A summary of each group of texts; where one does not fit, its parts, then what was written of these."""
        parts = [self._parts(group) for group in groups]
        flat = [part for group in parts for part in group]
        prompts = [self._prompt(part) for part in flat]
        texts = iter(zip(prompts, self.write(prompts, self._config.context.summary_tokens), strict=True))
        results, again = list[Summary](), list[tuple[int, list[Ids]]]()
        for number, group in enumerate(parts):
            done = [next(texts) for _ in group]
            tokens = sum(len(prompt) + len(text.ids) for prompt, text in done)
            results.append(Summary(done[0][1].ids if len(done) == 1 else [], tokens))
            if len(done) > 1:
                again.append((number, [text.ids for _, text in done if text.ids]))
        again = [(number, group) for number, group in again if group]
        for (number, _), last in zip(
            again, self.summarise([group for _, group in again]) if again else (), strict=True
        ):
            results[number] = Summary(last.ids, results[number].tokens + last.tokens)
        return results

    def _prompt(self, texts: Sequence[Ids]) -> Ids:
        read = self._frame.reader.ids
        ids = [*self._frame.before, *read(ASKED.format(words=self._config.context.words))]
        for number, text in enumerate(texts):
            ids += [*(read(BETWEEN) if number else []), *text]
        return [*ids, *read(BEHIND), *self._frame.behind]

    def _parts(self, texts: Sequence[Ids]) -> list[list[Ids]]:
        """Texts in parts that fit into a prompt each; a text that is too long by itself is cut."""
        if self._longest is None:
            return [list(texts)]
        most, between = self._config.context.summary_tokens, len(self._frame.reader.ids(BETWEEN))
        room = self._longest - most - len(self._prompt([]))
        if room < FEWEST_SUMMARIES * (most + between):
            what = f"its context of {self._longest:,} tokens has no room for {FEWEST_SUMMARIES} summaries of {most}"
            raise UserError(what, self._where, "type a smaller context.summary_tokens, or choose another model")
        parts, used = [list[Ids]()], 0
        for text in texts:
            cut = list(text[: room - between])
            if parts[-1] and used + len(cut) + between > room:
                parts.append([])
                used = 0
            parts[-1].append(cut)
            used += len(cut) + between
        return parts
