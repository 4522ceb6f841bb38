"""What a selection is worth downstream: a language model trained on it, judged on held-out text. Imports torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recipes.core.data.text.corpora import Corpus
from recipes.core.data.text.mixture import Mixture
from recipes.core.data.text.packed import PackedTexts, pack
from recipes.core.errors import UserError
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.scores import Scores
from recipes.core.evaluation.texts import sequence_nlls
from recipes.core.losses.objectives import IGNORE, WeightedCrossEntropy
from recipes.core.models import text as models
from recipes.core.models.adapters import with_adapters
from recipes.core.models.run_models import describer
from recipes.core.storage.files import sha256_json
from recipes.core.training.sequences import MixtureItems, sequence_collate
from recipes.core.training.task import Training
from recipes.pretraining.dsir.config import DsirConfig
from recipes.pretraining.dsir.corpora import Corpora

SELECTED, TARGET, POOL = "selected", "target", "pool"
TOKENIZER_CHARACTERS = 20_000_000  # of target and pool that a tokenizer is trained on


@dataclass(frozen=True)
class Texts:
    """The tokenizer, and "selected/train", "target/test" and "pool/test" packed by it."""

    tokenizer: Any
    packed: PackedTexts


def prepare(config: DsirConfig, corpora: Corpora, selected: Corpus) -> Texts:
    """A tokenizer, trained on target and pool whatever is selected, and the texts that training and tests need.

    Raises:
        UserError: held-out text of target or pool is less than one sequence.
    """

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
    return Texts(tokenizer, packed)


def build(config: DsirConfig, texts: Texts) -> Training:
    """The model on the selection, for the same number of tokens in every arm.

    Raises:
        UserError: the selection is less than one sequence, or the model's context is.
    """
    trainer, length = config.trainer, config.evaluation.length
    mixture = Mixture(texts.packed, (SELECTED,), (1.0,), length)
    if not len(mixture.train(SELECTED)):
        tokens = len(texts.packed.ids(f"{SELECTED}/train"))
        raise UserError(
            f"the selection has {tokens} tokens, less than one sequence of {length}",
            where="select.n",
            hint="select more documents, or type a smaller evaluation.length",
        )
    model = models.build_language_model(config.model, texts.tokenizer, config.seed)
    models.check_context(model, length, "evaluation.length")
    with_adapters(model, config.lora, config.seed)
    items: Any = MixtureItems(mixture, trainer.max_steps * trainer.batch_size, config.seed)
    steps = regular_steps(trainer.max_steps, config.evaluation.watch_every)
    describe = describer(model, texts.tokenizer)
    return Training(model, WeightedCrossEntropy(), items, _collate, {}, steps, describe=describe)


def watch(config: DsirConfig, texts: Texts, model: Any, device: str) -> Scores:
    """NLL of held-out text of the target and of the pool."""
    scores = Scores()
    for name, title in ((TARGET, "held-out target text"), (POOL, "held-out text of the pool")):
        sequences = texts.packed.sequences(f"{name}/test", config.evaluation.length)
        scores.define(f"nll/{name}", f"NLL of {title} (nats per token)", higher_is_better=False)
        losses = sequence_nlls(model, sequences[: config.evaluation.sequences], device)
        for number, loss in enumerate(losses):
            scores.add(f"nll/{name}", f"{name} {number}", f"{name} {number}", loss)
    return scores


def _collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Sequences as a batch of plain next-token prediction."""
    batch = sequence_collate(items)
    predicted = batch["labels"] != IGNORE
    return batch | {"weights": predicted.float(), "normalizer": predicted.sum().float()}
