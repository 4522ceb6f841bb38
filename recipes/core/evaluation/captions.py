"""Scoring image-caption models: token NLL, same-class choices, matching, generation.

Everything reads the model through its read-out, so full logits over the vocabulary are never built.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.images.captions import CaptionSplit, image_for
from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import Scores
from recipes.core.losses.kernels import token_nll
from recipes.core.models.head import OutputHead
from recipes.core.scoring.forward import Reading, read_rows
from recipes.core.scoring.rows import Row

BATCH_TOKENS = 8192
Tokens = Sequence[int] | np.ndarray  # ids of one caption


@dataclass(frozen=True)
class Choice:
    """One forced choice: which continuation follows, given image and left context.

    Attributes:
        example: Unique id of the choice.
        group: Source item, the unit of resampling.
        kind: Class of the alternatives ("digit").
        image: Index of the image in the split.
        context: Caption token ids left of the choice.
        options: Token ids of each alternative.
        truth: Index of the right one.
    """

    example: str
    group: str
    kind: str
    image: int
    context: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]
    truth: int


class CaptionScorer:
    """Scores captions of one split under a caption model, in batches sorted by length.

    Args:
        model: A `CaptionModel`; it is put into evaluation mode for each call and back afterwards.
        split: Where images come from.
        device: Where to compute.
    """

    def __init__(self, model: Any, split: CaptionSplit, device: str) -> None:
        self.model, self.split, self.device = model, split, device
        self._pixels: dict[int, Tensor] = {}

    def pixels(self, images: Sequence[int]) -> Tensor:
        """Normalised pixels [batch, channels, size, size] of some images; each is decoded once."""
        for index in images:
            if index not in self._pixels:
                self._pixels[index] = self.model.pixels(image_for(self.split, index, self.model.pixels))
        return torch.stack([self._pixels[index] for index in images]).to(self.device)

    def token_nlls(self, images: Sequence[int], captions: Sequence[Tokens]) -> list[np.ndarray]:
        """NLL in nats of every token of each caption given its image: one float32 array a caption."""
        return self._read_captions(images, captions, {})[0]

    def caption_and_choice_nlls(
        self, images: Sequence[int], captions: Sequence[Tokens], choices: Sequence[Choice]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """`token_nlls` and `choice_nlls` at once: a choice that a caption goes through is read off its forward.

        Args:
            images: Index of each caption's image, every image once.
            captions: Token ids of each caption.
            choices: Choices about these or other images.
        """
        row_of = {image: row for row, image in enumerate(images)}
        asked: dict[int, list[int]] = {}
        for i, choice in enumerate(choices):
            row = row_of.get(choice.image)
            if row is None or any(len(option) > 1 for option in choice.options):
                continue
            tokens, context = captions[row], choice.context
            if len(tokens) > len(context) and tuple(int(token) for token in tokens[: len(context)]) == context:
                asked.setdefault(row, []).append(i)
        within = {row: [choices[i] for i in members] for row, members in asked.items()}
        nlls, read = self._read_captions(images, captions, within)
        option_nlls: list[np.ndarray] = [np.zeros(0, np.float32)] * len(choices)
        for row, members in asked.items():
            for i, values in zip(members, read[row], strict=True):
                option_nlls[i] = values
        rest = sorted(set(range(len(choices))).difference(*asked.values()))
        for i, values in zip(rest, self.choice_nlls([choices[i] for i in rest]), strict=True):
            option_nlls[i] = values
        return nlls, option_nlls

    def _read_captions(
        self, images: Sequence[int], captions: Sequence[Tokens], choices: dict[int, list[Choice]]
    ) -> tuple[list[np.ndarray], dict[int, list[np.ndarray]]]:
        """Token NLLs of captions and, by caption, the option NLLs of single-token choices that it goes through."""
        nlls: list[np.ndarray] = [np.zeros(0, np.float32)] * len(captions)
        options: dict[int, list[np.ndarray]] = {}

        def read(reading: Reading) -> None:
            nll = token_nll(reading.hidden, reading.head, reading.targets).float().cpu().numpy()
            rows = reading.hidden.split(reading.lengths)
            parts = np.split(nll, np.cumsum(reading.lengths)[:-1])
            for i, part, row in zip(reading.numbers, parts, rows, strict=True):
                asked = choices.get(i, [])
                nlls[i] = part
                options[i] = [_option_nlls(row[len(choice.context)], reading.head, choice) for choice in asked]

        self._read(images, [(self.model.prefix_ids, caption) for caption in captions], read)
        return nlls, options

    def choice_nlls(self, choices: Sequence[Choice]) -> list[np.ndarray]:
        """NLL of every option of each choice, up to one constant per choice."""
        single = [i for i, choice in enumerate(choices) if all(len(option) == 1 for option in choice.options)]
        option_nlls: list[np.ndarray] = [np.zeros(0, np.float32)] * len(choices)
        for i, values in zip(single, self._single_token([choices[i] for i in single]), strict=True):
            option_nlls[i] = values
        several = sorted(set(range(len(choices))) - set(single))
        flat = [(i, option) for i in several for option in choices[i].options]
        nlls = self.token_nlls([choices[i].image for i, _ in flat], [choices[i].context + option for i, option in flat])
        sums = iter([float(nll[len(choices[i].context) :].sum()) for (i, _), nll in zip(flat, nlls, strict=True)])
        for i in several:
            option_nlls[i] = np.array([next(sums) for _ in choices[i].options], np.float32)
        return option_nlls

    def _single_token(self, choices: Sequence[Choice]) -> list[np.ndarray]:
        """`choice_nlls` where every option is one token: one forward for all options of a choice."""
        option_nlls: list[np.ndarray] = [np.zeros(0, np.float32)] * len(choices)
        # The state behind the context predicts every option: the first one stands for all.
        rows = [([*self.model.prefix_ids, *choice.context], choice.options[0]) for choice in choices]

        def read(reading: Reading) -> None:
            for i, state in zip(reading.numbers, reading.hidden, strict=True):
                option_nlls[i] = _option_nlls(state, reading.head, choices[i])

        self._read([choice.image for choice in choices], rows, read)
        return option_nlls

    def _read(self, images: Sequence[int], rows: Sequence[Row], read: Callable[[Reading], None]) -> None:
        def pixels(numbers: list[int]) -> dict[str, Tensor]:
            return {"pixels": self.pixels([images[i] for i in numbers])}

        read_rows(
            self.model,
            rows,
            read,
            device=self.device,
            what="scoring captions",
            batch_tokens=BATCH_TOKENS,
            inputs=pixels,
        )


def _option_nlls(state: Tensor, head: OutputHead, choice: Choice) -> np.ndarray:
    """[options] negative logits of a choice of single tokens, from the state [width] that predicts them."""
    ids = torch.tensor([option[0] for option in choice.options], device=state.device)
    return (-head.rows(ids).logits(state).float()).cpu().numpy()


def span_choices(split: CaptionSplit, indices: Sequence[int], tokenizer: Any) -> list[Choice]:
    """One choice for every image-determined span of some captions, among its same-class alternatives."""
    choices, reader = [], TextIds(tokenizer)
    for index in indices:
        caption = split.caption(index)
        for number, span in enumerate(caption.spans):
            if len(span.choices) < 2:
                continue
            left, truth = caption.text[: span.start], caption.text[span.start : span.end]
            choices.append(
                _choice(reader, f"{caption.id}/{number}", caption.group, span.kind, index, left, span.choices, truth)
            )
    return choices


def question_choices(questions: Sequence[Any], tokenizer: Any) -> list[Choice]:
    """One choice for every question, among the answers of its type."""
    reader = TextIds(tokenizer)
    return [
        _choice(reader, q.id, q.group, q.kind, q.image, q.prompt.rstrip() + " ", q.choices, q.answer) for q in questions
    ]


def _choice(
    reader: TextIds, example: str, group: str, kind: str, image: int, left: str, options: Sequence[str], truth: str
) -> Choice:
    """Tokenise context and options together, so that a piece that begins with the space is cut where it should be."""
    rows = reader.with_offsets([left + option for option in options])
    cuts = [next(i for i, (_, end) in enumerate(offsets) if end > len(left)) for _, offsets in rows]
    ids = [ids for ids, _ in rows]
    context = tuple(ids[0][: cuts[0]])
    if any(tuple(row[:cut]) != context for row, cut in zip(ids, cuts, strict=True)):
        raise UserError(
            "the tokenizer merges the options of a question with what stands before them, so they cannot be compared",
            where=f"question {example}",
            hint="type model=NAME of a model with another tokenizer",
        )
    pieces = tuple(tuple(row[cut:]) for row, cut in zip(ids, cuts, strict=True))
    return Choice(example, group, kind, image, context, pieces, list(options).index(truth))


def add_choice_scores(
    scores: Scores, prefix: str, title: str, choices: Sequence[Choice], nlls: Sequence[np.ndarray]
) -> None:
    """Top-1 accuracy among same-class alternatives, by kind: metrics `<prefix>/<kind>`."""
    for kind in sorted({choice.kind for choice in choices}):
        scores.define(f"{prefix}/{kind}", f"{title}, {kind}", higher_is_better=True)
    for choice, values in zip(choices, nlls, strict=True):
        scores.add(f"{prefix}/{choice.kind}", choice.example, choice.group, float(values.argmin() == choice.truth))


def add_probe_scores(scores: Scores, choices: Sequence[Choice], nlls: Sequence[np.ndarray]) -> None:
    """Yes/no probes: is the true attribute likelier than one false one, drawn by the example? By kind."""
    for kind in sorted({choice.kind for choice in choices}):
        scores.define(f"probe/{kind}", f"yes/no probe accuracy, {kind}", higher_is_better=True)
    for choice, values in zip(choices, nlls, strict=True):
        false = [i for i in range(len(values)) if i != choice.truth]
        draw = np.random.default_rng(list(choice.example.encode()))
        wrong = false[int(draw.integers(len(false)))]
        scores.add(f"probe/{choice.kind}", choice.example, choice.group, float(values[choice.truth] < values[wrong]))


def matching_candidates(split: CaptionSplit, indices: Sequence[int], count: int) -> list[list[int]]:
    """For each image its own caption (first) and up to `count - 1` captions that say something else of other images."""
    contents = {i: _content(split, i) for i in indices}
    candidates = []
    for i in indices:
        others = [j for j in indices if contents[j] != contents[i]]
        draw = np.random.default_rng([7, i])
        picked = draw.permutation(len(others))[: count - 1]
        candidates.append([i, *(others[int(k)] for k in picked)])
    return candidates


def _content(split: CaptionSplit, index: int) -> Any:
    """What a caption says of its image: its spans where they are known, else its text."""
    caption = split.caption(index)
    return tuple(caption.text[span.start : span.end] for span in caption.spans) or caption.text


def add_matching_scores(
    scores: Scores,
    split: CaptionSplit,
    candidates: Sequence[Sequence[int]],
    nll: Sequence[np.ndarray],
    text_nll: Sequence[np.ndarray],
) -> None:
    """Image-caption matching, top-1: by NLL, and by image gain (NLL minus the text-only reference's NLL).

    Args:
        candidates: For each image the caption indices, its own first.
        nll: Caption NLL in nats for each image's candidates under the model.
        text_nll: The same under the reference.
    """
    scores.define("matching/nll", "image-caption matching by NLL, top-1", higher_is_better=True)
    scores.define("matching/gain", "image-caption matching by image gain, top-1", higher_is_better=True)
    for row, mine, theirs in zip(candidates, nll, text_nll, strict=True):
        caption = split.caption(row[0])
        scores.add("matching/nll", caption.id, caption.group, float(mine.argmin() == 0))
        scores.add("matching/gain", caption.id, caption.group, float((mine - theirs).argmin() == 0))


def add_hallucination_scores(
    scores: Scores, split: CaptionSplit, indices: Sequence[int], generated: Sequence[str]
) -> None:
    """Greedy captions against the truth: share of mentioned attributes that are false, and of captions that name it.

    Only attributes that every caption states are read (their spans are not answers to a question).
    """
    scores.define("greedy/hallucinated", "greedy captions: mentioned attributes that are false", higher_is_better=False)
    scores.define("greedy/recall", "greedy captions: true attributes that are mentioned", higher_is_better=True)
    for index, text in zip(indices, generated, strict=True):
        caption = split.caption(index)
        for number, span in enumerate(caption.spans):
            truth = caption.text[span.start : span.end]
            pattern = "|".join(re.escape(choice) for choice in span.choices)
            mentions = re.findall(rf"\b(?:{pattern})\b", text)
            name = f"{caption.id}/{number}"
            false = sum(word != truth for word in mentions)
            if mentions:
                scores.add("greedy/hallucinated", name, caption.group, false / len(mentions), len(mentions))
            scores.add("greedy/recall", name, caption.group, float(truth in mentions))
