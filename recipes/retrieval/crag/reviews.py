"""Reviews of products: those of the asset `vader-reviews`, or a user's rows."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from recipes.core.data.files.json_records import Bad, excerpt, is_unicode
from recipes.core.data.files.records import BadRow, judge, open_records
from recipes.core.data.tasks.labelled import label_name
from recipes.core.errors import UserError
from recipes.core.search.leads import sentences
from recipes.core.storage.assets import asset_path
from recipes.retrieval.crag.config import ProductReviewsConfig, ReviewsConfig

FILE = "amazonReviewSnippets_GroundTruth.txt"
# The last review of each product, read off the texts: ids of a product follow each other.
LAST = {"DVD player": 98, "Canon camera": 143, "Nikon camera": 175, "Nokia phone": 215, "music player": 309}
PRODUCTS, TEXTS, RATINGS = ("product", "asin", "item"), ("text", "review", "content"), ("rating", "score", "stars")


@dataclass(frozen=True)
class Review:
    """One review.

    Attributes:
        product: Of what.
        sentences: What it says.
        rating: Of its writer, or of people who read it; None where there is none.
    """

    product: str
    sentences: tuple[str, ...]
    rating: float | None

    @property
    def text(self) -> str:
        """What it says."""
        return " ".join(self.sentences)


def load_reviews(config: ProductReviewsConfig | ReviewsConfig) -> dict[str, list[Review]]:
    """Product -> its reviews, in the order of the data.

    Raises:
        UserError: the asset cannot be had, or the user's rows cannot be used.
    """
    reviews = list(_rows(config)) if isinstance(config, ReviewsConfig) else _amazon()
    products: dict[str, list[Review]] = {}
    for review in reviews:
        products.setdefault(review.product, []).append(review)
    if config.reviews is not None:
        products = {name: those[: config.reviews] for name, those in products.items()}
    return products


def _amazon() -> list[Review]:
    """A review's rating is the mean over its sentences of what twenty people felt in each, in [-4, 4]."""
    parts_of: dict[int, list[tuple[str, float]]] = {}
    text = (asset_path("vader-reviews") / FILE).read_text(encoding="utf-8-sig")
    for line in text.splitlines():
        if line.strip():
            id, score, sentence = line.split("\t", 2)
            parts_of.setdefault(int(id.split("_")[0]), []).append((" ".join(sentence.split()), float(score)))
    reviews = []
    for number, parts in sorted(parts_of.items()):
        product = next(name for name, last in LAST.items() if number <= last)
        rating = sum(score for _, score in parts) / len(parts)
        reviews.append(Review(product, tuple(sentence for sentence, _ in parts if sentence), rating))
    return reviews


def _rows(config: ReviewsConfig) -> Iterator[Review]:
    where = f"data.path={config.path}"
    records = open_records(str(config.path), format=config.format)
    table = records.table(config.split)
    names = [
        table.pick(config.product_column, PRODUCTS, "data.product_column"),
        table.pick(config.text_column, TEXTS, "data.text_column"),
    ]
    ratings = [name for name in RATINGS if name in table.columns]
    if config.rating_column is not None or ratings:
        names.append(table.pick(config.rating_column, RATINGS, "data.rating_column"))
    bad, reviews = list[str](), list[Review]()
    for number, record in enumerate(table.rows(names)):
        try:
            reviews.append(_review(record, names))
        except BadRow as error:
            bad.append(f"{table.place(number)}: {error}")
    judge(bad, len(reviews) + len(bad), where, config.on_error)
    if not reviews:
        raise UserError(
            "holds no review", where, 'a row is {"product": NAME, "text": TEXT}, with "rating" where wanted'
        )
    yield from reviews


def _review(record: Any, names: Sequence[str]) -> Review:
    if isinstance(record, Bad):
        raise BadRow(str(record))
    product, text, *rating = (record.get(name) for name in names)
    name = label_name(product)
    if name is None:
        raise BadRow(f"its product is {excerpt(product)}, no word and no whole number")
    if not isinstance(text, str) or not text.strip():
        raise BadRow("its text is missing or blank" if text is None or isinstance(text, str) else "its text is no text")
    if not is_unicode(text):
        raise BadRow("its text holds half of a surrogate pair")
    return Review(name, tuple(sentences(text)), _rating(rating[0] if rating else None))


def _rating(value: Any) -> float | None:
    """A rating; cells of CSV are texts, and an empty one is none. Raises BadRow: it is no finite number."""
    if value is None or value == "":
        return None
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRow(f"its rating is {excerpt(value)!r}, no number")
    return number
