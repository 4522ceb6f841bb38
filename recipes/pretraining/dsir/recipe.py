"""DSIR as an experiment: score a pool, select from it, and train a language model on the selection."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.core.data.text.corpora import Corpus
from recipes.core.data.text.documents import open_documents
from recipes.core.data.text.mixture import Mixture
from recipes.core.data.text.packed import PackedTexts, pack
from recipes.core.errors import UserError
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.evaluation.texts import sequence_nlls
from recipes.core.losses.objectives import IGNORE, WeightedCrossEntropy
from recipes.core.models import text as models
from recipes.core.models.run_models import describer
from recipes.core.recipe import Evaluation
from recipes.core.storage.cache import cached
from recipes.core.storage.files import sha256_json, share_file
from recipes.core.training.sequences import MixtureItems, sequence_collate
from recipes.core.training.trainer import Training
from recipes.pretraining.dsir import method, selection
from recipes.pretraining.dsir.config import SHARE, DsirConfig, SelectConfig
from recipes.pretraining.dsir.corpora import Corpora, open_corpora
from recipes.pretraining.dsir.heuristic import train_classifier
from recipes.pretraining.dsir.output import write_selection
from recipes.pretraining.dsir.selection import Features, Scored, Workers

SELECTED, TARGET, POOL = "selected", "target", "pool"
FILE = "selection.jsonl"
TOKENIZER_CHARACTERS = 20_000_000  # of target and pool that a tokenizer is trained on
CLASSIFIED = 4  # documents of the pool for each of the target's that the classifier is trained on
DOMAINS_SHOWN = 20
QUANTILES = np.linspace(0, 1, 41)
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """A selection and how it was made.

    Attributes:
        scored: Every document of the pool.
        chosen: Indices of the selected documents in the pool, ascending.
        file: The selected documents with their scores, one a line.
        kl_reduction: How much nearer to the (held-out) target the selection is than the pool, in nats.
        domains: Selected documents by domain.
        tokenizer: Of the language model; None if none is trained.
        packed: "selected/train", "target/test" and "pool/test"; None if no model is trained.
        device: Where to train.
    """

    scored: Scored
    chosen: Integers
    file: Path
    kl_reduction: float
    domains: Counter[str]
    tokenizer: Any
    packed: PackedTexts | None
    device: str


class DsirRecipe:
    """Hashed n-gram importance resampling, its ablations and the classifier it is compared with."""

    def prepare(self, config: DsirConfig, device: str) -> Prepared:
        """Score the pool (cached per shard) and select. Raises UserError on bad data."""
        corpora, own = open_corpora(config), config.select
        features, workers = Features(own.buckets, own.ngrams), Workers(own.processes, own.backend)
        target, raw = (selection.count(corpus, features, workers) for corpus in (corpora.target, corpora.pool))
        for name, counts in (("target", target), ("source", raw)):
            counts.skipped.warn(f"data.{name}={getattr(config.data, name)}")
        ratio = selection.fit_log_ratio(target, raw, own.smoothing)
        random = np.random.default_rng(config.seed)
        scorer: Any = ratio
        if own.method.startswith("heuristic"):
            scorer = _classifier(corpora, features, workers, target, raw, config.seed)
        scored = selection.score(corpora.pool, features, scorer, own.quality, workers)
        size = own.n or max(1, round(SHARE * len(scored.eligible(own.min_words))))
        chosen = selection.select(scored, selection_keys(own, scored, random), size, own.min_words)
        file = _written(corpora, scored.scores[chosen], selection.chosen_by_shard(chosen, raw.documents), workers)
        selected = Corpus(tuple(open_documents(str(file), key="select.n").shards))
        judged = selection.count(corpora.target_test, features, workers).ngrams
        if not judged.any():
            judged = target.ngrams  # too few documents to hold one out
        taken = selection.count(selected, features, workers).ngrams
        reduction = method.kl_reduction(*(method.fit(counts) for counts in (judged, raw.ngrams, taken)))
        domains = Counter(document.domain for document in selected.documents())
        tokenizer, packed = None, None
        if config.downstream == "lm":
            tokenizer, packed = _packed(config, corpora, selected)
        return Prepared(scored, chosen, file, reduction, domains, tokenizer, packed, device)

    def build(self, config: DsirConfig, prepared: Prepared) -> Training | None:
        """The language model on the selection, for the same number of tokens in every arm; None if none is trained."""
        if prepared.packed is None:
            return None
        trainer, length = config.trainer, config.evaluation.length
        mixture = Mixture(prepared.packed, (SELECTED,), (1.0,), length)
        if not len(mixture.train(SELECTED)):
            tokens = len(prepared.packed.ids(f"{SELECTED}/train"))
            raise UserError(
                f"the selection has {tokens} tokens, less than one sequence of {length}",
                where="select.n",
                hint="select more documents, or type a smaller evaluation.length",
            )
        model = models.build_language_model(config.model, prepared.tokenizer, config.seed)
        models.check_context(model, length, "evaluation.length")
        items: Any = MixtureItems(mixture, trainer.max_steps * trainer.batch_size, config.seed)
        steps = regular_steps(trainer.max_steps, config.evaluation.watch_every)
        return Training(
            model, WeightedCrossEntropy(), items, _collate, {}, steps, describe=describer(model, prepared.tokenizer)
        )

    def watch(self, config: DsirConfig, prepared: Prepared, model: Any) -> Scores:
        """NLL of held-out text of the target and of the pool."""
        assert prepared.packed is not None
        scores = Scores()
        for name, title in ((TARGET, "held-out target text"), (POOL, "held-out text of the pool")):
            sequences = prepared.packed.sequences(f"{name}/test", config.evaluation.length)
            scores.define(f"nll/{name}", f"NLL of {title} (nats per token)", higher_is_better=False)
            losses = sequence_nlls(model, sequences[: config.evaluation.sequences], prepared.device)
            for number, loss in enumerate(losses):
                scores.add(f"nll/{name}", f"{name} {number}", f"{name} {number}", loss)
        return scores

    def evaluate(self, config: DsirConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """KL reduction, where the selection comes from, the model's losses, and the selection as a file."""
        scores = curve[config.trainer.max_steps] if model is not None else Scores()
        metrics = scores.overall() | {"kl_reduction": prepared.kl_reduction}
        scores.define("kl_reduction", "KL reduction towards the target (nats)", higher_is_better=True)
        for domain, number in prepared.domains.most_common(DOMAINS_SHOWN):
            if domain:
                title = f"share of the selection that comes from {domain}"
                scores.define(f"selected/{domain}", title, higher_is_better=domain == config.data.target_domain)
                metrics[f"selected/{domain}"] = number / len(prepared.chosen)
        files = {FILE: partial(share_file, prepared.file)}
        return Evaluation(metrics, scores, plots=[_score_plot(prepared)], files=files)


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
    everything = [np.arange(count) for count in target.documents]
    size = min(CLASSIFIED * int(target.documents.sum()), int(raw.documents.sum()))
    drawn = np.sort(np.random.default_rng(seed).choice(int(raw.documents.sum()), size=size, replace=False))
    some = selection.chosen_by_shard(drawn, raw.documents)
    return train_classifier(
        selection.sparse_chosen(corpora.target, features, everything, workers),
        selection.sparse_chosen(corpora.pool, features, some, workers),
        seed,
    )


def _written(corpora: Corpora, scores: NDArray[np.float64], by_shard: list[Integers], workers: Workers) -> Path:
    """The selection as a file, written once: what judges it and trains on it reads that, and not the pool again."""
    chosen = [sha256(part.tobytes()).hexdigest() for part in (*by_shard, scores)]

    def build(folder: Path) -> None:
        write_selection(folder / FILE, corpora.pool, by_shard, scores, workers)

    return cached("selections", sha256_json([corpora.pool.fingerprint(), chosen]), build) / FILE


def _packed(config: DsirConfig, corpora: Corpora, selected: Corpus) -> tuple[Any, PackedTexts]:
    """The tokenizer, trained on target and pool whatever is selected, and the texts that training and tests need."""

    def texts() -> Iterator[str]:
        read = 0
        for corpus in (corpora.target, corpora.pool):
            for document in corpus.documents():
                if read >= TOKENIZER_CHARACTERS:
                    return
                read += len(document.text)
                yield document.text

    learned = [corpora.target.fingerprint(), corpora.pool.fingerprint(), TOKENIZER_CHARACTERS]
    tokenizer = models.build_text_tokenizer(config.model, texts(), sha256_json(learned))
    parts = {f"{SELECTED}/train": selected, f"{TARGET}/test": corpora.target_test, f"{POOL}/test": corpora.pool_test}
    documents = ((name, document.text) for name, corpus in parts.items() for document in corpus.documents())
    packed = pack(documents, sha256_json({name: corpus.fingerprint() for name, corpus in parts.items()}), tokenizer)
    for name in (TARGET, POOL):
        if not len(packed.sequences(f"{name}/test", config.evaluation.length)):
            raise UserError(
                f"no held-out text of the {name} fills one sequence of {config.evaluation.length} tokens",
                where=f"evaluation.{'held_out' if name == TARGET else 'held_out_pool'}",
                hint="give more text, a larger share, or type downstream=none",
            )
    return tokenizer, packed


def _collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Sequences as a batch of plain next-token prediction."""
    batch = sequence_collate(items)
    predicted = batch["labels"] != IGNORE
    return batch | {"weights": predicted.float(), "normalizer": predicted.sum().float()}


def _score_plot(prepared: Prepared) -> Plot:
    """Quantiles of the scores of the pool and of what was selected."""
    groups = {"pool": prepared.scored.scores, "selected": prepared.scored.scores[prepared.chosen]}
    series = {
        name: [(float(q), float(value)) for q, value in zip(QUANTILES, np.quantile(scores, QUANTILES), strict=True)]
        for name, scores in groups.items()
    }
    title = "Scores of the pool and of the selection"
    return Plot("scores", title, "share of the documents", "score (log-weight in nats, or P(target))", series)


RECIPE = DsirRecipe
