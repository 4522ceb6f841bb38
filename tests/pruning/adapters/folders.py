"""Small random vision-language models in folders of their own, with the processors that such models really have."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from recipes.core.models.processors import without_videos
from recipes.core.models.sources import load_processor, silent
from tests.core.tokenizer_kinds import byte_level
from tests.pruning.adapters.models import lively

SHAPES = [(40, 24), (32, 32), (24, 64)]  # height and width of the images
QUESTIONS = ["why", "what is the big dog", "how good"]
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
CHAT = (
    "{{% for m in messages %}}<|im_start|>{{{{ m['role'] }}}}\n{{% for p in m['content'] %}}"
    "{{% if p['type'] == 'image' %}}{image}{{% else %}}{{{{ p['text'] }}}}{{% endif %}}{{% endfor %}}<|im_end|>\n"
    "{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)


def tokenizer(*special: str) -> Any:
    known = byte_level()
    known.add_special_tokens({"additional_special_tokens": list(special)})
    return known


def qwen(kind: str) -> tuple[Any, Any]:
    names = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = tokenizer(*names)
    sizes = {"shortest_edge": 8 * 8 * 4, "longest_edge": 64 * 64}
    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=sizes)
    chat = CHAT.format(image="".join(names[i] for i in (0, 2, 1)))
    start, end, image, video = words.convert_tokens_to_ids(names)
    ids = {"vision_start_token_id": start, "vision_end_token_id": end, "image_token_id": image, "video_token_id": video}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 100.0}
    text = TEXT | {"vocab_size": len(words), "rope_parameters": rope}
    common = {"depth": 4, "num_heads": 2, "patch_size": 4}
    if kind == "qwen2_vl":
        vision = common | {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
        config: Any = Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
        model, processor = Qwen2VLForConditionalGeneration(config), without_videos(Qwen2VLProcessor)
    else:
        vision = common | {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24, "window_size": 16}
        vision |= {"fullatt_block_indexes": [1, 3]}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
        model, processor = Qwen2_5_VLForConditionalGeneration(config), without_videos(Qwen2_5_VLProcessor)
    return model, processor(image_processor=images, tokenizer=words, chat_template=chat)


MAKERS: dict[str, Callable[[str], tuple[Any, Any]]] = {"qwen2_vl": qwen, "qwen2_5_vl": qwen}


@dataclass(frozen=True)
class Saved:
    """A model and its processor, as `from_pretrained` gives them, and where."""

    home: Any
    folder: Path
    model: Any
    processor: Any


@cache
def saved(kind: str) -> Saved:
    """The model of a kind, made once."""
    torch.manual_seed(0)
    home = TemporaryDirectory(prefix=f"{kind}-")  # gone when the tests end
    folder = Path(home.name)
    model, processor = MAKERS[kind](kind)
    with silent():
        lively(model, 3.0).save_pretrained(folder)
        processor.save_pretrained(folder)
        loaded = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa").eval()
    return Saved(home, folder, loaded, load_processor(str(folder), "model.path"))


def picture(row: int) -> Any:
    height, width = SHAPES[row]
    pixels = np.random.default_rng(row).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def batch(kind: str, rows: tuple[int, ...] = (0, 1, 2)) -> dict[str, Tensor]:
    """Questions about images of different sizes, padded on the left."""
    processor = saved(kind).processor
    processor.tokenizer.padding_side = "left"
    turns = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTIONS[r]}]}] for r in rows]
    prompts = [processor.apply_chat_template(each, add_generation_prompt=True, tokenize=False) for each in turns]
    pictures = [[picture(row)] for row in rows]
    return dict(processor(images=pictures, text=prompts, padding=True, return_tensors="pt"))
