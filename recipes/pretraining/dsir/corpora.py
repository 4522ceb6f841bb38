"""Pools and targets as shards: documents held out by their id, cut into chunks, or from the domains that ship."""

from dataclasses import dataclass

from recipes.core.data.config import EMBEDDED_DOMAINS
from recipes.core.data.text.corpora import Chunked, Corpus, CorpusShard, DomainShard, Part, distinct
from recipes.core.data.text.documents import open_documents
from recipes.core.data.text.splits import TEST, TRAIN
from recipes.pretraining.dsir.config import DsirConfig, SelectionDataConfig

TARGET_SHARE = 0.4  # of the target domain's documents; the others are in the pool


@dataclass(frozen=True)
class Corpora:
    """What a selection reads.

    Attributes:
        pool: Documents to select from.
        target: Documents to resemble.
        target_test: Held-out target; the target itself where nothing is trained.
        pool_test: Held-out pool; empty where nothing is trained.
    """

    pool: Corpus
    target: Corpus
    target_test: Corpus
    pool_test: Corpus


def open_corpora(config: DsirConfig) -> Corpora:
    """The corpora of a run.

    Raises:
        UserError: a path is missing or cannot be read.
    """
    data, held_out = config.data, config.downstream == "lm"
    if data.source is None:
        raw, target = _from_domains(data)
    else:
        raw, target = _open(data, "source"), _open(data, "target")
    if not held_out:
        pool, sample = _cut(raw, data), _cut(target, data)
        return Corpora(pool, sample, sample, Corpus(()))
    evaluation = config.evaluation
    return Corpora(
        pool=_cut(_side(raw, evaluation.held_out_pool, TRAIN, "pool"), data),
        target=_cut(_side(target, evaluation.held_out, TRAIN, "target"), data),
        target_test=_cut(_side(target, evaluation.held_out, TEST, "target"), data),
        pool_test=_cut(_side(raw, evaluation.held_out_pool, TEST, "pool"), data),
    )


def _from_domains(data: SelectionDataConfig) -> tuple[list[CorpusShard], list[CorpusShard]]:
    """All domains; the target's documents are divided between the target and the pool, or are all the target's."""
    names = [name for name in EMBEDDED_DOMAINS if name != data.target_domain]
    shards = [DomainShard(name, data.characters) for name in (*names, data.target_domain)]
    *others, domain = distinct(shards, data.near_duplicates, f"data.target_domain={data.target_domain} and the pool")
    share = TARGET_SHARE
    target = [Part(domain, share, TEST, "sample")] if data.target_in_pool else [domain]
    rest: list[CorpusShard] = [Part(domain, share, TRAIN, "sample")] if data.target_in_pool else []
    return [*others, *rest], list(target)


def _open(data: SelectionDataConfig, name: str) -> list[CorpusShard]:
    path = str(getattr(data, name))
    documents = open_documents(
        path,
        key=f"data.{name}",
        format=data.format,
        text_column=data.text_column,
        domain_column=data.domain_column,
        split=data.split,
        on_error=data.on_error,
    )
    return distinct(documents.shards, data.near_duplicates, f"data.{name}={path}")


def _side(shards: list[CorpusShard], share: float, side: str, salt: str) -> list[CorpusShard]:
    return [Part(shard, share, side, salt) for shard in shards]


def _cut(shards: list[CorpusShard], data: SelectionDataConfig) -> Corpus:
    if data.chunk_words is None:
        return Corpus(tuple(shards))
    return Corpus(tuple(Chunked(shard, data.chunk_words) for shard in shards))
