"""DSIR as an experiment: score a pool, select from it, and train a language model on the selection.

A run that only selects imports no torch: what a language model needs is in `downstream`.
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recipes.core.data.text.corpora import Corpus
from recipes.core.data.text.documents import open_documents
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.recipe import Evaluation
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json, share_file
from recipes.pretraining.dsir import method, selection
from recipes.pretraining.dsir.config import SHARE, DsirConfig, SelectConfig
from recipes.pretraining.dsir.corpora import Corpora, open_corpora
from recipes.pretraining.dsir.output import write_selection
from recipes.pretraining.dsir.selection import Features, Scored, Workers

if TYPE_CHECKING:
    from recipes.core.training.task import Training
    from recipes.pretraining.dsir.downstream import Texts

FILE = "selection.jsonl"
CLASSIFIED = 4  # documents of the pool for each of the target's that the classifier is trained on
DOMAINS_SHOWN = 20
QUANTILES = np.linspace(0, 1, 41)
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """A selection and how it was made.

    Attributes:
        scores: Quantiles of the scores of the pool and of the selection, for the report.
        file: The selected documents with their scores, one a line.
        kl_reduction: How much nearer to the (held-out) target the selection is than the pool, in nats.
        domains: Selected documents by domain.
        texts: What a language model is trained and tested on; None if none is trained.
        device: Where to train.
    """

    scores: Plot
    file: Path
    kl_reduction: float
    domains: Counter[str]
    texts: "Texts | None"
    device: str


class DsirRecipe:
    """Hashed n-gram importance resampling, its ablations and the classifier it is compared with."""

    def prepare(self, config: DsirConfig, device: str) -> Prepared:
        """Score the pool (cached per shard) and select. Raises UserError on bad data."""
        corpora, select = open_corpora(config), config.select
        features, workers = Features(select.buckets, select.ngrams), Workers(select.processes, select.backend)
        target, raw = (selection.count(corpus, features, workers) for corpus in (corpora.target, corpora.pool))
        for name, counts in (("target", target), ("source", raw)):
            counts.skipped.warn(f"data.{name}={getattr(config.data, name)}")
        ratio = selection.fit_log_ratio(target, raw, select.smoothing)
        random = np.random.default_rng(config.seed)
        scorer: Any = ratio
        if select.method.startswith("heuristic"):
            scorer = _classifier(corpora, features, workers, target, raw, config.seed)
        scored = selection.score(corpora.pool, features, scorer, select.quality, workers)
        size = select.n or max(1, round(SHARE * len(scored.eligible(select.min_words))))
        chosen = selection.select(scored, selection_keys(select, scored, random), size, select.min_words)
        file = _write(corpora, scored.scores[chosen], selection.split_by_shard(chosen, raw.documents), workers)
        selected = Corpus(tuple(open_documents(str(file), key="select.n").shards))
        judged = selection.count(corpora.target_test, features, workers).ngrams
        if not judged.any():
            judged = target.ngrams  # too few documents to hold one out
        taken = selection.count(selected, features, workers).ngrams
        selection.forget_ngrams()
        reduction = method.kl_reduction(*(method.fit(counts) for counts in (judged, raw.ngrams, taken)))
        domains = Counter(document.domain for document in selected.documents())
        texts = None
        if config.downstream == "lm":
            from recipes.pretraining.dsir import downstream

            texts = downstream.prepare(config, corpora, selected)
        return Prepared(_score_plot(scored.scores, chosen), file, reduction, domains, texts, device)

    def build(self, config: DsirConfig, prepared: Prepared) -> "Training | None":
        """The language model on the selection, for the same number of tokens in every arm; None if none is trained."""
        if prepared.texts is None:
            return None
        from recipes.pretraining.dsir import downstream

        return downstream.build(config, prepared.texts)

    def watch(self, config: DsirConfig, prepared: Prepared, model: Any) -> Scores:
        """NLL of held-out text of the target and of the pool."""
        from recipes.pretraining.dsir import downstream

        assert prepared.texts is not None
        return downstream.watch(config, prepared.texts, model, prepared.device)

    def answering(self, prepared: Prepared, model: Any) -> tuple[Any, Any]:
        """The model and its tokenizer, for the user's own questions."""
        return model, prepared.texts.tokenizer if prepared.texts else None

    def evaluate(self, config: DsirConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """KL reduction, where the selection comes from, the model's losses, and the selection as a file."""
        scores = curve[max(curve)] if model is not None else Scores()
        metrics = scores.overall() | {"kl_reduction": prepared.kl_reduction}
        scores.define("kl_reduction", "KL reduction towards the target (nats)", higher_is_better=True)
        for domain, number in prepared.domains.most_common(DOMAINS_SHOWN):
            if domain:
                title = f"share of the selection that comes from {domain}"
                scores.define(f"selected/{domain}", title, higher_is_better=domain == config.data.target_domain)
                metrics[f"selected/{domain}"] = number / prepared.domains.total()
        files = {FILE: partial(share_file, prepared.file)}
        return Evaluation(metrics, scores, plots=[prepared.scores], files=files)


def selection_keys(config: SelectConfig, scored: Scored, random: np.random.Generator) -> NDArray[np.float64]:
    """Keys [documents] of the pool; the documents with the largest are selected.

    Args:
        config: Method, temperature, length normalisation.
        scored: Log-weights, or the classifier's P(target).
        random: Draws one number for each document, in corpus order.
    """
    if config.method == "random":
        return method.gumbel_keys(np.zeros_like(scored.scores), random)
    if config.method == "heuristic_cls":
        return method.pareto_keys(scored.scores, random)
    if config.method == "heuristic_cls_topk":
        return scored.scores
    weights = scored.scores
    if config.length_normalize:
        weights = method.length_normalize(weights, scored.lengths, config.ngrams)
    return weights if config.method == "dsir_topk" else method.gumbel_keys(weights, random, config.temperature)


def _classifier(
    corpora: Corpora,
    features: Features,
    workers: Workers,
    target: selection.Counts,
    raw: selection.Counts,
    seed: int,
) -> Any:
    """A classifier of target against a random part of the pool."""
    from recipes.pretraining.dsir.heuristic import train_classifier  # scikit-learn

    everything = [np.arange(count) for count in target.documents]
    size = min(CLASSIFIED * int(target.documents.sum()), int(raw.documents.sum()))
    drawn = np.sort(np.random.default_rng(seed).choice(int(raw.documents.sum()), size=size, replace=False))
    some = selection.split_by_shard(drawn, raw.documents)
    return train_classifier(
        selection.sparse_chosen(corpora.target, features, everything, workers),
        selection.sparse_chosen(corpora.pool, features, some, workers),
        seed,
    )


def _write(corpora: Corpora, scores: NDArray[np.float64], by_shard: list[Integers], workers: Workers) -> Path:
    """The selection as a file, written once: what judges it and trains on it reads that, and not the pool again."""
    chosen = [sha256(part.tobytes()).hexdigest() for part in (*by_shard, scores)]

    def build(folder: Path) -> None:
        write_selection(folder / FILE, corpora.pool, by_shard, scores, workers)

    return build_once("selections", sha256_json([corpora.pool.fingerprint(), chosen]), build) / FILE


def _score_plot(scores: NDArray[np.float64], chosen: Integers) -> Plot:
    """Quantiles of the scores of the pool and of what was selected."""
    groups = {"pool": scores, "selected": scores[chosen]}
    series = {
        name: [(float(q), float(value)) for q, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)]
        for name, values in groups.items()
    }
    title = "Scores of the pool and of the selection"
    return Plot("scores", title, "share of the documents", "score (log-weight in nats, or P(target))", series)


RECIPE = DsirRecipe
