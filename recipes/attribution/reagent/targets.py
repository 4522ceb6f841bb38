"""What is explained: a token that the model predicts behind a text, and which tokens of the text may be replaced."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from recipes.attribution.reagent.config import PlantedConfig, PredictionsConfig, ReagentRunConfig
from recipes.attribution.reagent.planted import planted_texts
from recipes.attribution.reagent.reader import Reader
from recipes.core.data.files.records import judge
from recipes.core.data.tasks.prompt_rows import load_prompts
from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.text.text_ids import TextIds, control_ids
from recipes.core.scoring.sampling import end_ids

EVIDENCE, FIXED, WRITTEN = "evidence", "never replaced", "written by the model"


@dataclass(frozen=True)
class Target:
    """A prediction.

    Attributes:
        id: The same in every arm.
        text: Which text it belongs to.
        ids: The context, the model's own earlier tokens included.
        free: Of each of them whether it may be replaced: no control token, none of a chat template.
        token: The predicted token.
        probability: The model's of it.
        evidence: Positions that it is known to follow from; empty: not known.
        answer: The right token; None: not known.
        written: Tokens at the end of the context that the model wrote itself.
    """

    id: str
    text: str
    ids: tuple[int, ...]
    free: tuple[bool, ...]
    token: int = -1
    probability: float = 0.0
    evidence: tuple[int, ...] = ()
    answer: int | None = None
    written: int = 0

    @property
    def kinds(self) -> list[str | None]:
        """What is known of each token, for people."""
        first = len(self.ids) - self.written
        return [
            FIXED if not free else EVIDENCE if place in self.evidence else WRITTEN if place >= first else None
            for place, free in enumerate(self.free)
        ]


def read_targets(config: ReagentRunConfig, reader: Reader, tokenizer: Any, longest: int | None) -> list[Target]:
    """The predictions of a run, several of a text if the config says so.

    Args:
        config: Texts, and which predictions.
        reader: The model.
        tokenizer: Its tokenizer.
        longest: Tokens that it reads; None: any number.

    Raises:
        UserError: texts cannot be read, have fewer than two tokens that may be replaced, or are too long.
    """
    if isinstance(config.data, PlantedConfig):
        return [_predicted(target, reader) for target in _planted(config.data, tokenizer, config.seed)]
    texts, bad = list[Target](), list[str]()
    prompts = load_prompts(config.data, tokenizer)
    for prompt in prompts:
        text = Target(prompt.id, prompt.id, tuple(prompt.ids.tolist()), free_tokens(prompt, tokenizer))
        if why := _problem(text, config.predictions.tokens, longest):
            bad.append(f"{prompt.id} {why}")
        else:
            texts.append(text)
    path, name = getattr(config.data, "path", None), config.data.name
    judge(bad, len(prompts), f"data.path={path}" if path else f"data={name}", getattr(config.data, "on_error", "fail"))
    return [target for text in texts for target in _continued(text, reader, tokenizer, config.predictions)]


def free_tokens(prompt: Prompt, tokenizer: Any) -> tuple[bool, ...]:
    """Of each token of a prompt whether it is one of the text, and none of a template or of the tokenizer's own."""
    control, ids = control_ids(tokenizer), prompt.ids.tolist()
    inside, start = [False] * len(ids), 0
    for part in prompt.parts:
        at = _place(TextIds(tokenizer).ids(part), ids, start)
        if at is not None:
            start = at[1]
            inside[at[0] : at[1]] = [True] * (at[1] - at[0])
    # A template may write messages in another way than they are given: then all but control tokens are theirs.
    return tuple(
        (within or not any(inside)) and token not in control for within, token in zip(inside, ids, strict=True)
    )


def _place(part: Sequence[int], ids: Sequence[int], start: int) -> tuple[int, int] | None:
    """Where a part stands at or behind `start`; its ends may have merged with what stands beside it."""
    for cut in (0, 1, 2):
        inner = list(part[cut : len(part) - cut])
        for at in range(start, len(ids) - len(inner) + 1) if inner else ():
            if list(ids[at : at + len(inner)]) == inner:
                return at, at + len(inner)
    return None


def _problem(text: Target, tokens: int, longest: int | None) -> str:
    """Why a text has nothing to explain; empty if it has."""
    if sum(text.free) < 2:
        return f"has {sum(text.free)} tokens that can be replaced, and importance is shared by two or more"
    if longest is not None and len(text.ids) + tokens - 1 > longest:
        beyond = f" and {tokens - 1} of its continuation" if tokens > 1 else ""
        return f"has {len(text.ids):,} tokens{beyond}, and the model reads {longest:,}"
    return ""


def _planted(data: PlantedConfig, tokenizer: Any, seed: int) -> list[Target]:
    texts, reader = planted_texts(data, seed), TextIds(tokenizer)
    rows = zip(
        texts, reader.batch([one.text for one in texts]), reader.batch([one.answer for one in texts]), strict=True
    )
    return [
        Target(name, name, tuple(ids), (True,) * len(ids), evidence=one.evidence, answer=answer[0])
        for number, (one, ids, answer) in enumerate(rows)
        for name in [f"text {seed}-{number}"]
    ]


def _continued(text: Target, reader: Reader, tokenizer: Any, options: PredictionsConfig) -> list[Target]:
    """Every `stride`-th of the tokens that the model continues a text by, up to one that ends it."""
    targets, ends, control = [], {*end_ids(reader.model), tokenizer.eos_token_id}, control_ids(tokenizer)
    for number in range(options.tokens):
        grown = replace(text, id=f"{text.text}+{number}" if options.tokens > 1 else text.text, written=number)
        target = _predicted(grown, reader)
        targets += [target] if number % options.stride == 0 else []
        if target.token in ends:
            break
        text = replace(text, ids=(*text.ids, target.token), free=(*text.free, target.token not in control))
    return targets


def _predicted(target: Target, reader: Reader) -> Target:
    token, probability = reader.predict(torch.tensor(target.ids, device=reader.device), target.id)
    return replace(target, token=token, probability=probability)
