"""Config of what is searched, and of what a retriever is trained on. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from recipes.core.config.settings import DATA_CONTENT, TrainerConfig, setting

QUERY_KINDS = ("description", "first_sentence", "title")
JUDGED = "RR@10"  # the measure of claims
MEASURES = (JUDGED, "nDCG@10", "R@100")
RANKING_METRICS = ("RR*", "nDCG*", "R@*", "AP*", "P@*", "Success*", "*@*")  # of a card: whatever ir_measures names


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What every collection has."""

    queries: int | None = setting(
        200, help="queries that the run's seed draws at most; null: all", unit="queries", ge=1
    )
    measures: tuple[str, ...] = setting(
        MEASURES, help="measures of a ranking by the names of ir_measures; claims are judged by RR@10"
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        from recipes.core.search.measure_names import wrong_measures

        problems = wrong_measures(self.measures)
        if not problems and JUDGED not in self.measures:
            problems.append(f"lacks {JUDGED}, by which claims are judged; type it beside the others")
        return [("measures", problem) for problem in problems]

    def depth_problems(self, key: str, depth: int) -> list[tuple[str, str]]:
        """A ranking that ends above the place at which a measure is cut would be measured as if nothing came after it.

        Args:
            key: Of the config, that says how long rankings are.
            depth: Its value, in passages.
        """
        cuts = [(int(cut), name) for name in self.measures if (cut := name.partition("@")[2]).isdecimal()]
        deepest, name = max(cuts, default=(0, ""))
        return [(key, f"ends above the cut of {name}; type {key}={deepest}")] if deepest > depth else []


@dataclass(frozen=True, kw_only=True)
class WikiSearchConfig(SearchConfig):
    """Leads of English Wikipedia (asset wiki-leads); a query describes an article, whose title its passage hides."""

    name: str = setting("wiki-search", help="data set", choices=("wiki-search",))
    query: str = setting(
        "description", help="what is asked: the article's description, its first sentence, its title; the passage is "
        "the rest of the lead", choices=QUERY_KINDS,
    )  # fmt: skip
    sentences: int = setting(3, help="leads with fewer are left out", unit="sentences", ge=2)
    test_fraction: float = setting(0.5, help="share of the passages whose queries are tested on", gt=0, lt=1)
    described: ClassVar[str] = "leads of English Wikipedia (asset wiki-leads)"

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"{self.described}, asked for by {self.query.replace('_', ' ')}"


@dataclass(frozen=True, kw_only=True)
class CollectionConfig(SearchConfig):
    """Your own collection in the layout of BEIR: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv."""

    name: str = setting("collection", help="data set", choices=("collection",))
    path: str | None = setting(
        None, help="folder in the layout of BEIR, or such a name of the hub (BeIR/scifact)", content=DATA_CONTENT
    )
    split: str = setting("test", help="judgements that are tested on: qrels/SPLIT.tsv")
    train_split: str | None = setting(
        None, help="judgements that are trained on, where a method trains; null: train, if there is one"
    )
    on_error: str = setting(
        "fail", help="a row that cannot be used stops the run, or is left out and counted", choices=("fail", "skip")
    )

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"collection {self.path}, judgements of {self.split}"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        missing = [] if self.path else [("path", "is missing; type data.path=FOLDER in the layout of BEIR")]
        same = [("train_split", "is what is tested on")] if self.train_split == self.split else []
        return [*super().check(), *missing, *same]


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """What a retriever is trained on: queries, each with a relevant passage and negatives."""

    queries: int | None = setting(
        None, help="queries that the run's seed draws at most from those that are not tested on; null: all",
        unit="queries", ge=1,
    )  # fmt: skip
    negatives: int = setting(
        1, help="passages beside a query's own that BM25 ranks high and nobody judged relevant; those of the other "
        "queries of the batch are negatives as well", unit="passages", ge=0,
    )  # fmt: skip
    depth: int = setting(30, help="how many passages of BM25 they are drawn from", unit="passages", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        short = self.depth < self.negatives
        return [("depth", f"is less than negatives={self.negatives}; type a larger pairs.depth")] if short else []


def in_batch_problems(trainer: TrainerConfig) -> list[tuple[str, str]]:
    """What a loss over all queries and passages of a batch cannot be trained with."""
    if trainer.processes == 1:
        return []
    key = trainer.processes_key
    return [(key, f"negatives are those of one process; type {key}=1 and a micro_batch_size")]
