"""Prompts and their answers as what a language model is trained on: the tokens of answers carry loss."""

from collections.abc import Sequence
from typing import Any

import torch

from recipes.core.data.text.text_ids import TextIds
from recipes.core.losses.objectives import IGNORE


class AnswerItems:
    """Prompts with their answers as token ids.

    Args:
        pairs: Prompt and answer of each.
        tokenizer: Begins prompts as it begins texts; its end-of-text token ends answers.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]], tokenizer: Any) -> None:
        reader = TextIds(tokenizer)
        self._prompts = reader.batch([prompt for prompt, _ in pairs])
        self._answers = reader.batch([answer for _, answer in pairs])
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
