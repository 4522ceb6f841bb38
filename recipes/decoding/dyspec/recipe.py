"""DySpec as an experiment: prompts continued by a target, with trees of a draft model of the same tokenizer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from recipes.core.data.tasks.prompt_rows import load_prompts
from recipes.core.data.tasks.prompts_config import OpeningsConfig
from recipes.core.errors import UserError
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.models.causal import load_causal_lm
from recipes.core.models.head import output_head
from recipes.core.models.kv_cache import KVCache
from recipes.core.models.sources import load_tokenizer
from recipes.core.models.vision_language import TextModel
from recipes.core.training.toys.config import ToyLMConfig
from recipes.core.training.toys.frozen import build_tokenizer
from recipes.core.training.toys.language import ToyLM
from recipes.decoding.dyspec.calibration import Acceptance, acceptance
from recipes.decoding.dyspec.config import ACCEPTED, DRAFT_CALLS, SHARE, DySpecConfig
from recipes.decoding.dyspec.draft import (
    Draft,
    Estimate,
    grow_best,
    grow_by_heap,
    grow_by_layers,
    grow_shape,
    likeliest,
    with_replacement,
    without_replacement,
)
from recipes.decoding.dyspec.drafters import DraftModel, TreeDrafter
from recipes.decoding.dyspec.shapes import chains, levels, sequoia
from recipes.decoding.dyspec.verification import multi_round
from recipes.decoding.experiment import Prepared, SpeculativeRecipe, prepare
from recipes.decoding.generations import Generation
from recipes.decoding.speculation import Drafter, Nothing, Speculation, Verify, check_lengths, verify_with
from recipes.decoding.vocabularies import check_vocabularies

BINS = 20  # of shares, in the calibration plot
CALIBRATION_TOKENS = 32


@dataclass(frozen=True)
class Pair(Prepared):
    """Target and draft model.

    Attributes:
        draft: A `TextModel` with the target's tokenizer.
    """

    draft: Any


class DySpecRecipe(SpeculativeRecipe):
    """Dynamic trees, and the fixed ones beside which they stand."""

    def prepare(self, config: DySpecConfig, device: str) -> Pair:
        """Both models, and the prompts. Raises UserError: their vocabularies differ, or as in `prepare`."""
        if config.draft.path is not None:
            check_vocabularies(
                build_tokenizer(config),
                load_tokenizer(config.draft.path, "draft.path"),
                ("target", "draft model"),
                f"draft.path={config.draft.path}",
            )
        target = prepare(config, device)
        draft = load_draft(config, target.tokenizer)
        check_lengths(target.prompts, config.generation.max_new_tokens, draft, " of the draft model")
        draft.requires_grad_(False).eval().to(device)
        return Pair(target.model, target.tokenizer, target.prompts, target.ends, draft)

    def verify(self, config: DySpecConfig, prepared: Pair, generator: torch.Generator) -> Verify:
        """Multi-round rejection of what was drawn; other trees hold what the target itself chooses, or do not."""
        temperature = config.generation.temperature
        if temperature and config.tree.drawn:
            return multi_round(temperature, generator)
        return verify_with(temperature, generator)

    def drafter(self, config: DySpecConfig, prepared: Pair) -> Drafter:
        """The drafter that the config names."""
        tree = config.tree
        if tree.name == "none":
            return Nothing()
        draw = {"k_seq": with_replacement}.get(tree.name, without_replacement)
        if tree.name == "eagle2_like":
            return TreeDrafter(
                _draft_model(config, prepared),
                lambda chances, _: likeliest(chances, tree.k),
                lambda draft: grow_best(draft, tree.nodes, tree.k, tree.depth),
                prepared.ends,
                config.seed,
            )
        return TreeDrafter(
            _draft_model(config, prepared),
            lambda chances, generator: draw(chances, tree.nodes, generator),
            growth(config, partial(calibrate, config, prepared)),
            prepared.ends,
            config.seed,
        )

    def measure(self, scores: Scores, drafter: Drafter, generations: Sequence[Generation]) -> list[Plot]:
        """Forwards of the draft model, and how often draws of a share are accepted."""
        scores.define(DRAFT_CALLS, "forwards of the draft model per step", False)
        calls = drafter.calls if isinstance(drafter, TreeDrafter) else [0] * len(generations)
        for one, number in zip(generations, calls, strict=True):
            steps = len(one.steps)
            scores.add(DRAFT_CALLS, one.prompt.id, one.prompt.id, number / steps, steps)
        return add_calibration(scores, drafter.drawn) if isinstance(drafter, TreeDrafter) and drafter.drawn else []


def growth(config: DySpecConfig, measured: Callable[[], Acceptance]) -> Callable[[Draft], None]:
    """How trees of drawn tokens grow.

    Args:
        config: Names the kind of tree.
        measured: Measures how often draws are accepted; called only where that decides.
    """
    tree = config.tree
    if tree.name == "dynamic":
        estimates: dict[str, Estimate] = {"draft_prob": lambda share: share, "constant": lambda _: 0.5}
        estimate = measured().by_share() if tree.est == "calibrated" else estimates[tree.est]
        if tree.grow == "heap":
            return partial(grow_by_heap, size=tree.nodes, estimate=estimate)
        threshold = 1 / tree.nodes if tree.threshold is None else tree.threshold
        return partial(grow_by_layers, size=tree.nodes, threshold=threshold, estimate=estimate)
    if tree.name == "sequoia":
        shape = sequoia(measured().by_number(), tree.nodes, tree.depth)[0]
    elif tree.name == "kary":
        shape = levels(tree.branching, tree.nodes)
    else:
        shape = chains(min(tree.k, tree.nodes) if tree.name == "k_seq" else 1, tree.nodes)
    return partial(grow_shape, shape=shape)


def load_draft(config: DySpecConfig, tokenizer: Any) -> TextModel:
    """The draft model in fp32 on the CPU; a toy is trained if no run has done so before."""
    if config.draft.path is not None:
        return TextModel(load_causal_lm(config.draft.path, "draft.path", tokenizer))
    assert isinstance(config.model, ToyLMConfig)  # checked with the config
    return ToyLM(config.draft.toy(config.model), config.trainer, config.seed).load()


def calibrate(config: DySpecConfig, prepared: Pair) -> Acceptance:
    """How often draws are accepted on texts of the target: held-out openings that ship, none of them a prompt."""
    wanted, taken = config.tree.calibration, {prompt.id for prompt in prepared.prompts}
    openings = load_prompts(OpeningsConfig(limit=wanted + len(taken)), prepared.tokenizer)
    prompts = [prompt for prompt in openings if prompt.id not in taken][:wanted]
    if not prompts:
        what = "no held-out text is left to measure acceptance on: all are prompts"
        raise UserError(what, "data.limit", "type a smaller data.limit")
    for model, whose in ((prepared.model, ""), (prepared.draft, " of the draft model")):
        check_lengths(prompts, CALIBRATION_TOKENS, model, whose)
    temperature, generator = config.generation.temperature, torch.Generator().manual_seed(config.seed)
    run = Speculation(prepared.model, Nothing(), verify_with(temperature, generator), prepared.ends, CALIBRATION_TOKENS)
    model, targets, drafts = _draft_model(config, prepared), list[torch.Tensor](), list[torch.Tensor]()
    as_target = DraftModel(prepared.model.language_model, model.vocabulary, temperature)
    for prompt in prompts:
        text, start = [*prompt.ids.tolist(), *run.generate(prompt).ids], len(prompt.ids) - 1
        for reader, into in ((as_target, targets), (model, drafts)):
            cache = KVCache(reader.model)
            hidden = cache.extend(torch.tensor([text[:-1]], device=reader.model.device))
            into.append(reader.distributions(cache.head.logits(hidden[0, start:])))
    return acceptance(torch.cat(targets), torch.cat(drafts), config.tree.siblings, generator)


def add_calibration(scores: Scores, drawn: Sequence[tuple[float, bool]]) -> list[Plot]:
    """Add shares of draws, and how often they were accepted, by bins of share; draw them."""
    scores.define(SHARE, "share of a draw when it was drawn, as the draft model gives it, by bins of share", True)
    scores.define(ACCEPTED, "share of the draws that were accepted, by bins of share", True)
    shares, accepted = (np.array(column, float) for column in zip(*drawn, strict=True))
    bins, points = np.minimum((shares * BINS).astype(int), BINS - 1), list[tuple[float, float]]()
    for number in np.unique(bins):
        inside, name = bins == number, f"bin-{number:02}"
        points.append((float(shares[inside].mean()), float(accepted[inside].mean())))
        for metric, value in zip((SHARE, ACCEPTED), points[-1], strict=True):
            scores.add(metric, name, name, value, inside.sum())
    series = {"measured": points, "as the draft model says": [(0.0, 0.0), (1.0, 1.0)]}
    title = "Draws that were accepted, by their share"
    return [Plot("calibration", title, "share of a draw when it was drawn", "share accepted", series)]


def _draft_model(config: DySpecConfig, prepared: Pair) -> DraftModel:
    vocabulary = output_head(prepared.model.language_model).vocabulary
    return DraftModel(
        prepared.draft.language_model, vocabulary, config.tree.temperature, f"draft.path={config.draft.path}"
    )


RECIPE = DySpecRecipe
