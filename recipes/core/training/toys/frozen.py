"""A language model that a recipe asks and never trains: the user's, an asset, or a toy trained in the run."""

from typing import Any

from recipes.core.models.text import build_language_model, build_text_tokenizer
from recipes.core.models.vision_language import TextModel
from recipes.core.training.toys.config import ToyLMConfig
from recipes.core.training.toys.language import ToyLM


def load_frozen(config: Any, device: str) -> tuple[TextModel, Any]:
    """The model of a config with `model`, `trainer` and `seed`, frozen, in evaluation mode, and its tokenizer.

    A toy is trained if no run has done so before. Raises UserError: one of them cannot be had.
    """
    tokenizer = build_tokenizer(config)
    if isinstance(config.model, ToyLMConfig):
        model = ToyLM(config.model, config.trainer, config.seed).load()
    else:
        model = build_language_model(config.model, tokenizer, config.seed)
    model.requires_grad_(False).eval().to(device)
    return model, tokenizer


def model_where(model: Any, key: str = "model") -> str:
    """Key and value that named a model, for messages: of a folder or hub name its path, else its config.

    Args:
        model: Its config.
        key: Where that stands.
    """
    path = getattr(model, "path", None)
    return f"{key}.path={path}" if path else f"{key}={model.name}"


def build_tokenizer(config: Any) -> Any:
    """The tokenizer of the same model; trains no model. Raises UserError: it cannot be had."""
    if isinstance(config.model, ToyLMConfig):
        return ToyLM(config.model, config.trainer, config.seed).tokenizer
    return build_text_tokenizer(config.model, (), "")
