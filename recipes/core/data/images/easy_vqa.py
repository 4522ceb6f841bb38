"""easy-VQA as captions: 64x64 images of one coloured shape, each caption some question-answer pairs of its image.

    what shape is in the image ? circle . is there a red shape ? no . what color is the shape ? blue .

Every pair says something about one of 24 classes (3 shapes x 8 colours). The classes that a caption leaves open so
far tell which of its words only the image can settle: those are its spans. The class of an image is known where its
pairs leave one class.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.config import EasyVqaConfig
from recipes.core.data.images.captions import Caption, CaptionData, Question, Span, fingerprint
from recipes.core.data.images.decoding import decode
from recipes.core.errors import UserError
from recipes.core.storage.assets import asset_path
from recipes.core.storage.files import home_path

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
YES_NO = ("yes", "no")
CHOICES = {"shape": SHAPES, "color": COLORS, "yesno": YES_NO}
CLASSES = tuple(product(SHAPES, COLORS))

Pair = tuple[str, str]  # question with its question mark, answer
Class = tuple[str, str]  # shape, colour


class EasyVqaSplit:
    """One split; images are decoded when asked for.

    Args:
        name: "train" or "test"; part of the ids.
        files: Image files.
        pairs: The question-answer pairs of each image.
        count: Pairs in a caption.
        seed: Of the choice of pairs; each image has its own generator from it, the split and its number.
    """

    def __init__(self, name: str, files: Sequence[Path], pairs: Sequence[Sequence[Pair]], count: int, seed: int):
        self._files = files
        self._labels = [_label(of_image) for of_image in pairs]
        stream = ("train", "test").index(name)
        self._captions = []
        for file, of_image in zip(files, pairs, strict=True):
            order = np.random.default_rng((seed, stream, int(file.stem))).permutation(len(of_image))
            self._captions.append(_caption(f"{name}-{file.stem}", [of_image[i] for i in order[:count]]))

    def __len__(self) -> int:
        return len(self._files)

    def caption(self, index: int) -> Caption:
        """The caption at `index`."""
        return self._captions[index]

    def image(self, index: int, size: int | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The image at `index`: uint8 [64, 64, 3]."""
        return decode(self._files[index])

    def file(self, index: int) -> Path:
        """The file of the image at `index`."""
        return self._files[index]

    def label(self, index: int) -> int | None:
        """Index of the image's class in `CLASSES`, None if its pairs leave more than one."""
        return self._labels[index]

    def fingerprint(self) -> str:
        """Hash of captions and image files."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self._captions, (file.read_bytes() for file in self._files))


def load_easy_vqa(config: EasyVqaConfig, seed: int) -> CaptionData:
    """easy-VQA with its own test split and all of its test questions.

    Args:
        config: Where it is (null: the asset) and how many pairs make a caption.
        seed: Of the choice of pairs.

    Raises:
        UserError: the asset cannot be had, or `data.path` is not a folder in easy-VQA's layout.
    """
    root = home_path(config.path) if config.path else asset_path("easy-vqa")
    files, pairs = _read(root / "test")
    test = EasyVqaSplit("test", files, pairs, config.pairs, seed)
    train = EasyVqaSplit("train", *_read(root / "train"), config.pairs, seed)
    names = tuple(f"{color} {shape}" for shape, color in CLASSES)
    return CaptionData(config.name, train, test, names, _questions(files, pairs), ())


def _read(folder: Path) -> tuple[list[Path], list[list[Pair]]]:
    """Image files in order of their numbers, and the question-answer pairs of each."""
    questions = folder / "questions.json"
    try:
        rows = json.loads(questions.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = "data.path must hold train/ and test/, each with questions.json and images/NUMBER.png"
        raise UserError(f"easy-VQA questions cannot be read: {error}", str(questions), hint) from error
    pairs = defaultdict(list)
    for question, answer, number in rows:
        pairs[int(number)].append((question, answer))
    files = [folder / "images" / f"{number}.png" for number in sorted(pairs)]
    if absent := [file.name for file in files if not file.is_file()]:
        raise UserError(f"{len(absent)} images are missing: {', '.join(absent[:5])}", str(folder / "images"))
    return files, [pairs[number] for number in sorted(pairs)]


def _questions(files: Sequence[Path], pairs: Sequence[Sequence[Pair]]) -> tuple[Question, ...]:
    questions = []
    for image, (file, of_image) in enumerate(zip(files, pairs, strict=True)):
        for number, (question, answer) in enumerate(of_image):
            kind, group = _kind(answer), f"test-{file.stem}"
            questions.append(
                Question(f"{group}-{number}", group, image, kind, _with_space(question), answer, CHOICES[kind])
            )
    return tuple(questions)


def _caption(name: str, pairs: Sequence[Pair]) -> Caption:
    """Join pairs; a word is a span unless the text before it leaves it no alternative."""
    text, spans, open_classes = "", [], list(CLASSES)
    for question, answer in pairs:
        text += " " if text else ""
        topic, kind = _topic(question), _kind(answer)
        if topic and kind != "yesno":  # "what is the red shape?" is asked of images with a red shape only
            if not all(topic in known for known in open_classes):
                spans.append(_span(len(text) + question.index(topic), topic, f"topic/{_kind(topic)}"))
            open_classes = [known for known in open_classes if topic in known]
        text += f"{_with_space(question)} "
        if len({_answer(question, kind, known) for known in open_classes}) > 1:
            spans.append(_span(len(text), answer, f"answer/{kind}"))
        open_classes = [known for known in open_classes if _answer(question, kind, known) == answer]
        text += f"{answer} ."
    return Caption(name, name, text, tuple(spans))


def _span(start: int, word: str, kind: str) -> Span:
    return Span(start, start + len(word), kind, CHOICES[_kind(word)])


def _label(pairs: Sequence[Pair]) -> int | None:
    fits = list(CLASSES)
    for pair in pairs:
        fits = [known for known in fits if _fits(pair, known)]
    if not fits:
        raise UserError(f"easy-VQA: these answers contradict each other: {pairs}")
    return CLASSES.index(fits[0]) if len(fits) == 1 else None


def _fits(pair: Pair, known: Class) -> bool:
    question, answer = pair
    topic, kind = _topic(question), _kind(answer)
    return _answer(question, kind, known) == answer and (kind == "yesno" or topic is None or topic in known)


def _answer(question: str, kind: str, known: Class) -> str:
    """The answer to a question about an image of a class."""
    if kind != "yesno":
        return known[0] if kind == "shape" else known[1]
    negated = not {"no", "not"}.isdisjoint(question.rstrip("?").split())
    return "yes" if (_topic(question) in known) != negated else "no"


def _topic(question: str) -> str | None:
    """The shape or colour that a question names."""
    return next((word for word in question.rstrip("?").split() if word in SHAPES + COLORS), None)


def _kind(word: str) -> str:
    try:
        return next(kind for kind, choices in CHOICES.items() if word in choices)
    except StopIteration:
        raise UserError(
            f"easy-VQA: unknown answer {word!r}", hint=f"known: {', '.join(SHAPES + COLORS + YES_NO)}"
        ) from None


def _with_space(question: str) -> str:
    return question.rstrip("?") + " ?"
