"""Config of the small models that a run trains before it measures anything. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import SEEDS, setting
from recipes.core.data.config import domain_problems
from recipes.core.models.config import SmallLMConfig


@dataclass(frozen=True)
class EncoderConfig:
    """The toy vision transformer, and how it is trained to name the digits of canvases."""

    layers: int = setting(6, help="blocks", ge=2)
    width: int = setting(48, help="of a token", ge=4)
    heads: int = setting(3, help="attention heads", ge=1)
    steps: int = setting(2000, help="steps of its training", unit="steps", ge=1)
    batch_size: int = setting(32, help="canvases per step", unit="canvases", ge=1)
    learning_rate: float = setting(1.5e-3, help="peak learning rate", gt=0)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.width % self.heads:
            return [("width", f"{self.width} does not divide by heads={self.heads}")]
        return []


@dataclass(frozen=True)
class DecoderShape:
    """A toy language model."""

    layers: int = setting(2, help="layers; pruning inside it needs 6 or more to cost anything", ge=1)
    width: int = setting(64, help="of a token", ge=4)
    heads: int = setting(4, help="attention heads", ge=1)

    @property
    def ffn(self) -> int:
        """Hidden width of its SwiGLU: about 8/3 of a token's, as many weights as a plain MLP of four times."""
        return -(-self.width * 8 // 3 // 4) * 4

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.width % (2 * self.heads):
            return [("width", f"{self.width} does not divide by twice heads={self.heads}, as its positions need")]
        return []


@dataclass(frozen=True)
class DecoderConfig(DecoderShape):
    """The toy language model that answers questions about canvases, and how it is trained with its projector."""

    steps: int = setting(500, help="steps of its training", unit="steps", ge=1)
    batch_size: int = setting(24, help="canvases per step, each with all its questions", unit="canvases", ge=1)
    learning_rate: float = setting(2e-3, help="peak learning rate", gt=0)


@dataclass(frozen=True)
class ToyViTConfig:
    """A small vision transformer trained in the run."""

    name: str = setting("toy-vit", help="model", choices=("toy-vit",))
    encoder: EncoderConfig = setting(EncoderConfig(), help="vision transformer")
    seed: int | None = setting(None, help="its own, one model for all seeds; null: that of the run", ge=0, lt=SEEDS)


@dataclass(frozen=True)
class ToyVLMConfig:
    """A small LLaVA trained in the run: the frozen vision transformer, a projector, a language model."""

    name: str = setting("toy-vlm", help="model", choices=("toy-vlm",))
    encoder: EncoderConfig = setting(EncoderConfig(), help="vision transformer")
    decoder: DecoderConfig = setting(DecoderConfig(), help="language model")
    seed: int | None = setting(None, help="its own, one model for all seeds; null: that of the run", ge=0, lt=SEEDS)


@dataclass(frozen=True, kw_only=True)
class ToyLMConfig(SmallLMConfig):
    """A small causal language model trained in the run on domains that ship, with a tokenizer made from them."""

    name: str = setting("toy-lm", help="model", choices=("toy-lm",))
    layers: int = setting(4, help="decoder layers", ge=1)
    width: int = setting(128, help="hidden width", ge=4)
    vocabulary: int = setting(2048, help="largest size of the tokenizer made in the run", unit="tokens", ge=300)
    domains: tuple[str, ...] = setting(
        ("sotu-modern", "wiki-en", "python-reference"),
        help="domains that ship, on whose training documents it is trained",
    )
    characters: int = setting(1_000_000, help="text of each domain that is read", unit="characters", ge=1_000)
    length: int = setting(128, help="tokens of a training sequence", unit="tokens", ge=2)
    steps: int = setting(1000, help="steps of its training", unit="steps", ge=1)
    batch_size: int = setting(16, help="sequences per step", unit="sequences", ge=1)
    learning_rate: float = setting(3e-3, help="peak learning rate", gt=0)
    seed: int | None = setting(0, help="its own, one model for all seeds; null: that of the run", ge=0, lt=SEEDS)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return super().check() + domain_problems(self.domains)

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        return f"{super().description} on {', '.join(self.domains)} ({self.steps:,} steps, once, then cached)"
