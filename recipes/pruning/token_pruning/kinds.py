"""Which vision-language models can be pruned, told by the `config.json` of a folder: its weights need not be there."""

from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from recipes.core.errors import UserError
from recipes.core.models.sources import load_config, silent, source_folder
from recipes.core.storage.model_files import read_json
from recipes.pruning.adapters import Family, check, check_language, families, family_of
from recipes.pruning.pruners import make
from recipes.pruning.token_pruning.config import TokenPruningConfig

LLAVA = ("llava", "llava_next")
# Checkpoints in the form of their authors' own code -> the type that transformers has for them.
ORIGINALS = {
    "llava_llama": "llava",
    "llava_mistral": "llava_next",
    "llava_qwen": "llava_onevision",
    "internvl_chat": "internvl",
}
LONGEST = 60


def check_kind(path: str, key: str, settings: TokenPruningConfig) -> Family | None:
    """The family of a checkpoint; None for LLaVA.

    Args:
        path: Local folder or hub name.
        key: The config key it came from, for messages.
        settings: The run's config.

    Raises:
        UserError: it is of a type, or has parts, that cannot be pruned, or not by this pruner.
    """
    where = f"{key}={path}"
    _check_content(read_json(source_folder(path, key, weights=False) / "config.json", where), key, where)
    config = load_config(path, key)
    family = family_of(config.model_type)
    try:
        check_language(config.text_config, family)
        with silent(), torch.device("meta"):
            skeleton = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    except UserError as error:
        raise UserError(error.what, error.where or where, error.hint) from error
    except ValueError as error:  # a tower that transformers cannot run with this attention, or sizes that do not fit
        raise UserError(f"cannot be built: {str(error).splitlines()[0]}", where, _supported(key)) from error
    guided = settings.guide.path is not None
    for _, budget in settings.budgets:
        check(skeleton, make(settings.pruner), budget, guided=guided, positions=settings.positions)
    return family


def _check_content(content: dict[str, Any], key: str, where: str) -> None:
    """Refuse what `config.json` names. Raises UserError."""
    kind = content.get("model_type")
    if not isinstance(kind, str) or not kind:
        return  # refused where it is loaded
    original = ORIGINALS.get(kind, "")
    if kind in LLAVA and "vision_config" not in content:
        original = kind
    if original:
        raise UserError(
            f"is a {original} checkpoint in the form of its authors' own code ({kind}), which transformers cannot read",
            where,
            f"type {key}=FOLDER of the same model in the form of transformers; on the hub their names end in -hf",
        )
    if kind not in LLAVA and family_of(kind) is None:
        raise UserError(f"is of type {kind[:LONGEST]}, whose visual tokens cannot be pruned", where, _supported(key))


def _supported(key: str) -> str:
    return f"type {key}=FOLDER of a model of type {', '.join(sorted([*LLAVA, *families()]))}"
