"""A vision transformer that restores masked patches, and its loss.

The encoder is a plain `ViTModel`. In pre-training its rows of attention are altered, and looked at, by a function that
stands at its modules; without masked patches it attends as it is, so that what is left is the encoder alone.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, linear, scaled_dot_product_attention
from transformers import ViTConfig, ViTModel

from recipes.core.models.attention_functions import AttentionCall, RowsAttention, use_attention
from recipes.core.models.build import local_seed
from recipes.core.models.precision import exact
from recipes.core.training.parallel import distributed
from recipes.pretraining.mto import method
from recipes.pretraining.mto.config import FROZEN, HARD_BLOCK, LEARNED, MEAN, NONE, THRESHOLD, MtoConfig, ViTShape
from recipes.pretraining.patches import to_patches

TERMS = ("spa", "e", "r")


@dataclass
class Rows:
    """The attention of an encoder: softmax, with rows altered and kept where some patches are masked.

    Attributes:
        recalibration, threshold, blocked: As in `MtoConfig`.
        masked: bool [B, N] of the last forward, whose backward may compute layers anew; None: no patch is masked, and
            no row is kept.
        kept: Layer -> [B, N, N] rows that weighed the values, mean over heads.
    """

    recalibration: str = NONE
    threshold: float = 1.0
    blocked: int = 0
    masked: Tensor | None = None
    kept: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        """What the heads say [B, H, N, d], and their rows where they are kept."""
        if self.masked is None:
            heads = scaled_dot_product_attention(call.queries, call.keys, call.values, call.visible(), scale=call.scale)
            return heads, None
        if self.recalibration == HARD_BLOCK and call.layer < self.blocked:
            call = replace(call, mask=self.masked[:, None, :, None] | ~self.masked[:, None, None, :])
        return RowsAttention(self._altered)(call)

    def _altered(self, call: AttentionCall, rows: Tensor) -> Tensor:
        """Rows [B, H, N, N] as they weigh the values."""
        if self.recalibration == THRESHOLD and self.masked is not None:
            rows = method.recalibrate(rows, self.masked, self.threshold / rows.shape[-1])
        self.kept[call.layer] = rows.mean(1)
        return rows


@dataclass(frozen=True)
class Pass:
    """What a forward gives.

    Attributes:
        restored: [B, P, C * p * p] pixels of every patch.
        tokens: Of each layer [B, N, D] the tokens that enter it; N = P + 1, CLS first.
        rows: Of each layer [B, N, N] attention, mean over heads; none where the kernel kept them to itself.
    """

    restored: Tensor
    tokens: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]


class MaskedImageModel(nn.Module):
    """An encoder with what pre-training needs besides: a vector for masked patches, and a linear head.

    Args:
        encoder: The encoder.
        mto: What stands for masked patches, and how rows are altered.
        mean_patch: [C * p * p] mean of the patches of training images.
    """

    centre: Tensor
    mean_patch: Tensor

    def __init__(self, encoder: Any, mto: MtoConfig, mean_patch: Tensor) -> None:
        super().__init__()
        self.encoder, self.kind, self.patch = encoder, mto.mask_token, encoder.config.patch_size
        width = encoder.config.hidden_size
        self.head = nn.Linear(width, len(mean_patch))
        token = encoder.config.initializer_range * torch.randn(width)
        self.mask_token = nn.Parameter(token, self.kind == LEARNED) if self.kind in (LEARNED, FROZEN) else None
        self.register_buffer("mean_patch", mean_patch, persistent=False)
        self.register_buffer("centre", torch.zeros(encoder.config.num_hidden_layers, width))
        self.attention = Rows(mto.recalibration, mto.threshold, mto.blocked_layers)
        use_attention(encoder, self.attention)

    def forward(self, pixels: Tensor, masked: Tensor, vectors: Tensor | None = None, keep_rows: bool = True) -> Pass:
        """Restore masked patches.

        Args:
            pixels: [B, C, S, S]
            masked: bool [B, P]
            vectors: [B, P, D] where each position has a vector of its own.
            keep_rows: Whether rows are looked at; a model that alters them has to.
        """
        embeddings = self.encoder.embeddings
        patches = embeddings.patch_embeddings(pixels.to(embeddings.cls_token.dtype))
        stands = self._stand_in(vectors, patches).to(patches.dtype)
        patches = torch.where(masked[..., None], stands, patches)
        tokens = torch.cat([embeddings.cls_token.expand(len(pixels), -1, -1), patches], 1)
        states = embeddings.dropout(tokens + embeddings.position_embeddings)
        everywhere = torch.cat([masked.new_zeros(len(masked), 1), masked], 1)  # CLS is visible
        self.attention.masked, self.attention.kept, entering = everywhere if keep_rows else None, {}, []
        for layer in self.encoder.layers:
            entering.append(states)
            states = layer(states, None)
        rows = tuple(self.attention.kept[number] for number in sorted(self.attention.kept))
        restored = self.head(self.encoder.layernorm(states)[:, 1:].to(self.head.weight.dtype))
        return Pass(restored, tuple(entering), rows)

    def features(self, pixels: Tensor) -> Tensor:
        """[B, D] mean of the plain encoder's last states of all patches, none of them masked."""
        self.attention.masked = None
        states: Tensor = self.encoder(pixel_values=pixels).last_hidden_state
        return states[:, 1:].mean(1)

    def _stand_in(self, vectors: Tensor | None, patches: Tensor) -> Tensor:
        """What stands for masked patches, [D] or [B, P, D]."""
        if self.mask_token is not None:
            return self.mask_token
        if self.kind == MEAN:
            convolution = self.encoder.embeddings.patch_embeddings.projection
            return linear(self.mean_patch.to(patches.dtype), convolution.weight.flatten(1), convolution.bias)
        assert vectors is not None, "items bring a vector for each position"
        return vectors


def build_model(shape: ViTShape, mto: MtoConfig, pixels: Tensor, seed: int) -> MaskedImageModel:
    """A model for images [n, C, S, S], untrained; all arms of a seed share their encoder and head."""
    _, channels, side, _ = pixels.shape
    config = ViTConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width,
        image_size=side,
        patch_size=shape.patch,
        num_channels=channels,
    )
    mean_patch = to_patches(pixels, shape.patch).mean((0, 1))
    with local_seed(seed):
        return MaskedImageModel(ViTModel(config, add_pooling_layer=False), mto, mean_patch)


class MaskedImageLoss:
    """Mean absolute error of masked pixels, mean over images, with the weighted terms of `method`.

    Args:
        mto: Weights of the terms.
        model: What is trained; holds the mean token of the last step, layer by layer, as `centre`.
        steps: Optimizer steps of the run.
    """

    def __init__(self, mto: MtoConfig, model: MaskedImageModel, steps: int) -> None:
        self.mto, self.model, self.rising = mto, model, max(mto.warmup_ratio * steps, 1.0)
        self.weights = {"spa": mto.spa, "e": mto.e, "r": mto.r}
        self.share = 0.0  # of the terms' weights
        self._sums, self._images = torch.zeros(()), 0

    def before_step(self, step: int, model: nn.Module, batches: list[dict[str, Any]]) -> None:
        """Weights rise linearly over the first steps."""
        self.share = min(1.0, (step + 1) / self.rising)
        self._sums, self._images = torch.zeros(()), 0

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Images of this micro-batch."""
        return torch.tensor(float(len(batch["masked"])))

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over the images of the step; each term beside it."""
        masked = batch["masked"]
        done = model(batch["pixels"], masked, batch.get("vectors"), self.mto.needs_rows)
        errors = restoring_errors(done.restored, batch["pixels"], masked, self.model.patch)
        values = {"reconstruction": errors}
        total = errors
        if self.mto.needs_rows:
            terms = self._terms(done, torch.cat([masked.new_zeros(len(masked), 1), masked], 1))
            values |= terms
            for name, term in terms.items():
                total = total + self.share * self.weights[name] * term
        if self.mto.r:
            self._note_centre(done.tokens, float(normalizer))
        ones = torch.ones_like(errors).sum()
        metrics = {name: torch.stack([value.detach().sum(), ones]) for name, value in values.items()}
        return total.sum() / normalizer.to(total), metrics

    def _terms(self, done: Pass, masked: Tensor) -> dict[str, Tensor]:
        """[B] each term, mean over layers, where it has a weight."""
        mto, centre = self.mto, self.model.centre
        values: dict[str, list[Tensor]] = {name: [] for name in TERMS if self.weights[name]}
        for layer, depth in enumerate(method.depth_weights(len(done.rows), mto.last_layer).tolist()):
            if mto.spa:
                values["spa"].append(depth * method.masked_mass(done.rows[layer], masked))
            if mto.e:
                values["e"].append((1 - depth) * method.masked_entropy(done.rows[layer], masked))
            if mto.r:
                values["r"].append(depth * method.likeness(done.tokens[layer], masked, centre[layer], mto.margin))
        return {name: torch.stack(each).mean(0) for name, each in values.items()}

    @torch.no_grad()
    def _note_centre(self, tokens: tuple[Tensor, ...], images: float) -> None:
        """The mean token of a step becomes the centre of the next: in this one, micro-batches do not know it yet."""
        self._sums = self._sums.to(tokens[0].device) + torch.stack([exact(each).mean(1).sum(0) for each in tokens])
        self._images += len(tokens[0])
        if self._images * distributed.world_size() >= images:
            sums = distributed.gather_all(self._sums).unflatten(0, (-1, len(tokens))).sum(0)
            self.model.centre.copy_(sums / images)


def restoring_errors(restored: Tensor, pixels: Tensor, masked: Tensor, patch: int) -> Tensor:
    """[B] mean absolute error over the masked pixels of each image; 0 where none is masked."""
    errors = l1_loss(exact(restored), exact(to_patches(pixels, patch)), reduction="none").mean(-1)
    return (errors * masked).sum(1) / masked.sum(1).clamp_min(1)
