"""SparsePO as an experiment: pairs, reference, masks, training, evaluation."""

from dataclasses import dataclass
from typing import Any

from recipes.alignment import evaluation as measures
from recipes.alignment.losses import LOSSES
from recipes.alignment.objectives import Preference, PreferenceModel, TokenScores
from recipes.alignment.pairs import PairItems, PairSet, pair_collate
from recipes.alignment.reference import AnswerScores, answer_scores, pad_id, prepare_reference
from recipes.alignment.sentiment import Sentiment, encoded, load_sentiment, load_texts
from recipes.alignment.sparsepo import evaluation
from recipes.alignment.sparsepo.activations import mapo_masks
from recipes.alignment.sparsepo.config import SparsePOConfig
from recipes.alignment.sparsepo.masks import STORED, Masked, start_masks, stored_mask
from recipes.core.errors import UserError
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.scores import Scores
from recipes.core.models import text as models
from recipes.core.recipe import Evaluation
from recipes.core.trainer import Training


@dataclass(frozen=True)
class Prepared:
    """What all arms and seeds share: pairs, the reference and its scores; and this run's fixed masks.

    Attributes:
        data: Pairs, prompts and judges.
        tokenizer: The models'.
        reference: Makes a `TextModel` with the reference's weights.
        frozen: The reference itself.
        train: Items to train on.
        test: Held-out items.
        scores: What the reference says of the training and of the held-out answers.
        device: Where the run computes.
    """

    data: Sentiment
    tokenizer: Any
    reference: Any
    frozen: Any
    train: PairItems
    test: PairItems
    scores: tuple[AnswerScores, AnswerScores]
    device: str


class SparsePORecipe:
    """Token-weighted preference training."""

    def prepare(self, config: SparsePOConfig, device: str) -> Prepared:
        """Reference, pairs, scores and fixed masks, each cached by content. Raises UserError on bad data."""
        reviews = load_texts(config.data)
        texts = [review.text for review in reviews.train]
        tokenizer = models.build_text_tokenizer(config.model, texts, reviews.fingerprint)
        if tokenizer.eos_token is None:
            hint = "choose a model whose tokenizer has an eos_token"
            raise UserError("the tokenizer has no end-of-text token", f"model={config.model.name}", hint)
        reference = prepare_reference(
            config.model,
            config.reference,
            config.trainer,
            tokenizer,
            lambda: encoded(reviews.train, tokenizer),
            reviews.fingerprint,
        )
        frozen = reference().requires_grad_(False)
        data = load_sentiment(config.data, reviews, tokenizer, frozen, device)
        pads = pad_id(tokenizer)
        scores = tuple(answer_scores(frozen, pairs, pads, device) for pairs in (data.train, data.test))
        if config.mask.kind == "learned" and not scores[0].complete:
            raise UserError(
                "hidden states of all layers are too large to keep for so many pairs",
                where=f"data.pairs={config.data.pairs}",
                hint="type fewer data.pairs, or a smaller model",
            )
        items = [
            _items(config, frozen, pairs, found, pads, device, config.seed + place)
            for place, (pairs, found) in enumerate(zip((data.train, data.test), scores, strict=True))
        ]
        return Prepared(data, tokenizer, reference, frozen, items[0], items[1], scores, device)  # type: ignore[arg-type]

    def build(self, config: SparsePOConfig, prepared: Prepared) -> Training:
        """Policy, masks and objective. All arms of a seed share initialisation and data order."""
        masks = _start_masks(config, prepared)[0]
        model = PreferenceModel(prepared.reference(), masks)
        head = prepared.frozen.language_model.get_output_embeddings().weight.detach()
        scores = TokenScores(LOSSES[config.preference.loss].needs, head)
        objective = Preference(config.preference, scores)
        if config.mask.kind != "none":
            objective = Masked(config.preference, config.mask, scores)
        collate = pair_collate(pad_id(prepared.tokenizer))
        items: Any = prepared.train
        steps = regular_steps(config.trainer.max_steps, config.evaluation.watch_every)
        return Training(model, objective, items, collate, {"masks.": config.mask.learning_rate}, steps)

    def watch(self, config: SparsePOConfig, prepared: Prepared, model: Any) -> Scores:
        """Reward and KL of samples, and the mean of the masks."""
        scores = _samples(config, prepared, model.policy)
        if config.mask.kind != "none":
            masks = evaluation.pair_masks(config.mask, model.masks, prepared.test, prepared.device)
            evaluation.add_mask_scores(scores, prepared.data.test, masks)
        return scores

    def evaluate(self, config: SparsePOConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """Samples, frontier, held-out pairs and masks, with the token heatmap."""
        scores = _samples(config, prepared, model.policy)
        start = _samples(config, prepared, prepared.frozen)
        extra = measures.add_frontier(scores, curve, start, config.evaluation.kl)
        test, said = prepared.data.test, prepared.scores[1]
        logps = measures.policy_logps(model.policy, test, pad_id(prepared.tokenizer), prepared.device)
        measures.add_pair_scores(scores, test, logps, said.logps)
        extra |= evaluation.add_surprisal(scores, test, said.logps)
        shown = None
        if config.mask.kind != "none":
            masks = evaluation.pair_masks(config.mask, model.masks, prepared.test, prepared.device)
            started, redraws = _start_masks(config, prepared)
            started = started.to(prepared.device) if started else None
            before = evaluation.pair_masks(config.mask, started, prepared.test, prepared.device)
            evaluation.add_mask_scores(scores, test, masks)
            evaluation.add_mask_scores(scores, test, before, "_before")
            extra |= evaluation.add_mask_auroc(scores, test, masks) | {"mask/redraws": float(redraws)}
            scores.define("mask/redraws", "times that the masks were drawn again because they were 0", False)
            shown = evaluation.heatmap(test, masks, said.logps, prepared.data.judges, config.evaluation.heatmap)
        extra |= _about_the_data(scores, prepared.data)
        return Evaluation(scores.overall() | extra, scores, shown, evaluation.plots(curve, start, config.arm))

    def describe(self, config: SparsePOConfig) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        data = config.data
        tuned = f"fine-tuned for {config.reference.steps} steps" if config.reference.steps else "as it is"
        return [
            (
                "data",
                f"{data.name}: up to {data.pairs:,} pairs sampled from the reference, {data.test_prompts} prompts",
            ),
            ("model", models.describe(config.model)),
            ("reference", tuned),
        ]

    def parameters(self, config: SparsePOConfig) -> int | None:
        """Parameters of the policy; None if only its checkpoint knows."""
        return models.parameters(config.model)


def _items(
    config: SparsePOConfig, frozen: Any, pairs: PairSet, scores: AnswerScores, pads: int, device: str, seed: int
) -> PairItems:
    """Pairs with what the loss and the masks read of their tokens."""
    columns = {"ref_logps": scores.logps, "states": scores.states}
    if config.mask.kind not in ("none", "learned"):
        mapo = None
        if config.mask.kind == "mapo":
            mapo = mapo_masks(frozen, pairs, config.mask.hooks, config.mask.mapping, pads, device)
        columns[STORED] = stored_mask(config.mask, pairs, mapo, seed)
    return PairItems(pairs, columns)


def _samples(config: SparsePOConfig, prepared: Prepared, policy: Any) -> Scores:
    options = {
        "samples": config.evaluation.samples,
        "max_new_tokens": config.data.max_new_tokens,
        "seed": config.seed,
        "device": prepared.device,
    }
    data = prepared.data
    return measures.sample_scores(policy, prepared.frozen, data.prompts, data.judges, prepared.tokenizer, options)


def _start_masks(config: SparsePOConfig, prepared: Prepared) -> tuple[Any, int]:
    """The mask networks before training (None if masks are not learned), and how often they were drawn again."""
    if config.mask.kind == "none":
        return None, 0
    size = min(config.trainer.batch_size, len(prepared.train))
    first = pair_collate(pad_id(prepared.tokenizer))([prepared.train[i] for i in range(size)])
    layers, width = prepared.scores[0].states.shape[1:]
    return start_masks(config.mask, layers, width, first, config.seed)


def _about_the_data(scores: Scores, data: Sentiment) -> dict[str, float]:
    """Pairs kept and dropped, and how well the second judge predicts people: the same for all arms."""
    titles = {
        "data/pairs": ("training pairs", True),
        "data/ties": ("couples of samples dropped as ties", False),
        "data/equal": ("couples of samples that were the same", False),
        "data/human_judge": ("correlation of the second judge with people, held-out sentences", True),
    }
    measures.define(scores, titles)
    counts = data.counts
    values = (counts.kept, counts.ties, counts.equal, data.judges.human.correlation)
    return dict(zip(titles, map(float, values), strict=True))


RECIPE = SparsePORecipe
