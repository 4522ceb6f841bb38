"""Config and card of the recipe `dyspec`. Imports no torch."""

from dataclasses import dataclass, replace

from recipes.core.config.settings import CORRELATION, EXACT, EXAMPLE_UNIT, MODEL_CONTENT, Card, Claim, setting
from recipes.core.training.toys.config import ToyLMConfig
from recipes.decoding.config import DecodingConfig

TREES = ("dynamic", "chain", "k_seq", "kary", "sequoia", "eagle2_like", "none")
DRAFT_CALLS = "draft_calls_per_step"
SHARE, ACCEPTED = "draw_share", "draw_accepted"


@dataclass(frozen=True)
class DraftModelConfig:
    """The model that drafts; it has the target's tokenizer."""

    path: str | None = setting(
        None,
        help="folder or hub name of a smaller model with the target's tokenizer; null: a toy trained in the run on the "
        "texts of the toy target",
        content=MODEL_CONTENT,
    )
    layers: int = setting(1, help="layers of the toy", ge=1)
    width: int = setting(64, help="hidden width of the toy", ge=4)
    heads: int = setting(4, help="attention heads of the toy", ge=1)
    steps: int = setting(1000, help="steps of the toy's training", unit="steps", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.width % (2 * self.heads):
            return [("heads", f"width={self.width} does not divide by 2 x heads={self.heads}")]
        return []

    def toy(self, target: ToyLMConfig) -> ToyLMConfig:
        """The toy: the target's tokenizer and texts, its own size."""
        return replace(target, layers=self.layers, width=self.width, heads=self.heads, steps=self.steps)


@dataclass(frozen=True)
class TreeConfig:
    """How a tree of draft tokens comes to be."""

    name: str = setting("dynamic", help="kind of tree; arms choose it", choices=TREES)
    nodes: int = setting(16, help="draft tokens of a step, whatever the kind", unit="tokens", ge=1, le=1024)
    temperature: float = setting(0.6, help="of the draft model's softmax; 0: its likeliest token", ge=0, origin="paper")
    grow: str = setting(
        "heap", help="dynamic: the best slot next (algorithm 1), or layer by layer (2)", choices=("heap", "layers")
    )
    threshold: float | None = setting(
        None, help="grow=layers: slots of a larger value are filled; null: 1 / nodes", ge=0, lt=1
    )
    est: str = setting(
        "draft_prob",
        help="dynamic: chance that a draw is accepted: its share; what was measured of such shares; one half",
        choices=("draft_prob", "calibrated", "constant"),
    )
    k: int = setting(4, help="k_seq: chains; eagle2_like: nodes of a layer that grow, children of each", ge=1)
    branching: tuple[int, ...] = setting(
        (2, 2, 1, 1, 1), help="kary: children of a node, by layer; cut to the nodes", ge=1
    )
    depth: int = setting(10, help="sequoia, eagle2_like: deepest layer", unit="tokens", ge=1, le=64)
    siblings: int = setting(8, help="sequoia: most children of a node", unit="tokens", ge=1, le=64)
    calibration: int = setting(
        16, help="sequoia, est=calibrated: held-out texts that ship on which acceptance is measured", unit="texts", ge=1
    )

    @property
    def needs_calibration(self) -> bool:
        """Whether acceptance is measured before anything is drafted."""
        return self.name == "sequoia" or (self.name == "dynamic" and self.est == "calibrated")

    @property
    def drawn(self) -> bool:
        """Whether draft tokens are drawn, so that multi-round rejection accepts them."""
        return self.name not in ("eagle2_like", "none")


@dataclass(frozen=True, kw_only=True)
class DySpecConfig(DecodingConfig):
    """Config of one `dyspec` run."""

    draft: DraftModelConfig = setting(DraftModelConfig(), help="draft model")
    tree: TreeConfig = setting(TreeConfig(), help="draft tree")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        if self.draft.path is None and not isinstance(self.model, ToyLMConfig):
            message = "is missing; name a smaller model with the target's tokenizer, or type model=toy-lm"
            return [("draft.path", message)]
        return []

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        toy, tree = self.draft, self.tree
        draft = toy.path or f"{toy.layers} layers, width {toy.width}, trained in the run ({toy.steps:,} steps)"
        kind = tree.name if tree.name == "none" else f"{tree.name}, {tree.nodes} tokens a step"
        return [*super().describe(), ("draft", draft), ("tree", kind)]


CONFIG = DySpecConfig


def _claim(statement: str, published: str, arm: str = "dynamic", baseline: str = "chain", effect: float = 0.1) -> Claim:
    """That an arm yields more tokens a step than another, over prompts."""
    return Claim(statement, "tokens_per_step", arm, baseline, 1, published, effect, unit=EXAMPLE_UNIT)


CARD = Card(
    title="DySpec: draft trees that grow where the draft model is confident",
    paper="arXiv 2410.11744 (World Wide Web 28(3), 2025)",
    weights="places of a draft tree, by how likely verification is to come to them",
    summary="A small model drafts a tree for a large one. Each draft token goes to the place that verification is most "
    "likely to reach, by the small model's own probabilities; the output keeps the large model's distribution.",
    claim=_claim(
        "A forward of a greedy target yields more tokens with a dynamic tree than with a chain of as many draft tokens",
        "no chain in its tables; 5.25 tokens per step against 3.32 of SpecInfer's tree, 64 draft tokens, C4",
    ),
    claims=(
        _claim(
            "A forward of a sampled target yields more tokens with a dynamic tree than with a chain",
            "no chain in its tables; 3.71 against 3.44 of SpecInfer's tree, C4 at temperature 0.6",
            "dynamic_sampled",
            "chain_sampled",
        ),
        _claim(
            "A dynamic tree yields more tokens than Sequoia's fixed one, greedy target",
            "5.25 against 4.99 tokens per step, 68M for 7B, 64 draft tokens, C4",
            baseline="sequoia",
        ),
        _claim(
            "A dynamic tree yields more tokens than a tree of fixed branching, greedy target",
            "5.25 against 3.32 tokens per step, 68M for 7B, 64 draft tokens, C4",
            baseline="kary",
        ),
        _claim(
            "A dynamic tree yields more tokens than a chain of the draft model's likeliest tokens, greedy target",
            "not compared",
            baseline="chain_likeliest",
        ),
        _claim(
            "A dynamic tree yields more tokens than one of the likeliest paths as in EAGLE-2, greedy target",
            "not compared",
            baseline="eagle2_like",
        ),
        _claim(
            "A dynamic tree yields more tokens than Sequoia's fixed one, sampled target",
            "3.71 against 3.45 tokens per step, C4 at temperature 0.6",
            "dynamic_sampled",
            "sequoia_sampled",
        ),
        Claim(
            statement="Greedy outputs are those of plain decoding, token for token",
            metric="matches_greedy",
            arm="dynamic",
            baseline="none",
            direction=1,
            published="lossless by construction",
            minimal_effect=0.0,
            unit=EXAMPLE_UNIT,
            kind=EXACT,
        ),
        Claim(
            statement="Draws that the draft model finds likelier are accepted more often",
            metric=ACCEPTED,
            beside=SHARE,
            arm="dynamic",
            baseline="dynamic",
            direction=1,
            published="its figure 2, without a number",
            minimal_effect=0.5,
            unit=EXAMPLE_UNIT,
            kind=CORRELATION,
        ),
    ),
    cost="two frozen models: up to a forward of the draft model for each draft token, or for each layer of the tree",
    pair_keys=("arm", "tree", "generation"),
    version=1,
    control="none",
    headlines=("tokens_per_step", "matches_greedy", DRAFT_CALLS),
    price=(DRAFT_CALLS, "read_per_step", "ms_per_token"),
    trains=False,
    metrics=(
        *("tokens_per_step", "matches_greedy", DRAFT_CALLS, SHARE, ACCEPTED),
        *("read_per_step", "ms_per_token", "drafting_share", "nll"),
    ),
)
