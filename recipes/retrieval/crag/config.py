"""Config and card of the recipe `crag`. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from recipes.core.config.settings import (
    DATA_CONTENT,
    EQUIVALENCE,
    EXAMPLE_UNIT,
    MODEL_CONTENT,
    Card,
    Claim,
    UntrainedConfig,
    setting,
)
from recipes.core.models.config import CausalLMConfig, SmolLM2TextConfig
from recipes.core.training.toys.config import ToyLMConfig

COVERAGE, SAVED, RATING_ERROR = "coverage", "saved", "rating_error"
QUESTION = "What do buyers praise about this product, and what do they complain about?"
CLUSTERED = ("medoid", "sentences", "summary")  # contexts with one text, or some, a cluster
WRITTEN = ("summary", "summary_all")  # contexts that a language model writes
CONTEXTS = (*CLUSTERED, "summary_all", "all", "top", "random_k", "global_top", "first_k", "none")


@dataclass(frozen=True, kw_only=True)
class ProductReviewsConfig:
    """300 Amazon reviews of five products (asset vader-reviews), each sentence scored by twenty people."""

    name: str = setting("product-reviews", help="data set", choices=("product-reviews",))
    reviews: int | None = setting(None, help="of each product, the first ones; null: all", unit="reviews", ge=2)
    described: ClassVar[str] = "300 reviews of five products (asset vader-reviews)"

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return self.described


@dataclass(frozen=True, kw_only=True)
class ReviewsConfig:
    """Your own reviews: rows with a product, a text and, where there is one, a rating."""

    name: str = setting("reviews", help="data set", choices=("reviews",))
    path: str | None = setting(None, help="file, folder or datasets name", content=DATA_CONTENT)
    format: str = setting("auto", help="auto: from the path", choices=("auto", "jsonl", "parquet", "csv", "datasets"))
    product_column: str | None = setting(None, help="column of products; null: product, asin or item")
    text_column: str | None = setting(None, help="column of texts; null: text, review or content")
    rating_column: str | None = setting(None, help="column of ratings; null: rating, score or stars, if there is one")
    split: str = setting("train", help="published split, or all; data without splits is train")
    reviews: int | None = setting(None, help="of each product, the first ones; null: all", unit="reviews", ge=2)
    on_error: str = setting(
        "fail", help="a row that cannot be used stops the run, or is left out and counted", choices=("fail", "skip")
    )

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"reviews of {self.path}"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.path else [("path", "is missing; type data.path=FILE, FOLDER or a datasets name")]


@dataclass(frozen=True, kw_only=True)
class DrawsConfig:
    """Which reviews are retrieved."""

    sizes: tuple[int, ...] | None = setting(
        (10, 25, 75), help="reviews of a draw; null: all of the product, once; products with fewer are left out there",
        unit="reviews", ge=2,
    )  # fmt: skip
    each: int = setting(20, help="draws of each product and size", unit="draws", ge=1)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What makes vectors of texts."""

    path: str | None = setting(
        None, help="folder or hub name of a BERT-type sentence encoder; null: all-MiniLM-L6-v2", content=MODEL_CONTENT
    )
    max_tokens: int | None = setting(256, help="longer texts are cut; null: as the encoder was trained", ge=3)


@dataclass(frozen=True, kw_only=True)
class ClustersConfig:
    """How reviews are divided."""

    name: str = setting(
        "kmeans", help="kmeans; agglomerative: Ward's linkage; random: sizes of kmeans, members drawn (a control)",
        choices=("kmeans", "agglomerative", "random"),
    )  # fmt: skip
    rule: str = setting(
        "fixed", help="how many: k, or sqrt(n / 2), or of 2 to 8 those with the best silhouette",
        choices=("fixed", "sqrt", "silhouette"),
    )  # fmt: skip
    k: int = setting(4, help="clusters; for contexts without clusters: texts", unit="clusters", ge=1)
    empty: str = setting(
        "reseed", help="an empty cluster starts anew at the farthest point, or goes", choices=("reseed", "drop")
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.rule == "silhouette" and self.name != "kmeans":
            return [("rule", "silhouette is for kmeans; type clusters.rule=fixed")]
        return []


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """What of the reviews stands in the prompt."""

    name: str = setting(
        "medoid", help="medoid: of each cluster the review next to its mean; sentences: its three sentences next to "
        "it; summary: its summary by the model; summary_all: one summary; all: every review; top: those next to the "
        "question; random_k, global_top (next to the mean of all), first_k: as many reviews as clusters; none",
        choices=CONTEXTS,
    )  # fmt: skip
    cap: int = setting(64, help="tokens of a text, at most", unit="tokens", ge=1)
    sentences: int = setting(3, help="sentences: of each cluster", unit="sentences", ge=1)
    show_counts: bool = setting(True, help="texts of clusters say how many reviews they stand for")
    words: int = setting(60, help="summary: words that the model is asked for, at most", unit="words", ge=1)
    summary_tokens: int = setting(96, help="summary: tokens that the model writes, at most", unit="tokens", ge=1)
    amortise_over: int = setting(1, help="summary: questions that one set of summaries answers", unit="questions", ge=1)


@dataclass(frozen=True, kw_only=True)
class AnswersConfig:
    """Whether the model answers, and what it is asked."""

    write: bool = setting(False, help="the model answers from each context and from all reviews, greedily")
    question: str = setting(QUESTION, help="what is asked; also what context.name=top looks for")
    max_tokens: int = setting(80, help="of an answer", unit="tokens", ge=1)
    batch_size: int = setting(4, help="prompts that are answered at once", unit="prompts", ge=1)


@dataclass(frozen=True, kw_only=True)
class CRAGConfig(UntrainedConfig):
    """Config of one `crag` run."""

    data: ProductReviewsConfig | ReviewsConfig = setting(help="reviews")
    model: ToyLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model: its tokens are counted")
    draws: DrawsConfig = setting(DrawsConfig(), help="draws of reviews")
    encoder: EncoderConfig = setting(EncoderConfig(), help="sentence encoder")
    clusters: ClustersConfig = setting(ClustersConfig(), help="clusters")
    context: ContextConfig = setting(ContextConfig(), help="context")
    answers: AnswersConfig = setting(AnswersConfig(), help="answers")

    @property
    def asks_model(self) -> bool:
        """Whether the language model itself is loaded, beside its tokenizer."""
        return self.answers.write or self.context.name in WRITTEN

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        return [
            ("data", self.data.description),
            ("context", f"{self.context.name}, {self.clusters.k} texts of {self.context.cap} tokens"),
            ("model", f"{self.model.description}{'' if self.asks_model else ' (its tokenizer)'}"),
        ]


CONFIG = CRAGConfig

CARD = Card(
    title="CRAG: one text a cluster in place of all retrieved reviews",
    paper="arXiv 2406.00029 (Akesson, Santos; 2024)",
    weights="retrieved reviews: one of each cluster stands for the others, with their number",
    summary="Reviews of a product are embedded and divided by k-means; a prompt holds one text of each cluster, with "
    "the number of reviews that it stands for. Measured without a language model: how near reviews lie to a kept one, "
    "the tokens saved, and the mean rating that the prompt tells.",
    claim=Claim(
        statement="The reviews in the middle of clusters cover all reviews better than drawn ones of as many tokens",
        metric=COVERAGE,
        arm="crag_medoid",
        baseline="random_k",
        direction=1,
        published="no such comparison; a pilot of ours had .701 against .655 for 25 reviews",
        minimal_effect=0.02,
        unit=EXAMPLE_UNIT,
    ),
    claims=(
        Claim(
            statement="They save tokens of the prompt",
            metric=SAVED,
            arm="crag_medoid",
            baseline="all",
            direction=1,
            published="at least 46%, 90.9% for 75 reviews (with summaries)",
            minimal_effect=0.46,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="Clusters matter: random ones of the same sizes cover less",
            metric=COVERAGE,
            arm="crag_medoid",
            baseline="random_clusters",
            direction=1,
            published="no such control in the paper",
            minimal_effect=0.02,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="The mean rating that sizes of clusters tell is no nearer to that of all reviews, and no farther",
            metric=RATING_ERROR,
            arm="crag_medoid",
            baseline="random_k",
            direction=-1,
            published="not in the paper; a pilot of ours had .43 against .41 for 25 reviews",
            minimal_effect=0.1,
            unit=EXAMPLE_UNIT,
            kind=EQUIVALENCE,
        ),
    ),
    cost="one encoder pass over all reviews, once for all arms; k-means of a product takes milliseconds",
    pair_keys=("arm", "clusters", "context"),
    version=1,
    control="random_clusters",
    headlines=(COVERAGE, SAVED, RATING_ERROR),
    price=(RATING_ERROR,),
    trains=False,
    metrics=(
        f"{COVERAGE}*", f"{SAVED}*", f"{RATING_ERROR}*", "tokens", "tokens@*", "tokens_in_all*", "break_even*",
        "clusters", "answer_*", "fallbacks",
    ),
)  # fmt: skip
