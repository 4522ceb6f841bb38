"""Config of images with a class each. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import DATA_CONTENT, SEEDS, setting
from recipes.core.data.config import test_split_problems
from recipes.core.data.images.canvas_config import SCAN


@dataclass(frozen=True, kw_only=True)
class LabelledImagesConfig:
    """The digits of scikit-learn, or your own images with a class each."""

    name: str = setting("labelled-images", help="data set", choices=("labelled-images",))
    path: str | None = setting(
        None,
        help="folder with a folder of images for each class (in train/ and test/, if it is split), or records (JSONL, "
        "Parquet, CSV, a datasets name) with an image and a label; null: the digits of scikit-learn",
        content=DATA_CONTENT,
    )
    format: str = setting(
        "auto", help="of records; auto: from the path", choices=("auto", "jsonl", "parquet", "csv", "datasets")
    )
    image_column: str | None = setting(None, help="column of image paths or bytes; null: image or file_name")
    label_column: str | None = setting(None, help="column of labels, words or whole numbers; null: label or class")
    side: int | None = setting(
        None, help="images become squares of this side; null: they are squares of one side", unit="pixels", ge=2
    )
    split: str = setting("train", help="published split to train on, or all; data without splits is train")
    test_split: str | None = setting(
        None, help="published split to test on; null: test, else validation, else test_fraction of split"
    )
    limit: int | None = setting(
        None, help="images that the seed draws at most, of each class its share; null: all", unit="images", ge=4
    )
    test_fraction: float | None = setting(
        None, help="share of each class's images kept for testing; null: a published split, or 0.25", gt=0, lt=1
    )
    seed: int = setting(0, help="which images, and which of them are tested on", ge=0, lt=SEEDS)
    on_error: str = setting(
        "fail", help="an image that cannot be used stops the run, or is left out and counted", choices=("fail", "skip")
    )

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"images of {self.path}" if self.path else "1,797 handwritten digits (scikit-learn)"

    @property
    def image_side(self) -> int | None:
        """Pixels of a side of the images; None if only they know."""
        return self.side or (None if self.path else SCAN)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings, as (key, message)."""
        problems = test_split_problems(self.split, self.test_split, self.test_fraction)
        if self.path is None and (self.image_column or self.label_column or self.test_split):
            problems.append(("path", "is missing, and columns and splits are those of your own images"))
        return problems
