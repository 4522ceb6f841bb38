"""Config of the two texts, and of the model that is trained on both of them. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import DATA_CONTENT, SEEDS, setting
from recipes.core.data.config import DOMAINS, DomainsConfig, near_duplicates_setting
from recipes.core.models.config import SmallLMConfig
from recipes.core.spelling import did_you_mean

PATHS = {"domain": "path", "open": "open_path"}


@dataclass(frozen=True)
class TwoTextsConfig:
    """The text of a domain, and text at large."""

    name: str = setting("two-texts", help="data set", choices=("two-texts",))
    domain: str = setting("licences", help=f"text of the domain, one that ships: {', '.join(DOMAINS)}")
    open: str = setting("wiki-en", help="text at large, one that ships")
    path: str | None = setting(
        None, help="your text of the domain: JSONL, Parquet or text file, a folder of them, or a datasets name; null: "
        "data.domain", content=DATA_CONTENT,
    )  # fmt: skip
    open_path: str | None = setting(None, help="your text at large; null: data.open", content=DATA_CONTENT)
    text_column: str | None = setting(None, help="column of texts; null: text, content or document")
    on_error: str = setting(
        "fail", help="a bad document stops the run, or is left out and counted", choices=("fail", "skip")
    )
    characters: int | None = setting(
        1_000_000, help="read documents of a text until they hold this much; null: all", unit="characters", ge=1
    )
    test_fraction: float = setting(0.1, help="share of the documents kept for measuring", gt=0, lt=1)
    near_duplicates: float | None = near_duplicates_setting()

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        unknown = [role for role in PATHS if getattr(self, role) not in DOMAINS]
        return [(role, f"{self._no_text(role)}; for text of yours type data.{PATHS[role]}=FILE") for role in unknown]

    def _no_text(self, role: str) -> str:
        return f"no such text ships: {did_you_mean(getattr(self, role), list(DOMAINS))}"

    @property
    def description(self) -> str:
        """What is read, for `--dry-run`."""
        return f"domain: {self.path or self.domain}; open: {self.open_path or self.open}"

    def of(self, role: str) -> DomainsConfig:
        """The documents of one text, "domain" or "open".

        Those of a file are named and split alike in both roles, so that what is held out of one is held out of both.
        """
        path = getattr(self, PATHS[role])
        named = {"paths": (f"text:{path}",)} if path else {"domains": (getattr(self, role),)}
        return DomainsConfig(
            text_column=self.text_column if path else None,
            on_error=self.on_error,
            characters=self.characters,
            test_fraction=self.test_fraction,
            near_duplicates=self.near_duplicates,
            **named,
        )

    def where(self, role: str) -> str:
        """Key and value that named a text, for messages."""
        path = getattr(self, PATHS[role])
        return f"data.{PATHS[role]}={path}" if path else f"data.{role}={getattr(self, role)}"


@dataclass(frozen=True, kw_only=True)
class TrainedLMConfig(SmallLMConfig):
    """A small language model that is trained in the run on the training documents of both texts."""

    name: str = setting("two-texts-lm", help="model", choices=("two-texts-lm",))
    layers: int = setting(4, help="decoder layers", ge=1)
    width: int = setting(128, help="hidden width", ge=4)
    vocabulary: int = setting(2048, help="largest size of the tokenizer made in the run", unit="tokens", ge=300)
    length: int = setting(128, help="tokens of a training sequence", unit="tokens", ge=2)
    steps: int = setting(600, help="steps of its training", unit="steps", ge=1)
    batch_size: int = setting(16, help="sequences per step", unit="sequences", ge=1)
    learning_rate: float = setting(3e-3, help="peak learning rate", gt=0)
    seed: int = setting(0, help="its own: one model for all seeds of the run", ge=0, lt=SEEDS)

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        return f"{super().description} on both texts ({self.steps:,} steps, once, then cached)"
