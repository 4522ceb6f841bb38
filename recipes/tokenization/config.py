"""Config that recipes of this family share: tokenizers and the texts that they are measured on. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import MODEL_CONTENT, TOKENIZER_CONTENT, UntrainedConfig, setting
from recipes.core.data.config import DomainsConfig, WindowsConfig
from recipes.core.models.adapter_config import float32_problems
from recipes.core.models.config import CausalLMConfig, SmolLM2TextConfig
from recipes.core.training.toys.config import ToyLMConfig

FEWEST = 300  # tokens: all bytes and some merges
STEPS, BYTES, BATCHES, FLOPS = "steps", "bytes", "batches", "flops"
SUBSTITUTE, DELETE, INSERT, SPACE = "substitute", "delete", "insert", "space"
NOISES = (SUBSTITUTE, DELETE, INSERT, SPACE)


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
class StringsConfig:
    """The encoder of strings of tokens and words, whose cosines say which are alike."""

    path: str | None = setting(
        None,
        help="folder or hub name of a sentence encoder of type BERT; null: all-MiniLM-L6-v2",
        content=MODEL_CONTENT,
    )


@dataclass(frozen=True, kw_only=True)
class NewVocabularyConfig(UntrainedConfig):
    """Config of a run that makes rows of new tokens for a model that is there."""

    data: DomainsConfig = setting(help="texts: training documents for what is trained, held-out ones to measure on")
    model: ToyLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model")
    strings: StringsConfig = setting(StringsConfig(), help="encoder of strings of tokens and words")
    evaluation: WindowsConfig = setting(WindowsConfig(), help="what is measured")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        return float32_problems(self.model, "rows of a new vocabulary are not made in 4 or 8 bits")

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        measured = f"{self.evaluation.windows} stretches of {self.evaluation.characters:,} characters a domain"
        return [("data", f"{self.data.description}: {measured}"), ("model", self.model.description)]


@dataclass(frozen=True, kw_only=True)
class SmallModelConfig:
    """A small language model trained from nothing in the run, with a tokenizer that it is given."""

    architecture: str = setting("llama", help="kind of decoder", choices=("llama", "gpt2"))
    layers: int = setting(2, help="decoder layers", ge=1)
    width: int = setting(96, help="hidden width", ge=4)
    heads: int = setting(4, help="attention heads", ge=1)
    length: int = setting(128, help="tokens of a training sequence", unit="tokens", ge=2)
    steps: int = setting(300, help="steps of its training", unit="steps", ge=1)
    batch_size: int = setting(16, help="sequences per step", unit="sequences", ge=1)
    learning_rate: float = setting(3e-3, help="peak learning rate", gt=0)
    equal: str = setting(
        STEPS,
        help="what models of different tokenizers have the same of: steps; bytes that they read (those of the steps, "
        "at 4 bytes a token); batches: bytes and steps, by larger batches of shorter tokens; FLOPs (those of the "
        "steps, at 8,192 tokens)",
        choices=(STEPS, BYTES, BATCHES, FLOPS),
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.width % (2 * self.heads):
            return [("heads", f"width={self.width} does not divide by 2 x heads={self.heads}")]
        return []

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        kind = {"llama": "Llama", "gpt2": "GPT-2"}[self.architecture]
        return f"{kind}-type model, {self.layers} layers, width {self.width}, trained in the run (once, then cached)"


@dataclass(frozen=True, kw_only=True)
class SampledConfig:
    """Tokenizers that are drawn at random, one for each step of a hypernetwork's training."""

    vocabulary: int = setting(1024, help="tokens of each, bytes included", unit="tokens", ge=FEWEST)
    texts: int = setting(96, help="stretches of text that its substrings are counted in", unit="texts", ge=1)
    characters: int = setting(512, help="of a stretch", unit="characters", ge=1)
    longest: int = setting(15, help="longest substring", unit="bytes", ge=1, origin="code")
    runs: int = setting(2, help="longest run of white space, behind a blank, that is always a token (code: 15)", ge=0)
    stride: int = setting(1, help="substrings begin at every so many bytes of a word (code: 4)", unit="bytes", ge=1)
    noise: bool = setting(True, help="scores are noisy, so that tokenizers differ; arms choose it")
    noise_scale: float = setting(1e-5, help="median deviation of the noise", gt=0, origin="code")
    noise_deviation: float = setting(4.0, help="deviation of the logarithm of that", ge=0, origin="code")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if 256 + 9 * self.runs > self.vocabulary:
            return [("runs", f"bytes and runs of white space are more than vocabulary={self.vocabulary} tokens")]
        return []


LM, ROWS = "lm", "rows"


@dataclass(frozen=True, kw_only=True)
class HypernetworkConfig:
    """A network that predicts rows of new tokens, and how it is trained, once for a model."""

    width: int | None = setting(None, help="of its tokens; null: that of the model's", ge=8)
    layers: int = setting(3, help="of its encoder", ge=1, origin="paper")
    pieces: int = setting(7, help="old tokens that are read of a new one", unit="tokens", ge=1, origin="paper")
    objective: str = setting(
        LM,
        help="lm: the model reads texts through predicted rows of random tokenizers; rows: old rows from the pieces "
        "that half of the merges leave of their tokens, the model is not run",
        choices=(LM, ROWS),
    )
    steps: int = setting(300, help="steps of its training", unit="steps", ge=1)
    batch_size: int = setting(16, help="texts (lm) or tokens (rows) per step", ge=1)
    length: int = setting(64, help="tokens of a text", unit="tokens", ge=2)
    learning_rate: float = setting(1e-3, help="peak learning rate (paper: 6e-5, 190,000 steps)", gt=0)
    identity_steps: int = setting(
        300, help="steps before, in which it learns the rows of old tokens from themselves; 0: none", ge=0
    )
    identity_batch: int = setting(1024, help="tokens in each of these", unit="tokens", ge=1)
    identity_rate: float = setting(2e-3, help="their peak learning rate (paper: 3e-4, 10,000 steps)", gt=0)
    auxiliary: float = setting(
        0.5, help="weight of the distance of shared tokens to their old rows", ge=0, origin="paper"
    )
    clip: float = setting(0.1, help="gradients are clipped to this norm", gt=0, origin="code")
    held_out: float = setting(
        0.1, help="share of the old tokens that objective=rows never sees, and rows are compared on", gt=0, lt=1
    )
    snapshots: int = setting(4, help="times it is kept during training, for a learning curve", ge=0)
    sampled: SampledConfig = setting(SampledConfig(), help="random tokenizers")


@dataclass(frozen=True)
class NoiseConfig:
    """How text is misread: which letters are replaced, dropped or added, and how many."""

    rate: float = setting(0.05, help="chance that something happens to a character", ge=0, le=1)
    kinds: tuple[str, ...] = setting(
        NOISES,
        help="what happens: a letter is taken for one that looks like it, left out, put in; a space comes or goes",
        choices=NOISES,
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            return [("kinds", "is empty, or names a kind twice")]
        return []
