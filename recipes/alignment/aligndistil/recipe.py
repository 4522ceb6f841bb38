"""AlignDistil as an experiment: two teachers trained in the run, and the policy that learns from them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.alignment.aligndistil import evaluation
from recipes.alignment.aligndistil.config import ADAPTIVE, AUTO, CONTRAST, AlignDistilConfig
from recipes.alignment.aligndistil.method import FLOOR, Rule
from recipes.alignment.aligndistil.objective import (
    TEACHERS,
    Batch,
    Distillation,
    Heads,
    OnPolicy,
    Teachers,
    keep_chosen,
)
from recipes.alignment.evaluation import KL
from recipes.alignment.experiment import AlignmentRecipe, Prepared, judge_samples, training
from recipes.alignment.heatmaps import heatmap
from recipes.alignment.pairs import PairItems, PairSet
from recipes.alignment.reference_scores import AnswerScores, worth_keeping
from recipes.alignment.trained import train_policy
from recipes.core.data.text.text_ids import token_texts
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import Scores
from recipes.core.models.head import output_head
from recipes.core.recipe import Evaluation
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.scoring.forward import HEAD
from recipes.core.scoring.sampling import settings_key
from recipes.core.scoring.score import score
from recipes.core.scoring.statistics import Ask
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json, write_json
from recipes.core.training.task import Training

TARGET = 1.0  # mean alpha that `r: auto` aims at
PROBED = 8  # batches whose tokens it looks at
VERSION = 1
SAME = 1e-4  # mean disagreement of models that are one
BLOCK = 64  # pairs whose states are in memory at a time, where they are not kept


@dataclass(frozen=True)
class Distilling(Prepared):
    """`Prepared` with the models that are distilled.

    Attributes:
        models: "dpo" and "reverse", frozen.
        other: What the DPO model is extrapolated away from: the reverse model or the reference.
    """

    models: dict[str, Any]
    other: Any

    @property
    def heads(self) -> Heads:
        """Output heads of the DPO model and of the other one."""
        dpo, other = (output_head(model.language_model).detach() for model in (self.models["dpo"], self.other))
        return dpo, other


class AlignDistilRecipe(AlignmentRecipe):
    """A policy that learns the distribution extrapolated from two models."""

    def prepare(self, config: AlignDistilConfig, device: str) -> Distilling:
        """Adds DPO model and reverse DPO model, and their last hidden states at the answers' tokens, all cached."""
        prepared = super().prepare(config, device)
        ground = prepared.ground
        loss = replace(config.preference, loss="dpo")
        models = {}
        for name in ("dpo", "reverse"):
            swap = name == "reverse"
            policy = train_policy(ground, prepared.train, loss, config.teacher, config.trainer, swap, prepared.beside)
            models[name] = policy().requires_grad_(False).to(device).eval()
        other = models["reverse"] if config.distil.mode in CONTRAST else ground.frozen
        train, test = prepared.train, prepared.test
        if config.distil.mode != "none":
            train, test = (_with_states(config, items, (models["dpo"], other), device) for items in (train, test))
        fields = vars(prepared) | {"train": train, "test": test}
        return Distilling(**fields, models=models, other=other)

    def build(self, config: AlignDistilConfig, prepared: Prepared) -> Training:
        """Policy and objective. All arms of a seed share initialisation and data order."""
        assert isinstance(prepared, Distilling)
        distil = config.distil
        if distil.mode == "none":
            return super().build(config, prepared)
        kept: Callable[[Batch], Batch] = keep_chosen if distil.sequences == "chosen" else lambda batch: batch
        texts, before_step, pair = kept, None, (prepared.models["dpo"], prepared.other)
        if distil.sequences == "sampled":
            eos = prepared.ground.tokenizer.eos_token_id
            texts = sampler = OnPolicy(pair, eos, config.data.max_new_tokens, config.seed)
            before_step = sampler.before_step
        elif TEACHERS[0] not in prepared.train.columns:
            teachers = Teachers(pair)

            def texts(batch: Batch) -> Batch:
                return teachers(kept(batch))

        rows = 2 if distil.sequences == "both" else 1
        objective = Distillation(_rule(config, prepared), distil.direction, prepared.heads, texts, rows)
        frozen = (prepared.ground.frozen, *prepared.models.values())
        return replace(training(config, prepared, objective), before_step=before_step, frozen=frozen)

    def evaluate(
        self, config: AlignDistilConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]
    ) -> Evaluation:
        """Adds reward at half of the steps, what the teachers say of samples and reach themselves, and alpha."""
        assert isinstance(prepared, Distilling)
        base = super().evaluate(config, prepared, model, curve)
        scores, extra = base.scores, _facts(config, prepared, base.scores)
        final = judge_samples(config, prepared, model.policy, prepared.models)
        evaluation.add_expected_reward(scores, final, config.preference.beta)
        evaluation.add_half(scores, curve, [*_judge_metrics(prepared)[:1], KL])
        plots, shown = list(base.plots), None
        if config.distil.mode != "none":
            rule, test = _rule(config, prepared), prepared.test.pairs
            apart = _distances(prepared, prepared.test, len(test))
            alpha = rule.extrapolation(torch.from_numpy(apart)).numpy()
            evaluation.add_alpha(scores, test, apart, alpha)
            if config.distil.mode in ADAPTIVE:
                scores.define("distil/r", "extrapolation per unit of disagreement", True)
                extra["distil/r"] = rule.r
            plots += evaluation.alpha_plots(test, alpha, rule)
            pieces = token_texts(prepared.ground.tokenizer)
            shown = heatmap(test, {"alpha": alpha}, prepared.reference.logps, pieces, config.evaluation.heatmap)
        return replace(base, metrics=base.metrics | scores.overall() | extra, heatmap=shown, plots=plots)


def _rule(config: AlignDistilConfig, prepared: Distilling) -> Rule:
    """How the teacher is made, `r: auto` resolved on the chosen answers of the first pairs.

    Raises:
        UserError: r is to be found, and the two models are the same.
    """
    distil = config.distil
    r = distil.r
    if r == AUTO and distil.mode in ADAPTIVE:
        items = prepared.train
        count = min(PROBED * config.trainer.batch_size, len(items))
        offsets, apart = items.pairs.offsets, _distances(prepared, items, count)
        mean = float(np.concatenate([apart[offsets[i] : offsets[i + 1]] for i in range(0, 2 * count, 2)]).mean())
        if mean < SAME:
            hint = "type more teacher.steps or a higher teacher.learning_rate, or a number for distil.r"
            raise UserError("the two models agree on every token: nothing to extrapolate", "distil.r=auto", hint)
        r = (TARGET - FLOOR) / mean
    scale = 1.0 if isinstance(r, str) else r  # a mode with one alpha for all tokens reads none
    return Rule(distil.mode, config.preference.beta, scale, distil.alpha, distil.alpha_max)


def _with_states(config: AlignDistilConfig, items: PairItems, models: Sequence[Any], device: str) -> PairItems:
    """The items with the teachers' last hidden states, in fp32; without, where they are not worth keeping."""
    scores = [AnswerScores(model, items.pairs, device, (HEAD,)) for model in models]
    if not worth_keeping(config, scores):
        return items
    states = {name: each.states[:, -1] for name, each in zip(TEACHERS, scores, strict=True)}
    return PairItems(items.pairs, items.columns | states)


def _distances(prepared: Distilling, items: PairItems, count: int) -> np.ndarray:
    """float32 [tokens]: how much the two models disagree at the tokens of the answers of the first pairs."""
    offsets, parts = items.pairs.offsets, []
    if TEACHERS[0] in items.columns:
        return evaluation.answer_distances(items, prepared.heads, slice(0, int(offsets[2 * count])), prepared.device)
    for start in range(0, count, BLOCK):
        block = PairSet([items.pairs.pairs[i] for i in range(start, min(start + BLOCK, count))])
        models, ask = (prepared.models["dpo"], prepared.other), Ask(hidden=(HEAD,))
        both = [score(model, block.rows(), ask, device=prepared.device)["hidden"][:, -1] for model in models]
        columns = dict(zip(TEACHERS, both, strict=True))
        parts.append(
            evaluation.answer_distances(PairItems(block, columns), prepared.heads, slice(None), prepared.device)
        )
    return np.concatenate(parts)


def _judge_metrics(prepared: Prepared) -> list[str]:
    judge = prepared.ground.data.judges
    return [] if judge is None else list(judge.titles)


def _facts(config: AlignDistilConfig, prepared: Distilling, scores: Scores) -> dict[str, float]:
    """What reference and teachers reach on the same prompts, on the scale of the policy's metrics; cached."""
    facts = {}
    for name, model in {"reference": prepared.ground.frozen, **prepared.models}.items():
        for metric, (title, higher, value) in _teacher_metrics(config, prepared, model).items():
            scores.define(f"teacher/{name}_{metric}", f"{name} model: {title}", higher)
            facts[f"teacher/{name}_{metric}"] = value
    return facts


def _teacher_metrics(config: AlignDistilConfig, prepared: Distilling, model: Any) -> dict[str, tuple[str, bool, float]]:
    """Reward, KL and length of a frozen model's samples: metric -> (title, whether higher is better, value)."""

    def build(folder: Path) -> None:
        measured = judge_samples(config, prepared, model)
        overall = measured.overall()
        names = [*_judge_metrics(prepared)[:1], KL, "length"]
        rows = {n: (measured.metrics[n].title, measured.metrics[n].higher_is_better, overall[n]) for n in names}
        write_json(folder / "metrics.json", rows, durable=False)

    ground, options = prepared.ground, (config.evaluation.samples, config.data.max_new_tokens, config.seed)
    hashes = [weights_hash(each) for each in (model, ground.frozen)]
    prompts = [prompt.ids.tolist() for prompt in ground.data.prompts]
    more = settings_key(model, int(ground.tokenizer.eos_token_id))
    folder = build_once("sample-metrics", sha256_json([VERSION, hashes, prompts, options, *more])[:32], build)
    return {name: tuple(row) for name, row in json.loads((folder / "metrics.json").read_text(encoding="utf-8")).items()}


RECIPE = AlignDistilRecipe
