"""Pruning inside encoders whose images stand behind each other in one sequence, each attending within its segments.

Patches are dropped one by one; what is left is merged as it stands, so many neighbours to a token. A token stands where
the first of its patches stood.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.utils.rnn import pad_sequence
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

from recipes.core.errors import UserError
from recipes.pruning.adapters.family import Call, Handle
from recipes.pruning.tokens import Point, Tokens

if TYPE_CHECKING:
    from recipes.pruning.adapters.session import Session

Rotary = tuple[Tensor, Tensor]


class PackedPruning:
    """Hooks of a Qwen vision tower.

    Args:
        session: The pruner at work.
        places: From what the encoder was called with to the [groups] place of each group of the tower's order among
            the visual tokens of the batch.
    """

    def __init__(self, session: "Session", places: Callable[[Call], Tensor]) -> None:
        self.session, self.places = session, places
        self.tower, self.points = session.parts.core.visual, session.at("vit")
        self.unit: int = self.tower.spatial_merge_size**2
        self.entered: tuple[Tensor, Rotary]

    def install(self) -> list[Handle]:
        """Put the hooks in.

        Returns:
            What takes each of them out.
        """
        if not self.points:
            return []
        handles = []
        for index, block in enumerate(self.tower.blocks):
            handles.append(block.register_forward_pre_hook(self._enter, with_kwargs=True))
            # Before the hooks with which transformers collects hidden states.
            handles.append(block.register_forward_hook(self._leave(index), prepend=True))
        handles.append(self.tower.merger.register_forward_pre_hook(self._merging))
        handles.append(self.tower.merger.register_forward_hook(self._merged))
        return [handle.remove for handle in handles]

    @property
    def call(self) -> Call:
        """What the encoder was called with."""
        assert self.session.call is not None
        return self.session.call

    def _enter(self, _: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook of a block: segments and positions of the patches that are left."""
        call, rotary = self.call, kwargs["position_embeddings"]
        if call.patches is not None:
            index = torch.cat(call.patches)
            rotary = tuple(part[index] for part in rotary)
            ends = kwargs["cu_seqlens"]
            owner = torch.bucketize(index, ends[1:].long(), right=True)
            lengths = torch.bincount(owner, minlength=len(ends) - 1)
            lengths = lengths[lengths > 0].cumsum(0)
            segments = torch.cat([lengths.new_zeros(1), lengths]).to(ends.dtype)
            kwargs = kwargs | {"position_embeddings": rotary, "cu_seqlens": segments, "max_seqlen": None}
        self.entered = (args[0], rotary)
        return args, kwargs

    def _leave(self, index: int) -> Callable[..., Tensor]:
        def leave(block: Any, _: Any, output: Tensor) -> Tensor:
            """Forward hook of a block: prunes behind it."""
            point, call = self.points.get(index), self.call
            if call.patches is None:
                sizes = call.arguments["image_grid_thw"].prod(1).to(output.device)
                call.patches = list(torch.arange(len(output), device=output.device).split(sizes.tolist()))
                self.session.check_samples(len(sizes))
                self.budget = self.unit * self.session.budget(sizes // self.unit)
            counts = torch.tensor([len(each) for each in call.patches], device=output.device)
            if point is None or self.session.idle("vit", counts, self.budget):
                return output
            kept = self.session.prune("vit", lambda: self._tokens(point, block, output, counts))
            starts = counts.cumsum(0) - counts
            left = [source[valid] for source, valid in zip(kept.source, kept.valid, strict=True)]
            call.patches = [patches[row] for patches, row in zip(call.patches, left, strict=True)]
            return output[torch.cat([start + row for start, row in zip(starts, left, strict=True)])]

        return leave

    def _tokens(self, point: Point, block: Any, output: Tensor, counts: Tensor) -> Tokens:
        """What the pruner sees behind a block."""
        session, reads = self.session, {}
        hidden, rotary = self.entered
        normed = block.attn.qkv(block.norm1(hidden)).unflatten(1, (3, block.attn.num_heads, -1))
        query, key, value = normed.unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, *rotary)
        sizes = counts.tolist()
        for name, states in (("queries", query), ("keys", key), ("values", value)):
            if name in session.needs(point):
                reads[name] = pad_sequence(states.split(sizes), batch_first=True).transpose(1, 2)
        positions = [patches - begin for patches, begin in zip(self._patches, self._begins, strict=True)]
        return Tokens.of(
            pad_sequence(output.split(sizes), batch_first=True),
            self.budget,
            valid=torch.arange(max(sizes), device=output.device) < counts[:, None],
            positions=pad_sequence(positions, batch_first=True),
            seeds=session.seeds,
            names=session.sample_names,
            point=point,
            layers=session.depth,
            **reads,
        )

    @property
    def _patches(self) -> list[Tensor]:
        assert self.call.patches is not None
        return self.call.patches

    @property
    def _begins(self) -> list[int]:
        """Where each image begins among all patches."""
        sizes = self.call.arguments["image_grid_thw"].prod(1)
        begins: list[int] = (sizes.cumsum(0) - sizes).tolist()
        return begins

    def _merging(self, _: Module, args: tuple[Any, ...]) -> None:
        """Forward pre-hook of the merger."""
        for name, patches in zip(self.session.sample_names, self._patches, strict=True):
            if len(patches) % self.unit:
                raise UserError(
                    f"{len(patches)} patches are left of {name}, of which {self.unit} are merged to a token",
                    "pruner.vit_share",
                    "type 1 or 2",
                )

    def _merged(self, _: Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Forward hook of the merger: as many groups as there are placeholders, each where its first patch stood."""
        call, places = self.call, self.places(self.call).to(output.device)
        groups = [patches[:: self.unit] // self.unit for patches in self._patches]
        whole = output.new_zeros(len(places), output.shape[1])
        whole[torch.cat(groups)] = output
        begins = [begin // self.unit for begin in self._begins]
        call.left = [(places[each] - begin).sort().values for each, begin in zip(groups, begins, strict=True)]
        return whole
