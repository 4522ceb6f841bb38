"""Config of models, told apart by `name`: vision-language models, then language models. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import MODEL_CONTENT, setting

LLAMA_INSTEAD = "folder or hub name of a Llama-type model instead; null: the asset"


@dataclass(frozen=True)
class VisionConfig:
    """The frozen visual encoder of setting H."""

    path: str | None = setting(
        None,
        help="folder or hub name of a CLIP, SigLIP or ViT model; null: a small ViT trained in the run on the labels",
        content=MODEL_CONTENT,
    )
    patch: int = setting(2, help="patch side of the small ViT", unit="pixels", ge=1)
    layers: int = setting(2, help="layers of the small ViT", ge=1)
    width: int = setting(64, help="width of the small ViT", ge=4)
    heads: int = setting(4, help="attention heads of the small ViT", ge=1)
    steps: int = setting(300, help="training steps of the small ViT", unit="steps", ge=1)
    learning_rate: float = setting(2e-3, help="learning rate of the small ViT", gt=0)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [("heads", f"width={self.width} does not divide by it")] if self.width % self.heads else []


@dataclass(frozen=True, kw_only=True)
class BuiltConfig:
    """What the models have whose vision parts are built here."""

    image_size: int | None = setting(
        None, help="images become squares of this side; null: from the data", unit="pixels", ge=1
    )
    vision: VisionConfig = setting(VisionConfig(), help="visual encoder (setting H)")


@dataclass(frozen=True, kw_only=True)
class SmallConfig(BuiltConfig):
    """A small Llama-type decoder, trained from nothing in the run, with a BPE trained on the captions."""

    name: str = setting("small", help="model", choices=("small",))
    layers: int = setting(2, help="decoder layers", ge=1)
    width: int = setting(64, help="hidden width", ge=4)
    heads: int = setting(4, help="attention heads", ge=1)
    vocabulary: int = setting(1000, help="largest size of the BPE trained in the run", unit="tokens", ge=300)
    patch: int = setting(2, help="patch side (setting U)", unit="pixels", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return (
            [("heads", f"width={self.width} does not divide by 2 x heads={self.heads}")]
            if self.width % (2 * self.heads)
            else []
        )


@dataclass(frozen=True, kw_only=True)
class SmolLM2Config(BuiltConfig):
    """SmolLM2-135M as backbone: Instruct weights that passed through Q4_1, read from a GGUF asset."""

    name: str = setting("smollm2-135m", help="model", choices=("smollm2-135m",))
    path: str | None = setting(None, help=LLAMA_INSTEAD, content=MODEL_CONTENT)
    train_backbone: bool = setting(True, help="train the language model too, not only the new parts")
    new_learning_rate: float = setting(1e-3, help="peak learning rate of patch embedding or projector", gt=0)
    patch: int = setting(8, help="patch side (setting U)", unit="pixels", ge=1)


@dataclass(frozen=True, kw_only=True)
class LlavaConfig:
    """Any LLaVA-type checkpoint, through `LlavaForConditionalGeneration`."""

    name: str = setting("llava", help="model", choices=("llava",))
    path: str | None = setting(None, help="folder or hub name of the checkpoint", content=MODEL_CONTENT)
    train_backbone: bool = setting(True, help="train the language model too, not only the projector")
    projector_learning_rate: float = setting(1e-3, help="peak learning rate of the projector", gt=0)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.path else [("path", "is missing; type model.path=FOLDER or a hub name")]


ModelConfig = SmallConfig | SmolLM2Config | LlavaConfig


@dataclass(frozen=True, kw_only=True)
class SmallLMConfig:
    """A causal language model trained from nothing in the run, with a tokenizer made from the run's texts."""

    name: str = setting("small-lm", help="model", choices=("small-lm",))
    architecture: str = setting("llama", help="kind of decoder", choices=("llama", "gpt2"))
    layers: int = setting(2, help="decoder layers", ge=1)
    width: int = setting(64, help="hidden width", ge=4)
    heads: int = setting(4, help="attention heads", ge=1)
    tokenizer: str = setting(
        "bpe", help="a BPE trained in the run, or one token a character", choices=("bpe", "characters")
    )
    vocabulary: int = setting(1024, help="largest size of the tokenizer made in the run", unit="tokens", ge=300)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return (
            [("heads", f"width={self.width} does not divide by 2 x heads={self.heads}")]
            if self.width % (2 * self.heads)
            else []
        )


@dataclass(frozen=True, kw_only=True)
class SmolLM2TextConfig:
    """SmolLM2-135M: Instruct weights that passed through Q4_1, read from a GGUF asset."""

    name: str = setting("smollm2-135m", help="model", choices=("smollm2-135m",))
    path: str | None = setting(None, help=LLAMA_INSTEAD, content=MODEL_CONTENT)


@dataclass(frozen=True, kw_only=True)
class CausalLMConfig:
    """Any causal language model that `transformers` loads."""

    name: str = setting("causal-lm", help="model", choices=("causal-lm",))
    path: str | None = setting(None, help="folder or hub name of the model", content=MODEL_CONTENT)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.path else [("path", "is missing; type model.path=FOLDER or a hub name")]


TextModelConfig = SmallLMConfig | SmolLM2TextConfig | CausalLMConfig
