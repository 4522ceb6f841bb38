"""Config of models, told apart by `name`: vision-language models, then language models. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from recipes.core.config.settings import MODEL_CONTENT, SEEDS, TOKENIZER_CONTENT, setting
from recipes.core.models.costs import LayerShape, mlp_macs, model_macs

LLAMA_INSTEAD = "folder or hub name of a Llama-type model instead; null: the asset"
SMOLLM2 = "SmolLM2-135M-Instruct (Q4_1 weights, asset smollm2-135m)"
GPT2_POSITIONS = 1024


def mlp_width(width: int) -> int:
    """Inner width of a gated MLP: 8/3 of the width, as in Llama, rounded up to a multiple of 8."""
    return -(-8 * width // 24) * 8


def llama_parameters(vocabulary: int, layers: int, width: int, inner: int, keys: int | None = None) -> int:
    """Parameters of a Llama-type model whose head is its embedding.

    Args:
        vocabulary: Rows of the embedding.
        layers: Blocks.
        width: Of a token.
        inner: Width inside the gated MLP.
        keys: Width of keys and of values; None: that of a token.
    """
    # Queries and output, keys and values, three matrices of the MLP, two norms; one norm at the end.
    block = 2 * width**2 + 2 * width * (keys or width) + 3 * width * inner + 2 * width
    return vocabulary * width + layers * block + width


def gpt2_parameters(vocabulary: int, layers: int, width: int) -> int:
    """Parameters of a model of GPT-2's type; arguments as in `llama_parameters`."""
    # Attention 4 w^2 + 4 w, MLP 8 w^2 + 5 w, two norms 4 w; one norm at the end.
    block = 12 * width**2 + 13 * width
    return (vocabulary + GPT2_POSITIONS) * width + layers * block + 2 * width


def bert_parameters(vocabulary: int, positions: int, embedding: int, layers: int, width: int, inner: int) -> int:
    """Parameters of an encoder of BERT's type without a head.

    Args:
        vocabulary, positions: Rows of the two embeddings; there are two types of segments besides.
        embedding: Their width.
        layers: Blocks.
        width: Of a token in them.
        inner: Width inside the MLP.
    """
    project = (embedding + 1) * width if embedding != width else 0
    # Attention 4 w^2 + 4 w, MLP 2 w i + i + w, two norms 4 w; one norm behind the embeddings.
    block = 4 * width**2 + 2 * width * inner + inner + 9 * width
    return (vocabulary + positions + 2 + 2) * embedding + project + layers * block


def smollm2_parameters(path: str | None) -> int | None:
    """Parameters of the asset; None for another model, whose files know."""
    return None if path else llama_parameters(49152, 30, 576, 1536, keys=192)


def _load_in() -> Any:
    return setting(
        "float32",
        help="dtype of the weights; in 4 or 8 bits (bitsandbytes) they stay frozen, under lora.* or beside new parts",
        choices=("float32", "8bit", "4bit"),
    )


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

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        return f"Llama-type decoder, {self.layers} layers, width {self.width}, trained in the run"

    @property
    def parameters(self) -> int:
        """Parameters of the decoder, with its largest vocabulary."""
        return llama_parameters(self.vocabulary, self.layers, self.width, 4 * self.width)


@dataclass(frozen=True, kw_only=True)
class SmolLM2Config(BuiltConfig):
    """SmolLM2-135M as backbone: Instruct weights that passed through Q4_1, read from a GGUF asset."""

    name: str = setting("smollm2-135m", help="model", choices=("smollm2-135m",))
    path: str | None = setting(None, help=LLAMA_INSTEAD, content=MODEL_CONTENT)
    load_in: str = _load_in()
    train_backbone: bool = setting(True, help="train the language model too, not only the new parts")
    new_learning_rate: float = setting(1e-3, help="peak learning rate of patch embedding or projector", gt=0)
    patch: int = setting(8, help="patch side (setting U)", unit="pixels", ge=1)

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        return f"Llama-type model {self.path}" if self.path else SMOLLM2

    @property
    def parameters(self) -> int | None:
        """Parameters of the decoder; None if only its files know."""
        return smollm2_parameters(self.path)


@dataclass(frozen=True, kw_only=True)
class LlavaConfig:
    """Any LLaVA-type checkpoint, through `LlavaForConditionalGeneration`."""

    name: str = setting("llava", help="model", choices=("llava",))
    path: str | None = setting(None, help="folder or hub name of the checkpoint", content=MODEL_CONTENT)
    load_in: str = _load_in()
    train_backbone: bool = setting(True, help="train the language model too, not only the projector")
    projector_learning_rate: float = setting(1e-3, help="peak learning rate of the projector", gt=0)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.path else [("path", "is missing; type model.path=FOLDER or a hub name")]

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        return f"LLaVA checkpoint {self.path}"

    @property
    def parameters(self) -> None:
        """Only its files know."""
        return None


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

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        kind = {"llama": "Llama", "gpt2": "GPT-2"}[self.architecture]
        return f"{kind}-type model, {self.layers} layers, width {self.width}, trained in the run"

    @property
    def parameters(self) -> int:
        """Parameters, with its largest vocabulary."""
        if self.architecture == "gpt2":
            return gpt2_parameters(self.vocabulary, self.layers, self.width)
        return llama_parameters(self.vocabulary, self.layers, self.width, mlp_width(self.width))


@dataclass(frozen=True, kw_only=True)
class CharacterLMConfig(SmallLMConfig):
    """A small causal language model of characters that is trained in the run, once for all runs that ask for it."""

    tokenizer: str = setting("characters", help="one token a character", choices=("characters",))
    steps: int = setting(500, help="steps of its training", unit="steps", ge=1)
    batch_size: int = setting(64, help="examples per step", unit="examples", ge=1)
    learning_rate: float = setting(3e-3, help="peak learning rate", gt=0)
    seed: int | None = setting(None, help="its own; null: that of the run", ge=0, lt=SEEDS)

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        return f"{super().description} ({self.steps:,} steps, once, then cached)"


@dataclass(frozen=True, kw_only=True)
class SmolLM2TextConfig:
    """SmolLM2-135M: Instruct weights that passed through Q4_1, read from a GGUF asset."""

    name: str = setting("smollm2-135m", help="model", choices=("smollm2-135m",))
    path: str | None = setting(None, help=LLAMA_INSTEAD, content=MODEL_CONTENT)
    load_in: str = _load_in()

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        return f"causal language model {self.path}" if self.path else SMOLLM2

    @property
    def parameters(self) -> int | None:
        """Parameters; None if only its files know."""
        return smollm2_parameters(self.path)


@dataclass(frozen=True, kw_only=True)
class CausalLMConfig:
    """Any causal language model that `transformers` loads."""

    name: str = setting("causal-lm", help="model", choices=("causal-lm",))
    path: str | None = setting(None, help="folder or hub name of the model", content=MODEL_CONTENT)
    load_in: str = _load_in()

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.path else [("path", "is missing; type model.path=FOLDER or a hub name")]

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        return f"causal language model {self.path}"

    @property
    def parameters(self) -> None:
        """Only its files know."""
        return None


@dataclass(frozen=True, kw_only=True)
class SmallEncoderConfig:
    """An encoder of BERT's shape, trained from nothing in the run, with a WordPiece made from the run's texts."""

    name: str = setting("small-encoder", help="model", choices=("small-encoder",))
    layers: int = setting(4, help="blocks", ge=1)
    width: int = setting(128, help="of a token inside the blocks", ge=4)
    heads: int = setting(2, help="attention heads", ge=1)
    inner: int | None = setting(None, help="width inside the MLP; null: four times the width", ge=4)
    embedding: int | None = setting(
        None, help="width of embeddings, which a linear layer brings to that of tokens; null: the same", ge=4
    )
    positions: int = setting(128, help="most tokens of a text", unit="tokens", ge=8)
    dropout: float = setting(0.0, help="dropout of states and of attention; published: 0.1", ge=0, lt=1)
    tokenizer: str | None = setting(
        None,
        help="folder or hub name of a tokenizer to read texts with; null: a WordPiece made from the run's texts",
        content=TOKENIZER_CONTENT,
    )
    vocabulary: int = setting(
        4096, help="largest size of a tokenizer made in the run; the size of yours", unit="tokens", ge=200
    )
    lower_case: bool = setting(True, help="whether the tokenizer made in the run reads texts in lower case")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [("heads", f"width={self.width} does not divide by it")] if self.width % self.heads else []

    @property
    def shape(self) -> LayerShape:
        """Of a block."""
        return LayerShape(self.width, self.inner or 4 * self.width)

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        return f"BERT-type encoder, {self.layers} layers, width {self.width}, trained in the run"

    @property
    def parameters(self) -> int:
        """Parameters without a head, with its largest vocabulary."""
        sizes = (self.embedding or self.width, self.layers, self.width, self.inner or 4 * self.width)
        return bert_parameters(self.vocabulary, self.positions, *sizes)

    def macs(self, tokens: int) -> float:
        """Multiply-adds of a forward over a text of so many tokens, without a head."""
        table = self.embedding or self.width
        project = 0 if table == self.width else mlp_macs(tokens, table, self.width)
        return project + model_macs(self.shape, [tokens] * self.layers)

    def vocabulary_macs(self, tokens: float) -> float:
        """Those of a head that predicts so many tokens with the embeddings' table."""
        return mlp_macs(tokens, self.width, self.embedding or self.width, self.vocabulary)

    def output_macs(self, tokens: float) -> float:
        """Those of the table alone."""
        return mlp_macs(tokens, self.embedding or self.width, self.vocabulary)


TextModelConfig = SmallLMConfig | SmolLM2TextConfig | CausalLMConfig


@dataclass(frozen=True)
class MiniLMConfig:
    """A sentence encoder of type BERT; how it pools its tokens, its files say."""

    name: str = setting("minilm", help="model", choices=("minilm",))
    path: str | None = setting(
        None,
        help="folder or hub name of another BERT-type encoder; null: all-MiniLM-L6-v2, an asset",
        content=MODEL_CONTENT,
    )
