"""Pruning in front of and inside a language model, and what its layers see from then on.

Layers between two points hold the same columns: a `Segment`. Each has its own mask, positions and length of cache.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from transformers.masking_utils import create_causal_mask

from recipes.core.errors import UserError
from recipes.core.models.padded import gather
from recipes.pruning.adapters.columns import Columns
from recipes.pruning.adapters.family import Handle, refuse_videos
from recipes.pruning.adapters.images import count_placeholders, features_of
from recipes.pruning.adapters.reads import LayerReads, layer_reads
from recipes.pruning.adapters.session import Features, Session, survivors
from recipes.pruning.guards import require_finite_states
from recipes.pruning.tokens import Kept, Point, Tokens


@dataclass
class Segment:
    """Layers that hold the same columns.

    Attributes:
        first: The first of them.
        prompt: The columns of the prompt.
        mask: [B, R + steps] bool, columns of the cache.
        position_ids: [B, Q] of the tokens in this call, or [B, Q, 3] (M-RoPE).
        following: [B] position of the next token.
        given: What its layers are given in this call; None until the first of them runs, empty if the model does it.
    """

    first: int
    prompt: Columns
    mask: Tensor
    position_ids: Tensor
    following: Tensor
    given: dict[str, Any] | None = None

    @staticmethod
    def of(first: int, prompt: Columns, following: Tensor) -> "Segment":
        """A segment whose prompt has just come in."""
        return Segment(first, prompt, prompt.mask, prompt.position_ids, following)

    def step(self, new: Tensor) -> None:
        """More tokens [B, Q] (bool, False for padding) come in behind."""
        self.mask = torch.cat([self.mask, new], 1)
        following = self.following[:, None] + torch.arange(new.shape[1], device=new.device)
        axes = self.position_ids.shape[2:]
        self.position_ids = following.view(*following.shape, *[1] * len(axes)).expand(*following.shape, *axes)
        self.following = self.following + new.shape[1]
        self.given = None

    def arguments(self) -> dict[str, Tensor]:
        """What the whole language model is called with if this is its first segment."""
        self.given = {}
        # A mask of ones too: without one, transformers takes gaps between positions for packed sequences.
        return {"attention_mask": self.mask.long(), "position_ids": axes_first(self.position_ids)}


class DecoderPruning:
    """Hooks of a language model and of the module that calls it."""

    def __init__(self, session: Session) -> None:
        self.session, self.core = session, session.parts.core
        self.llm, self.family = session.parts.llm, session.parts.family
        self.points, self.projector = session.at("llm"), session.at("projector").get(0)
        if session.parts.encoder is None and self.projector is None:
            self.projector = session.at("encoder").get(0)
        self.input_ids: Tensor
        self.seen: Tensor | None = None
        self.both: Tensor | None = None
        self.segments: list[Segment] = []
        self.prefill = self.active = self.pictured = False
        self.previous: LayerReads | None = None
        self.total: Tensor
        self.budget: Tensor
        self.features: Features | None = None
        self.visual: list[Tensor] = []

    @property
    def prefix(self) -> bool:
        """Whether tokens of a prompt see each other both ways."""
        return self.family is not None and self.family.prefix

    def install(self) -> list[Handle]:
        """Put the hooks in.

        Returns:
            What takes each of them out.
        """
        handles = [
            self.core.register_forward_pre_hook(self._on_call, with_kwargs=True),
            self.llm.register_forward_pre_hook(self._on_enter, with_kwargs=True),
            self.llm.register_forward_hook(self._on_leave),
        ]
        for index, layer in enumerate(self.llm.layers):
            handles.append(layer.register_forward_pre_hook(self._layer(index), with_kwargs=True))
        return [handle.remove for handle in handles]

    def _on_call(self, _: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs.get("input_ids")
        if ids is None:
            raise UserError("the image is found by its placeholders", "input_ids", "give input_ids, not inputs_embeds")
        cache = kwargs.get("cache")
        if cache is not None and cache.is_compileable:
            raise UserError(
                "layers of a static cache cannot hold different numbers of tokens",
                "cache_implementation",
                "leave it out",
            )
        encoded = kwargs.get("mm_encoder_outputs") or {}
        self.pictured = kwargs.get("pixel_values") is not None or encoded.get("image") is not None
        refuse_videos(kwargs)
        self.session.prompts = len(ids)
        self.input_ids, self.seen, types = ids, kwargs.get("attention_mask"), kwargs.get("token_type_ids")
        self.both = types == 0 if self.prefix and types is not None else None

    def _on_enter(self, _: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        embeds, cache, mask = kwargs["inputs_embeds"], kwargs.get("cache"), kwargs.get("attention_mask")
        mask = self.seen if self.prefix else mask  # a family whose prompts see both ways has made masks of it already
        if mask is not None and mask.ndim != 2:
            raise UserError("pruning makes its own masks", "attention_mask", "give one number for each token: [B, L]")
        self.prefill = cache is None or not cache.get_seq_length()
        if self.prefill:
            return args, self._begin(embeds, mask, kwargs)
        if self.features is None or self.features is not self.session.features:
            raise UserError("a prompt with an image needs an empty cache", "cache", "leave it out")
        new = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        new = new if mask is None else mask[:, -embeds.shape[1] :].bool()
        for segment in self.segments:
            segment.step(new)
        return (args, kwargs | self._arguments(embeds, kwargs)) if self.active else None

    def _begin(self, embeds: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """A new batch enters the language model: unused slots go, samples are padded on the left."""
        session, image = self.session, self.input_ids == self.core.config.image_token_id
        features = session.features if session.parts.encoder else features_of(session, image, self.pictured)
        if features is None or not self.pictured:
            raise UserError("a prompt came without its image", "pixel_values", "give it, inside the same block")
        total = count_placeholders(image, len(features.valid), self.family is not None and self.family.scattered)
        session.check_samples(len(total))
        session.begin("llm")
        self.features, self.previous, self.visual = features, None, []
        session.features = features
        self.total, self.budget = total, session.budget(total)
        shape = embeds.shape[:2]
        places = kwargs.get("position_ids")
        places = torch.arange(shape[1], device=embeds.device)[None] if places is None else axes_last(places, shape[0])
        seen = torch.ones(shape, dtype=torch.bool, device=embeds.device) if mask is None else mask.bool()
        places = places.expand(*shape, *places.shape[2:])
        whole = Columns.of_prompt(seen, places, image.to(embeds.device), self.both)
        self.active = not session.idle("llm", total, self.budget)
        session.state.pop("count/llm", None)
        if not self.active:
            self.segments = [Segment.of(0, whole, whole.following)]
            return kwargs
        hidden, columns = whole.rebuilt(embeds, self._entering(embeds, whole), session.positions == "compact")
        self.segments = [Segment.of(0, columns, self._following(columns, whole.following))]
        return kwargs | {"inputs_embeds": hidden} | self._arguments(hidden, kwargs)

    def _arguments(self, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the whole language model is called with."""
        given = self.segments[0].arguments()
        return given | {"attention_mask": self._mask(self.segments[0], 0, hidden, kwargs)} if self.prefix else given

    def _entering(self, embeds: Tensor, whole: Columns) -> Kept:
        """The visual tokens that enter the first layer; their `source` is their original place."""
        f = self.features
        assert f is not None
        x = gather(embeds, gather(whole.visual, f.slots))
        kept = Kept(x, f.valid, f.positions, f.sizes, f.positions)
        if self.projector is not None:
            tokens = self._tokens(self.projector, x, f.valid, f.positions, f.sizes, {})
            kept = self.session.prune("llm", lambda: tokens)
        return Kept(kept.x, kept.valid, kept.positions, kept.sizes, source=kept.positions)

    def _following(self, columns: Columns, unpruned: Tensor) -> Tensor:
        return unpruned if self.session.positions == "original" else columns.following

    def _layer(self, index: int) -> Callable[..., Any]:
        def enter(_: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            """Forward pre-hook of a layer: prunes what enters it, and gives it masks and positions that fit."""
            hidden, segment = args[0], self._segment(index)
            if self.active:
                kwargs = self._with_mask(segment, index, hidden, kwargs)
                if self.prefill and index in self.points:
                    rotary = kwargs["position_embeddings"]
                    hidden, segment = self._prune(self.points[index], hidden, segment, rotary)
                    kwargs = self._with_mask(segment, index, hidden, kwargs)
            if self.prefill:
                self.visual.append(segment.prompt.count)
                if self.active and index + 1 in self.points:
                    layer = self.llm.layers[index]
                    self.previous = LayerReads(
                        layer, hidden, kwargs["position_embeddings"], segment.mask, segment.prompt.both
                    )
            return (hidden, *args[1:]), kwargs

        return enter

    def _segment(self, index: int) -> Segment:
        return next(segment for segment in reversed(self.segments) if segment.first <= index)

    def _with_mask(self, segment: Segment, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The layer's arguments with mask and positions of its segment."""
        if segment.given is None:
            mask = self._mask(segment, index, hidden, kwargs)
            places = axes_first(segment.position_ids)
            rotary = self.llm.rotary_emb(hidden, position_ids=places)
            positions = {"position_ids": places if places.ndim == 2 else None, "position_embeddings": rotary}
            segment.given = {"attention_mask": mask, **positions}
        return kwargs | segment.given

    def _mask(self, segment: Segment, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> Any:
        """The mask of a layer: causal, but both ways within a prompt where the model has it so."""
        both = segment.prompt.both
        blocks = {"block_sequence_ids": both.long() - 1} if self.prefill and bool(both.any()) else {}
        return create_causal_mask(
            config=self.llm.config,
            inputs_embeds=hidden,
            attention_mask=segment.mask.long(),
            cache=kwargs.get("cache"),
            layer_idx=index,
            **blocks,
        )

    def _prune(
        self, point: Point, hidden: Tensor, segment: Segment, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Segment]:
        """Drop columns on entering a layer; a point that changes nothing leaves the segment as it is."""
        prompt = segment.prompt
        if self.session.idle("llm", prompt.count, self.budget):
            return hidden, segment
        x = gather(hidden, prompt.visual)

        def read() -> Tokens:
            names = self.session.needs(point)
            current = LayerReads(self.llm.layers[point.layer], hidden, rotary, segment.mask, prompt.both)
            reads = layer_reads(names, prompt, hidden, self.previous, current)
            return self._tokens(point, x, prompt.valid, prompt.positions, prompt.sizes, reads)

        kept = self.session.prune("llm", read)
        if _same(kept, x, prompt.valid):
            return hidden, segment
        hidden, columns = prompt.rebuilt(hidden, kept, self.session.positions == "compact")
        changed = Segment.of(point.layer, columns, self._following(columns, segment.following))
        self.segments = [each for each in self.segments if each.first < point.layer] + [changed]
        return hidden, changed

    def _tokens(
        self, point: Point, x: Tensor, valid: Tensor, positions: Tensor, sizes: Tensor, reads: dict[str, Tensor]
    ) -> Tokens:
        """What the pruner sees."""
        session = self.session
        assert self.features is not None
        newline = gather(self.features.newline, positions.clamp(min=0)) & (positions >= 0)
        if session.guide is not None and "text" in session.needs(point):
            reads = reads | {"text": session.guide.text}
        return Tokens.of(
            x,
            self.budget,
            valid=valid,
            positions=positions,
            sizes=sizes,
            seeds=session.seeds,
            names=session.sample_names,
            point=point,
            layers=session.parts.layout.depth.llm if point.place == "llm" else session.depth,
            newline=newline,
            **reads,
        )

    def _on_leave(self, _: Module, args: tuple[Any, ...], output: Any) -> None:
        """The language model is through."""
        trace = self.session.trace
        if self.prefill:
            trace.llm_visual = torch.stack(self.visual, 1).cpu()
            trace.text_tokens = self.segments[0].prompt.text.sum(1).cpu()
            first, last = self._segment(0).prompt, self.segments[-1].prompt
            require_finite_states(output[0], last.mask, self.session.sample_names, "behind the language model")
            trace.entering = survivors(first.valid, first.positions)
            trace.made = (first.valid & (first.positions < 0)).sum(1).cpu()
            trace.survivors = survivors(last.valid, last.positions)
            self.previous = None
        pruned = [each for each in self.segments if bool((each.prompt.count < self.total).any())]
        trace.position_ids.append((pruned or self.segments)[0].position_ids.cpu())


def axes_last(position_ids: Tensor, rows: int) -> Tensor:
    """[B, L] as they are; of [3 or 4, B, L], where a row of text positions may stand first, [B, L, 3]."""
    return position_ids if position_ids.ndim == 2 else position_ids[-3:].expand(3, rows, -1).permute(1, 2, 0)


def axes_first(position_ids: Tensor) -> Tensor:
    """[B, L] as they are, [3, B, L] of [B, L, 3]: what the language model takes."""
    return position_ids if position_ids.ndim == 2 else position_ids.permute(2, 0, 1)


def _same(kept: Kept, x: Tensor, valid: Tensor) -> bool:
    """Whether the kept tokens are those that were there."""
    if kept.valid.shape != valid.shape or not torch.equal(kept.valid, valid):
        return False
    position = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
    return torch.equal(kept.source[valid], position[valid]) and torch.equal(kept.x[valid], x[valid])
