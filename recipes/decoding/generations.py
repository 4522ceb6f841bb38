"""What comes out of a prompt, step by step: for `generations.jsonl`, for metrics and for the heatmap."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.text.text_ids import texts_of
from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.storage.files import write_text

FILE = "generations.jsonl"
CHOSEN = "chosen"  # a token that the model gave after its forward, which no draft had


@dataclass(frozen=True)
class Step:
    """One forward of the model behind the prompt.

    Attributes:
        tokens: What it added to the text.
        kinds: How each of them came about, such as "drafted" or `CHOSEN`.
        nlls: NLL of each in nats.
        read: Tokens that the forward read.
    """

    tokens: tuple[int, ...]
    kinds: tuple[str, ...]
    nlls: tuple[float, ...]
    read: int


@dataclass(frozen=True)
class Generation:
    """What follows a prompt.

    Attributes:
        prompt: The prompt.
        steps: What each forward added; none behind the end of the text.
        seconds: Of the whole, the prompt's own forward left out.
        drafting: Seconds of it that went into anything but the model's forwards.
    """

    prompt: Prompt
    steps: tuple[Step, ...]
    seconds: float
    drafting: float = 0.0

    @property
    def ids(self) -> list[int]:
        """The new tokens, an end of text included."""
        return [token for step in self.steps for token in step.tokens]

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a forward of the model added, on average."""
        return len(self.ids) / len(self.steps)


def write_generations(path: Path, generations: Sequence[Generation], tokenizer: Any) -> None:
    """One JSON object a prompt: `id`, `prompt`, `text` without an end of text, `ids`, tokens of each step, seconds.

    Args:
        path: The file.
        generations: One for each line.
        tokenizer: Makes text of ids.
    """
    lines = []
    for one in generations:
        line = {
            "id": one.prompt.id,
            "prompt": one.prompt.text,
            "text": tokenizer.decode(one.ids, skip_special_tokens=True),
            "ids": one.ids,
            "steps": [len(step.tokens) for step in one.steps],
            "tokens_per_step": round(one.tokens_per_step, 4),
            "seconds": round(one.seconds, 4),
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def heatmap(
    generations: Sequence[Generation], weights: Mapping[str, float], tokenizer: Any, hint: str
) -> dict[str, Any]:
    """Content of `heatmap.json`: each token shaded by how it came about.

    Args:
        generations: What to show.
        weights: Kind of token -> its weight in the picture.
        tokenizer: Makes text of ids.
        hint: What the weights say.
    """
    examples = []
    for one in generations:
        kinds = [kind for step in one.steps for kind in step.kinds]
        marked = [None if kind == CHOSEN else kind for kind in kinds]
        nlls = [nll for step in one.steps for nll in step.nlls]
        texts = texts_of(one.ids, tokenizer)
        examples.append(heatmap_example(one.prompt.id, texts, [weights[kind] for kind in kinds], nlls, marked))
    return {"hint": hint, "examples": examples}
