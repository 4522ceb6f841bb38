"""Config of the image-caption data sets, told apart by `name`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config import setting


@dataclass(frozen=True)
class DataConfig:
    """What every data set has."""

    path: str | None = setting(None, help="file, folder or hub name to read from; null: the data that ships")
    on_error: str = setting(
        "fail",
        help="an example that cannot be used stops the run, or is left out and counted",
        choices=("fail", "skip"),
    )
    on_long: str = setting(
        "fail", help="a caption over max_tokens stops the run, or is cut", choices=("fail", "truncate")
    )
    max_tokens: int = setting(64, help="longest caption, end-of-text token included", unit="tokens", ge=2)
    seed: int | None = setting(
        0, help="what is random in the data (filler, choice of questions, test images); null: the seed of the run", ge=0
    )


@dataclass(frozen=True)
class DigitCaptionsConfig(DataConfig):
    """Handwritten digits of scikit-learn (8x8) with captions that bury two image words in filler."""

    name: str = setting("digit-captions", help="data set", choices=("digit-captions",))
    filler: str = setting(
        "predictable",
        help="text around the image words: boilerplate sentences, or random words",
        choices=("predictable", "unpredictable"),
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings, as (key, message)."""
        if self.path is None:
            return []
        return [("path", "digit-captions reads the digits of scikit-learn; for your own data type data=image-text")]


@dataclass(frozen=True)
class EasyVqaConfig(DataConfig):
    """easy-VQA: one coloured shape on 64x64 pixels; a caption joins question-answer pairs of its image."""

    name: str = setting("easy-vqa", help="data set", choices=("easy-vqa",))
    pairs: int = setting(3, help="question-answer pairs in a caption (fewer where the image has fewer)", ge=1)


@dataclass(frozen=True)
class ImageTextConfig(DataConfig):
    """Your own image-caption pairs: JSONL, Parquet, an image folder, LLaVA JSON, or a `datasets` name."""

    name: str = setting("image-text", help="data set", choices=("image-text",))
    format: str = setting(
        "auto",
        help="auto: from the path",
        choices=("auto", "jsonl", "parquet", "folder", "llava", "datasets"),
    )
    image_column: str | None = setting(None, help="column of image paths or bytes; null: image or file_name")
    caption_column: str | None = setting(None, help="column of captions; null: caption or text")
    split: str = setting("train", help="split to read (format=datasets)")
    test_split: str | None = setting(None, help="split to test on (format=datasets); null: test_fraction of split")
    test_fraction: float = setting(0.1, help="share of the images kept for testing", gt=0, lt=1)
    limit: int | None = setting(None, help="read only the first examples; null: all", unit="examples", ge=2)
    max_tokens: int = setting(128, help="longest caption, end-of-text token included", unit="tokens", ge=2)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings, as (key, message)."""
        found = []
        if self.path is None:
            found.append(("path", "is missing; type data.path=FILE, FOLDER or a datasets name"))
        if self.test_split is not None and self.format not in ("auto", "datasets"):
            found.append(("test_split", f"has no meaning with format={self.format}; use test_fraction"))
        return found


DATA: dict[str, type[DataConfig]] = {
    "digit-captions": DigitCaptionsConfig,
    "easy-vqa": EasyVqaConfig,
    "image-text": ImageTextConfig,
}
