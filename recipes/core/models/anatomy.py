"""Where the blocks of a transformer are, and how those of an encoder are built: their parts, run one by one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Module, ModuleList
from transformers import BertModel, CLIPVisionModel, PreTrainedModel, SiglipVisionModel, ViTModel

from recipes.core.errors import UserError

ENCODERS = "CLIP, SigLIP, ViT and BERT"


def transformer_blocks(model: PreTrainedModel) -> ModuleList:
    """The blocks of a text model or of an encoder, in order.

    Args:
        model: A model of `transformers` with one stack of blocks; of a model with several towers one tower.

    Raises:
        UserError: it has no such stack, or several.
    """
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    stacks: dict[str, ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, ModuleList) and len(module) == count and not inside:
            stacks[name] = module
    if len(stacks) != 1:
        raise UserError(
            f"{type(model).__name__} has {len(stacks) or 'no'} stacks of {count} blocks, where one is looked for",
            hint="choose a decoder or an encoder of one tower",
        )
    return next(iter(stacks.values()))


@dataclass(frozen=True)
class Family:
    """Parts of a block.

    Attributes:
        normed: (block, its input) -> what its projections are applied to.
        projections: block -> its projections to queries, keys and values.
        attend: (block, its input, mask, other arguments by name) -> behind the attention and its residual.
        feed: (block, what `attend` gave) -> the block's output.
    """

    normed: Callable[[Any, Tensor], Tensor]
    projections: Callable[[Any], tuple[Module, Module, Module]]
    attend: Callable[..., Tensor]
    feed: Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Encoder:
    """Parts of an encoder.

    Attributes:
        tower: The module that is called with the whole input.
        family: How its blocks are built.
        blocks: In order.
        closing: Norm behind the last block; None in a post-norm model.
        heads: Of the attention.
        lead: Special tokens at the start of a sequence.
        trail: The same at its end.
        patches: Tokens that are none of these; 0 where that depends on the sample.
    """

    tower: Module
    family: Family
    blocks: ModuleList
    closing: Module | None
    heads: int
    lead: int
    trail: int
    patches: int


def _clip_attend(block: Any, hidden: Tensor, mask: Tensor | None, **others: Any) -> Tensor:
    attended: Tensor = block.self_attn(hidden_states=block.layer_norm1(hidden), attention_mask=mask, **others)[0]
    return hidden + attended


def _vit_attend(block: Any, hidden: Tensor, mask: Tensor | None, **others: Any) -> Tensor:
    attended = block.attention(block.layernorm_before(hidden), mask, **others)[0]
    dropped: Tensor = block.dropout(attended)
    return dropped + hidden


def _bert_attend(block: Any, hidden: Tensor, mask: Tensor | None, *_: Any, **others: Any) -> Tensor:
    others.pop("encoder_attention_mask", None)
    attended: Tensor = block.attention(hidden, mask, **others)[0]
    return attended


def _attention_projections(name: str) -> Callable[[Any], tuple[Module, Module, Module]]:
    def projections(block: Any) -> tuple[Module, Module, Module]:
        attention = getattr(block, name)
        return attention.q_proj, attention.k_proj, attention.v_proj

    return projections


def _bert_projections(block: Any) -> tuple[Module, Module, Module]:
    attention = block.attention.self
    return attention.query, attention.key, attention.value


# SigLIP's blocks have CLIP's names.
CLIP = Family(
    normed=lambda block, hidden: block.layer_norm1(hidden),
    projections=_attention_projections("self_attn"),
    attend=_clip_attend,
    feed=lambda block, hidden: hidden + block.mlp(block.layer_norm2(hidden)),
)
VIT = Family(
    normed=lambda block, hidden: block.layernorm_before(hidden),
    projections=_attention_projections("attention"),
    attend=_vit_attend,
    feed=lambda block, hidden: block.dropout(block.mlp(block.layernorm_after(hidden))) + hidden,
)
BERT = Family(
    normed=lambda block, hidden: hidden,
    projections=_bert_projections,
    attend=_bert_attend,
    feed=lambda block, hidden: block.feed_forward_chunk(hidden),
)


def encoder_parts(tower: PreTrainedModel) -> Encoder:
    """An encoder taken apart.

    Args:
        tower: A CLIP, SigLIP, ViT or BERT model.

    Raises:
        UserError: it is another one.
    """
    config = tower.config
    if isinstance(tower, BertModel):
        return Encoder(tower, BERT, tower.encoder.layer, None, config.num_attention_heads, 1, 1, 0)
    if isinstance(tower, CLIPVisionModel | SiglipVisionModel):
        family, blocks, closing = CLIP, tower.encoder.layers, tower.post_layernorm
    elif isinstance(tower, ViTModel):
        family, blocks, closing = VIT, tower.layers, tower.layernorm
    else:
        raise UserError(
            f"the parts of the encoder {type(tower).__name__} are not known", hint=f"those of {ENCODERS} are"
        )
    lead = 0 if isinstance(tower, SiglipVisionModel) else 1
    patches = (config.image_size // config.patch_size) ** 2
    return Encoder(tower, family, blocks, closing, config.num_attention_heads, lead, 0, patches)
