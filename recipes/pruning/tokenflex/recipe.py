"""TokenFLEX as an experiment: a small language model answers about canvases from a drawn number of visual tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recipes.core.data.images.canvases import make_canvases
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.models.dropout import evaluation
from recipes.core.recipe import Evaluation
from recipes.core.training.task import Training
from recipes.core.training.toys.encoder import toy_vit
from recipes.core.training.toys.llava import QuestionItems, encoder_features
from recipes.pruning.flex import TokenSampler
from recipes.pruning.tokenflex.config import TokenFlexConfig
from recipes.pruning.tokenflex.objective import FlexLoss, FlexModel, build_model, cost

BATCH = 250  # questions of a forward without gradient
MEAN = "accuracy/mean"


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share: questions about training and test canvases, with their features."""

    train: QuestionItems
    test: QuestionItems
    encoder: Path
    device: str


class TokenFlexRecipe:
    """Training with varying numbers of visual tokens."""

    def prepare(self, config: TokenFlexConfig, device: str) -> Prepared:
        """The encoder, trained once, and its features, cached; warns of numbers of tokens that gain nothing."""
        for count in config.enlarging:
            note(f"warning: {count} tokens of {config.data.patches} patches: the map is enlarged, nothing is gained")
        encoder = toy_vit(config, device)
        items = []
        for part in ("train", "test"):
            canvases = make_canvases(config.data, part, config.seed)
            features = encoder_features(encoder, config.data, canvases, part, config.seed, device)
            items.append(QuestionItems(features, canvases, config.data))
        return Prepared(items[0], items[1], encoder, device)

    def build(self, config: TokenFlexConfig, prepared: Prepared) -> Training:
        """Model and loss. All arms of a seed share the language model's initialisation and the order of questions."""
        flex, trainer = config.flex, config.trainer
        used = questions_used(config)
        sampler = TokenSampler(flex.tokens, flex.probs, config.seed, flex.schedule, trainer.max_steps)
        loss, train = FlexLoss(sampler, trainer.processes), prepared.train

        def collate(rows: list[int]) -> dict[str, Any]:
            return train.collate(rows[:used])

        items: Any = train
        rates = {"projector": flex.projector_learning_rate}
        steps = regular_steps(trainer.max_steps, config.evaluation.watch_every)
        return Training(build_model(config), loss, items, collate, rates, steps, before_step=loss.before_step)

    def watch(self, config: TokenFlexConfig, prepared: Prepared, model: Any) -> Scores:
        """Accuracy on the first test canvases at each number of tokens, and what training has cost so far."""
        questions = min(config.evaluation.watch_canvases * prepared.test.each, len(prepared.test))
        scores = answer_scores(config, prepared, model, questions)
        scores.define("tokens/total", "visual tokens trained on, in millions", False)
        scores.add("tokens/total", "training", "training", float(model.visual_tokens) / 1e6)
        return scores

    def evaluate(self, config: TokenFlexConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """Accuracy at each number of tokens, the tokens of training, and multiply-adds."""
        scores = answer_scores(config, prepared, model, len(prepared.test))
        final, trainer = scores.overall(), config.trainer
        micro = trainer.micro_batch_size or trainer.process_batch_size
        questions = max(curve) * trainer.batch_size // micro * questions_used(config)
        extra = {"tokens/total": float(model.visual_tokens) / 1e6}
        scores.define("tokens/total", "visual tokens trained on, in millions", False)
        extra["tokens/question"] = float(model.visual_tokens) / questions
        scores.define("tokens/question", "visual tokens of a question in training, on average", False)
        for count in sorted(possible(config)):
            macs = cost(config, count)
            for name, value, title in (
                ("macs", macs.macs / 1e6, "million multiply-adds up to the first answer token"),
                ("encoder_share", macs.encoder_macs / macs.macs, "share of the encoder in these multiply-adds"),
            ):
                scores.define(f"{name}@{count}", f"{title}, {count} visual tokens", False)
                extra[f"{name}@{count}"] = value
        return Evaluation(final | extra, scores, plots=accuracy_plots(config, final, extra))


def questions_used(config: TokenFlexConfig) -> int:
    """Questions of each micro-batch that are trained on."""
    micro = config.trainer.micro_batch_size or config.trainer.process_batch_size
    return max(1, round(config.flex.batch_share * micro))


def possible(config: TokenFlexConfig) -> list[int]:
    """Numbers of tokens at which this run can be tested: a pixel shuffle makes one."""
    asked = [*config.evaluation.tokens, *config.evaluation.unseen]
    fixed = config.flex.projector == "pixel_shuffle_mlp"
    return [count for count in asked if not fixed or count == config.flex.tokens[0]]


@torch.no_grad()
def answer_scores(config: TokenFlexConfig, prepared: Prepared, model: FlexModel, questions: int) -> Scores:
    """`accuracy@K` of the first test questions, and `accuracy/mean` over the numbers K of `evaluation.tokens`."""
    scores, right = Scores(), {}
    items = prepared.test
    with evaluation(model):
        for count in possible(config):
            equal = []
            for rows in torch.arange(questions).split(BATCH):
                batch = items.collate(rows.tolist())
                features, asked = batch["features"].to(prepared.device), batch["asked"].to(prepared.device)
                equal.append(model(features, asked, count).argmax(1).cpu() == batch["answers"])
            right[count] = torch.cat(equal).double()
            scores.define(f"accuracy@{count}", f"right answers from {count} visual tokens", True)
    for count, values in right.items():
        _add(scores, f"accuracy@{count}", values, items.each)
    if all(count in right for count in config.evaluation.tokens):
        shown = ", ".join(map(str, config.evaluation.tokens))
        scores.define(MEAN, f"right answers, mean over {shown} visual tokens", True)
        _add(scores, MEAN, torch.stack([right[count] for count in config.evaluation.tokens]).mean(0), items.each)
    return scores


def _add(scores: Scores, metric: str, values: torch.Tensor, each: int) -> None:
    for row, value in enumerate(values.tolist()):
        scores.add(metric, f"{row // each}/{row % each}", f"{row // each}", value)


def accuracy_plots(config: TokenFlexConfig, final: dict[str, float], extra: dict[str, float]) -> list[Plot]:
    """Accuracy against visual tokens and against multiply-adds, of this run."""
    counts = sorted(possible(config))
    if len(counts) < 2:
        return []
    ups = [final[f"accuracy@{count}"] for count in counts]
    across = {
        "tokens": ("visual tokens at inference", [float(count) for count in counts]),
        "macs": ("million multiply-adds up to the first answer token", [extra[f"macs@{count}"] for count in counts]),
    }
    return [
        Plot(
            f"accuracy-{name}",
            f"Accuracy against {'visual tokens' if name == 'tokens' else 'multiply-adds'}",
            label,
            "right answers",
            {config.arm: list(zip(xs, ups, strict=True))},
        )
        for name, (label, xs) in across.items()
    ]


RECIPE = TokenFlexRecipe
