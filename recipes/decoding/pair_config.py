"""Config of a small and a large model that answer the same questions, trained in the run or yours. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from recipes.core.config.settings import DATA_CONTENT, MODEL_CONTENT, setting
from recipes.core.data.files.records import FORMATS
from recipes.core.data.tasks.prompts_config import PromptsConfig
from recipes.core.models.config import CausalLMConfig, CharacterLMConfig


@dataclass(frozen=True)
class AnswersConfig(PromptsConfig):
    """Your own questions, each with its right answer in a column `answer`."""

    name: str = setting("answers", help="data set", choices=("answers",))
    path: str | None = setting(
        None,
        help="JSONL, Parquet or CSV file with a column prompt or messages, and answer; a folder, or a datasets name",
        content=DATA_CONTENT,
    )
    format: str = setting("auto", help="auto: from the path", choices=FORMATS)
    validation: float = setting(
        0.5, help="share of the questions that rules are fitted on, drawn by the seed", gt=0, lt=1
    )
    match: str = setting(
        "exact", help="when an answer is right: it is the right one but for white space, or contains it",
        choices=("exact", "contains"),
    )  # fmt: skip

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"questions of {self.path}"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.path else [("path", "is missing; type data.path=FILE, FOLDER or a datasets name")]


@dataclass(frozen=True, kw_only=True)
class TransducerConfig(CharacterLMConfig):
    """A small causal language model of characters, trained in the run to answer questions."""

    name: str = setting("transducer", help="model", choices=("transducer",))
    layers: int = setting(3, help="decoder layers", ge=1)
    width: int = setting(128, help="hidden width", ge=4)
    steps: int = setting(1500, help="steps of its training", unit="steps", ge=1)
    batch_size: int = setting(64, help="questions per step", unit="questions", ge=1)
    learning_rate: float = setting(2e-3, help="peak learning rate", gt=0)


@dataclass(frozen=True, kw_only=True)
class SmallTransducerConfig(TransducerConfig):
    """The small one of two such models."""

    layers: int = setting(1, help="decoder layers", ge=1)
    width: int = setting(64, help="hidden width", ge=4)


@dataclass(frozen=True)
class SmallConfig(CausalLMConfig):
    """The small one of a user's two models."""

    path: str | None = setting(None, help="folder or hub name of the small model", content=MODEL_CONTENT)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.path else [("path", "is missing; type small.path=FOLDER or a hub name")]


def pair_problems(config: Any, trains: type) -> list[tuple[str, str]]:
    """Models that do not belong to the data of a config: those that a run trains answer its questions, yours yours.

    Args:
        config: With `data`, `model` and `small`.
        trains: Config of the questions that transducers are trained for.
    """
    problems = []
    for key, model in (("model", config.model), ("small", config.small)):
        is_trained = isinstance(model, TransducerConfig)
        if is_trained != isinstance(config.data, trains):
            users = "model=/folder small=causal-lm small.path=/folder"
            instead = users if is_trained else "data=answers data.path=FILE"
            problems.append((key, f"{model.name} is not for data={config.data.name}; type {instead}"))
    return problems
