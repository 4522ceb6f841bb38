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
    GemmaConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMProcessor,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from recipes.core.models.processors import without_videos
from recipes.core.models.sources import load_processor, silent
from recipes.pruning.adapters import families
from recipes.pruning.token_pruning.checkpoint import asking
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


VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}


def onevision(kind: str) -> tuple[Any, Any]:
    words, pinpoints = tokenizer("<image>", "<video>"), [[16, 16], [16, 32], [32, 16], [32, 32], [16, 48]]
    images = LlavaOnevisionImageProcessorPil(size={"height": 16, "width": 16}, image_grid_pinpoints=pinpoints)
    strategy: dict[str, Any] = {"vision_feature_select_strategy": "full"}
    aspect = {"vision_aspect_ratio": "anyres_max_2"}  # so that the largest packs are shrunk
    config = LlavaOnevisionConfig(
        text_config=Qwen2Config(**TEXT, vocab_size=len(words)),
        vision_config=SiglipVisionConfig(**VISION, vision_use_head=False),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        **strategy,
        **aspect,
    )
    processor = without_videos(LlavaOnevisionProcessor)(
        images, words, num_image_tokens=16, chat_template=CHAT.format(image="<image>"), **strategy, **aspect
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def idefics(kind: str) -> tuple[Any, Any]:
    names = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    words = tokenizer(*names, *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)))
    sizes = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    vision, text = VISION, LlamaConfig(**TEXT, vocab_size=len(words))
    image, chat = {"image_token_id": words.convert_tokens_to_ids("<image>")}, CHAT.format(image="<image>")
    if kind == "idefics3":
        config: Any = Idefics3Config(text_config=text, vision_config=vision, scale_factor=2, **image)
        processor = Idefics3Processor(Idefics3ImageProcessorPil(**sizes), words, image_seq_len=4, chat_template=chat)
        return Idefics3ForConditionalGeneration(config), processor
    config = SmolVLMConfig(text_config=text, vision_config=vision, scale_factor=2, **image)
    processor = without_videos(SmolVLMProcessor)(
        SmolVLMImageProcessorPil(**sizes), words, None, image_seq_len=4, chat_template=chat
    )
    return SmolVLMForConditionalGeneration(config), processor


def internvl(kind: str) -> tuple[Any, Any]:
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    names |= {"video_token": "<video>"}
    known = byte_level().backend_tokenizer
    words = PreTrainedTokenizerFast(
        tokenizer_object=known, pad_token="<pad>", eos_token="</s>", extra_special_tokens=names
    )
    images = GotOcr2ImageProcessorPil(
        size={"height": 16, "width": 16}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    config = InternVLConfig(
        text_config=Qwen2Config(**TEXT, vocab_size=len(words)),
        vision_config=InternVLVisionConfig(**VISION, layer_scale_init_value=1.0),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    processor = without_videos(InternVLProcessor)(
        images, words, image_seq_length=4, chat_template=CHAT.format(image="<IMG_CONTEXT>")
    )
    return InternVLForConditionalGeneration(config), processor


def paligemma(kind: str) -> tuple[Any, Any]:
    words = byte_level(bos=True)
    images = SiglipImageProcessorPil(size={"height": 16, "width": 16})
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, words)
    config = PaliGemmaConfig(
        text_config=GemmaConfig(**TEXT, head_dim=8, vocab_size=len(words)),
        vision_config=SiglipVisionConfig(**VISION, vision_use_head=False, projection_dim=32),
        image_token_index=processor.image_token_id,
        projection_dim=32,
    )
    return PaliGemmaForConditionalGeneration(config), processor


MAKERS: dict[str, Callable[[str], tuple[Any, Any]]] = {
    "qwen2_vl": qwen,
    "qwen2_5_vl": qwen,
    "llava_onevision": onevision,
    "idefics3": idefics,
    "smolvlm": idefics,
    "internvl": internvl,
    "paligemma": paligemma,
}


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
    ask = asking(processor, families()[kind].prompt)
    pictures, prompts = [[picture(row)] for row in rows], [ask(QUESTIONS[row]) for row in rows]
    inputs = processor(images=pictures, text=prompts, padding=True, return_tensors="pt")
    return {name: value for name, value in inputs.items() if name != "labels"}
