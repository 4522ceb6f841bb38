"""Data set `chain-arithmetic`: sums answered by running sums, sampled from the reference, judged exactly."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from recipes.alignment.config import ChainArithmeticConfig
from recipes.alignment.pairs import Example, Pair, PairSet, PreferenceData
from recipes.alignment.selection import Selection, select
from recipes.core.data.tasks.arithmetic import ExactJudge, Sums, answer, sum_prompts, total
from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.text.text_ids import token_texts
from recipes.core.errors import UserError
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.scoring.sampling import sample, sample_once

VERSION = 1


def load_sums(config: ChainArithmeticConfig, sums: Sums, tokenizer: Any, reference: Any, device: str) -> PreferenceData:
    """Sample answers and choose pairs, or find the answers sampled before.

    Args:
        config: How.
        sums: From `split_sums`.
        tokenizer: The model's.
        reference: The `TextModel` that is sampled from.
        device: Where to sample.

    Raises:
        UserError: no problem has both right and wrong answers.
    """
    judge = ExactJudge(token_texts(tokenizer), int(tokenizer.eos_token_id))
    model, sets = weights_hash(reference), []
    for index, problems in enumerate((sums.questions, sums.test)):
        prompts = sum_prompts(problems, tokenizer)
        drawn = sample_once(
            ["chain-arithmetic", VERSION, index, model, asdict(config), [prompt.ids.tolist() for prompt in prompts]],
            reference,
            [prompt.ids for prompt in prompts],
            config.samples,
            judge.eos_id,
            config.max_new_tokens,
            config.temperature,
            config.seed + index,
            device,
        )
        sets.append(_Answered(prompts, drawn, judge, [answer(terms, sums.digits) for terms in problems], config.seed))
    train, test = sets
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
                _pair(prompt, answers, selection.pair, judge, text)
                for prompt, answers, selection, text in zip(prompts, drawn, self.chosen, right, strict=True)
                if selection.pair is not None
            ]
        )

    @property
    def examples(self) -> tuple[list[Example], list[Example]]:
        """Right answers and wrong ones, with their prompts."""

        def of(picks: list[list[int]]) -> list[Example]:
            rows = zip(self.prompts, self.drawn, picks, strict=True)
            return [(prompt.ids, answers[number]) for prompt, answers, numbers in rows for number in numbers]

        right = of([[] if selection.positive is None else [selection.positive] for selection in self.chosen])
        return right, of([selection.negatives for selection in self.chosen])

    def facts(self) -> dict[str, tuple[str, bool, float]]:
        lacking = Counter(_lacking(selection) for selection in self.chosen)
        right, wrong = self.examples
        return {
            "data/pairs": ("training pairs", True, len(self.pairs)),
            "data/no_right": ("problems without a right answer, no pair", False, lacking["right"]),
            "data/no_wrong": ("problems without a wrong answer, no pair", False, lacking["wrong"]),
            "data/cut": ("sampled answers that did not end or end in no number, left out", False, self.cut),
            "data/positive": ("right answers that the positive model learns", True, len(right)),
            "data/negative": ("wrong answers that the negative model learns", True, len(wrong)),
        }


def _lacking(selection: Selection) -> str:
    if selection.positive is None:
        return "right"
    return "" if selection.negatives else "wrong"


def _pair(
    prompt: Prompt, answers: Sequence[np.ndarray], numbers: tuple[int, int], judge: ExactJudge, right: str
) -> Pair:
    chosen, rejected = (answers[number] for number in numbers)
    marks = (np.zeros(len(chosen), bool), judge.first_wrong(rejected, right))
    return Pair(prompt.id, prompt.ids, chosen, rejected, (1.0, 0.0), marks)
