"""LM cascades as an experiment: one table of answers of two models, on which every deferral rule is evaluated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.core.data.tasks.prompt_rows import read_prompts, text_prompt
from recipes.core.data.tasks.prompts import Prompt
from recipes.core.errors import UserError
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.models.text import build_language_model, build_text_tokenizer
from recipes.core.recipe import Evaluation, Untrained
from recipes.decoding.cascades.config import LEARNED, CascadesConfig
from recipes.decoding.cascades.method import (
    areas,
    best_alpha,
    chow_average,
    chow_quantile,
    chow_sum,
    curve,
    quantile_features,
    random_area,
    ranks,
)
from recipes.decoding.cascades.pair import Answers, Cascade
from recipes.decoding.cascades.post_hoc import fit_rule, targets
from recipes.decoding.cascades.tasks import draw_questions
from recipes.decoding.pair_config import AnswersConfig, TransducerConfig
from recipes.decoding.questions import Question
from recipes.decoding.speculation import check_lengths
from recipes.decoding.transducers import Reader, transducer

TITLES = {
    "auc": ("area under the deferral curve", True),
    "accuracy/small": ("accuracy of the small model alone", True),
    "accuracy/large": ("accuracy of the large model alone", True),
    "length/deferred": ("tokens of the small model's answer, the half that is deferred first", False),
    "length/kept": ("tokens of the small model's answer, the half that is kept longest", False),
}


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share.

    Attributes:
        validation: Answers to questions that rules are fitted on.
        test: Answers to questions that they are measured on.
    """

    validation: Answers
    test: Answers


class CascadesRecipe(Untrained):
    """Deferral rules, plain and learned, on the same answers."""

    def prepare(self, config: CascadesConfig, device: str) -> Prepared:
        """Train (or find in the cache) or load both models; ask them. Raises UserError."""
        of_user = isinstance(config.data, AnswersConfig)
        small, large, asked = _users(config) if of_user else _transducers(config)
        questions = [each for part in asked for each in part]
        for reader, prompts, whose in (
            (small, [each.small for each in questions], " of the small model"),
            (large, [each.large for each in questions], " of the large model"),
        ):
            most = config.evaluation.max_new_tokens
            check_lengths(prompts, most, reader.model, whose, "evaluation.max_new_tokens")
            reader.model.requires_grad_(False).eval().to(device)
        match = config.data.match if isinstance(config.data, AnswersConfig) else "exact"
        cascade = Cascade(small, large, config.evaluation.max_new_tokens, match, device)
        states = config.rule.name.removeprefix("post_hoc_") if "embed" in config.rule.name else ""
        validation, test = (cascade.ask(_both(part), [each.answer for each in part], states) for part in asked)
        return Prepared(validation, test)

    def evaluate(
        self, config: CascadesConfig, prepared: Prepared, model: object, curve_: dict[int, Scores]
    ) -> Evaluation:
        """Score the small model's answers by the rule, and read off the curve."""
        test, order = prepared.test, ranks(rule_scores(config, prepared), config.seed)
        table = score(test, order)
        points, whole, more = curve(test.small, test.large, order), table.overall(), dict[str, float]()
        for share in config.evaluation.shares:
            more[f"accuracy@{share:g}"] = float(points[round(share * len(order))])
            table.define(f"accuracy@{share:g}", f"accuracy with {share:.0%} deferred", True)
        if chance := random_area(test.small, test.large):
            more["auc_gain"] = 100 * (whole["auc"] / chance - 1)
        table.define("auc_gain", "area under the deferral curve above that of chance (%)", True)
        return Evaluation(whole | more, table, plots=[_plot(config, points)])


@dataclass(frozen=True)
class Asked:
    """A question as both models read it, and its right answer."""

    small: Prompt
    large: Prompt
    answer: str


def _both(part: Sequence[Asked]) -> tuple[list[Prompt], list[Prompt]]:
    return [each.small for each in part], [each.large for each in part]


def _transducers(config: CascadesConfig) -> tuple[Reader, Reader, list[list[Asked]]]:
    data: Any = config.data
    try:
        questions = draw_questions(data.asked, data.train, data.validation, data.test, data.equal_length, config.seed)
    except ValueError as error:
        raise UserError(f"there are only {error}", "data.test", "ask for fewer questions, or more tasks") from error
    assert isinstance(config.small, TransducerConfig) and isinstance(config.model, TransducerConfig)
    small, large = (transducer(one, questions, config.trainer, config.seed) for one in (config.small, config.model))

    def asked(one: Question) -> Asked:
        prompt = text_prompt(one.id, one.prompt, small.tokenizer)
        return Asked(prompt, prompt, one.answer)

    return small, large, [[asked(each) for each in part] for part in (questions.validation, questions.test)]


def _users(config: CascadesConfig) -> tuple[Reader, Reader, list[list[Asked]]]:
    """The user's two models and questions, divided at random."""
    assert isinstance(config.data, AnswersConfig) and not isinstance(config.small, TransducerConfig)
    readers = []
    for model in (config.small, config.model):
        tokenizer = build_text_tokenizer(model, (), "")
        readers.append(Reader(build_language_model(model, tokenizer, config.seed), tokenizer))
    small, large = readers
    path = str(config.data.path)
    rows = [read_prompts(config.data, path, reader.tokenizer, "answer") for reader in readers]
    asked = [Asked(one, other, answer) for (one, answer), (other, _) in zip(*rows, strict=True)]
    count = round(config.data.validation * len(asked))
    if min(count, len(asked) - count) < 2:
        raise UserError(f"{len(asked)} questions are too few to fit rules and to measure them", f"data.path={path}")
    order = np.random.default_rng(config.seed).permutation(len(asked))
    return small, large, [[asked[i] for i in part] for part in np.split(order, [count])]


def rule_scores(config: CascadesConfig, prepared: Prepared) -> np.ndarray:
    """[answers] scores of the test answers, the lowest deferred first."""
    name, test, fitted = config.rule.name, prepared.test, prepared.validation
    logprobs, columns = test.logprobs, test.scores
    rows = range(len(test.ids))
    if name == "chow_quantile":
        alpha = config.rule.alpha
        if alpha is None:
            alpha = best_alpha(fitted.logprobs, fitted.small, fitted.large, config.seed)
            note(f"quantile {alpha:g} of the token log-probabilities is the best on validation questions")
        return chow_quantile(logprobs, alpha)
    if name in LEARNED:
        return _learned(config, prepared)
    plain = {
        "chow_sum": lambda: chow_sum(logprobs),
        "chow_average": lambda: chow_average(logprobs),
        "first_token": lambda: np.array([float(row[0]) for row in logprobs]),
        "entropy_mean": lambda: np.array([-float(columns.row("entropy", row).mean()) for row in rows]),
        "entropy_max": lambda: np.array([-float(columns.row("entropy", row).max()) for row in rows]),
        "margin": lambda: np.array([float(-np.diff(columns.row("top_logits", row), axis=1).max()) for row in rows]),
        "length": lambda: -test.lengths.astype(np.float64),
        "random": lambda: np.random.default_rng(config.seed).random(len(test.ids)),
        "oracle": lambda: test.small - test.large,
    }
    return plain[name]()


def _learned(config: CascadesConfig, prepared: Prepared) -> np.ndarray:
    fitted = prepared.validation

    def features(answers: Answers) -> np.ndarray:
        parts = [quantile_features(answers.logprobs, config.rule.extra), *answers.states.values()]
        return np.concatenate(parts, 1)

    def area(numbers: np.ndarray, scores: np.ndarray) -> float:
        order = ranks(scores, config.seed)
        return float(areas(fitted.small[numbers], fitted.large[numbers], order).mean())

    wanted = targets(fitted.small, fitted.large, config.rule.target)
    return fit_rule(features(fitted), wanted, config.rule, config.seed, area)(features(prepared.test))


def score(test: Answers, order: np.ndarray) -> Scores:
    """Metrics of a rule, by question.

    Args:
        test: The answers.
        order: [answers] rank of each, 0 for the one that is deferred first.
    """
    scores = Scores()
    for name, (title, higher_is_better) in TITLES.items():
        scores.define(name, title, higher_is_better)
    parts, half = areas(test.small, test.large, order), len(order) / 2
    for row, question in enumerate(test.ids):
        values = {"auc": parts[row], "accuracy/small": test.small[row], "accuracy/large": test.large[row]}
        values["length/deferred" if order[row] < half else "length/kept"] = test.lengths[row]
        for name, value in values.items():
            scores.add(name, question, question, float(value))
    return scores


def _plot(config: CascadesConfig, points: np.ndarray) -> Plot:
    line = [(index / (len(points) - 1), float(value)) for index, value in enumerate(points)]
    title = "Accuracy against the share that is deferred"
    return Plot("deferral", title, "share deferred to the large model", "accuracy", {config.variant: line})


RECIPE = CascadesRecipe
