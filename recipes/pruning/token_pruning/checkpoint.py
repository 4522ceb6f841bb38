"""A user's vision-language checkpoint with questions about images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, CLIPModel

from recipes.core.data.config import EasyVqaConfig
from recipes.core.data.files.json_records import excerpt
from recipes.core.data.text.chat_dates import with_fixed_date
from recipes.core.data.text.text_ids import TextIds, mark
from recipes.core.errors import UserError
from recipes.core.models.sources import (
    check_tokenizer_fits,
    load_model,
    load_processor,
    load_tokenizer,
)
from recipes.core.runs.progress import progress
from recipes.core.storage.model_files import first_line
from recipes.pruning.adapters import Guide, layout
from recipes.pruning.adapters.family import model_inputs
from recipes.pruning.token_pruning.config import TokenPruningConfig, VqaConfig
from recipes.pruning.token_pruning.kinds import LLAVA, check_kind
from recipes.pruning.token_pruning.subjects import Batch, Subject
from recipes.pruning.token_pruning.vqa import Asked, is_right, read_easy_vqa, read_vqa

TEMPLATE = "USER: {image}\n{question} ASSISTANT:"
KEY = "model.path"
DTYPES = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class _Ready:
    """A question as the model takes it, a batch of one."""

    asked: Asked
    inputs: dict[str, Tensor]

    @property
    def shapes(self) -> tuple[Any, ...]:
        """What must be equal among the questions of a batch."""
        return tuple((name, value.shape[1:]) for name, value in sorted(self.inputs.items()))


class Checkpoint(Subject):
    """A LLaVA, or a model of another family that is known, which answers greedily.

    Args:
        config: The run's config.
        device: Where to run.

    Raises:
        UserError: the checkpoint or the data cannot be used.
    """

    one_forward = False

    def __init__(self, config: TokenPruningConfig, device: str) -> None:
        self.config, self.device = config, device
        self.questions = _read(config)[: config.evaluation.examples]
        path = str(config.model.path)  # type: ignore[union-attr]
        self.family = check_kind(path, KEY, config)
        self.model = _load(path, config.trainer.precision, device)
        self.layout = layout(self.model)
        self.processor = _processor(path, self.model.config)
        check_tokenizer_fits(self.processor.tokenizer, self.model, f"{KEY}={path}")
        self.reader = TextIds(self.processor.tokenizer, [self.processor.image_token])
        self.ask = asking(self.processor, self.family.prompt if self.family else TEMPLATE)
        vision = self.model.config.vision_config
        self.anyres = self.model.config.model_type == "llava_next"
        # Crops, and images of any size, are chosen by the size of the whole image.
        whole = self.anyres or self.family is not None
        self.side = None if whole else vision.image_size
        self.patches = 0 if whole else (vision.image_size // vision.patch_size) ** 2
        self.guide = _ClipGuide(config.guide.path, device) if config.guide.path else None
        self.guided = self.guide is not None

    def batches(self) -> Iterator[Batch]:
        done = 0
        with progress("asking questions", len(self.questions)) as show:
            for batch in self._batches():
                yield batch
                done += len(batch.ids)
                show(done)

    def _batches(self) -> Iterator[Batch]:
        waiting: list[_Ready] = []
        for asked in self.questions:
            ready = self._ready(asked)
            if waiting and (len(waiting) == self.config.evaluation.batch_size or waiting[0].shapes != ready.shapes):
                yield self._batch(waiting)
                waiting = []
            waiting.append(ready)
        if waiting:
            yield self._batch(waiting)

    def answer(self, batch: Batch) -> list[str]:
        tokenizer = self.processor.tokenizer
        out = self.model.generate(
            **batch.inputs,
            max_new_tokens=self.config.evaluation.max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
        new = out[:, batch.inputs["input_ids"].shape[1] :]
        return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]

    def is_right(self, answer: str, answers: Sequence[str]) -> bool:
        return is_right(answer, answers)

    def prefill(self, batch: Batch) -> None:
        self.model(**batch.inputs, logits_to_keep=1)

    def features(self, batch: Batch) -> list[Tensor]:
        if self.family is not None:
            return self.family.features(self.model.model, batch.inputs)
        if self.anyres:
            return []
        return list(self.model.get_image_features(pixel_values=batch.pixels, return_dict=True).pooler_output)

    def _ready(self, asked: Asked) -> _Ready:
        from PIL import Image

        image = Image.fromarray(asked.pixels(self.side))
        process = self.family.process if self.family else model_inputs
        try:
            inputs = prompt_inputs(self.processor, self.reader, self.ask, image, asked.question, process)
        except ValueError as error:  # so processors refuse images of odd sides, and prompts of other models
            raise UserError(
                f"the processor refuses the question {excerpt(asked.question)!r} with its image of {image.width} x "
                f"{image.height} pixels: {first_line(error)}",
                f"{KEY}={self.config.model.path}",  # type: ignore[union-attr]
                "leave the question out; if it refuses all, put the files of this model's own processor there",
            ) from error
        if not (inputs["input_ids"] == self.model.config.image_token_id).any():
            raise UserError(
                "the prompt has no place for the image, so nothing could be pruned",
                f"{KEY}={self.config.model.path}",  # type: ignore[union-attr]
                "its processor's chat template must put the image token into the text",
            )
        self._check_length(asked, inputs["input_ids"].shape[1])
        return _Ready(asked, inputs)

    def _check_length(self, asked: Asked, prompt: int) -> None:
        """Refuse a prompt that, with its answer, is longer than the model's context: it is asked unpruned, too."""
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        answer = self.config.evaluation.max_new_tokens
        if longest and prompt + answer > longest:
            raise UserError(
                f"the question {excerpt(asked.question)!r} and its image are {prompt:,} tokens, and its answer may "
                f"have {answer:,}; the model's context has {longest:,}",
                f"data={self.config.data.name}",
                "leave it out or shorten it, use a smaller image, or type a smaller evaluation.max_new_tokens",
            )

    def _batch(self, ready: list[_Ready]) -> Batch:
        inputs = {name: torch.cat([each.inputs[name] for each in ready]) for name in ready[0].inputs}
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        asked = [each.asked for each in ready]
        pixels = inputs["pixel_values"]
        views = [self.family.views(self.model.config, each.inputs) for each in ready] if self.family else []
        return Batch(
            inputs=inputs,
            pixels=None if self.family else pixels[:, 0] if self.anyres else pixels,
            views=views,
            counts=(inputs["input_ids"] == self.model.config.image_token_id).sum(1).tolist() if self.family else (),
            samples=[each.id for each in asked],
            rows=list(range(len(asked))),
            ids=[each.id for each in asked],
            groups=[each.group for each in asked],
            questions=[each.question for each in asked],
            answers=[each.answers for each in asked],
            guide=self.guide([self._guide_question(each) for each in asked]) if self.guide else None,
        )

    def _guide_question(self, asked: Asked) -> str:
        """The question that guides the pruner: the one asked, or the next (a control), the same in every run."""
        if self.config.guide.text == "question":
            return asked.question
        return self.questions[(self.questions.index(asked) + 1) % len(self.questions)].question


def asking(processor: Any, plain: str = TEMPLATE) -> Callable[[str], str]:
    """From a question to a prompt.

    Args:
        processor: Of the checkpoint; its chat template is used where it has one.
        plain: What is used elsewhere.
    """
    if not getattr(processor, "chat_template", None):
        return lambda question: plain.format(image=getattr(processor, "image_token", "<image>"), question=question)
    template = processor.chat_template
    if isinstance(template, dict):  # several, by name
        template = template.get("default")
    options = {"chat_template": with_fixed_date(template)} if template else {}

    def ask(question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        turns = [{"role": "user", "content": content}]
        return str(processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **options))

    return ask


def prompt_inputs(
    processor: Any,
    reader: TextIds,
    ask: Callable[[str], str],
    image: Any,
    question: str,
    process: Callable[..., dict[str, Tensor]] = model_inputs,
) -> dict[str, Tensor]:
    """A question about an image as tensors. A begin of text stands before it once; control tokens in it are text.

    Args:
        processor: The checkpoint's.
        reader: Of its tokenizer, the image token a control token.
        ask: From a question to a prompt.
        image: The picture.
        question: The question.
        process: From the processor, an image, a text and its options to tensors.
    """
    plain, typed = ask(question), reader.control_tokens(question)
    start = reader.start
    begun = bool(start) and plain.startswith(processor.tokenizer.convert_ids_to_tokens(start[0]))
    if not typed:
        return _without_labels(process(processor, image, plain, add_special_tokens=not begun))
    options = {"add_special_tokens": False, "sanitize_control_tokens": True}
    inputs = _without_labels(process(processor, image, ask(mark(question, typed)), **options))
    before = torch.tensor([[] if begun else start], dtype=torch.long)
    beside = {"input_ids": before, "attention_mask": torch.ones_like(before)}
    shape = inputs["input_ids"].shape
    return {
        # Types of tokens stand beside them, and a begin of text is text.
        name: torch.cat([beside.get(name, torch.zeros_like(before)), value], 1) if value.shape == shape else value
        for name, value in inputs.items()
    }


def _without_labels(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a processor makes of a prompt, but labels, which that of PaliGemma adds."""
    return {name: value for name, value in inputs.items() if name != "labels"}


class _ClipGuide:
    """Questions through the text tower of the CLIP that the vision tower comes from."""

    def __init__(self, path: str, device: str) -> None:
        clip: Any = load_model(CLIPModel, path, "guide.path", dtype=torch.float32)
        self.clip = clip.to(device).eval()
        self.tokenizer = load_tokenizer(path, "guide.path")
        check_tokenizer_fits(self.tokenizer, self.clip.text_model, f"guide.path={path}")
        self.device = device

    @torch.no_grad()
    def __call__(self, questions: list[str]) -> Guide:
        longest = self.clip.config.text_config.max_position_embeddings
        words = self.tokenizer.pad(
            {"input_ids": TextIds(self.tokenizer).with_special_tokens(questions, longest)}, return_tensors="pt"
        )
        words = {name: words[name].to(self.device) for name in ("input_ids", "attention_mask")}
        pooled = self.clip.text_model(**words).pooler_output
        weight = self.clip.visual_projection.weight
        return Guide(self.clip.text_projection(pooled), lambda patches: patches.to(weight.dtype) @ weight.T)


def _read(config: TokenPruningConfig) -> list[Asked]:
    if isinstance(config.data, EasyVqaConfig):
        return read_easy_vqa(config.data)
    assert isinstance(config.data, VqaConfig)
    return read_vqa(config.data)


def _load(path: str, precision: str, device: str) -> Any:
    dtype = torch.bfloat16 if precision == "auto" and device == "cuda" else DTYPES[precision]
    model = load_model(AutoModelForImageTextToText, path, KEY, dtype=dtype, attn_implementation="sdpa")
    return model.to(device).eval()


def _processor(path: str, config: Any) -> Any:
    processor: Any = load_processor(path, KEY)
    if not hasattr(processor, "image_processor"):
        raise UserError(
            "the checkpoint has no processor for images", f"{KEY}={Path(path)}",
            "put its preprocessor_config.json and processor_config.json into the folder",
        )  # fmt: skip
    if config.model_type not in LLAVA:
        return processor
    # Older checkpoints leave these to the model.
    if getattr(processor, "patch_size", None) is None:
        processor.patch_size = config.vision_config.patch_size
        processor.num_additional_image_tokens = 1
    if getattr(processor, "vision_feature_select_strategy", None) is None:
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    return processor
