"""Config that recipes of this family share: candidates and encoders of tokens. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recipes.core.config.settings import DATA_CONTENT, MODEL_CONTENT, SEEDS, RunConfig, setting
from recipes.core.models.config import MiniLMConfig
from recipes.core.search.config import CollectionConfig, PairsConfig, WikiSearchConfig


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
