"""Any LLaVA-type checkpoint behind the interface of `CaptionModel`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from recipes.core.data.text.text_ids import TextIds
from recipes.core.models.adapter_config import PLAIN
from recipes.core.models.config import LlavaConfig
from recipes.core.models.dropout import evaluation
from recipes.core.models.head import check_head, output_head
from recipes.core.models.normalisation import normalisation
from recipes.core.models.quantised import prepare_for_adapters, quantisation
from recipes.core.models.sources import check_tokenizer_fits, load_model, load_tokenizer
from recipes.core.models.vision_language import R, Readout, SquarePixels

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
KEY = "model.path"
PLAIN_PARTS = [
    "lm_head",
    "model.vision_tower",
    "model.multi_modal_projector",
]  # whatever the bits of the language model


class LlavaCaptionModel(nn.Module):
    """`LlavaForConditionalGeneration` as a caption model; its visual encoder stays frozen.

    Args:
        llava: The loaded model.
        start: What its tokenizer puts before a text.
        eos: End-of-text token id.
        normalize: Image array -> pixels.
        train_backbone: Train the language model too, not only the projector.
    """

    def __init__(
        self,
        llava: Any,
        start: Sequence[int],
        eos: int,
        normalize: Callable[[np.ndarray], Tensor],
        train_backbone: bool,
    ) -> None:
        super().__init__()
        self.llava, self.eos, self.pixels = llava, eos, normalize
        self.placeholder = llava.config.image_token_id
        llava.model.vision_tower.requires_grad_(False)
        llava.model.language_model.requires_grad_(train_backbone)
        llava.get_output_embeddings().requires_grad_(train_backbone)
        self.prefix_ids = [*start] + [self.placeholder] * self._image_tokens()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixels: Tensor | None, readout: Readout[R]) -> R:
        """As `CaptionModel.forward`."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand(len(input_ids), -1)
        hidden = self.llava.model(
            input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixels, position_ids=positions
        ).last_hidden_state
        return readout(hidden, output_head(self.llava))

    def image_positions(self, input_ids: Tensor) -> Tensor:
        """[batch, time] bool: where image embeddings stand."""
        return input_ids == self.placeholder

    @torch.no_grad()
    def generate_captions(self, pixels: Tensor, max_new_tokens: int) -> list[list[int]]:
        """Greedy captions, without the end-of-text token."""
        ids = torch.tensor(self.prefix_ids, device=pixels.device).expand(len(pixels), -1)
        with evaluation(self):
            out = self.llava.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=pixels,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=self.eos,
                pad_token_id=self.eos,
            )
        rows = out[:, ids.shape[1] :].tolist()
        return [row[: row.index(self.eos)] if self.eos in row else row for row in rows]

    @torch.no_grad()
    def _image_tokens(self) -> int:
        """Features per image, counted by asking the model: it depends on tower and selection strategy."""
        vision = self.llava.config.vision_config
        blank = torch.zeros(1, vision.num_channels, vision.image_size, vision.image_size, dtype=self.llava.dtype)
        features = self.llava.get_image_features(pixel_values=blank, return_dict=True).pooler_output
        return int(features[0].shape[0])


def load_llava(config: LlavaConfig, tokenizer: Any) -> LlavaCaptionModel:
    """The checkpoint in fp32, the language model as `load_in` says.

    Raises:
        UserError: it cannot be loaded, is no LLaVA, or does not fit the tokenizer.
    """
    path, llava = str(config.path), _load(config)
    check_tokenizer_fits(tokenizer, llava, f"{KEY}={path}")
    check_head(llava, f"{KEY}={path}")
    vision = llava.config.vision_config
    mean, std = normalisation(path, KEY, vision.num_channels, (CLIP_MEAN, CLIP_STD))
    normalize = SquarePixels(vision.image_size, vision.num_channels, mean, std)
    start = TextIds(tokenizer).start
    trains = config.train_backbone and config.load_in == PLAIN
    return LlavaCaptionModel(llava, start, tokenizer.eos_token_id, normalize, trains)


def _load(config: LlavaConfig) -> Any:
    options: dict[str, Any] = {}
    if config.load_in != PLAIN:
        options["quantization_config"] = quantisation(config.load_in, f"model.load_in={config.load_in}", PLAIN_PARTS)
    llava = load_model(LlavaForConditionalGeneration, str(config.path), KEY, dtype=torch.float32, **options)
    return prepare_for_adapters(llava) if options else llava


def load_llava_tokenizer(config: LlavaConfig) -> Any:
    """The checkpoint's tokenizer, with a padding token."""
    tokenizer = load_tokenizer(str(config.path), KEY)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_llava_text_model(config: LlavaConfig) -> Any:
    """The checkpoint's language model alone, as a causal LM."""
    llava = _load(config)
    with torch.device("meta"):  # every part of it is replaced
        text: Any = AutoModelForCausalLM.from_config(llava.config.text_config, dtype=torch.float32)
    text.model, text.lm_head = llava.model.language_model, llava.get_output_embeddings()
    text.eval()
    check_head(text, f"{KEY}={config.path}")
    return text
