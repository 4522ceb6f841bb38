"""Config that recipes of this family share: tokenizers and the texts that they are measured on. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import TOKENIZER_CONTENT, setting

FEWEST = 300  # tokens: all bytes and some merges


@dataclass(frozen=True)
class TokenizerConfig:
    """The new tokenizer: the user's, or a byte-level BPE that is trained in the run."""

    path: str | None = setting(
        None,
        help="tokenizer.json, folder or hub name; null: one is trained on the training documents",
        content=TOKENIZER_CONTENT,
    )
    vocabulary: int = setting(8192, help="tokens of the trained one, special tokens included", unit="tokens", ge=FEWEST)
    supertokens: bool = setting(
        False, help="train on stretches of text in place of words, so that tokens may hold several words"
    )
    min_frequency: int = setting(2, help="pairs that are rarer are not merged", ge=1, origin="code")
    longest: int = setting(30, help="longest token of supertokens", unit="bytes", ge=2, origin="code")
    share: float = setting(
        0.8, help="share of the training documents, drawn by the seed, that a tokenizer is trained on", gt=0, le=1
    )

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        if self.path:
            return str(self.path)
        kind = "supertokens" if self.supertokens else "byte-level BPE"
        return f"{kind} of {self.vocabulary:,} tokens, trained in the run"


@dataclass(frozen=True)
class WindowsConfig:
    """Held-out stretches of text that are measured; all tokenizers get the same bytes."""

    windows: int = setting(6, help="stretches of each domain, drawn by the seed", unit="windows", ge=1)
    characters: int = setting(1000, help="of a stretch at most; it ends behind a word", unit="characters", ge=20)
    shortest: int = setting(200, help="documents with fewer are passed over", unit="characters", ge=1)
    batch_tokens: int = setting(2048, help="tokens of a forward, padding included", unit="tokens", ge=1)
    shown: int = setting(6, help="stretches that the report shows", unit="windows", ge=0)
