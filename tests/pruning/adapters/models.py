"""Tiny random models of every kind that the adapters know, and inputs for them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from recipes.core.models.padded import pack
from recipes.pruning.adapters import Guide
from recipes.pruning.tokens import Depth, Point, Pruner, Selection, State, Tokens, everything

IMAGE, VOCAB, PATCHES, WIDTH = 3, 40, 16, 16
SIZES: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 24, "num_attention_heads": 2}
VISION: dict[str, Any] = {**SIZES, "num_hidden_layers": 6, "image_size": 16, "patch_size": 4}
LLM: dict[str, Any] = {
    **SIZES,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 6,
    "vocab_size": VOCAB,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 128,
}
DECODERS = {
    "llama": LlamaConfig(**LLM),
    "mistral": MistralConfig(**LLM, sliding_window=None),
    "qwen2": Qwen2Config(**LLM),
    "qwen3": Qwen3Config(**LLM, head_dim=4),
}


def lively(model: Any, scale: float = 4.0) -> Any:
    """The model with larger weights, so that attention is not even and tokens differ."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed_tokens" not in name and "word_embeddings" not in name:
                parameter.mul_(scale)
    return model.eval()


def llava(
    decoder: str = "llama", siglip: bool = False, attention: str = "sdpa", image_size: int = 16, **kwargs: Any
) -> Any:
    torch.manual_seed(0)
    sizes = VISION | {"image_size": image_size}
    vision = SiglipVisionConfig(**sizes) if siglip else CLIPVisionConfig(**sizes)
    config = LlavaConfig(
        vision_config=vision,
        text_config=DECODERS[decoder],
        image_token_index=IMAGE,
        image_seq_length=PATCHES,
        **({"vision_feature_select_strategy": "full"} if siglip else {}),
        **kwargs,
    )
    return lively(LlavaForConditionalGeneration._from_config(config, attn_implementation=attention))


def llava_next() -> Any:
    torch.manual_seed(0)
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=DECODERS["llama"],
        image_token_index=IMAGE,
        image_grid_pinpoints=[[16, 32], [32, 16]],
    )
    return lively(LlavaNextForConditionalGeneration(config))


def clip() -> Any:
    torch.manual_seed(0)
    return lively(CLIPVisionModel(CLIPVisionConfig(**VISION)))


def vit(head: bool = False) -> Any:
    torch.manual_seed(0)
    config = ViTConfig(**VISION)
    return lively(ViTForImageClassification(config) if head else ViTModel(config))


def bert() -> Any:
    torch.manual_seed(0)
    return lively(BertModel(BertConfig(**SIZES, num_hidden_layers=6, vocab_size=VOCAB)), 2.0)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def prompts(lengths: Sequence[tuple[int, int]], slots: Sequence[int] | int = PATCHES) -> dict[str, Tensor]:
    """Prompts with so many words before and behind the image, padded on the left."""
    draw = torch.Generator().manual_seed(1)
    counts = [slots] * len(lengths) if isinstance(slots, int) else list(slots)
    rows = []
    for (before, behind), count in zip(lengths, counts, strict=True):
        words = torch.randint(4, VOCAB, (before + behind,), generator=draw)
        rows.append(torch.cat([words[:before], torch.full((count,), IMAGE), words[before:]]))
    longest = max(len(row) for row in rows)
    ids = torch.stack([torch.cat([torch.zeros(longest - len(row), dtype=torch.long), row]) for row in rows])
    mask = torch.stack([(torch.arange(longest) >= longest - len(row)).long() for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


LENGTHS = [(2, 5), (1, 3), (4, 4)]


def batch(lengths: Sequence[tuple[int, int]] = LENGTHS, seed: int = 0) -> dict[str, Tensor]:
    return {**prompts(lengths), "pixel_values": images(len(lengths), seed)}


def one(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """A sample alone, without padding."""
    alone = {name: value[row : row + 1] for name, value in inputs.items()}
    if "attention_mask" in alone:
        real = alone["attention_mask"][0].bool()
        alone |= {name: alone[name][:, real] for name in ("input_ids", "attention_mask")}
    return alone


def guide(count: int, width: int = WIDTH) -> Guide:
    draw = torch.Generator().manual_seed(5)
    matrix = torch.randn(width, 6, generator=draw)
    return Guide(torch.randn(count, 6, generator=draw), lambda patches: patches @ matrix)


@dataclass
class Chosen(Pruner):
    """Keeps given original positions at given points."""

    at: dict[Point, list[list[int]]]
    reads: tuple[str, ...] = ()
    seen: dict[Point, Tokens] = field(default_factory=dict)
    options: Any = None

    def points(self, depth: Depth) -> tuple[Point, ...]:
        return tuple(self.at)

    def needs(self, point: Point) -> tuple[str, ...]:
        return self.reads

    def select(self, tokens: Tokens, state: State) -> Selection:
        self.seen[tokens.point] = tokens
        wanted = self.at[tokens.point]
        if not wanted:
            return everything(tokens)
        kept = [torch.isin(tokens.positions[row], torch.tensor(wanted[row])) for row in range(len(wanted))]
        return Selection(*pack(torch.stack(kept) & tokens.valid))
