"""Config of masked rows. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import setting

TOKENS, WORDS = "tokens", "words"


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Which tokens are masked, and what stands in their place. The defaults are BERT's."""

    share: float = setting(0.15, help="share of a row's tokens", gt=0, lt=1, origin="paper")
    unit: str = setting(TOKENS, help="whether tokens are masked, or whole words", choices=(TOKENS, WORDS))
    masked: float = setting(0.8, help="share of these that become [MASK]", ge=0, le=1, origin="paper")
    any_token: float = setting(0.1, help="share of these that become any token; the others stay", ge=0, le=1)
    short: float = setting(
        0.05, help="share of the rows that are cut to a random length of 5 tokens or more", ge=0, le=1, origin="code"
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.masked + self.any_token > 1:
            return [("any_token", f"and masked={self.masked:g} are more than all; type smaller shares")]
        return []
