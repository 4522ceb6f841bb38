"""Data set `chain-arithmetic`: sums answered by running sums, sampled from the reference, judged exactly."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from recipes.alignment.config import ChainArithmeticConfig
from recipes.alignment.judges import token_texts
from recipes.alignment.pairs import Example, Pair, PairSet, PreferenceData, Prompt
from recipes.alignment.sampling import sample, sampled_once
from recipes.alignment.selection import Selection, select
from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.storage.files import sha256_json

VERSION = 1


@dataclass(frozen=True)
class Sums:
    """Problems as triples of numbers: for the reference to learn, for pairs, and held out."""

    learned: list[tuple[int, ...]]
    questions: list[tuple[int, ...]]
    test: list[tuple[int, ...]]
    digits: int

    def texts(self) -> Iterator[str]:
        """Problems with their answers, for tokenizer and reference."""
        return (question(terms) + answer(terms, self.digits) for terms in self.learned)

    @property
    def fingerprint(self) -> str:
        """Hash of what the reference learns."""
        return sha256_json([self.learned, self.digits])


@dataclass(frozen=True)
class ExactJudge:
    """Compares what an answer ends in with the sum that the prompt asks for.

    Attributes:
        pieces: Text of each token id; special tokens have none.
        eos_id: Ends an answer; without it, it is wrong.
    """

    pieces: list[str]
    eos_id: int

    temperature = 0.0
    titles = {"accuracy": ("held-out problems answered right, greedy decoding", True)}

    def measure(self, prompts: Sequence[Prompt], completions: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """1 for a right answer, 0 for a wrong one."""
        right = [self.final(ids) == total(p.text) for p, ids in zip(prompts, completions, strict=True)]
        return {"accuracy": np.array(right, float)}

    def text(self, ids: Sequence[int] | np.ndarray) -> str:
        """What tokens say."""
        return "".join(self.pieces[i] for i in ids)

    def final(self, ids: np.ndarray) -> int | None:
        """The number behind the last comma; None of an answer that is cut off or ends in no number."""
        said = self.text(ids).rpartition(",")[2]
        ended = len(ids) > 0 and ids[-1] == self.eos_id
        return int(said) if ended and said.isascii() and said.isdigit() else None

    def first_wrong(self, ids: np.ndarray, right: str) -> np.ndarray:
        """bool [tokens]: the first token of an answer that leaves the right one; nowhere if none does."""
        found = np.zeros(len(ids), bool)
        place = 0
        for number, token in enumerate(ids):
            piece = self.pieces[token]
            ended = token == self.eos_id
            if (ended and place < len(right)) or not right.startswith(piece, place):
                found[number] = True
                break
            place += len(piece)
        return found


def question(terms: Sequence[int]) -> str:
    """A problem as text: `12+34+45=`."""
    return "+".join(map(str, terms)) + "="


def answer(terms: Sequence[int], digits: int) -> str:
    """The running sums, all with the same number of digits: `046,091`."""
    return ",".join(f"{value:0{digits}d}" for value in np.cumsum(terms)[1:])


def total(text: str) -> int:
    """What a problem asks for."""
    return sum(int(term) for term in text.rstrip("=").split("+"))


def split(config: ChainArithmeticConfig) -> Sums:
    """All problems, in random order: those held out, those for pairs, and the others."""
    problems = list(product(range(config.low, config.high + 1), repeat=3))
    order = np.random.default_rng(config.seed).permutation(len(problems))
    shuffled = [problems[i] for i in order]
    held_out, asked = config.test_prompts, config.test_prompts + config.questions
    digits = len(str(3 * config.high))
    return Sums(shuffled[asked:], shuffled[held_out:asked], shuffled[:held_out], digits)


def encoded(sums: Sums, tokenizer: Any) -> list[np.ndarray]:
    """Token ids of what the reference learns, from begin to end of text; problem and answer tokenised apart."""
    reader, end = TextIds(tokenizer), tokenizer.eos_token_id
    questions = reader.batch([question(terms) for terms in sums.learned])
    answers = reader.batch([answer(terms, sums.digits) for terms in sums.learned])
    rows = zip(questions, answers, strict=True)
    return [np.array([*reader.start, *asked, *right, end], np.int32) for asked, right in rows]


def load_sums(config: ChainArithmeticConfig, sums: Sums, tokenizer: Any, reference: Any, device: str) -> PreferenceData:
    """Sample answers and choose pairs, or find the answers sampled before.

    Args:
        config: How.
        sums: From `split`.
        tokenizer: The model's.
        reference: The `TextModel` that is sampled from.
        device: Where to sample.

    Raises:
        UserError: no problem has both right and wrong answers.
    """
    judge = ExactJudge(token_texts(tokenizer), int(tokenizer.eos_token_id))
    model, made = weights_hash(reference), []
    for place, problems in enumerate((sums.questions, sums.test)):
        prompts = _prompts(problems, tokenizer)
        drawn = sampled_once(
            ["chain-arithmetic", VERSION, place, model, asdict(config), [prompt.ids.tolist() for prompt in prompts]],
            reference,
            [prompt.ids for prompt in prompts],
            config.samples,
            judge.eos_id,
            config.max_new_tokens,
            config.temperature,
            config.seed + place,
            device,
        )
        made.append(_Answered(prompts, drawn, judge, [answer(terms, sums.digits) for terms in problems], config.seed))
    train, test = made
    if not len(train.pairs) or not len(test.pairs):
        raise UserError(
            "no problem has both right and wrong answers",
            where=f"data.samples={config.samples}",
            hint="type more data.samples or data.questions, or another number of reference.steps",
        )
    greedy = sample(reference, [p.ids for p in test.prompts], judge.eos_id, config.max_new_tokens, 0.0, 0, device)
    accuracy = float(judge.measure(test.prompts, greedy)["accuracy"].mean())
    facts = train.facts() | {"data/accuracy": ("the reference: held-out problems answered right", True, accuracy)}
    return PreferenceData(train.pairs, test.pairs, test.prompts, judge, facts, train.examples)


class _Answered:
    """Sampled answers of some problems, and what is chosen of them."""

    def __init__(
        self, prompts: list[Prompt], drawn: list[list[np.ndarray]], judge: ExactJudge, right: list[str], seed: int
    ) -> None:
        random = np.random.default_rng(seed)
        self.prompts, self.drawn = prompts, drawn
        finals = [[judge.final(ids) for ids in answers] for answers in drawn]
        self.cut = sum(final is None for row in finals for final in row)
        self.chosen = [select(row, total(p.text), random) for p, row in zip(prompts, finals, strict=True)]
        self.pairs = PairSet(
            [
                _pair(prompt, answers, found.pair, judge, text)
                for prompt, answers, found, text in zip(prompts, drawn, self.chosen, right, strict=True)
                if found.pair is not None
            ]
        )

    @property
    def examples(self) -> tuple[list[Example], list[Example]]:
        """Right answers and wrong ones, with their prompts."""

        def of(places: list[list[int]]) -> list[Example]:
            rows = zip(self.prompts, self.drawn, places, strict=True)
            return [(prompt.ids, answers[place]) for prompt, answers, found in rows for place in found]

        right = of([[] if found.positive is None else [found.positive] for found in self.chosen])
        return right, of([found.negatives for found in self.chosen])

    def facts(self) -> dict[str, tuple[str, bool, float]]:
        lacking = Counter(_lacking(found) for found in self.chosen)
        right, wrong = self.examples
        return {
            "data/pairs": ("training pairs", True, len(self.pairs)),
            "data/no_right": ("problems without a right answer, no pair", False, lacking["right"]),
            "data/no_wrong": ("problems without a wrong answer, no pair", False, lacking["wrong"]),
            "data/cut": ("sampled answers that did not end or end in no number, left out", False, self.cut),
            "data/positive": ("right answers that the positive model learns", True, len(right)),
            "data/negative": ("wrong answers that the negative model learns", True, len(wrong)),
        }


def _lacking(found: Selection) -> str:
    if found.positive is None:
        return "right"
    return "" if found.negatives else "wrong"


def _pair(
    prompt: Prompt, answers: Sequence[np.ndarray], places: tuple[int, int], judge: ExactJudge, right: str
) -> Pair:
    chosen, rejected = (answers[place] for place in places)
    marks = (np.zeros(len(chosen), bool), judge.first_wrong(rejected, right))
    return Pair(prompt.id, prompt.ids, chosen, rejected, (1.0, 0.0), marks)


def _prompts(problems: Sequence[Sequence[int]], tokenizer: Any) -> list[Prompt]:
    texts, reader = [question(terms) for terms in problems], TextIds(tokenizer)
    rows = zip(texts, reader.batch(texts), strict=True)
    return [Prompt(text.rstrip("="), text, np.array([*reader.start, *ids], np.int32)) for text, ids in rows]
