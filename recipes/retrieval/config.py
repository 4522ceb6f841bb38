"""Config that recipes of this family share: what is searched, and which passages are candidates. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from recipes.core.config.settings import DATA_CONTENT, MODEL_CONTENT, SEEDS, RunConfig, TrainerConfig, setting
from recipes.core.models.config import MiniLMConfig

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
        from recipes.retrieval.measure_names import wrong_measures

        problems = wrong_measures(self.measures)
        if not problems and JUDGED not in self.measures:
            problems.append(f"lacks {JUDGED}, by which claims are judged; type it beside the others")
        return [("measures", problem) for problem in problems]


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
class FirstStageConfig:
    """Where the candidates of a query come from, and in which order they are handed on."""

    name: str = setting(
        "bm25", help="bm25; dense: cosines of a sentence encoder; run: a TREC run of yours",
        choices=("bm25", "dense", "run"),
    )  # fmt: skip
    candidates: int = setting(100, help="passages of each query", unit="passages", ge=1)
    order: str = setting(
        "ranked", help="how they are handed on: the best first, or shuffled by the seed (a control)",
        choices=("ranked", "shuffled"),
    )  # fmt: skip
    gold: str = setting(
        "as_it_comes", help="queries whose candidates hold no relevant passage: kept, or left out and counted",
        choices=("as_it_comes", "required"),
    )  # fmt: skip
    k1: float = setting(1.5, help="bm25: how soon repeated terms stop to count", gt=0)
    b: float = setting(0.75, help="bm25: how much long passages are discounted", ge=0, le=1)
    encoder: str | None = setting(
        None, help="dense: folder or hub name of a BERT-type sentence encoder; null: all-MiniLM-L6-v2",
        content=MODEL_CONTENT,
    )  # fmt: skip
    path: str | None = setting(None, help="run: file of a TREC run", content=DATA_CONTENT)
    seed: int | None = setting(None, help="of the shuffled order; null: that of the run", ge=0, lt=SEEDS)

    @property
    def description(self) -> str:
        """What a dry run announces."""
        source = {"bm25": "BM25", "dense": self.encoder or "all-MiniLM-L6-v2", "run": self.path}[self.name]
        return f"{self.candidates:,} passages by {source}{', shuffled' * (self.order == 'shuffled')}"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.name == "run" and self.path is None:
            return [("path", "is missing; type first_stage.path=FILE of a TREC run")]
        if self.name != "run" and self.path is not None:
            return [("path", f"is for first_stage=run, not {self.name}; type first_stage.name=run")]
        return []


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """An encoder of tokens that is trained."""

    query_tokens: int = setting(32, help="longer queries are cut; CLS and SEP count", unit="tokens", ge=3)
    passage_tokens: int = setting(96, help="longer passages are cut; CLS and SEP count", unit="tokens", ge=3)
    trainable_layers: int | None = setting(
        2, help="layers from the top that are trained; null: all, embeddings too", unit="layers", ge=0
    )
    batch_tokens: int = setting(
        8192, help="padded tokens of a forward without gradient; changes nothing beyond rounding", unit="tokens", ge=1
    )


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


@dataclass(frozen=True, kw_only=True)
class EncoderRunConfig(RunConfig):
    """What runs share that train an encoder of tokens on pairs of a collection."""

    data: WikiSearchConfig | CollectionConfig = setting(help="collection")
    model: MiniLMConfig = setting(help="encoder")
    encoder: EncoderConfig = setting(EncoderConfig(), help="encoder of tokens")
    pairs: PairsConfig = setting(PairsConfig(), help="training pairs")


def keys_of_no_use(config: Any, rules: Sequence[tuple[str, bool, str]]) -> list[tuple[str, str]]:
    """Keys that have another value than their default and change nothing in a run, though they may in other arms.

    Only for keys that no budget and no kind of data presets: what these preset nobody has typed.

    Args:
        config: Of the run.
        rules: (section.key, whether the run reads it, why it does not).

    Returns:
        (section.key, why).
    """
    idle = []
    for key, read, why in rules:
        section, _, name = key.partition(".")
        part = getattr(config, section)
        if not read and getattr(part, name) != getattr(type(part)(), name):
            idle.append((key, why))
    return idle


def in_batch_problems(trainer: TrainerConfig) -> list[tuple[str, str]]:
    """What a loss over all queries and passages of a batch cannot be trained with."""
    if trainer.nproc == 1:
        return []
    return [("trainer.nproc", "negatives are those of one process; type trainer.nproc=1 and a micro_batch_size")]
