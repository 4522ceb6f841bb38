"""From the encoder to the language model: features through the projector, crops in their pack, spans in prompts."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.utils.rnn import pad_sequence

from recipes.core.errors import UserError
from recipes.core.models.padded import gather, pack
from recipes.pruning.adapters.crops import NEWLINE, Crops, pack_chart
from recipes.pruning.adapters.encoder import EncoderPruning
from recipes.pruning.adapters.family import ONE_IMAGE, Handle, replace_attribute
from recipes.pruning.adapters.session import Features, Session
from recipes.pruning.pruners.simple import Full

GATHERING = "random, grid, cls_topk, divprune, flowcut, zero_tprune, tome, fastv, sparsevlm, pyramiddrop or vtw"


class ImageFeatures:
    """Hooks between the encoder and the language model.

    The number of features stays what the prompt has placeholders for. Of one image the kept tokens fill its first
    slots; of crops each token stays in its place of the grid, so that the model packs them as ever. The rest is zero
    and dropped before the language model. Where crops were pruned their newline tokens are dropped as well, as in
    FlowCut's code, but for those that the budget of the whole image has room for.
    """

    def __init__(self, session: Session, encoder: EncoderPruning) -> None:
        self.session, self.encoder, self.core = session, encoder, session.parts.core
        self.patches = session.parts.patches

    def install(self) -> list[Handle]:
        """Put the hooks in.

        Returns:
            What takes each of them out.
        """
        projector = self.core.multi_modal_projector
        handles = [
            projector.register_forward_pre_hook(self._before).remove,
            projector.register_forward_hook(self._behind).remove,
        ]
        return [
            *handles,
            replace_attribute(self.core, "get_image_features", self._wrap(self.core.get_image_features)),
        ]

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def get_image_features(*args: Any, **kwargs: Any) -> Any:
            self._check(kwargs)
            if self.session.parts.anyres:
                sizes = kwargs["image_sizes"] if "image_sizes" in kwargs else args[1]
                self.session.crops = Crops.of(self.core, sizes, self.patches)
                self.session.check_samples(len(sizes))
            self.session.features = None
            return original(*args, **kwargs)

        return get_image_features

    def _check(self, kwargs: dict[str, Any]) -> None:
        for name in ("vision_feature_layer", "vision_feature_select_strategy"):
            if kwargs.get(name) not in (None, getattr(self.core.config, name, None)):
                raise UserError("pruning reads it from the model's config, not from the call", name, "set it there")

    def _before(self, _: Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.encoder.features(args[0]), *args[1:])

    def _behind(self, _: Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        session, sequence = self.session, self.encoder.sequence
        session.trace.projected = session.by_sample(sequence.count).cpu()
        if session.parts.anyres:
            output, session.features = self._pack(output)
        else:
            slots = torch.arange(sequence.valid.shape[1], device=output.device).expand(sequence.valid.shape)
            newline = torch.zeros(len(output), self.patches, dtype=torch.bool, device=output.device)
            session.features = Features(slots, sequence.valid, sequence.positions, sequence.sizes, newline)
            missing = self.patches - output.shape[1]
            output = torch.nn.functional.pad(output, (0, 0, 0, missing)) if missing else output
        self.encoder.clear()
        return output

    def _pack(self, output: Tensor) -> tuple[Tensor, Features]:
        """Features of crops in their places of the grid, and where the model's pack takes them."""
        sequence, patches = self.encoder.sequence, self.patches
        merged = sequence.valid & (sequence.positions < 0)
        if bool(merged.any()):
            raise UserError(
                "tokens that a pruner makes have no place in the grid of LLaVA-NeXT's crops",
                "pruner",
                f"choose one that only drops: {GATHERING}",
            )
        row, column = sequence.valid.nonzero(as_tuple=True)
        position = sequence.positions[row, column]
        grid = output.new_zeros(len(output), patches, output.shape[2])
        grid[row, position] = output[row, column]
        # The model packs a map of the places as it packs features: is it kept, how many tokens it stands for.
        chart = torch.zeros(len(output), patches, 2, dtype=torch.float64, device=output.device)
        chart[row, position, 0] = 1
        chart[row, position, 1] = sequence.sizes[row, column].double()
        crops = self.session.crops
        assert crops is not None
        packed = pack_chart(self.core, chart, crops.counts, crops.sizes, [NEWLINE, 1.0])
        chart = pad_sequence(packed, batch_first=True)
        newline = chart[..., 0] < 0
        slots, valid = pack((chart[..., 0] > 0) | (newline & self._room(chart[..., 0], crops)))
        sizes = gather(chart[..., 1], slots).to(sequence.sizes.dtype)
        return grid, Features(slots, valid, slots, sizes, newline)

    def _room(self, chart: Tensor, crops: Crops) -> Tensor:
        """[B, L] bool, which newline tokens the budget has room for beside the patches; all without pruning here."""
        if not self.encoder.prunes or isinstance(self.session.pruner, Full):
            return torch.ones_like(chart, dtype=torch.bool)
        room = self.session.budget(crops.totals).to(chart.device) - (chart > 0).sum(1)
        return (chart < 0).cumsum(1) <= room[:, None]


def features_of(session: Session, image: Tensor, pictured: bool) -> Features | None:
    """The visual tokens of a family's prompts [B, L] bool, and into the trace what the encoder did with them."""
    call, trace = session.call, session.trace
    if call is None or not pictured:
        return None
    family, core, totals = session.parts.family, session.parts.core, image.sum(1)
    rows = family.rows(core, call, totals.tolist())
    trace.crops = rows
    trace.encoder_tokens, trace.encoder_pairs = torch.stack(call.tokens, 1), torch.stack(call.pairs, 1)
    left = totals.tolist() if call.left is None else [len(each) for each in call.left]
    trace.projected = torch.tensor(family.projected(core, rows, left))
    _, valid = pack(image)
    slots = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
    lines = family.newline(core, call)
    newline = pad_sequence(lines, batch_first=True).to(valid.device) if lines else torch.zeros_like(valid)
    if call.left is not None:
        slots, valid = padded(call.left, valid.device)
    return Features(slots, valid, slots, torch.ones(slots.shape, device=slots.device), newline)


def padded(rows: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """[B, M] rows of indices below each other, padded with 0, and which are no padding."""
    valid = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True)
    return pad_sequence(rows, batch_first=True).to(device), valid.to(device)


def count_placeholders(image: Tensor, images: int, scattered: bool = False) -> Tensor:
    """How many placeholders each prompt has.

    Args:
        image: [B, L] bool, the placeholders.
        images: Number of images that were encoded.
        scattered: Whether text may stand between the placeholders of one image.

    Returns:
        [B] number of placeholders.

    Raises:
        UserError: a prompt without an image, or with several.
    """
    count, start = image.sum(1), image.long().argmax(1)
    last = image.shape[1] - 1 - image.flip(1).long().argmax(1)
    if bool((count == 0).any()):
        raise UserError(
            f"prompt {int((count == 0).long().argmax())} has no image placeholder",
            "input_ids",
            "put the image token into every prompt",
        )
    if images != len(image) or (not scattered and bool((last - start + 1 != count).any())):
        raise UserError(
            f"pruning takes one image for each prompt, in one piece, but got {images} images in {len(image)} rows",
            "input_ids",
            ONE_IMAGE,
        )
    return count
