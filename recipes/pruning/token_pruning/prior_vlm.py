"""The vision-language model that recipe `prior` trains, asked for the words of captions that only the image can tell.

`prior` is another family's recipe, so it is reached by its name: its config composed, its folder read as any run's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from recipes.core.config import compose, registry
from recipes.core.data.images.captions import CaptionData, image_for
from recipes.core.data.images.load import load_captions
from recipes.core.errors import UserError
from recipes.core.evaluation.captions import Choice, span_choices
from recipes.core.models import from_config as models
from recipes.core.models.as_llava import as_llava
from recipes.core.models.run_models import final_checkpoint
from recipes.core.runs.identity import content_tree
from recipes.core.runs.records import load_run
from recipes.core.storage.files import home_path
from recipes.core.storage.places import run_of
from recipes.core.training.models import train_once
from recipes.core.training.task import Training
from recipes.pruning.adapters import layout
from recipes.pruning.token_pruning.config import PRIOR_DATA, PriorDataConfig, PriorVLMConfig, TokenPruningConfig
from recipes.pruning.token_pruning.subjects import Batch, Subject

RECIPE, KEY, WEIGHTS = "prior", "model.path", "model.safetensors"
# They do not decide what is trained.
FREE = ("recipe", "arm", "label", "budget", "outputs", "tracker", "evaluation", "trainer")
INSTEAD = f"type {KEY}=FOLDER of a finished run of {RECIPE} with setting=H, or {KEY}=null to train one in the run"


@dataclass(frozen=True)
class Trained:
    """A model of `prior` with what it was trained on.

    Attributes:
        model: The caption model, in its final weights.
        tokenizer: Its tokenizer.
        data: Its captions; the test split is asked.
    """

    model: Any
    tokenizer: Any
    data: CaptionData


class PriorVLM(Subject):
    """A model of `prior` (setting H) that chooses among the alternatives of a word, given image and caption so far.

    The choice is the alternative whose first token has the greatest logit, so an answer is one forward; unpruned, its
    accuracy is that of `grounded/*` in `prior`.

    Args:
        config: The run's config.
        device: Where to run, and to train.

    Raises:
        UserError: the folder holds no such model, or its data nothing to ask.
    """

    def __init__(self, config: TokenPruningConfig, device: str) -> None:
        self.config, self.device = config, device
        path = _model_config(config).path
        self.trained = load_finished(path, device) if path else train_inside(config, device)
        self.choices = read_choices(self.trained)[: config.evaluation.examples]
        self.by_id = {choice.example: choice for choice in self.choices}
        self.model: Any = as_llava(self.trained.model).to(device)  # type: ignore[arg-type]
        self.layout = layout(self.model)
        self.patches = self.trained.model.prefix_ids.count(self.trained.model.placeholder)

    def batches(self) -> Iterator[Batch]:
        size = self.config.evaluation.batch_size
        # Prompts of one length need no padding.
        ordered = sorted(self.choices, key=_length)
        for _, group in groupby(ordered, key=_length):
            alike = list(group)
            for start in range(0, len(alike), size):
                yield self._batch(alike[start : start + size])

    def answer(self, batch: Batch) -> list[str]:
        logits = self.model(**batch.inputs, logits_to_keep=1).logits[:, -1].cpu()
        return [
            self._word(max(self.by_id[name].options, key=lambda option: float(row[option[0]])))
            for name, row in zip(batch.ids, logits, strict=True)
        ]

    def is_right(self, answer: str, answers: Sequence[str]) -> bool:
        return answer in answers

    def features(self, batch: Batch) -> list[Tensor]:
        return list(self.model.get_image_features(pixel_values=batch.pixels, return_dict=True).pooler_output)

    def _batch(self, choices: list[Choice]) -> Batch:
        model, test = self.trained.model, self.trained.data.test
        ids = torch.tensor([[*model.prefix_ids, *choice.context] for choice in choices], device=self.device)
        images = (image_for(test, choice.image, model.pixels) for choice in choices)
        pixels = torch.stack([model.pixels(image) for image in images]).to(self.device)
        names = [choice.example for choice in choices]
        return Batch(
            inputs={"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels},
            pixels=pixels,
            samples=names,
            rows=list(range(len(choices))),
            ids=names,
            groups=[choice.group for choice in choices],
            questions=[f"{self._word(choice.context)} ..." for choice in choices],
            answers=[(self._word(choice.options[choice.truth]),) for choice in choices],
        )

    def _word(self, ids: tuple[int, ...]) -> str:
        return str(self.trained.tokenizer.decode(list(ids))).strip()


def read_choices(trained: Trained) -> list[Choice]:
    """Every image-determined word of the test captions, with its alternatives.

    Raises:
        UserError: there is none, or alternatives begin with the same token.
    """
    data = trained.data
    choices = span_choices(data.test, range(len(data.test)), trained.tokenizer)
    if not choices:
        raise UserError(
            f"nothing can be asked about {data.name}: it does not say which words only the image can tell",
            KEY,
            "use a run on data=easy-vqa or data=digit-captions",
        )
    for choice in choices:
        if len({option[0] for option in choice.options}) < len(choice.options):
            raise UserError(
                f"two alternatives of {choice.kind} begin with the same piece, so one look cannot tell them apart",
                KEY,
                "train the model with a larger model.vocabulary",
            )
    return choices


def load_finished(path: str, device: str) -> Trained:
    """The model of a finished run of `prior`.

    Args:
        path: Its folder.
        device: Where its visual encoder is trained again if the cache has lost it.

    Raises:
        UserError: it is no such run, or its final weights are missing or damaged.
    """
    where, folder = f"{KEY}={path}", run_of(home_path(path)) or home_path(path)
    record = load_run(folder)
    if record.recipe != RECIPE:
        raise UserError(f"is a run of {record.recipe}; only {RECIPE} trains such a model", where, INSTEAD)
    checkpoint = final_checkpoint(folder, where, INSTEAD)
    run: Any = compose.from_tree(record.config)
    if run.setting != "H":
        raise UserError("is a run with setting=U, whose model has no visual encoder to prune behind", where, INSTEAD)
    return _load(run, load_captions(run.data, run.seed), checkpoint / WEIGHTS, device)


def train_inside(config: TokenPruningConfig, device: str) -> Trained:
    """A model that `prior` trains for this seed, as its recipe does it, if no run has done so before.

    Args:
        config: The run's config: seed, budget, model, data, trainer.
        device: Where to train.
    """
    run = prior_config(config)

    data = load_captions(run.data, run.seed)

    def training() -> Training:
        recipe = registry.recipe_class(RECIPE)()
        return recipe.build(run, recipe.prepare(run, device))

    def save(model: Any, folder: Path) -> None:
        safetensors.torch.save_model(model, str(folder / WEIGHTS))

    decides = {name: value for name, value in content_tree(run, "").items() if name not in FREE}
    key = [decides, data.train.fingerprint(), registry.card(RECIPE).version]
    name, what = f"the model of {RECIPE} for seed {run.seed}", f"{len(data.train):,} captions"
    folder = train_once("prior-vlms", key, run.trainer, run.seed, training, save, name=name, what=what)
    return _load(run, data, folder / WEIGHTS, device)


def prior_config(config: TokenPruningConfig) -> Any:
    """The config of the run of `prior` that would train the model."""
    model, data = _model_config(config), config.data
    seed = config.seed if model.seed is None else model.seed
    name = PRIOR_DATA if isinstance(data, PriorDataConfig) else data.name
    typed = [f"model.layers={model.layers}", f"model.vision.layers={model.encoder_layers}"]
    if model.steps is not None:
        typed.append(f"trainer.max_steps={model.steps}")
    run: Any = compose.compose(
        RECIPE, ["setting=H", f"arm={model.arm}", f"seed={seed}", f"budget={config.budget}", f"data={name}", *typed]
    )
    same = {name: getattr(config.trainer, name) for name in ("device", "precision", "threads")}
    chosen = run.data if isinstance(data, PriorDataConfig) else data
    return replace(run, data=chosen, trainer=replace(run.trainer, **same))


def _load(run: Any, data: CaptionData, weights: Path, device: str) -> Trained:
    """A model of `prior` with its weights; a visual encoder of its own comes from the cache, or is trained for it."""
    tokenizer = models.build_tokenizer(run.model, data)
    model = models.build_caption_model(run.model, run.setting, tokenizer, data, run.seed, device, run.data.max_tokens)
    try:
        safetensors.torch.load_model(model, str(weights))
    except RuntimeError as error:
        raise UserError(
            "the weights are not those of the model that config and data make; have the captions changed since?",
            str(weights.parent),
            INSTEAD,
        ) from error
    return Trained(model, tokenizer, data)


def _model_config(config: TokenPruningConfig) -> PriorVLMConfig:
    assert isinstance(config.model, PriorVLMConfig)
    return config.model


def _length(choice: Choice) -> int:
    return len(choice.context)
