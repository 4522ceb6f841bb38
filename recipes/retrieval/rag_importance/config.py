"""Config and card of the recipe `rag-importance`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import EQUIVALENCE, Card, Claim, UntrainedConfig, setting
from recipes.core.data.tasks.labelled_config import LabelledTextsConfig, WikiTopicsConfig

METRIC = "accuracy"
RAW, NOISE, FAKE, AUTO = "raw", "noise", "fake", "auto"
LEARNT = "multilinear"
METHODS = (LEARNT, "loo", "shapley_knn", "shapley_sampled", "count", "truth")


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Who passages come from, and what is spoiled on purpose."""

    corruption: str = setting(
        AUTO, help="raw: labels as they are; noise: sources give wrong labels, each at its rate; fake: more sources "
        "that copy passages and give wrong labels; auto: raw where data.source_column names sources, else noise",
        choices=(AUTO, RAW, NOISE, FAKE),
    )  # fmt: skip
    sources: int = setting(50, help="that passages are spread over where data name none", unit="sources", ge=2)
    accuracies: tuple[float, ...] = setting(
        (0.2, 0.4, 0.6, 0.8, 1.0), help="noise: shares of right labels, for as many groups of sources", ge=0, le=1,
        origin="code",
    )  # fmt: skip
    fakes: int = setting(10, help="fake: sources that are added", unit="sources", ge=1)
    copied: float = setting(0.5, help="fake: share of the passages that are copied", gt=0, le=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.accuracies else [("accuracies", "is empty; type [0.5, 1.0], or others")]


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """What is retrieved for a question, and how much of it is used."""

    name: str = setting("tfidf", help="cosines of TF-IDF, or BM25", choices=("tfidf", "bm25"))
    items: int = setting(50, help="M: passages that are retrieved", unit="passages", ge=1)
    used: int = setting(10, help="K: passages that vote", unit="passages", ge=1, origin="paper")

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"{self.items} passages by {self.name}, of which {self.used} vote"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [("used", f"cannot be more than items={self.items}")] if self.used > self.items else []


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig:
    """Questions: texts whose label is asked for. They are no passages."""

    weights: int = setting(
        500, help="that weights are learnt from, a quarter of the texts at most", unit="questions", ge=1
    )
    threshold: int = setting(
        250, help="others, that the share to remove is chosen by; an eighth at most", unit="questions", ge=1
    )
    test: int = setting(500, help="that are tested on, at most", unit="questions", ge=1)


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """What a source is worth."""

    method: str = setting(
        LEARNT, help="multilinear: ascent of the expected utility of random sub-corpora; loo: right votes lost without "
        "the source; shapley_knn: Shapley values of K nearest neighbours; shapley_sampled: the same from drawn "
        "sub-corpora; count: how often it is retrieved; truth: its share of right labels, where it is known",
        choices=METHODS,
    )  # fmt: skip
    form: str = setting("a", help="of the exact gradient: a, ours; b, as the official code", choices=("a", "b"))
    approximation: str = setting(
        "none", help="of the gradient: truncate lists where K + 1 items exist but for epsilon; sample sub-corpora",
        choices=("none", "truncate", "sample"),
    )  # fmt: skip
    epsilon: float = setting(0.1, help="error that an approximation allows in K times the gradient", gt=0, lt=1)
    delta: float = setting(0.1, help="sample: probability of a larger error", gt=0, lt=1)
    grouping: str = setting(
        "mean_after_step", help="passages take steps and sources are their mean, or share one parameter",
        choices=("mean_after_step", "shared"), origin="code",
    )  # fmt: skip
    steps: int = setting(50, help="of gradient ascent", unit="steps", ge=1, origin="code")
    rate: float = setting(0.2, help="of a step, times questions x K", gt=0)
    draws: int = setting(200, help="shapley_sampled: sub-corpora of a list", unit="draws", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        both = self.form == "b" and self.approximation != "none"
        return [("form", "b is exact; type weights.form=a, or weights.approximation=none")] if both else []


@dataclass(frozen=True, kw_only=True)
class UseConfig:
    """What weights are used for."""

    name: str = setting(
        "prune", help="prune: the lowest sources go; random: drawn ones, of as many items; reweight: sources stay with "
        "a probability of their weight; none: all stay", choices=("prune", "random", "reweight", "none"),
    )  # fmt: skip
    shares: tuple[float, ...] = setting(
        (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), help="of retrieved items to remove; the one with the most "
        "right votes is taken, of equal ones the largest", ge=0, lt=1, origin="code",
    )  # fmt: skip
    threshold: str = setting(
        "held_out", help="whose votes choose the share: other questions, or those that weights were learnt from too",
        choices=("held_out", "same"),
    )  # fmt: skip
    unseen: str = setting(
        "keep", help="sources that nothing was retrieved of when weights were learnt", choices=("keep", "drop"),
        origin="code",
    )  # fmt: skip
    draws: int = setting(32, help="reweight: sub-corpora that vote", unit="draws", ge=1, origin="code")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.shares else [("shares", "is empty; type [0.0, 0.5], or others")]


@dataclass(frozen=True, kw_only=True)
class RAGImportanceConfig(UntrainedConfig):
    """Config of one `rag-importance` run."""

    data: WikiTopicsConfig | LabelledTextsConfig = setting(help="texts with a label each")
    corpus: CorpusConfig = setting(CorpusConfig(), help="sources")
    retrieval: RetrievalConfig = setting(RetrievalConfig(), help="retrieval")
    questions: QuestionsConfig = setting(QuestionsConfig(), help="questions")
    weights: WeightsConfig = setting(WeightsConfig(), help="weights of sources")
    use: UseConfig = setting(UseConfig(), help="use of weights")

    @property
    def corruption(self) -> str:
        """What is done to the corpus, with auto resolved."""
        if self.corpus.corruption != AUTO:
            return self.corpus.corruption
        return RAW if self.source_column else NOISE

    @property
    def source_column(self) -> str | None:
        """The user's column of sources."""
        return self.data.source_column if isinstance(self.data, LabelledTextsConfig) else None

    @property
    def needs_torch(self) -> bool:
        """BM25 stands in a module that knows encoders, too."""
        return self.retrieval.name == "bm25"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.use.name == "reweight" and self.weights.method != LEARNT:
            return [("use.name", f"reweight takes weights for probabilities; type weights.method={LEARNT}")]
        return []

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        data = self.data.described
        return [
            ("data", data),
            ("corpus", f"{self.corruption}, sources: {self.source_column or self.corpus.sources}"),
            ("retrieval", self.retrieval.description),
            ("weights", f"{self.weights.method}, used to {self.use.name}"),
        ]


CONFIG = RAGImportanceConfig

CARD = Card(
    title="Data importance for retrieval: sources weighed by the multilinear extension",
    paper="arXiv 2307.03027 (Lyu, Grafberger, Biegel, Wei, Cao, Schelter, Zhang; 2023)",
    weights="sources of retrieved passages, by what they add to the expected utility of random sub-corpora",
    summary="Each source exists with a probability, its weight. The expected share of right passages among the first K "
    "that exist is exact and linear in each weight, so that its gradient is cheap; 50 steps uphill on some questions "
    "weigh all sources, and the lowest are removed. No model is trained.",
    claim=Claim(
        statement="Removing the sources of low weight makes more answers right than keeping all",
        metric=METRIC,
        arm="prune",
        baseline="none",
        direction=1,
        published=".3347 against .2699 with planted noise (GPT-JT 6B, 70 relations of WikiFact, 64 seeds)",
        minimal_effect=0.02,
    ),
    claims=(
        Claim(
            statement="It makes more answers right than removing sources by leave-one-out",
            metric=METRIC,
            arm="prune",
            baseline="loo",
            direction=1,
            published=".3347 against .3114",
            minimal_effect=0.01,
        ),
        Claim(
            statement="It makes more answers right than removing as much at random",
            metric=METRIC,
            arm="prune",
            baseline="random_prune",
            direction=1,
            published="no such baseline in the paper",
            minimal_effect=0.02,
        ),
        Claim(
            statement="Where all sources are alike nothing is gained or lost",
            metric=METRIC,
            arm="raw_prune",
            baseline="raw_none",
            direction=1,
            published="a control of ours; the paper's raw web has bad sources, and gains",
            minimal_effect=0.02,
            kind=EQUIVALENCE,
        ),
    ),
    cost="retrieval of M passages a question, then 50 steps of N x M x K multiply-adds; no model",
    pair_keys=("arm", "corpus", "weights", "use"),
    version=1,
    control="random_prune",
    headlines=(METRIC, "precision"),
    price=("removed",),
    trains=False,
    metrics=(METRIC, "accuracy/threshold", "utility", "removed", "precision", "recall"),
)
