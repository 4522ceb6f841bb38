"""What pruning has to know of a family of vision-language models, and hooks that all of them share.

In these models a visual token is what the language model sees, often several patches joined. Budgets count those tokens
in every family, and pruners behind the encoder choose among them, whether they name the encoder's output or the
projector's as their place.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, ModuleList

from recipes.core.errors import UserError
from recipes.core.models.anatomy import encoder_parts
from recipes.core.models.costs import LayerShape, decoder_shape
from recipes.pruning.adapters.anatomy import DECODERS, Layout, Parts, check_attention, check_decoder, patch_pixels
from recipes.pruning.tokens import Depth

if TYPE_CHECKING:
    from recipes.pruning.adapters.session import Session

Handle = Callable[[], None]
Cells = np.ndarray[Any, np.dtype[np.int64]]
ONE_IMAGE = "give one image a prompt, and neither num_beams nor num_return_sequences"


@dataclass(frozen=True)
class View:
    """A picture in which visual tokens have places.

    Attributes:
        pixels: [3, height, width] what the encoder sees.
        cells: [rows, columns] number of the visual token that shows each part of it.
    """

    pixels: Tensor
    cells: Cells


@dataclass
class Call:
    """What the encoder was called with, and what ran.

    Attributes:
        arguments: Of `get_image_features`, by name.
        tokens: [rows] tokens entering each block; a row is an image or a crop.
        pairs: [rows] pairs of tokens that attend to each other in each block.
        patches: Of each image the patches that are left now, in the encoder's order; None: all.
        left: Of each sample the original visual tokens that pruning in the encoder left, ascending; None: all.
    """

    arguments: dict[str, Any]
    tokens: list[Tensor] = field(default_factory=list)
    pairs: list[Tensor] = field(default_factory=list)
    patches: list[Tensor] | None = None
    left: list[Tensor] | None = None


class Family(ABC):
    """A family of vision-language models.

    Attributes:
        kinds: Model types in `config.json`.
        prompt: Of a processor without a chat template; `{image}` is its image token.
        decoders: Model types of language models that can be pruned inside.
        grid_positions: Whether a rotary position is a time, a row and a column (M-RoPE).
        scattered: Whether the visual tokens of one image stand in several pieces, with text between them.
        prefix: Whether all tokens of a prompt see each other.
        reason: Why pruners inside the encoder have no meaning there, in words that follow "the encoder of NAME: ".
        inside: Pruners that may act inside the encoder; FlowCut prunes up to its last block there, as in its code for
            Qwen2-VL.
    """

    kinds: ClassVar[tuple[str, ...]]
    prompt: ClassVar[str]
    decoders: ClassVar[tuple[str, ...]] = DECODERS
    grid_positions: ClassVar[bool] = False
    scattered: ClassVar[bool] = False
    prefix: ClassVar[bool] = False
    reason: ClassVar[str] = "several patches are joined to a token behind it"
    inside: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def parts(self, model: Any) -> Parts:
        """The model taken apart; its weights are not read, and may lie on the meta device.

        Raises:
            UserError: a model of this family that cannot be pruned.
        """

    def two_towers(
        self,
        model: Any,
        llm: Any,
        projector: tuple[int, ...],
        *,
        special: int = 0,
        used_blocks: int | None = None,
        encoder: LayerShape | None = None,
        pixels: int | None = None,
        tower: Any = None,
    ) -> Parts:
        """The parts of a model of an encoder and a language model; what is left out is read from its config.

        Args:
            model: A model of this family.
            llm: Its language model without the head.
            projector: Widths of its projector.
            special: Tokens of the encoder that are never pruned.
            used_blocks: Encoder blocks whose output is used; None: all.
            encoder: A block of the encoder.
            pixels: Numbers in a patch, all channels.
            tower: The encoder, where each of its patches is one visual token, so that all pruners of a LLaVA may act in
                it; None: a token is made of several, or behind it only.

        Raises:
            UserError: a language model that is not known, or attention of a tower that cannot be masked.
        """
        config, core, vision = model.config, model.model, model.config.vision_config
        check_attention(vision, "the vision encoder")
        check_decoder(config.text_config, self.decoders)
        blocks = len(self.blocks(core))
        layout = Layout(
            kind=config.model_type,
            depth=Depth(vit=blocks, llm=len(llm.layers)),
            special=special,
            encoder=encoder or LayerShape(vision.hidden_size, vision.intermediate_size),
            used_blocks=blocks if used_blocks is None else used_blocks,
            llm=decoder_shape(llm.layers[0]),
            projector=projector,
            patch_pixels=patch_pixels(vision) if pixels is None else pixels,
        )
        return Parts(layout, encoder_parts(tower) if tower is not None else None, core, llm=llm, family=self)

    @abstractmethod
    def blocks(self, core: Any) -> ModuleList:
        """Blocks of the encoder."""

    def rows(self, core: Any, call: Call, totals: list[int]) -> list[int]:
        """How many rows of the encoder (images, crops) each sample has; not asked where `Parts.encoder` is known.

        Args:
            core: The module that joins the towers.
            call: What the encoder was called with.
            totals: Visual tokens of each sample.

        Raises:
            UserError: several images for a prompt.
        """
        raise NotImplementedError

    @abstractmethod
    def views(self, config: Any, inputs: dict[str, Tensor]) -> list[View]:
        """Pictures of one sample, whose visual tokens are numbered through all of them.

        Args:
            config: Of the model.
            inputs: What the model takes, a batch of one.
        """

    def newline(self, core: Any, call: Call) -> list[Tensor]:
        """[N] bool for each sample, tokens that only mark the end of a row; an empty list where there are none."""
        return []

    def projected(self, core: Any, rows: list[int], totals: list[int]) -> list[int]:
        """Tokens of each sample that go through the projector."""
        return totals

    def block_load(self, call: Call, hidden: Tensor, others: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """[rows] tokens entering a block and [rows] pairs of them that attend to each other.

        Args:
            call: What the encoder was called with.
            hidden: Input of the block.
            others: Its other arguments by name.
        """
        tokens = torch.full((hidden.shape[0],), hidden.shape[1])
        return tokens, tokens**2

    def features(self, core: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
        """[N, d] of each sample as they enter the language model.

        Args:
            core: The module that joins the towers.
            inputs: What the model takes.
        """
        known = signature(core.get_image_features).parameters
        encoded = core.get_image_features(**{name: inputs[name] for name in known if name in inputs}, return_dict=True)
        counts = (inputs["input_ids"] == core.config.image_token_id).sum(1).tolist()
        pooled = encoded.pooler_output
        flat = pooled.flatten(0, 1) if isinstance(pooled, Tensor) else torch.cat(list(pooled))
        return list(flat.split(counts))

    def process(self, processor: Any, image: Any, text: str, **options: Any) -> dict[str, Tensor]:
        """What the model takes of an image and a prompt.

        Args:
            processor: Of the checkpoint.
            image: The picture.
            text: The prompt.
            options: Of the processor: `add_special_tokens`, `sanitize_control_tokens`.
        """
        return model_inputs(processor, image, text, **options)

    def encoder_hooks(self, session: "Session") -> list[Handle]:
        """Hooks that prune inside the encoder, beside those that note what it does."""
        return []


class Noted:
    """Hooks that note what the encoder of a family is called with, and the tokens that enter its blocks."""

    def __init__(self, session: "Session") -> None:
        self.session, self.family, self.core = session, session.parts.family, session.parts.core

    def install(self) -> list[Handle]:
        """Put the hooks in.

        Returns:
            What takes each of them out.
        """
        blocks = self.family.blocks(self.core)
        handles = [block.register_forward_pre_hook(self._enter, with_kwargs=True).remove for block in blocks]
        original = self.core.get_image_features
        return [*handles, replace_attribute(self.core, "get_image_features", self._wrap(original))]

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def get_image_features(*args: Any, **kwargs: Any) -> Any:
            bound = dict(signature(original).bind(*args, **kwargs).arguments)
            self.session.call, self.session.features = Call(bound | bound.pop("kwargs", {})), None
            self.session.begin("vit")
            return original(*args, **kwargs)

        return get_image_features

    def _enter(self, _: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of a block."""
        call, hidden = self.session.call, args[0] if args else kwargs["hidden_states"]
        if call is not None:
            tokens, pairs = self.family.block_load(call, hidden, kwargs)
            call.tokens.append(tokens)
            call.pairs.append(pairs)


def model_inputs(processor: Any, image: Any, text: str, **options: Any) -> dict[str, Tensor]:
    """What a model takes of an image and a prompt, by its processor; see `Family.process`."""
    return dict(processor(images=image, text=text, return_tensors="pt", **options))


def require_one_image(images: int, prompts: int, where: str) -> None:
    """Refuse other numbers of images than of prompts, at the input `where`. Raises UserError."""
    if images != prompts:
        raise UserError(
            f"pruning takes one image for each prompt, but got {images} images in {prompts} rows", where, ONE_IMAGE
        )


def refuse_videos(kwargs: dict[str, Any]) -> None:
    """Refuse videos, whose frames would be pruned together. Raises UserError."""
    if kwargs.get("pixel_values_videos") is not None:
        raise UserError("pruning takes images, and here is a video", "pixel_values_videos", "give one image a prompt")


def replace_attribute(owner: Any, name: str, value: Any) -> Handle:
    """Set an attribute of one instance.

    Returns:
        What restores it.
    """
    before = vars(owner).get(name, replace_attribute)
    object.__setattr__(owner, name, value)

    def restore() -> None:
        if before is replace_attribute:
            object.__delattr__(owner, name)
        else:
            object.__setattr__(owner, name, before)

    return restore
