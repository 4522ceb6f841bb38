"""The key `evaluation.extra` of recipes that train a language model. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import DATA_CONTENT, RunConfig, setting

EXTRA = "extra"  # what names of its metrics begin with


@dataclass(frozen=True)
class QuestionsConfig:
    """What is measured beside what the recipe measures itself."""

    extra: str | None = setting(
        None,
        help="your own questions, asked of the final model: a JSONL file of prompts with an answer or with choices",
        content=DATA_CONTENT,
    )


def questions_path(config: RunConfig) -> str | None:
    """The file of the user's own questions; None if there is none, or the recipe takes none."""
    path: str | None = getattr(getattr(config, "evaluation", None), "extra", None)
    return path
