"""SparsePO as an experiment: pairs, reference, masks, training, evaluation."""

from dataclasses import dataclass
from typing import Any

from recipes.alignment import evaluation as measures
from recipes.alignment.config import SentimentConfig
from recipes.alignment.data import Ground, States, prepare_ground, states_of
from recipes.alignment.judges import token_texts
from recipes.alignment.losses import LOSSES
from recipes.alignment.objectives import Preference, PreferenceModel, TokenScores
from recipes.alignment.pairs import PairItems, PairSet, pair_collate
from recipes.alignment.reference import AnswerScores, answer_scores, pad_id
from recipes.alignment.sparsepo import evaluation
from recipes.alignment.sparsepo.activations import mapo_masks
from recipes.alignment.sparsepo.config import SparsePOConfig
from recipes.alignment.sparsepo.masks import STORED, Masked, start_masks, stored_mask
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.scores import Scores
from recipes.core.models import text as models
from recipes.core.recipe import Evaluation
from recipes.core.trainer import Training


@dataclass(frozen=True)
class Prepared:
    """What all arms and seeds share, and this run's fixed masks.

    Attributes:
        ground: Pairs, prompts, judges, tokenizer and reference.
        train: Items to train on.
        test: Held-out items.
        said: What the reference says of the held-out answers.
        states: From a batch to the reference's hidden states.
        device: Where the run computes.
    """

    ground: Ground
    train: PairItems
    test: PairItems
    said: AnswerScores
    states: States
    device: str


class SparsePORecipe:
    """Token-weighted preference training."""

    def prepare(self, config: SparsePOConfig, device: str) -> Prepared:
        """Reference, pairs, scores and fixed masks, each cached by content. Raises UserError on bad data."""
        ground = prepare_ground(config, device)
        pads = pad_id(ground.tokenizer)
        sets = (ground.data.train, ground.data.test)
        scores = [answer_scores(ground.frozen, pairs, pads, device) for pairs in sets]
        complete = all(found.complete for found in scores)
        train, test = (
            _items(config, ground, pairs, found, device, config.seed + place)
            for place, (pairs, found) in enumerate(zip(sets, scores, strict=True))
        )
        return Prepared(ground, train, test, scores[1], states_of(ground.frozen, complete, device), device)

    def build(self, config: SparsePOConfig, prepared: Prepared) -> Training:
        """Policy, masks and objective. All arms of a seed share initialisation and data order."""
        ground, items = prepared.ground, prepared.train
        model = PreferenceModel(ground.reference(), _start_masks(config, prepared)[0], prepared.states)
        head = ground.frozen.language_model.get_output_embeddings().weight.detach()
        scores = TokenScores(LOSSES[config.preference.loss].needs, head)
        objective = Preference(config.preference, scores)
        if config.mask.kind != "none":
            objective = Masked(config.preference, config.mask, scores)
        rows: Any = items
        steps = regular_steps(config.trainer.max_steps, config.evaluation.watch_every)
        rates = {"masks.": config.mask.learning_rate}
        return Training(model, objective, rows, pair_collate(pad_id(ground.tokenizer)), rates, steps)

    def watch(self, config: SparsePOConfig, prepared: Prepared, model: Any) -> Scores:
        """Reward and KL of samples, and the mean of the masks."""
        scores = _samples(config, prepared, model.policy)
        if config.mask.kind != "none":
            evaluation.add_mask_scores(scores, prepared.test.pairs, _test_masks(config, prepared, model.masks))
        return scores

    def evaluate(self, config: SparsePOConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """The last samples, frontier, held-out pairs and masks, with the token heatmap."""
        ground, test, said = prepared.ground, prepared.test.pairs, prepared.said
        scores = curve[config.trainer.max_steps].counted()
        start = _samples(config, prepared, ground.frozen)
        extra = measures.add_frontier(scores, curve, start, config.evaluation.kl)
        logps = measures.policy_logps(model.policy, test, pad_id(ground.tokenizer), prepared.device)
        measures.add_pair_scores(scores, test, logps, said.logps)
        extra |= evaluation.add_surprisal(scores, test, said.logps)
        shown = None
        if config.mask.kind != "none":
            masks = _test_masks(config, prepared, model.masks)
            started, redraws = _start_masks(config, prepared)
            evaluation.add_mask_scores(scores, test, _test_masks(config, prepared, started), "_before")
            extra |= evaluation.add_mask_auroc(scores, test, masks) | {"mask/redraws": float(redraws)}
            scores.define("mask/redraws", "times that the masks were drawn again because they were 0", False)
            pieces = token_texts(ground.tokenizer)
            shown = evaluation.heatmap(test, masks, said.logps, pieces, config.evaluation.heatmap)
        for name, (title, higher, value) in ground.data.facts.items():
            scores.define(name, title, higher)
            extra[name] = float(value)
        return Evaluation(scores.overall() | extra, scores, shown, evaluation.plots(curve, start, config.arm))

    def describe(self, config: SparsePOConfig) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        data = config.data
        where = (
            f"pairs of {data.path}" if not isinstance(data, SentimentConfig) else f"up to {data.pairs:,} sampled pairs"
        )
        tuned = f"fine-tuned for {config.reference.steps} steps" if config.reference.steps else "as it is"
        return [
            ("data", f"{data.name}: {where}, {data.test_prompts} held-out prompts"),
            ("model", models.describe(config.model)),
            ("reference", f"the model, {tuned}"),
        ]

    def parameters(self, config: SparsePOConfig) -> int | None:
        """Parameters of the policy; None if only its checkpoint knows."""
        return models.parameters(config.model)


def _items(
    config: SparsePOConfig, ground: Ground, pairs: PairSet, scores: AnswerScores, device: str, seed: int
) -> PairItems:
    """Pairs with what the loss and the masks read of their tokens."""
    columns = {"ref_logps": scores.logps}
    if config.mask.kind == "learned" or "kl" in LOSSES[config.preference.loss].needs:
        columns["states"] = scores.states
    if config.mask.kind not in ("none", "learned"):
        mapo = None
        if config.mask.kind == "mapo":
            own, pads = config.mask, pad_id(ground.tokenizer)
            mapo = mapo_masks(ground.frozen, pairs, own.hooks, own.mapping, pads, device)
        columns[STORED] = stored_mask(config.mask, pairs, mapo, seed)
    return PairItems(pairs, columns)


def _samples(config: SparsePOConfig, prepared: Prepared, policy: Any) -> Scores:
    options = {
        "samples": config.evaluation.samples,
        "max_new_tokens": config.data.max_new_tokens,
        "seed": config.seed,
        "device": prepared.device,
    }
    ground = prepared.ground
    data, frozen = ground.data, ground.frozen
    return measures.sample_scores(policy, frozen, data.prompts, data.judges, ground.tokenizer, options)


def _test_masks(config: SparsePOConfig, prepared: Prepared, masks: Any) -> dict[str, Any]:
    masks = None if masks is None else masks.to(prepared.device)
    return evaluation.pair_masks(config.mask, masks, prepared.test, prepared.states, prepared.device)


def _start_masks(config: SparsePOConfig, prepared: Prepared) -> tuple[Any, int]:
    """The mask networks before training (None if masks are not learned), and how often they were drawn again."""
    if config.mask.kind == "none":
        return None, 0
    size = min(config.trainer.batch_size, len(prepared.train))
    batch = pair_collate(pad_id(prepared.ground.tokenizer))([prepared.train[i] for i in range(size)])
    states = None
    if config.mask.kind == "learned":
        on_device = {name: values.to(prepared.device) for name, values in batch.items() if name != "ids"}
        states = prepared.states(on_device).cpu()
    inner = prepared.ground.frozen.language_model.config
    return start_masks(config.mask, inner.num_hidden_layers, inner.hidden_size, batch, states, config.seed)


RECIPE = SparsePORecipe
