"""What is pruned and asked: a model with its questions, in batches that are run again and again."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from recipes.core.data.images.canvases import Canvases, make_canvases, words
from recipes.core.models.sources import load_model, load_processor
from recipes.core.training.toys.encoder import Digits, toy_vit
from recipes.core.training.toys.guide import load_guide
from recipes.core.training.toys.llava import prompt, toy_llava
from recipes.pruning.adapters import Guide, Layout, Trace, View, layout
from recipes.pruning.token_pruning.config import TokenPruningConfig


@dataclass(frozen=True)
class Terms:
    """What is measured, in words.

    Attributes:
        metric: Name of the score of each question.
        title: What it says.
        tokens: What is pruned.
        sample: What a sample is.
    """

    metric: str = "accuracy"
    title: str = "questions answered right"
    tokens: str = "visual tokens"
    sample: str = "image"


@dataclass(frozen=True)
class Batch:
    """Samples that are run together, and the questions about them. A text is its own question, without an answer.

    Attributes:
        inputs: What the model takes.
        samples: Id of each sample, which seeds what is drawn for it.
        rows: Sample of each question.
        ids: Of the questions.
        groups: Image of each question.
        questions: In words.
        answers: Right answers of each question; empty for texts.
        pixels: [B, 3, height, width] what the encoder sees; None for texts and where `views` are.
        views: Pictures of each sample, where its tokens are no square of patches.
        counts: Tokens of each sample that may be pruned, where that differs.
        words: The tokens of each text that may be pruned; empty for images.
        evidence: [questions, patches] bool, patches that show the answer; None where nobody knows.
        guide: The questions in the space of patches; None without one.
    """

    inputs: dict[str, Tensor]
    samples: list[str]
    rows: list[int]
    ids: list[str]
    groups: list[str]
    questions: list[str]
    answers: Sequence[tuple[str, ...]] = ()
    pixels: Tensor | None = None
    views: Sequence[list[View]] = ()
    counts: Sequence[int] = ()
    words: Sequence[list[str]] = ()
    evidence: Tensor | None = None
    guide: Guide | None = None


class Subject(ABC):
    """A model and its questions, or its texts.

    Attributes:
        terms: What is measured.
        model: What `prune` takes.
        layout: Its numbers.
        patches: Tokens of a sample that may be pruned; 0 where that depends on the sample.
        counts: The numbers of them that there are where they differ and are known beforehand.
        one_forward: Whether an answer is one forward, so that its time is that of a prefill.
        guided: Whether its batches have a guide.
    """

    terms: ClassVar[Terms] = Terms()
    model: Any
    layout: Layout
    patches: int
    counts: Sequence[int] = ()
    one_forward: bool = True
    guided: bool = False

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """All questions."""

    @abstractmethod
    def answer(self, batch: Batch) -> Any:
        """The model's answer to each question in words; of texts what `embeddings` takes."""

    def is_right(self, answer: str, answers: Sequence[str]) -> bool:
        """Whether an answer is one of the right ones."""
        return answer in answers

    def embeddings(self, answers: Any, trace: Trace) -> Tensor | None:
        """[samples, d] of texts, which are compared when all are there; None for questions.

        Args:
            answers: What `answer` gave.
            trace: What pruning did.
        """
        return None

    def prefill(self, batch: Batch) -> None:
        """A forward up to the first answer token."""
        self.answer(batch)

    def features(self, batch: Batch) -> list[Tensor]:
        """[patches, d] of each sample as they enter the language model of the unpruned model; empty without one."""
        return []


class Canvas(Subject):
    """Toy models and their test canvases.

    Args:
        config: The run's config.
    """

    def __init__(self, config: TokenPruningConfig, device: str) -> None:
        self.config, self.device = config, device
        self.canvases: Canvases = make_canvases(config.data, "test", config.seed)  # type: ignore[arg-type]
        self.patches = config.data.patches  # type: ignore[union-attr]
        self.asked, self.named = words(config.data)  # type: ignore[arg-type]

    def _batch(
        self,
        at: Sequence[tuple[int, int]],
        by_canvas: bool,
        words_in: dict[str, Tensor] | None = None,
        guide: Guide | None = None,
    ) -> Batch:
        """Questions (canvas, place among its questions); samples are canvases, or questions."""
        c = self.canvases
        canvases = list(dict.fromkeys(canvas for canvas, _ in at)) if by_canvas else [canvas for canvas, _ in at]
        pixels = c.images[canvases].to(self.device)
        return Batch(
            inputs={"pixel_values": pixels} | (words_in or {}),
            pixels=pixels,
            samples=[f"canvas {canvas}" for canvas in canvases],
            rows=[canvases.index(canvas) for canvas, _ in at] if by_canvas else list(range(len(at))),
            ids=[f"canvas {canvas}/{slot}" for canvas, slot in at],
            groups=[f"canvas {canvas}" for canvas, _ in at],
            questions=[self.asked[int(c.questions[each])] for each in at],
            answers=[(self.named[int(c.answers[each])],) for each in at],
            evidence=torch.stack([c.evidence[each] for each in at]),
            guide=guide,
        )

    def _questions(self) -> list[tuple[int, int]]:
        slots = self.canvases.questions.shape[1]
        questions = [(canvas, slot) for canvas in range(len(self.canvases)) for slot in range(slots)]
        return questions[: self.config.evaluation.examples]


class ToyVLM(Canvas):
    """The toy LLaVA."""

    def __init__(self, config: TokenPruningConfig, device: str) -> None:
        super().__init__(config, device)
        folder = toy_llava(config, device)
        self.model = _load_llava(folder, device)
        self.layout = layout(self.model)
        self.tokenizer = load_processor(str(folder), "model").tokenizer
        self.toy_guide = None if config.data.name == "digit-canvases" else _ToyGuide(folder, device)
        self.guided = self.toy_guide is not None

    def batches(self) -> Iterator[Batch]:
        questions, size = self._questions(), self.config.evaluation.batch_size
        ids_of = {word: self._ids(word) for word in self.asked}
        for start in range(0, len(questions), size):
            at = questions[start : start + size]
            asked = [int(self.canvases.questions[each]) for each in at]
            ids = torch.stack([ids_of[self.asked[each]] for each in asked]).to(self.device)
            words_in = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            guide = self.toy_guide(self._indices(asked)) if self.toy_guide else None
            yield self._batch(at, by_canvas=False, words_in=words_in, guide=guide)

    def answer(self, batch: Batch) -> list[str]:
        logits = self.model(**batch.inputs, logits_to_keep=1).logits[:, -1]
        return list(self.tokenizer.convert_ids_to_tokens(logits.argmax(1).tolist()))

    def features(self, batch: Batch) -> list[Tensor]:
        return list(self.model.get_image_features(pixel_values=batch.pixels, return_dict=True).pooler_output)

    def _ids(self, question: str) -> Tensor:
        image = self.tokenizer.convert_tokens_to_ids("<image>")
        ids = self.tokenizer(prompt(question)).input_ids
        return torch.tensor([each for one in ids for each in ([one] * self.patches if one == image else [one])])

    def _indices(self, asked: Sequence[int]) -> Tensor:
        """Index of the word that the pruner is told: what is asked for, or another one, the same in every run."""
        indices = torch.tensor(asked, device=self.device)
        return indices if self.config.guide.text == "question" else (indices + len(self.asked) // 2) % len(self.asked)


def _load_llava(folder: Path, device: str) -> Any:
    model: Any = load_model(LlavaForConditionalGeneration, str(folder), "model")
    return model.to(device).eval()


class _ToyGuide:
    """Words of the toy in the space of its patches."""

    def __init__(self, folder: Path, device: str) -> None:
        text, patch = load_guide(folder)
        self.text, self.patch = text.to(device), patch.to(device)

    def __call__(self, indices: Tensor) -> Guide:
        return Guide(self.text[indices], lambda patches: patches @ self.patch.T.to(patches.dtype))


class ToyClassifier(Canvas):
    """The toy vision transformer, judged by its own heads on CLS."""

    def __init__(self, config: TokenPruningConfig, device: str) -> None:
        super().__init__(config, device)
        self.digits = Digits.load(toy_vit(config, device)).to(device).eval()
        self.model = self.digits.tower
        self.layout = layout(self.model)

    def batches(self) -> Iterator[Batch]:
        slots = self.canvases.questions.shape[1]
        questions, size = self._questions(), self.config.evaluation.batch_size * slots
        for start in range(0, len(questions), size):
            yield self._batch(questions[start : start + size], by_canvas=True)

    def answer(self, batch: Batch) -> list[str]:
        labels = self.digits(**batch.inputs).argmax(2).cpu()
        slots = [self.asked.index(question) for question in batch.questions]
        return [self.named[int(labels[row, slot])] for row, slot in zip(batch.rows, slots, strict=True)]
