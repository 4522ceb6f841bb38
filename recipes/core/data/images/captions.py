"""What every image-caption data set gives to the rest: captions with what the image determines, images, questions."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Span:
    """A stretch of a caption that only the image can tell.

    Attributes:
        start: First character.
        end: One past the last character.
        kind: Class of the stretch ("digit", "thickness", "answer/color").
        choices: The alternatives of its class, the truth among them; empty if unknown.
    """

    start: int
    end: int
    kind: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Caption:
    """One caption of one image.

    Attributes:
        id: Unique in the data set.
        group: The image it came from; the bootstrap resamples groups.
        text: The caption.
        spans: Its image-determined stretches, sorted by start and disjoint.
    """

    id: str
    group: str
    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Question:
    """A question about an image of the test split, answered by one of `choices`.

    Attributes:
        id: Unique in the data set.
        group: The image it is about, as in `Caption.group`.
        image: Index of that image in the test split.
        kind: Type of question ("shape", "color", "yesno").
        prompt: The question as it stands in captions.
        answer: The true answer.
        choices: All answers of this type.
    """

    id: str
    group: str
    image: int
    kind: str
    prompt: str
    answer: str
    choices: tuple[str, ...]


class CaptionSplit(Protocol):
    """One split: captions, and images that are decoded only when asked for."""

    def __len__(self) -> int: ...

    def caption(self, index: int) -> Caption:
        """The caption at `index`."""
        ...

    def image(self, index: int, size: int | None = None) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """The image of caption `index`: uint8 [height, width, channels], 1 or 3 channels.

        With `size`, the side in pixels that it will be resized to, it may be smaller than it is stored.
        """
        ...

    def label(self, index: int) -> int | None:
        """Class of the image (index into `CaptionData.label_names`), None if it is not known."""
        ...

    def fingerprint(self) -> str:
        """Hash of the split's content."""
        ...


@dataclass(frozen=True)
class CaptionData:
    """A data set of image-caption pairs.

    Attributes:
        name: Name of the data set.
        train: Training split.
        test: Test split; shares no image with `train`.
        label_names: Names of the image classes; empty if there are none.
        questions: Questions about the test images; empty if there are none.
        skipped: One message for each example left out by `data.on_error=skip`.
    """

    name: str
    train: CaptionSplit
    test: CaptionSplit
    label_names: tuple[str, ...]
    questions: tuple[Question, ...]
    skipped: tuple[str, ...]


def image_for(split: CaptionSplit, index: int, pixels: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """The image of a caption for a function that resizes it to its `image_size`, if it has one."""
    return split.image(index, getattr(pixels, "image_size", None))


def fingerprint(captions: Iterable[Caption], images: Iterable[bytes]) -> str:
    """Hash of captions (text and spans) and of what identifies their images, in order.

    Args:
        captions: The captions of a split.
        images: For each image its bytes, or bytes that change when the image does.

    Returns:
        SHA-256 as hex.
    """
    digest = sha256()
    for caption in captions:
        digest.update(json.dumps(asdict(caption), ensure_ascii=True).encode() + b"\n")
    for image in images:
        digest.update(sha256(image).digest())
    return digest.hexdigest()
