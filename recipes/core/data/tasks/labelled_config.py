"""Config of texts with a label each. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from recipes.core.config.settings import DATA_CONTENT, SEEDS, setting
from recipes.core.data.config import test_split_problems


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """What every labelled set has."""

    texts: int | None = setting(
        2000, help="texts that the seed draws at most, of each class its share; null: all", unit="texts", ge=4
    )
    test_fraction: float | None = setting(
        None, help="share of each class's documents kept for testing; null: 0.25, or a published split", gt=0, lt=1
    )
    seed: int = setting(0, help="which texts, and which of them are tested on", ge=0, lt=SEEDS)


@dataclass(frozen=True, kw_only=True)
class WikiTopicsConfig(LabelledConfig):
    """Lead paragraphs of English Wikipedia (asset wiki-leads); the label is the topic of the article."""

    name: str = setting("wiki-topics", help="data set", choices=("wiki-topics",))
    described: ClassVar[str] = "leads of English Wikipedia by topic (asset wiki-leads)"


@dataclass(frozen=True, kw_only=True)
class ReviewSentimentConfig(LabelledConfig):
    """Sentences of film reviews (asset vader-reviews); the label is what twenty readers thought on average."""

    name: str = setting("review-sentiment", help="data set", choices=("review-sentiment",))
    neutral: float = setting(0.5, help="sentences rated nearer to 0 than this, of -4 to 4, are left out", ge=0, le=4)
    described: ClassVar[str] = "sentences of film reviews, negative or positive (asset vader-reviews)"


@dataclass(frozen=True, kw_only=True)
class LabelledTextsConfig(LabelledConfig):
    """Your own texts with a label each: JSONL, JSON, Parquet, CSV, a folder of them, or a `datasets` name."""

    name: str = setting("labelled-texts", help="data set", choices=("labelled-texts",))
    path: str | None = setting(None, help="file, folder or datasets name", content=DATA_CONTENT)
    format: str = setting("auto", help="auto: from the path", choices=("auto", "jsonl", "parquet", "csv", "datasets"))
    text_column: str | None = setting(None, help="column of texts; null: text, content, document or sentence")
    label_column: str | None = setting(None, help="column of labels: words or whole numbers; null: label or class")
    document_column: str | None = setting(
        None, help="column that names the document a text comes from; null: equal texts are one document"
    )
    source_column: str | None = setting(
        None, help="column that names who a text comes from, where a recipe weighs sources; null: nobody says"
    )
    split: str = setting("train", help="published split to train on, or all; data without splits is train")
    test_split: str | None = setting(
        None, help="published split to test on; null: test, else validation, else test_fraction of split"
    )
    on_error: str = setting(
        "fail", help="a row that cannot be used stops the run, or is left out and counted", choices=("fail", "skip")
    )

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"labelled texts of {self.path}"

    @property
    def described(self) -> str:
        """The same, by the name that it has in sets that ship."""
        return self.description

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings, as (key, message)."""
        missing = [("path", "is missing; type data.path=FILE, FOLDER or a datasets name")] if self.path is None else []
        return [*missing, *test_split_problems(self.split, self.test_split, self.test_fraction)]
