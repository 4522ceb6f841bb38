"""How the blocks of an encoder are built: their parts, run one by one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Module


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
