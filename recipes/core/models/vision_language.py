"""Vision-language models as one interface: image and caption in, hidden states to a read-out.

Setting U has no visual encoder: patches of pixels go through one linear map into the decoder (SOLO layout).
Setting H puts a frozen visual encoder and an MLP projector in front of it (LLaVA style).
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from recipes.core.models.dropout import evaluation
from recipes.core.models.head import OutputHead, decoder, last_hidden_state, output_head

R = TypeVar("R")
Readout = Callable[[Tensor, OutputHead], R]


class TextModel(nn.Module):
    """A causal language model behind the interface of `CaptionModel`; images are ignored.

    Args:
        language_model: A `transformers` causal LM.
    """

    def __init__(self, language_model: Any) -> None:
        super().__init__()
        self.language_model = language_model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixels: Tensor | None,
        readout: Readout[R],
        position_ids: Tensor | None = None,
    ) -> R:
        """Run `readout(hidden [batch, time, width], output head)` inside the forward.

        Rows in which several sequences lie bring their own `position_ids` [batch, time], and as `attention_mask` a bool
        [batch, 1, time, time] of what each token sees.
        """
        hidden = last_hidden_state(
            self.language_model, input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids
        )
        return readout(hidden, output_head(self.language_model))


class PatchEmbedding(nn.Module):
    """Setting U: one bias-free linear map from patches to the decoder, with learned patch positions.

    Args:
        image_size: Side of the square image in pixels.
        patch: Side of a patch; divides `image_size`.
        channels: 1 or 3.
        width: Width of the decoder.

    Source:
        SOLO (arXiv 2407.06438): Linear(patch * patch * channels -> width), added to the placeholder's embedding.
    """

    replaces_placeholder = False

    def __init__(self, image_size: int, patch: int, channels: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.project = nn.Linear(patch * patch * channels, width, bias=False)
        self.position = nn.Parameter(torch.randn((image_size // patch) ** 2, width) * 0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [batch, channels, size, size] -> [batch, patches, width], row by row."""
        patches = functional.unfold(pixels, self.patch, stride=self.patch).transpose(1, 2)
        embedded: Tensor = self.project(patches) + self.position
        return embedded


class EncoderProjector(nn.Module):
    """Setting H: a frozen visual encoder and a two-layer MLP with GELU.

    Args:
        encoder: Pixels [batch, channels, size, size] -> features [batch, tokens, features]; never trained.
        features: Width of the encoder.
        width: Width of the decoder.
    """

    replaces_placeholder = True

    def __init__(self, encoder: nn.Module, features: int, width: int) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval()
        self.project = nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, width))

    def train(self, mode: bool = True) -> "EncoderProjector":
        """Training mode for the projector only."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels -> [batch, tokens, width]."""
        with torch.no_grad():
            features = self.encoder(pixels)
        projected: Tensor = self.project(features)
        return projected


class CaptionModel(nn.Module):
    """A decoder that sees an image before its caption.

    Args:
        language_model: A `transformers` causal LM.
        vision: Pixels -> one embedding per placeholder (`PatchEmbedding` or `EncoderProjector`).
        prefix_ids: Token ids before every caption: begin of text, image tokens.
        placeholder: Id of the token that stands for one image embedding.
        eos: Id of the end-of-text token.
        normalize: Image uint8 [height, width, channels] -> float32 [channels, size, size].
    """

    def __init__(
        self,
        language_model: Any,
        vision: nn.Module,
        prefix_ids: Sequence[int],
        placeholder: int,
        eos: int,
        normalize: Callable[[np.ndarray], Tensor],
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.vision = vision
        self.prefix_ids, self.placeholder, self.eos = list(prefix_ids), placeholder, eos
        self.pixels = normalize

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixels: Tensor | None, readout: Readout[R]) -> R:
        """Hidden states of image and caption, handed to a read-out inside the forward.

        The read-out runs here so that the head's parameters are covered by what wraps the model, and full logits never
        have to exist.

        Args:
            input_ids: [batch, time], starting with `prefix_ids`, right-padded.
            attention_mask: [batch, time].
            pixels: [batch, channels, size, size].
            readout: Takes hidden states [batch, time, width] and the output head.

        Raises:
            ValueError: no pixels.
        """
        if pixels is None:
            raise ValueError("a caption model needs pixels; use TextModel for text alone")
        embedded = self._embed(input_ids, pixels)
        # Padding is on the right, so positions are those of the row, and hiding the image moves nothing.
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand(len(input_ids), -1)
        hidden = decoder(self.language_model)(
            inputs_embeds=embedded, attention_mask=attention_mask, position_ids=positions
        ).last_hidden_state
        return readout(hidden, output_head(self.language_model))

    def image_positions(self, input_ids: Tensor) -> Tensor:
        """[batch, time] bool: where image embeddings stand."""
        return input_ids == self.placeholder

    @torch.no_grad()
    def generate_captions(self, pixels: Tensor, max_new_tokens: int) -> list[list[int]]:
        """Greedy captions, without the end-of-text token.

        Args:
            pixels: [batch, channels, size, size].
            max_new_tokens: Longest caption.
        """
        ids = torch.tensor(self.prefix_ids, device=pixels.device).expand(len(pixels), -1)
        with evaluation(self):
            embedded, cache = self._embed(ids, pixels), None
            rows: list[Tensor] = []
            open_rows = torch.ones(len(pixels), dtype=torch.bool, device=pixels.device)
            for _ in range(max_new_tokens):
                out = decoder(self.language_model)(inputs_embeds=embedded, cache=cache, use_cache=True)
                cache = out.cache
                token = output_head(self.language_model).logits(out.last_hidden_state[:, -1]).argmax(-1)
                rows.append(token.masked_fill(~open_rows, self.eos))
                open_rows = open_rows & (token != self.eos)
                if not open_rows.any():
                    break
                embedded = self.language_model.get_input_embeddings()(token[:, None])
        captions = torch.stack(rows, dim=1).tolist()
        return [row[: row.index(self.eos)] if self.eos in row else row for row in captions]

    def _embed(self, input_ids: Tensor, pixels: Tensor) -> Tensor:
        embedded = self.language_model.get_input_embeddings()(input_ids)
        image = self.vision(pixels).to(embedded.dtype)
        at = self.image_positions(input_ids).unsqueeze(-1)
        spread = torch.zeros_like(embedded).masked_scatter(at, image)
        kept = embedded.masked_fill(at, 0) if self.vision.replaces_placeholder else embedded
        return kept + spread


class SquarePixels:
    """Makes pixels of an image: resized to a square, scaled to [0, 1], normalised.

    Args:
        image_size: Side in pixels.
        channels: 1 or 3; images with another number are converted.
        mean: Per channel, of values in [0, 1].
        std: Per channel.
    """

    def __init__(self, image_size: int, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.image_size, self.channels, self.mean, self.std = image_size, channels, list(mean), list(std)
        self._mean, self._std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))

    def __call__(self, image: np.ndarray) -> Tensor:
        """Pixels float32 [channels, size, size] of an image uint8 [height, width, 1 or 3]."""
        size, channels = self.image_size, self.channels
        if image.shape != (size, size, channels):
            picture = Image.fromarray(image.squeeze(-1) if image.shape[2] == 1 else image)
            picture = picture.convert("L" if channels == 1 else "RGB").resize((size, size), Image.Resampling.BILINEAR)
            image = np.asarray(picture).reshape(size, size, channels)
        pixels = torch.tensor(np.asarray(image)).permute(2, 0, 1).float() / 255
        return (pixels - self._mean) / self._std


def solo_layout(grid: int, vision: int, patch: int, row: int, vision_end: int) -> list[int]:
    """Token ids of an image: `<vision>`, rows of `<vpatch>` with `<vrow_sep>` between them, `</vision>`.

    Source:
        SOLO's pre-training layout (arXiv 2407.06438).
    """
    rows = [token for r in range(grid) for token in ([row] if r else []) + [patch] * grid]
    return [vision, *rows, vision_end]
