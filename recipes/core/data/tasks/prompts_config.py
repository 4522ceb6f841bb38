"""Config of prompts: rows of the user, the instructions that ship, openings of held-out documents. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import DATA_CONTENT, setting
from recipes.core.data.config import domain_problems
from recipes.core.data.files.records import FORMATS


@dataclass(frozen=True)
class PromptsConfig:
    """Your own prompts, or the instructions that ship: a row has a text or a conversation."""

    name: str = setting("prompts", help="data set", choices=("prompts",))
    path: str | None = setting(
        None,
        help="JSONL, Parquet or CSV file with a column prompt or messages, a folder of them, or a datasets name; null: "
        "the instructions that ship",
        content=DATA_CONTENT,
    )
    format: str = setting("auto", help="auto: from the path", choices=FORMATS)
    split: str | None = setting(None, help="published split; null: test, else validation, else train")
    template: str = setting(
        "auto",
        help="auto: conversations, and the instructions that ship, go through the model's chat template, texts stay as "
        "they are; chat: texts, too, as what a user says; none: what messages say, without a template",
        choices=("auto", "chat", "none"),
    )
    limit: int | None = setting(None, help="use only the first prompts; null: all", unit="prompts", ge=1)
    on_error: str = setting(
        "fail", help="a row that cannot be used stops the run, or is left out and counted", choices=("fail", "skip")
    )

    @property
    def description(self) -> str:
        """What a dry run announces."""
        first = "" if self.limit is None else f", the first {self.limit:,}"
        return f"prompts of {self.path}{first}" if self.path else f"instructions that ship{first}"


@dataclass(frozen=True)
class OpeningsConfig:
    """Held-out documents of domains that ship, each cut after its first tokens: the model continues them."""

    name: str = setting("openings", help="data set", choices=("openings",))
    domains: tuple[str, ...] = setting(
        ("sotu-modern", "wiki-en", "python-reference"), help="domains that ship; their documents take turns"
    )
    tokens: int = setting(32, help="first tokens of a document that are given", unit="tokens", ge=1)
    limit: int = setting(24, help="documents, over all domains", unit="prompts", ge=1)

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"the first {self.tokens} tokens of {self.limit:,} held-out documents of {', '.join(self.domains)}"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return domain_problems(self.domains)
