"""One batch on its way through a model: the pruner, what it is given and what happened."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recipes.core.errors import UserError
from recipes.core.process.clock import clock
from recipes.pruning.adapters.anatomy import Parts
from recipes.pruning.adapters.crops import Crops
from recipes.pruning.adapters.family import Call, require_one_image
from recipes.pruning.pruners.simple import Full
from recipes.pruning.tokens import Kept, Point, Pruner, State, Tokens, apply, token_budget


@dataclass(frozen=True)
class Guide:
    """A question in a space shared with patches, for one batch.

    Attributes:
        text: [B, p] embedding of the question.
        project: Patches [B, N, C] of the encoder -> [B, N, p]; called with its last hidden states, the closing norm
            applied (`Tokens.patch_text`) or not (`Tokens.patch_text_raw`), and with the states that go to the
            projector, the norm applied (`Tokens.feature_text`).
    """

    text: Tensor
    project: Callable[[Tensor], Tensor]


def _none() -> Tensor:
    return torch.zeros(0, dtype=torch.long)


@dataclass
class Trace:
    """What happened in the last prefill. Patches of LLaVA-NeXT are counted through the pack of its crops.

    Attributes:
        encoder_tokens: [rows, encoder blocks] tokens entering each block, special ones included. A row is what the
            encoder sees as one image: a sample, or one of its crops.
        encoder_pairs: [rows, encoder blocks] pairs of them that attend to each other; empty: all pairs do.
        crops: Rows of each sample.
        projected: [B] tokens through the projector.
        llm_visual: [B, LLM layers] visual tokens entering each layer.
        text_tokens: [B] text tokens in the language model.
        survivors: For each sample the original patches that enter the last layer, ascending; merged ones are left out.
        entering: For each sample the original patches that enter the first layer of the language model, or leave the
            encoder where there is none.
        made: [B] tokens that pruning made among those entering.
        selection_seconds: Time in the pruner and in reading what it needs.
        position_ids: Language model: of each call, as the first layer with fewer tokens sees them.
        output_mask: [B, T] encoder without a language model: which tokens of its output are none of the padding.
    """

    encoder_tokens: Tensor = field(default_factory=_none)
    encoder_pairs: Tensor = field(default_factory=_none)
    crops: list[int] = field(default_factory=list)
    projected: Tensor = field(default_factory=_none)
    llm_visual: Tensor = field(default_factory=_none)
    text_tokens: Tensor = field(default_factory=_none)
    survivors: list[Tensor] = field(default_factory=list)
    entering: list[Tensor] = field(default_factory=list)
    made: Tensor = field(default_factory=_none)
    selection_seconds: float = 0.0
    position_ids: list[Tensor] = field(default_factory=list)
    output_mask: Tensor = field(default_factory=_none)


@dataclass(frozen=True)
class Features:
    """The visual tokens that leave the encoder, for the language model.

    Attributes:
        slots: [B, M] which placeholder of the sample each stands in.
        valid: [B, M] bool.
        positions: [B, M] original positions, -1 for new tokens.
        sizes: [B, M]
        newline: [B, N] bool, by original position.
    """

    slots: Tensor
    valid: Tensor
    positions: Tensor
    sizes: Tensor
    newline: Tensor


@dataclass
class Session:
    """A pruner at work in a model.

    Attributes:
        parts: The model.
        pruner: What prunes it.
        points: Where.
        depth: Number of blocks that the pruner counts from.
        keep: Fraction or number of tokens.
        seeds: One a sample.
        guide: The question.
        positions: "compact" or "original".
        names: What each sample is called in messages; empty: by its row.
        trace: What happened.
        state: What the pruner carries from point to point.
        features: What the encoder left.
        call: What the encoder of a family was called with.
        prompts: Of the model's last call; None before the first.
        crops: Of the images; None where a sample is one row of the encoder.
        seconds: Time of selection so far by tower, "vit" and "llm".
    """

    parts: Parts
    pruner: Pruner
    points: tuple[Point, ...]
    depth: int
    keep: float | int
    seeds: tuple[int, ...]
    guide: Guide | None
    positions: str
    names: tuple[str, ...] = ()
    trace: Trace = field(default_factory=Trace)
    state: State = field(default_factory=dict)
    features: Features | None = None
    call: Call | None = None
    prompts: int | None = None
    crops: Crops | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def at(self, place: str) -> dict[int, Point]:
        """The points of one place by layer."""
        return {point.layer: point for point in self.points if point.place == place}

    def needs(self, point: Point | None) -> tuple[str, ...]:
        """What the pruner reads there."""
        return () if point is None else self.pruner.needs(point)

    def budget(self, counts: Tensor) -> Tensor:
        """[B] how many of `counts` [B] tokens to leave; of text one word at least.

        Raises:
            UserError: more than there are, or none.
        """
        if isinstance(self.keep, int):
            if self.parts.layout.kind != "text" and int(counts.min()) < self.keep:
                raise UserError(
                    f"a sample has {int(counts.min())} tokens, of which {self.keep} were to be kept",
                    "keep",
                    "type fewer, or a fraction such as 0.25",
                )
            return torch.full_like(counts, self.keep)
        left = [token_budget(count, self.keep) for count in counts.tolist()]
        if self.parts.layout.kind != "text" and min(left) < 1:
            raise UserError(f"keep={self.keep} of {min(counts.tolist())} tokens is none", "keep", "type a larger share")
        return torch.tensor([max(each, 1) for each in left], device=counts.device)

    def encoder_budget(self, counts: Tensor) -> Tensor:
        """[rows] how many tokens to leave of each row of the encoder, which has `counts` [rows]; crops share one."""
        if self.crops is None:
            return self.budget(counts)
        return self.crops.share_out(self.budget(self.crops.totals), self.sample_names).to(counts.device)

    def idle(self, tower: str, counts: Tensor, budget: Tensor) -> bool:
        """Whether no sample of the batch has more tokens than its budget, so that the pruner need not look."""
        if isinstance(self.pruner, Full):
            return True
        original = self.state.setdefault(f"count/{tower}", counts)
        return not bool((budget < original).any())

    def prune(self, tower: str, read: Callable[[], Tokens]) -> Kept:
        """What goes on from a point.

        Args:
            tower: "vit" or "llm", for the clock.
            read: Gathers what the pruner needs.
        """
        with self.clock(tower):
            tokens = read()
            kept = apply(tokens, self.pruner(tokens, self.state))
        if kept.x.shape[1] > tokens.x.shape[1]:
            raise UserError(
                f"the pruner left {kept.x.shape[1]} of {tokens.x.shape[1]} tokens, new ones included",
                "keep",
                "type less",
            )
        return kept

    @contextmanager
    def clock(self, tower: str) -> Iterator[None]:
        """Adds the time inside to that of the tower."""
        start = clock()
        yield
        self.seconds[tower] = self.seconds.get(tower, 0.0) + clock() - start
        self.trace.selection_seconds = sum(self.seconds.values())

    def begin(self, tower: str) -> None:
        """A tower starts with a new batch; the encoder clears what the language model left."""
        towers = ("vit", "llm") if tower == "vit" else ("llm",)
        for each in towers:
            self.seconds[each] = 0.0
            self.state.pop(f"count/{each}", None)
        if tower == "vit":
            self.state.clear()
            self.trace.position_ids = []
        self.trace.selection_seconds = sum(self.seconds.values())

    def check_samples(self, count: int) -> None:
        """One seed, and one question, for each sample.

        Raises:
            UserError: another number of them, or several images of a prompt.
        """
        if count != len(self.seeds) == self.prompts:
            require_one_image(count, self.prompts, "pixel_values")
        if count != len(self.seeds):
            raise UserError(f"{count} samples but {len(self.seeds)} seeds", "seeds", "give one seed for each sample")
        if self.guide is not None and len(self.guide.text) != count:
            raise UserError(
                f"{count} samples but {len(self.guide.text)} questions", "guide", "give one row of text for each sample"
            )

    def rows_of(self, values: Sequence[str]) -> tuple[str, ...]:
        """One value for each row of the encoder, of those of the samples: crops are numbered."""
        if self.crops is None:
            return tuple(values)
        pairs = zip(values, self.crops.counts, strict=True)
        return tuple(f"{value}, crop {crop}" for value, crops in pairs for crop in range(crops))

    @property
    def sample_names(self) -> tuple[str, ...]:
        """What each sample is called."""
        return self.names or tuple(f"sample {row}" for row in range(len(self.seeds)))

    def by_sample(self, counts: Tensor) -> Tensor:
        """[B, ...] sums over the rows of the encoder that belong to a sample."""
        if self.crops is None:
            return counts
        return torch.stack([part.sum(0) for part in counts.split(self.crops.counts)])


def survivors(valid: Tensor, positions: Tensor) -> list[Tensor]:
    """For each sample the original positions of valid tokens, ascending."""
    return [each[mask & (each >= 0)].sort().values.cpu() for each, mask in zip(positions, valid, strict=True)]
