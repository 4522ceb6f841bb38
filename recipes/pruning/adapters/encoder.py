"""Pruning inside an encoder: behind blocks, between the parts of a block, and at its output."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from recipes.pruning.adapters.family import Handle, replace_attribute
from recipes.pruning.adapters.reads import block_reads, last_reads
from recipes.pruning.adapters.sequence import Sequence
from recipes.pruning.adapters.session import Session, survivors
from recipes.pruning.draws import sample_seed
from recipes.pruning.guards import point_words, require_finite_states
from recipes.pruning.tokens import Point, Tokens


class EncoderPruning:
    """Hooks of an encoder.

    Attributes:
        sequence: The tokens where the model is.
        text_mask: [B, T] bool of a text encoder's input, set before its first block.
        real: [rows, N] bool, patches of crops that are no padding of the image; None once the rest was dropped.
    """

    def __init__(self, session: Session) -> None:
        assert session.parts.encoder is not None
        self.session, self.encoder = session, session.parts.encoder
        self.inside, self.behind = session.at("vit_attention"), session.at("vit")
        self.output = session.at("encoder").get(0)
        self.joined = session.parts.core is not None
        self.used = session.parts.layout.used_blocks
        self.sequence: Sequence
        self.budget: Tensor
        self.real: Tensor | None = None
        self.text_mask: Tensor | None = None
        self.inputs: dict[int, Tensor] = {}
        self.outputs: dict[int, Tensor] = {}
        self.counts: list[Tensor] = []

    @property
    def prunes(self) -> bool:
        """Whether the pruner acts in the encoder or at its output."""
        return bool(self.inside or self.behind) or self.output is not None

    def install(self) -> list[Handle]:
        """Put the hooks in.

        Returns:
            What takes each of them out.
        """
        handles: list[Handle] = []
        for index, block in enumerate(self.encoder.blocks):
            entering = block.register_forward_pre_hook(self._enter(index), with_kwargs=True)
            # Before the hooks with which transformers collects hidden states.
            leaving = block.register_forward_hook(self._leave(index), prepend=True)
            handles += [entering.remove, leaving.remove]
            if index in self.inside:
                handles.append(replace_attribute(block, "forward", self._parts(index, block)))
        return handles

    def clear(self) -> None:
        """Let go of what was kept for reading."""
        self.inputs.clear()
        self.outputs.clear()

    def _enter(self, index: int) -> Callable[..., Any]:
        def enter(_: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            """Forward pre-hook of a block: notes what enters, and masks padding once tokens were pruned."""
            hidden = args[0] if args else kwargs["hidden_states"]
            if index == 0:
                self._begin(hidden)
            self.counts.append(self.sequence.count + self.sequence.special)
            if index == len(self.encoder.blocks) - 1 and not self.joined:
                self.session.trace.survivors = survivors(self.sequence.valid, self.sequence.positions)
            if index in self._read_blocks():
                self.inputs[index] = hidden
            if not self.sequence.touched:
                return None
            bias = self.sequence.bias(hidden.dtype, self.session.pruner.proportional)
            if bias is not None:
                bias = self.sequence.model_order(bias[:, 0, 0])[:, None, None]
            if len(args) > 1:
                return (args[0], bias, *args[2:]), kwargs
            return args, kwargs | {"attention_mask": bias}

        return enter

    def _leave(self, index: int) -> Callable[..., Any]:
        last = index == len(self.encoder.blocks) - 1

        def leave(_: Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            """Forward hook of a block: prunes behind it where a pruner asks for that, and checks what comes out."""
            if index in self.behind:
                output = self._prune(output, self.behind[index], index)
            if index == self.used - 1:
                seen = self.sequence.model_order(self.sequence.everyone())
                names = self.session.rows_of(self.session.sample_names)
                require_finite_states(output, seen, names, point_words(Point("encoder")))
            if self.output is not None and (last or index == self.used - 1):
                self.outputs[index] = output
            if last and self.output is not None and not self.joined:
                output = self._prune(output, self.output, index)
            if last:
                self._finish()
            return output

        return leave

    def _parts(self, index: int, block: Module) -> Callable[..., Tensor]:
        """The block's forward, with pruning in the middle."""
        family, point = self.encoder.family, self.inside[index]

        def forward(hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
            hidden = family.attend(block, hidden_states, attention_mask, *args, **kwargs)
            return family.feed(block, self._prune(hidden, point, index))

        return forward

    def _read_blocks(self) -> set[int]:
        """Blocks whose input is kept."""
        blocks = {index for point in (self.inside, self.behind) for index in point}
        return blocks | ({self.used - 1, len(self.encoder.blocks) - 1} if self.output is not None else set())

    def _begin(self, hidden: Tensor) -> None:
        """A new batch enters the first block."""
        encoder, session = self.encoder, self.session
        self.clear()
        self.counts = []
        session.begin("vit")
        if session.crops is None:
            session.check_samples(len(hidden))
        columns = hidden.shape[1] - encoder.lead - encoder.trail
        if self.text_mask is None:
            valid = torch.ones(len(hidden), columns, dtype=torch.bool, device=hidden.device)
        else:
            words = self.text_mask.sum(1) - encoder.lead - encoder.trail
            valid = torch.arange(columns, device=hidden.device) < words[:, None]
        self.sequence = Sequence.start(encoder.lead, encoder.trail, valid)
        self.real = None
        if self.prunes:
            self.budget = session.encoder_budget(self.sequence.count)
            if session.crops is not None:
                # A crop that keeps all keeps its padding too, as the unpruned model does.
                real = session.crops.real.to(hidden.device)
                whole = self.budget >= real.sum(1)
                self.real, self.budget = real | whole[:, None], self.budget.masked_fill(whole, columns)

    def _finish(self) -> None:
        """The last block is through."""
        session, sequence = self.session, self.sequence
        trace = session.trace
        trace.encoder_tokens = torch.stack(self.counts, 1).cpu()
        trace.crops = session.crops.counts if session.crops else [1] * len(trace.encoder_tokens)
        if not self.joined:
            trace.entering = survivors(sequence.valid, sequence.positions)
            trace.made = (sequence.valid & (sequence.positions < 0)).sum(1).cpu()
            trace.output_mask = sequence.model_order(sequence.everyone())
            self.clear()

    def _prune(self, hidden: Tensor, point: Point, block: int) -> Tensor:
        """Drop tokens of `hidden` [B, T, d] in the model's order."""
        sequence = self.sequence
        if self.session.idle("vit", self._candidates.sum(1), self.budget):
            return hidden
        view = sequence.view(hidden)
        kept = self.session.prune("vit", lambda: self.tokens(view, point, block))
        self.sequence, self.real = sequence.after(kept), None
        return self.sequence.model_order(torch.cat([view[:, : sequence.special], kept.x], 1))

    @property
    def _candidates(self) -> Tensor:
        """[rows, N] bool, tokens that may be kept: padding of the image is dropped first."""
        return self.sequence.valid if self.real is None else self.sequence.valid & self.real

    def tokens(self, view: Tensor, point: Point, block: int) -> Tokens:
        """What the pruner sees.

        Args:
            view: [B, S + N, d] the tokens, special ones first.
            point: Where.
            block: The block that made them.
        """
        session, sequence = self.session, self.sequence
        names, special = session.needs(point), sequence.special
        bias = sequence.bias(torch.float32, session.pruner.proportional)
        given: dict[str, Any] = {}
        if block in self.inputs:
            given |= block_reads(names, self.encoder, block, sequence.view(self.inputs[block]), bias)
        if point.place == "encoder":
            last = len(self.encoder.blocks) - 1
            given |= last_reads(names, self.encoder, sequence.view(self.inputs[last]))
            given |= self._guide_reads(names)
        if special:
            given["cls"] = view[:, 0]
        return Tokens.of(
            view[:, special:],
            self.budget,
            valid=self._candidates,
            positions=sequence.positions,
            sizes=sequence.sizes,
            seeds=self._seeds(),
            names=session.rows_of(session.sample_names),
            point=point,
            layers=session.depth,
            newline=torch.zeros_like(sequence.valid),
            **given,
        )

    def features(self, features: Tensor) -> Tensor:
        """What goes to the projector, of features [B, N, C] without special tokens."""
        if self.output is None or self.session.idle("vit", self._candidates.sum(1), self.budget):
            return features
        block, lead = self.used - 1, self.encoder.lead
        view = torch.cat([self.outputs[block][:, :lead], features], 1)
        point = self.output
        kept = self.session.prune("vit", lambda: self.tokens(view, point, block))
        self.sequence, self.real = self.sequence.after(kept), None
        return kept.x

    def _guide_reads(self, names: tuple[str, ...]) -> dict[str, Tensor]:
        """The question, and the patches in its space."""
        guide, reads = self.session.guide, {}
        if guide is None:
            return {}
        if "text" in names:
            text, crops = guide.text, self.session.crops
            reads["text"] = (
                text if crops is None else text.repeat_interleave(torch.tensor(crops.counts, device=text.device), 0)
            )
        last, features = self.outputs[len(self.encoder.blocks) - 1], self.outputs[self.used - 1]
        for name, states, closed in (
            ("patch_text_raw", last, False),
            ("patch_text", last, True),
            ("feature_text", features, True),
        ):
            if name in names:
                norm = self.encoder.closing if closed else None
                reads[name] = guide.project((states if norm is None else norm(states))[:, self.encoder.lead :])
        return reads

    def _seeds(self) -> tuple[int, ...]:
        session = self.session
        if session.crops is None:
            return session.seeds
        pairs = zip(session.seeds, session.crops.counts, strict=True)
        return tuple(sample_seed(seed, f"crop{crop}") for seed, crops in pairs for crop in range(crops))
