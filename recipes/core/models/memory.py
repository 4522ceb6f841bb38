"""What training a language model takes in memory, counted from its shape before anything is loaded. No torch.

What the constants below were measured on: docs/decisions/0008-in-and-out.md.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.config.settings import TrainerConfig
from recipes.core.errors import UserError
from recipes.core.models.adapter_config import PLAIN, LoraConfig
from recipes.core.models.config import (
    LlavaConfig,
    ModelConfig,
    SmallConfig,
    SmallLMConfig,
    SmolLM2Config,
    SmolLM2TextConfig,
    mlp_width,
)
from recipes.core.storage.model_files import weight_files
from recipes.core.storage.places import model_config, model_folder

# Bytes of optimizer state a trained weight: in the weight's own dtype by its factor, or in a fixed number of bytes.
MOMENTS = {"sgd": 0, "adafactor": 0, "adagrad": 1, "rmsprop": 1, "stable_adamw": 2, "grokadamw": 2}
MOMENTS |= {"adamw": 2, "adamw_torch": 2, "adamw_torch_fused": 2}
LOGITS = {True: 256, False: 1024}  # tokens whose logits exist at a time; over more than 12,288 tokens of vocabulary
WIDE = 12_288
COPIES_OF_LOGITS = 3  # logits, their softmax in fp32, and what becomes their gradient
BACKWARD = 2.5  # what one layer keeps, this often: gradients on their way and what they are computed with, measured
# Bytes of a quantised weight with its scales; a head that is no embedding is plain.
BITS = {"8bit": 1.0, "4bit": 0.5625}
PROGRAM = 470 * 2**20  # the interpreter with torch and transformers, measured
TOWER = "vision_tower."  # in the names of a LLaVA's weights


@dataclass(frozen=True)
class DecoderSize:
    """The shape of a causal language model.

    Attributes:
        parameters: All of them.
        layers, width, inner, keys, vocabulary: Layers, widths of a token, inside the MLP, and of keys; tokens it knows.
        gated: Whether the MLP has a gate, as in Llama.
        tower: Those of the parameters that are a LLaVA's visual encoder, which stays frozen.
    """

    parameters: int
    layers: int
    width: int
    inner: int
    keys: int
    vocabulary: int
    gated: bool = True
    tower: int = 0

    def saved_numbers(self) -> int:
        """Numbers that one layer keeps of a token for the backward pass, counted with saved tensors.

        With a gate: norms, projections, attention and residuals 8 d + 2 k, the MLP 4 i; GPT-2 12 d + 4 i.
        """
        if self.gated:
            return 8 * self.width + 2 * self.keys + 4 * self.inner + 6
        return 12 * self.width + 4 * self.inner

    def weight_bytes(self, stored: float, load_in: str = PLAIN) -> float:
        """Bytes of all weights; those in 4 or 8 bits are the linear layers, others take `stored` bytes each."""
        linear = max(self.parameters - self.tower - self.vocabulary * self.width, 0) if load_in in BITS else 0
        return (self.parameters - linear) * stored + linear * BITS.get(load_in, 0)

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of adapters beside all linear layers but the head."""
        attention = 6 * self.width + 2 * self.keys  # q, k, v, o: rank x (in + out)
        mlp = (3 if self.gated else 2) * (self.width + self.inner)
        return rank * self.layers * (attention + mlp)


@dataclass(frozen=True)
class Memory:
    """Bytes of a process that trains, by what takes them; `frozen` are models beside the trained one, and `activations`
    what they take beyond the room of gradients that come only as they go.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    frozen: float = 0.0

    @property
    def certain(self) -> float:
        """What is needed whatever the data are."""
        return self.weights + self.frozen + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        """All of it."""
        return self.certain + self.activations


def training_memory(
    size: DecoderSize,
    trainer: TrainerConfig,
    lora: LoraConfig,
    tokens: int,
    bf16: bool,
    model: Any = None,
    frozen: Sequence[Any] = (),
) -> Memory:
    """What a process needs to train a model.

    Args:
        size: Of the model.
        trainer: Its settings.
        lora: Adapters, if only these are trained.
        tokens: Tokens of one forward.
        bf16: Whether the forward runs in bf16 by autocast.
        model: Config of the model: in how many bits it is loaded, and whether it is trained itself.
        frozen: Configs of models beside it; one whose size is not known counts as nothing.
    """
    stored = 2.0 if trainer.dtype == "bfloat16" else 4.0
    sharing = trainer.processes if trainer.parallel == "fsdp" else 1
    adapters = size.adapter_parameters(lora.rank) if lora.rank else 0
    # Beside a frozen backbone what is new is trained; its size is known with the data.
    whole = size.parameters - size.tower if getattr(model, "train_backbone", True) else 0
    trained, bytes_of_trained = (adapters, 4) if lora.rank else (whole, stored)
    weights = (_loaded_bytes(size, stored, model) + adapters * 4) / sharing
    gradients = trained * bytes_of_trained / sharing
    optimizer = trained * optimizer_bytes(trainer.optimizer, bytes_of_trained) / sharing
    activations = _activations(size, trainer, bool(lora.rank), tokens, bf16)
    if trainer.micro_batch_size in (None, trainer.process_batch_size):
        # Gradients come as activations go: at the end of the backward pass all of them stand beside one layer's.
        activations = max(activations - gradients, _in_flight(size, trainer, tokens, bf16))
    sizes = ((decoder_size(other), other) for other in frozen)
    beside = sum(_loaded_bytes(other_size, stored, other) for other_size, other in sizes if other_size)
    return Memory(weights, gradients, optimizer, activations, beside / sharing)


def _loaded_bytes(size: DecoderSize, stored: float, model: Any) -> float:
    return size.weight_bytes(stored, getattr(model, "load_in", PLAIN))


def optimizer_bytes(name: str, weight: float) -> float:
    """Bytes of optimizer state for one trained weight of so many bytes."""
    if name in MOMENTS:
        return MOMENTS[name] * weight
    one = 1 if "8bit" in name else 0.5 if "4bit" in name else 4
    if "lion" in name or "rmsprop" in name:
        return one
    return (3 if "ademamix" in name else 2) * one


def _activations(size: DecoderSize, trainer: TrainerConfig, adapted: bool, tokens: int, bf16: bool) -> float:
    number, layer = _number_bytes(trainer, bf16), size.saved_numbers()
    floats = size.layers * size.width + layer if trainer.gradient_checkpointing else size.layers * layer
    wide = size.vocabulary > WIDE
    logits = min(tokens, LOGITS[wide]) * size.vocabulary * 4 * COPIES_OF_LOGITS
    # The head's gradient comes before it is added to the embedding's.
    head = 0 if adapted else size.vocabulary * size.width * 4
    in_flight = _in_flight(size, trainer, tokens, bf16)
    return tokens * number * (floats + 4 * size.width) + in_flight + logits + head


def _in_flight(size: DecoderSize, trainer: TrainerConfig, tokens: int, bf16: bool) -> float:
    """What the backward pass holds of one layer."""
    return tokens * _number_bytes(trainer, bf16) * BACKWARD * size.saved_numbers()


def _number_bytes(trainer: TrainerConfig, bf16: bool) -> int:
    """Of one number that a layer computes."""
    return 2 if bf16 or trainer.dtype == "bfloat16" else 4


def decoder_size(model: Any) -> DecoderSize | None:
    """The shape of the language model that a config names; None if only its files know, and they are not here."""
    if isinstance(model, SmallLMConfig) and model.architecture == "gpt2":
        width = model.width
        return DecoderSize(model.parameters, model.layers, width, 4 * width, width, model.vocabulary, gated=False)
    if isinstance(model, SmallLMConfig | SmallConfig):
        inner = mlp_width(model.width) if isinstance(model, SmallLMConfig) else 4 * model.width
        return DecoderSize(model.parameters, model.layers, model.width, inner, model.width, model.vocabulary)
    if path := getattr(model, "path", None):
        return file_size(path)
    if isinstance(model, SmolLM2Config | SmolLM2TextConfig) and model.parameters:
        return DecoderSize(model.parameters, 30, 576, 1536, 192, 49152)
    return None


def file_size(path: str) -> DecoderSize | None:
    """The shape of the model in a local folder or of a finished run; None if its files do not say.

    Args:
        path: As typed for `model.path`.
    """
    content = model_config(path)
    text: Any = content.get("text_config", content)
    if not isinstance(text, dict):
        return None

    def value(*names: str) -> int | None:
        return next((text[name] for name in names if isinstance(text.get(name), int)), None)

    layers, width = value("num_hidden_layers", "n_layer"), value("hidden_size", "n_embd")
    vocabulary, heads = value("vocab_size"), value("num_attention_heads", "n_head")
    parameters, tower = stored_parameters(model_folder(path))
    if not (layers and width and vocabulary and heads and parameters):
        return None
    keys = (value("num_key_value_heads") or heads) * (value("head_dim") or width // heads)
    gated = "n_embd" not in text
    inner = value("intermediate_size", "n_inner") or 4 * width
    return DecoderSize(parameters, layers, width, inner, keys, vocabulary, gated, tower)


def image_tokens(model: ModelConfig, setting: str, side: int | None) -> int | None:
    """Tokens that stand for an image before its caption; None if only image or encoder know.

    Args:
        model: Config of the model.
        setting: "U" (patches into the decoder) or "H" (visual encoder and projector).
        side: Of the data's images in pixels, if it is known.
    """
    if isinstance(model, LlavaConfig):
        return _patches_of_encoder(str(model.path))
    side = model.image_size or side
    if setting == "H":
        if model.vision.path:
            return _patches_of_encoder(model.vision.path)
        return side and (side // model.vision.patch) ** 2
    # Patches, what stands between their rows, and the two ends, as in `solo_layout`.
    return side and (side // model.patch) ** 2 + side // model.patch + 1


def _patches_of_encoder(path: str) -> int | None:
    content = model_config(path)
    vision: Any = content.get("vision_config", content)
    side, patch = (vision.get(name) if isinstance(vision, dict) else None for name in ("image_size", "patch_size"))
    if isinstance(side, int) and isinstance(patch, int) and patch > 0:
        return int((side // patch) ** 2)
    return None


def stored_parameters(folder: Path) -> tuple[int, int]:
    """Numbers in the weights that the loader reads of a folder, by the headers of their files.

    Returns:
        All of them, and those of a LLaVA's visual encoder; zeros where a file is absent or cannot be read.
    """
    count = tower = 0
    try:
        for path in weight_files(folder, str(folder)):
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            numbers = {name: math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
            count += sum(numbers.values())
            tower += sum(number for name, number in numbers.items() if TOWER in name)
    except (UserError, OSError, ValueError, MemoryError, TypeError, KeyError, AttributeError):
        return 0, 0
    return count, tower
