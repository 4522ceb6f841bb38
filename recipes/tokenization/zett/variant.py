"""A fine-tuned variant of the model: the user's, or the model trained on in the run on text of another domain."""

import copy
from typing import Any

from recipes.core.data.text.mixture import Mixture
from recipes.core.data.text.packed import pack
from recipes.core.data.text.splits import TRAIN
from recipes.core.data.text.text_ids import start_id, tokenizer_fingerprint
from recipes.core.data.text.windows import Texts
from recipes.core.errors import UserError
from recipes.core.losses.objectives import WeightedCrossEntropy
from recipes.core.models.from_config import load_reference_model, load_text_model
from recipes.core.models.text import check_context
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.training.models import settings_beside, train_reference
from recipes.core.training.sequences import MixtureItems, next_token_collate
from recipes.core.training.task import Training
from recipes.tokenization.old_rows import OldRows
from recipes.tokenization.small_models import DOMAIN, BegunItems, check_size
from recipes.tokenization.zett.config import ZettConfig

VERSION = 1


def load_variant(config: ZettConfig, source: OldRows, texts: Texts, device: str) -> OldRows:
    """The variant, frozen; tuned if no run has done so before.

    Raises:
        UserError: it cannot be had, or rows of the model are none of its.
    """
    options = config.tuned
    if options.path:
        instead = "leave it out: one is then tuned in the run"
        model: Any = load_reference_model(options.path, "tuned.path", source.tokenizer, instead)
    else:
        model = load_text_model(str(_tune(config, source, texts)), "model")
    model.requires_grad_(False).eval().to(device)
    variant = OldRows(model, source.tokenizer, f"tuned.path={options.path}")
    if (variant.width, variant.tied, variant.parts) != (source.width, source.tied, source.parts):
        what = f"its rows are {_kind(variant)}, and those of the model {_kind(source)}"
        raise UserError(what, variant.where, "give one that was fine-tuned from the model")
    return variant


def _kind(rows: OldRows) -> str:
    return f"{rows.width} wide with a {'tied' if rows.tied else 'separate'} head"


def _tune(config: ZettConfig, source: OldRows, texts: Texts) -> Any:
    options, trainer, seed = config.tuned, config.trainer, config.seed
    training_texts, fingerprint = texts.training(1.0, seed)
    packed = pack(((f"{DOMAIN}/{TRAIN}", text) for text in training_texts), fingerprint, source.tokenizer)
    tokens = check_size(packed, options.length, "tuned.length")
    check_context(source.model, 1 + options.length, "tuned.length")
    settings = settings_beside(trainer, options.steps, options.batch_size, options.learning_rate, schedule="cosine")

    def training() -> Training:
        mixture = Mixture(packed, (DOMAIN,), (1.0,), options.length)
        drawn = MixtureItems(mixture, options.steps * options.batch_size, seed)
        items: Any = BegunItems(drawn, start_id(source.tokenizer))
        model = copy.deepcopy(source.model).requires_grad_(True).train()
        return Training(model, WeightedCrossEntropy(), items, next_token_collate)

    model, tokenizer = weights_hash(source.model), tokenizer_fingerprint(source.tokenizer)
    key = {"variant of": model, "texts": fingerprint, "tokenizer": tokenizer, "length": options.length, "is": VERSION}
    what = f"{options.steps:,} steps of texts of {tokens:,} tokens"
    return train_reference(key, settings, seed, training, what, "a variant of the model")
