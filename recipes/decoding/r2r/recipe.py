"""R2R as an experiment: questions answered by two models together, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from recipes.core.data.tasks.prompt_rows import read_prompts, text_prompt
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.models.causal import load_causal_lm
from recipes.core.models.head import output_head
from recipes.core.models.sources import load_tokenizer
from recipes.core.models.text import build_language_model, build_text_tokenizer
from recipes.core.models.vision_language import TextModel
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.scoring.sampling import end_ids
from recipes.core.training.toys.frozen import model_where
from recipes.decoding.generations import FILE
from recipes.decoding.pair_config import AnswersConfig, TransducerConfig
from recipes.decoding.r2r.config import SCORED, R2RConfig
from recipes.decoding.r2r.gates import (
    Scorer,
    above,
    always,
    by_chance,
    by_entropy,
    by_evidence,
    by_router,
    different,
    divergent,
    never,
)
from recipes.decoding.r2r.labels import Asked, Checker, Labels, answers_once, label
from recipes.decoding.r2r.measures import Curve, Sizes, curve_of, heatmap_of, plots_of, score, total_usage, write_texts
from recipes.decoding.r2r.method import threshold_by_recall, threshold_by_usage
from recipes.decoding.r2r.router import fit_router
from recipes.decoding.r2r.routing import Decide, Pair, Place, Routed, route
from recipes.decoding.r2r.tasks import draw_questions
from recipes.decoding.speculation import check_lengths
from recipes.decoding.transducers import Reader, transducer
from recipes.decoding.vocabularies import check_vocabularies

PARTS = ("router", "validation", "test")
ROUTER_SHARE = 0.75  # of the questions that are learned from; thresholds are chosen on the others


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share.

    Attributes:
        pair: Both models.
        models: They as `TextModel`s.
        checker: What counts of an answer.
        asked: Questions that the router learns from, that thresholds are chosen on, that everything is measured on.
    """

    pair: Pair
    models: tuple[Any, Any]
    checker: Checker
    asked: dict[str, Asked]

    def labels(self, part: str, config: R2RConfig) -> Labels:
        """Classes of the tokens of the large model's answers."""
        return label(self.pair, self.models, self.asked[part], self.checker, config.router.top)


class R2RRecipe(Untrained):
    """A learned router, uncertainty, chance and oracles, with the same two models."""

    def prepare(self, config: R2RConfig, device: str) -> Prepared:
        """Train (or find in the cache) or load both models; let the large one answer, and label. Raises UserError."""
        of_user = isinstance(config.data, AnswersConfig)
        small, large, parts = _users(config) if of_user else _transducers(config)
        rows = [row for part in parts for row in part]
        for reader, whose in ((small, " of the small model"), (large, " of the large model")):
            prompts = [prompt for prompt, _ in rows]
            check_lengths(prompts, config.evaluation.max_new_tokens, reader.model, whose, "evaluation.max_new_tokens")
            reader.model.requires_grad_(False).eval().to(device)
        pair = _pair(config, small, large)
        checker = Checker(small.tokenizer, config.data.match if isinstance(config.data, AnswersConfig) else "steps")
        asked = {}
        for name, part in zip(PARTS, parts, strict=True):
            ids = [prompt.ids.tolist() for prompt, _ in part]
            names, texts = [prompt.id for prompt, _ in part], [prompt.text for prompt, _ in part]
            answers = answers_once(pair, large.model, ids)
            asked[name] = Asked(names, texts, ids, [answer for _, answer in part], answers)
        prepared = Prepared(pair, (small.model, large.model), checker, asked)
        prepared.labels("test", config)
        if config.route.name == "router":
            prepared.labels("router", config)
        return prepared

    def evaluate(self, config: R2RConfig, prepared: Prepared, model: object, curve_: dict[int, Scores]) -> Evaluation:
        """Answer the test questions together; read accuracy off at equal usages."""
        asked, pair, labels = prepared.asked["test"], prepared.pair, prepared.labels("test", config)
        small, large = (sum(each.numel() for each in one.parameters()) for one in prepared.models)
        more, curve, size, fixed = dict[str, float](), None, 0, None
        if config.route.name in SCORED:
            scorer = _scorer(config, prepared)
            size, fixed = scorer.size, scorer.fixed(labels)
            spread = _scores_alone(scorer, prepared)
            more["threshold"] = _threshold(config, prepared, scorer, spread)
            decide = above(scorer.live, more["threshold"])
            curve = curve_of(pair, asked, prepared.checker, scorer.live, spread)
        else:
            decide = _decision(config.route.name, prepared)
        texts = route(pair, asked.prompts, decide)
        table = score(asked, texts, labels, prepared.checker, Sizes(small, large, size))
        return _evaluation(config, prepared, texts, table, more, curve, labels, fixed)


def _evaluation(
    config: R2RConfig,
    prepared: Prepared,
    texts: Sequence[Routed],
    table: Scores,
    more: dict[str, float],
    curve: Curve | None,
    labels: Labels,
    fixed: np.ndarray | None,
) -> Evaluation:
    asked, tokenizer = prepared.asked["test"], prepared.checker.tokenizer
    if curve is not None:
        curve.add(table, asked.ids, config.evaluation.usages)
    if fixed is not None:
        more |= _aurocs(table, labels, fixed)
    table.define("threshold", "score from which on tokens are routed", True)
    write = partial(write_texts, asked=asked, texts=texts, checker=prepared.checker)
    shown = heatmap_of(asked, texts[: config.evaluation.heatmap], tokenizer)
    return Evaluation(table.overall() | more, table, shown, plots_of(config.variant, texts, curve), files={FILE: write})


def _aurocs(table: Scores, labels: Labels, fixed: np.ndarray) -> dict[str, float]:
    """How well scores tell divergent tokens from all others, and from neutral ones; absent where one kind is absent."""
    from sklearn.metrics import roc_auc_score

    table.define("auroc", "AUROC of the scores for divergent tokens of the large model's answers", True)
    table.define("auroc_mismatch", "AUROC of the scores for divergent tokens among those that differ", True)
    more, parts = {}, {"auroc": np.ones(len(fixed), bool), "auroc_mismatch": labels.different}
    for name, part in parts.items():
        if len({*labels.divergent[part].tolist()}) == 2:
            more[name] = float(roc_auc_score(labels.divergent[part], fixed[part]))
    return more


def _scorer(config: R2RConfig, prepared: Prepared) -> Scorer:
    name, pair = config.route.name, prepared.pair
    if name == "entropy":
        return by_entropy()
    if name == "immediate":
        return by_evidence()
    if name == "random":
        most = max(len(prepared.asked[part].ids) for part in PARTS)
        return by_chance(most, pair.max_new_tokens, config.seed)
    labels = prepared.labels("router", config)
    wanted = labels.divergent if config.router.objective == "divergent" else labels.different
    if not wanted.any():
        note(
            f"no token of the {len(wanted):,} that the router learns from is {config.router.objective}: it learns that"
        )
    embedding = pair.small.get_input_embeddings().weight
    router = fit_router(embedding, labels.features, wanted, labels.texts, config.router, config.seed)
    return by_router(router, labels.features.logits.shape[1])


def _scores_alone(scorer: Scorer, prepared: Prepared) -> np.ndarray:
    """[tokens] scores of the texts that the small model writes alone on validation questions."""
    scores = list[np.ndarray]()

    def decide(place: Place, large: Any) -> Any:
        scores.append(scorer.live(place).double().cpu().numpy())
        return never(place, large)

    route(prepared.pair, prepared.asked["validation"].prompts, decide)
    return np.concatenate(scores)


def _threshold(config: R2RConfig, prepared: Prepared, scorer: Scorer, spread: np.ndarray) -> float:
    """The threshold of the config: typed, by recall or by usage. Raises UserError: no threshold has such a recall."""
    options, prompts = config.route, prepared.asked["validation"].prompts
    if options.threshold is not None:
        return options.threshold
    if options.recall is not None:
        return _by_recall(options.recall, scorer, prepared.labels("validation", config))

    def usage_of(threshold: float) -> float:
        return total_usage(route(prepared.pair, prompts, above(scorer.live, threshold)))

    threshold, usage = threshold_by_usage(spread, usage_of, options.usage)
    note(f"threshold {threshold:.5f} has the large model write {usage:.1%} of the tokens on validation questions")
    return threshold


def _by_recall(recall: float, scorer: Scorer, labels: Labels) -> float:
    try:
        threshold, share = threshold_by_recall(scorer.fixed(labels), labels.divergent, recall)
    except ValueError as error:
        what = f"{error} of the validation questions"
        raise UserError(what, f"route.recall={recall:g}", "type route.recall=null route.usage=SHARE") from error
    note(f"threshold {threshold:.5f} routes {recall:.0%} of the divergent tokens, and {share:.1%} of all")
    return threshold


def _decision(name: str, prepared: Prepared) -> Decide:
    plain: dict[str, Decide] = {"small": never, "large": always, "oracle_mismatch": different}
    return plain.get(name) or divergent(prepared.pair, prepared.asked["test"], prepared.checker)


def _pair(config: R2RConfig, small: Reader, large: Reader) -> Pair:
    models = small.model.language_model, large.model.language_model
    ends = {small.tokenizer.eos_token_id, *(end for model in models for end in end_ids(model))}
    sizes = (len(small.tokenizer), *(output_head(model).vocabulary for model in models))
    options = config.evaluation
    return Pair(
        *models,
        vocabulary=min(sizes),
        ends=frozenset(ends),
        max_new_tokens=options.max_new_tokens,
        batch_size=options.batch_size,
        places=(model_where(config.small, "small"), model_where(config.model)),
    )


def _transducers(config: R2RConfig) -> tuple[Reader, Reader, list[list[Any]]]:
    data: Any = config.data
    learned = data.router + data.validation
    try:
        questions = draw_questions(data.tasks, data.digits, data.styles, data.train, learned, data.test, config.seed)
    except ValueError as error:
        raise UserError(f"there are only {error}", "data.test", "ask for fewer questions, or more digits") from error
    assert isinstance(config.small, TransducerConfig) and isinstance(config.model, TransducerConfig)
    small, large = (transducer(one, questions, config.trainer, config.seed) for one in (config.small, config.model))
    parts = [questions.validation[: data.router], questions.validation[data.router :], questions.test]
    return small, large, [[(text_prompt(q.id, q.prompt, small.tokenizer), q.answer) for q in part] for part in parts]


def _users(config: R2RConfig) -> tuple[Reader, Reader, list[list[Any]]]:
    """The user's two models and questions, divided at random."""
    data: Any = config.data
    model: Any = config.model
    small_config: Any = config.small
    path = str(small_config.path)
    tokenizer = build_text_tokenizer(model, (), "")
    other = load_tokenizer(path, "small.path")
    check_vocabularies(tokenizer, other, ("large model", "small model"), f"small.path={path}")
    rows = read_prompts(data, str(data.path), tokenizer, "answer")
    count = round(data.validation * len(rows))
    learned = round(ROUTER_SHARE * count)
    if min(learned, count - learned, len(rows) - count) < 2:
        what = f"{len(rows)} questions are too few: of each, router, threshold and measures, there are to be two"
        hint = "give more questions, or type another data.validation (the share that router and threshold get)"
        raise UserError(what, f"data.path={data.path}", hint)
    small = Reader(TextModel(load_causal_lm(path, "small.path", tokenizer, load_in=small_config.load_in)), tokenizer)
    large = Reader(build_language_model(model, tokenizer, config.seed), tokenizer)
    order = np.random.default_rng(config.seed).permutation(len(rows))
    return small, large, [[rows[i] for i in part] for part in np.split(order, [learned, count])]


RECIPE = R2RRecipe
