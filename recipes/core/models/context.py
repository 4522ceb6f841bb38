"""The longest sequence that a model takes. No torch."""

from typing import Any

from recipes.core.errors import UserError
from recipes.core.storage.places import model_config

NAMES = ("max_position_embeddings", "n_positions")


def files_context(path: str) -> int | None:
    """Tokens that the model of a local folder or run takes; None if its config sets no limit, or is not here.

    Args:
        path: As typed for `model.path`.
    """
    content = model_config(path)
    text: Any = content.get("text_config", content)
    values = [text.get(name) for name in NAMES] if isinstance(text, dict) else []
    return next((value for value in values if isinstance(value, int)), None)


def check_length(tokens: int, longest: int, key: str) -> None:
    """Refuse sequences that are longer than a model's context.

    Args:
        tokens: Of the longest sequence.
        longest: What the model takes.
        key: Config key that sets it, for the message.

    Raises:
        UserError: they do not fit.
    """
    if tokens > longest:
        raise UserError(
            f"sequences of {tokens} tokens do not fit the model's context of {longest}",
            where=f"{key}={tokens}",
            hint=f"type {key}={longest} or less",
        )
