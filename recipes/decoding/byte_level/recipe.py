"""Exact byte-level probabilities as an experiment: texts cut inside of words, the next byte, continuations in bytes."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.tasks.prompt_rows import load_prompts
from recipes.core.data.tasks.prompts_config import OpeningsConfig
from recipes.core.data.text.vocabulary_bytes import END
from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.runs.progress import progress
from recipes.core.scoring.sampling import end_ids
from recipes.core.storage.files import write_text
from recipes.core.training.toys.frozen import build_tokenizer, load_frozen
from recipes.decoding.byte_level.config import APART, AT_ENDS, BITS, BROKEN, FIRST, MEAN, SECOND, ByteLevelConfig
from recipes.decoding.byte_level.method import bits, combine, reweighted
from recipes.decoding.byte_level.states import AfterTokens, ByteState, Covers
from recipes.decoding.byte_level.texts import Cut, Speaker, draw_cuts, whole_characters
from recipes.decoding.generations import FILE

TITLES = {
    BITS: ("bits of the next byte behind cuts inside of words", False),
    AT_ENDS: ("bits of the next byte behind words", False),
    BROKEN: ("cuts at which the mean of both models costs more bits than they do on average", False),
    "leaked": ("probability that the model gives to what cannot stand behind a cut", False),
    "covers": ("token lists behind a cut", False),
    "forwards_per_cut": ("forwards of the model for a cut", False),
    "encodings_per_cut": ("token lists encoded again for a cut", False),
    "ms_per_cut": ("milliseconds for a cut", False),
    "continuation": ("continuations equal to the text", True),
    "continuation_bytes": ("bytes of continuations before the first that differs from the text", True),
    "forwards_per_byte": ("forwards of the model for each byte of a continuation", False),
    "ms_per_byte": ("milliseconds for each byte of a continuation", False),
}
HINT = (
    "A character weighs the more, up to 4, the more of its probability tokens gave that began inside the text before."
)


@dataclass(frozen=True)
class Text:
    """A text to be asked about.

    Attributes:
        id: What tables call it.
        text: What it says.
        before: Of each model, the tokens before it.
        cuts: Where the next byte is asked for.
        prompt: Bytes that are continued.
        truth: What stands behind them in the text; empty if nobody knows.
        question: Of a conversation what is asked, which stands before the text; else empty.
    """

    id: str
    text: str
    before: tuple[list[int], ...]
    cuts: list[Cut]
    prompt: int
    truth: bytes
    question: str = ""


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        speakers: One model, or two.
        texts: What they are asked about.
    """

    speakers: Sequence[Speaker]
    texts: Sequence[Text]


@dataclass(frozen=True)
class Continuation:
    """What follows a prompt.

    Attributes:
        text: The prompt's.
        data: The new bytes.
        ended: Whether the text ends behind them.
        bits: Code length of each byte; empty where tokens were drawn.
        beyond: Of each byte, the share of the probability before it that covers with a rest held.
        forwards: Of all models.
        seconds: Of the whole.
    """

    text: Text
    data: bytes
    ended: bool
    bits: Sequence[float]
    beyond: Sequence[float]
    forwards: int
    seconds: float


class ByteLevelRecipe(Untrained):
    """The next byte of cut texts, and continuations of prompts, from models of tokens."""

    def prepare(self, config: ByteLevelConfig, device: str) -> Prepared:
        """Models, their vocabularies as bytes, prompts and cuts. Raises UserError."""
        models = {"model": config.model, "second": config.second_model}
        for key in [key for key, other in (("model", SECOND), ("second", FIRST)) if config.bytes.models == other]:
            del models[key]
        speakers = [_speaker(config, key, model, device) for key, model in models.items()]
        texts = _texts(config, speakers)
        if config.cuts.inside and not any(cut.inside for text in texts for cut in text.cuts):
            places = f"inside of a word behind {config.cuts.after} characters"
            note(f"warning: no text can be cut {places}: {BITS} is not measured")
        return Prepared(speakers, texts)

    def evaluate(
        self, config: ByteLevelConfig, prepared: Prepared, model: object, curve: dict[int, Scores]
    ) -> Evaluation:
        """Ask for the next byte at all cuts, then continue all prompts."""
        scores, continuations = Scores(), list[Continuation]()
        for name, (title, higher_is_better) in TITLES.items():
            scores.define(name, title, higher_is_better)
        random = np.random.default_rng(config.seed)
        with progress("texts", len(prepared.texts)) as show:
            for number, text in enumerate(prepared.texts, 1):
                for cut in text.cuts:
                    _measure(config, prepared.speakers, text, cut, scores)
                if config.generation.max_new_bytes:
                    continuations.append(_continue(config, prepared.speakers, text, random))
                    _score(continuations[-1], scores)
                show(number)
        scores = scores.without_empty_rows()
        shown = heatmap(continuations[: config.generation.heatmap])
        files: dict[str, Callable[[Path], None]] = {FILE: partial(write_continuations, continuations=continuations)}
        return Evaluation(scores.overall(), scores, shown, files=files if continuations else {})


def _speaker(config: ByteLevelConfig, key: str, model: Any, device: str) -> Speaker:
    loaded, tokenizer = load_frozen(replace(config, model=model), device)
    path, options = getattr(model, "path", None), config.bytes
    return Speaker(
        loaded,
        tokenizer,
        [*end_ids(loaded.language_model), tokenizer.eos_token_id],
        f"{key}.path={path}" if path else f"{key}={model.name}",
        unchecked=options.unchecked,
        beam=options.beam,
        threshold=options.threshold,
    )


def _texts(config: ByteLevelConfig, speakers: Sequence[Speaker]) -> list[Text]:
    """Texts, their cuts and what is continued.

    Prompts that ship are cut, and continued from a cut. Those of the user are continued whole, and cut as well if they
    are no conversations.
    """
    most, texts = config.generation.max_new_bytes, list[Text]()
    for name, text, before, question in _rows(config, speakers):
        cuts = [] if question else draw_cuts(text, name, config.cuts, config.seed)
        data = text.encode()
        at = len(data)
        if isinstance(config.data, OpeningsConfig):
            at = next((cut.at for cut in cuts if cut.inside and cut.at + most <= len(data)), at)
        for speaker, tokens in zip(speakers, before, strict=True):
            speaker.check_length(name, tokens, text, most)
        texts.append(Text(name, text, before, cuts, at, data[at : at + most], question))
    return texts


def _rows(
    config: ByteLevelConfig, speakers: Sequence[Speaker]
) -> Iterator[tuple[str, str, tuple[list[int], ...], str]]:
    """Of each prompt its id, its text, what stands before it in tokens of each model, what a conversation asks."""
    if isinstance(config.data, OpeningsConfig):
        # The first model's tokens end the openings of all: arms are compared on the same texts.
        for prompt in load_prompts(config.data, build_tokenizer(config)):
            yield prompt.id, whole_characters(prompt.text), tuple(speaker.start for speaker in speakers), ""
        return
    for prompts in zip(*(load_prompts(config.data, speaker.tokenizer) for speaker in speakers), strict=True):
        parts = [speaker.split(prompt) for speaker, prompt in zip(speakers, prompts, strict=True)]
        yield (
            prompts[0].id,
            parts[0][1],
            tuple(part[0] for part in parts),
            prompts[0].text if any(part[2] for part in parts) else "",
        )


def _measure(config: ByteLevelConfig, speakers: Sequence[Speaker], text: Text, cut: Cut, scores: Scores) -> None:
    """Add what a cut costs."""
    start, forwards, checks = time.perf_counter(), _forwards(speakers), _checks(speakers)
    states = [
        speaker.read(config.bytes.mode, before, text.text, cut.at)
        for speaker, before in zip(speakers, text.before, strict=True)
    ]
    rows, symbol = [state.symbols() for state in states], text.text.encode()[cut.at]
    alone = float(np.mean([bits(row, symbol) for row in rows]))
    together = (
        alone if config.bytes.models == APART or len(rows) == 1 else bits(combine(rows, config.bytes.models), symbol)
    )
    name = f"{text.id}@{cut.at}"
    values: dict[str, float] = {
        BITS if cut.inside else AT_ENDS: together,
        "leaked": float(np.mean([state.leaked for state in states])),
        "covers": float(np.mean([len(state.covers) for state in states])),
        "forwards_per_cut": _forwards(speakers) - forwards,
        "encodings_per_cut": _checks(speakers) - checks,
        "ms_per_cut": 1000 * (time.perf_counter() - start),
    }
    if config.bytes.models in (MEAN, APART):
        values[BROKEN] = float(bits(combine(rows, MEAN), symbol) > alone + 1e-9)
    for metric, value in values.items():
        scores.add(metric, name, text.id, value)


def _continue(
    config: ByteLevelConfig, speakers: Sequence[Speaker], text: Text, random: np.random.Generator
) -> Continuation:
    """Bytes behind a prompt; models that are asked apart leave it to the first."""
    options = config.generation

    def choose(probabilities: np.ndarray) -> int:
        if not options.temperature:
            return int(probabilities.argmax())
        return int(random.choice(len(probabilities), p=reweighted(probabilities, options.temperature, options.top_p)))

    speakers = speakers[:1] if config.bytes.models == APART else speakers
    start, forwards = time.perf_counter(), _forwards(speakers)
    states = [
        speaker.read(config.bytes.mode, before, text.text, text.prompt)
        for speaker, before in zip(speakers, text.before, strict=False)
    ]
    by_bytes = [state for state in states if not isinstance(state, AfterTokens)]
    if isinstance(states[0], AfterTokens):
        data, ended = _by_tokens(states[0], choose, options.max_new_bytes)
        costs, beyond = list[float](), list[float]()
    else:
        how = config.bytes.models if len(states) > 1 else MEAN
        data, ended, costs, beyond = _by_bytes(by_bytes, how, choose, options.max_new_bytes)
    seconds = time.perf_counter() - start
    return Continuation(text, data, ended, costs, beyond, _forwards(speakers) - forwards, seconds)


def _by_bytes(
    states: Sequence[ByteState], how: str, choose: Callable[[np.ndarray], int], most: int
) -> tuple[bytes, bool, list[float], list[float]]:
    data, costs, beyond = bytearray(), list[float](), list[float]()
    while len(data) < most:
        row = combine([state.symbols() for state in states], how)
        beyond.append(states[0].beyond if isinstance(states[0], Covers) else 0.0)
        symbol = choose(row)
        costs.append(bits(row, symbol))
        if symbol == END:
            return bytes(data), True, costs[:-1], beyond[:-1]
        data.append(symbol)
        if len(data) < most:
            for state in states:
                state.push(symbol)
    return bytes(data), False, costs, beyond


def _by_tokens(state: AfterTokens, choose: Callable[[np.ndarray], int], most: int) -> tuple[bytes, bool]:
    data = b""
    while len(data) < most:
        new, ended = state.next_token(choose)
        if ended:
            return data, True
        data += new
    return data[:most], False


def _score(one: Continuation, scores: Scores) -> None:
    """Add what a continuation is worth and costs."""
    name, size = one.text.id, max(len(one.data), 1)
    if one.text.truth:
        pairs = zip(one.data, one.text.truth, strict=False)
        right = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one.data), len(one.text.truth)))
        scores.add("continuation", name, name, one.data == one.text.truth)
        scores.add("continuation_bytes", name, name, right)
    scores.add("forwards_per_byte", name, name, one.forwards / size, size)
    scores.add("ms_per_byte", name, name, 1000 * one.seconds / size, size)


def write_continuations(path: Path, continuations: Sequence[Continuation]) -> None:
    """One JSON object a prompt: `id`, `prompt`, `text`, all new bytes in `hex`, whether it ends, forwards, seconds.

    Args:
        path: The file.
        continuations: One for each line.
    """
    lines = []
    for one in continuations:
        line = {
            "id": one.text.id,
            "prompt": one.text.question or one.text.text.encode()[: one.text.prompt].decode(),
            "text": one.data.decode(errors="ignore"),  # a last character may be cut
            "hex": one.data.hex(),
            "ended": one.ended,
            "forwards": one.forwards,
            "seconds": round(one.seconds, 4),
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def heatmap(continuations: Sequence[Continuation]) -> dict[str, Any] | None:
    """Content of `heatmap.json`: characters of continuations, shaded by what covers with a rest knew of them."""
    examples = []
    for one in continuations:
        texts, weights, costs = list[str](), list[float](), list[float]()
        for byte, cost, beyond in zip(one.data, one.bits, one.beyond, strict=False):
            if 0x80 <= byte < 0xC0 and costs:  # goes on with a character
                costs[-1] += cost * np.log(2)
                continue
            texts.append(chr(byte) if byte < 0x80 else "·")
            weights.append(0.25 + 3.75 * beyond)
            costs.append(cost * np.log(2))
        if texts:
            examples.append(heatmap_example(one.text.id, texts, weights, costs))
    return {"hint": HINT, "examples": examples} if examples else None


def _forwards(speakers: Sequence[Speaker]) -> int:
    return sum(speaker.reader.forwards for speaker in speakers)


def _checks(speakers: Sequence[Speaker]) -> int:
    return sum(speaker.canonical.checks for speaker in speakers)


RECIPE = ByteLevelRecipe
