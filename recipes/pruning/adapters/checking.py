"""Refusals before anything runs: a pruner that a model, a budget or a missing question cannot serve."""

from collections.abc import Sequence
from typing import Any

from recipes.core.errors import UserError
from recipes.pruning.adapters.anatomy import Layout, Parts
from recipes.pruning.adapters.reads import BEFORE, BLOCK, LAST
from recipes.pruning.guards import require_budget
from recipes.pruning.tokens import PLACES, Depth, Point, Pruner, token_budget

CLS = frozenset({"cls", "cls_row", "final_query"})
UNPRUNED = 2
MEAN_QUERY = "type pruner.query=mean pruner.criteria=[attn,density]"
TEXT = frozenset({"text", "patch_text", "patch_text_raw", "feature_text"})
GIVEN = {
    "vit_attention": BLOCK | {"cls", "newline"},
    "vit": BLOCK | {"cls", "newline"},
    "encoder": BLOCK | LAST | TEXT | {"cls", "newline"},
    "projector": frozenset({"text", "newline"}),
    "llm": BEFORE | {"next_row", "text_states", "text_valid", "text", "newline"},
}


def plan_points(parts: Parts, pruner: Pruner) -> tuple[tuple[Point, ...], int]:
    """Where the pruner acts, and the number of encoder blocks it counts from.

    That is all blocks; but a pruner that would act in a block whose output nobody reads counts the others only.

    Raises:
        UserError: it acts where this model has nothing.
    """
    layout, name = parts.layout, name_of(pruner)
    if layout.llm is None:
        imagined = pruner.points(Depth(vit=layout.depth.vit, llm=32))
        if any(point.place in ("projector", "llm") for point in imagined):
            where = "projector" if any(point.place == "projector" for point in imagined) else "language model"
            hint = "choose cls_topk, or place=encoder or feature=encoder where a pruner has it"
            raise UserError(f"{name} prunes at the {where}, which this model lacks", "pruner", hint)
    points = pruner.points(layout.depth)
    depth = layout.depth.vit
    if parts.family is not None:
        if parts.encoder is None:
            _check_family(parts, pruner, points)
        # FlowCut leaves the last two of the blocks that it counts alone; here none.
        depth = depth + UNPRUNED if name in parts.family.inside else depth
        points = pruner.points(Depth(vit=depth, llm=layout.depth.llm))
    _check_layers(name, points, layout)
    if any(point.place in ("vit", "vit_attention") and point.layer >= layout.used_blocks for point in points):
        depth = layout.used_blocks
        points = pruner.points(Depth(vit=depth, llm=layout.depth.llm))
        _check_layers(name, points, layout)
    return points, depth


def _check_family(parts: Parts, pruner: Pruner, points: tuple[Point, ...]) -> None:
    """Refuse what has no meaning where a visual token is several patches, or is made behind the encoder only."""
    name, family, kind = name_of(pruner), parts.family, parts.layout.kind
    choices = ["random", "grid", "divprune", *family.inside, "fastv", "sparsevlm", "pyramiddrop", "vtw"]
    hint = f"choose {', '.join(choices[:-1])} or {choices[-1]}"
    for point in points:
        if CLS & set(pruner.needs(point)) and not parts.layout.special:
            mean = MEAN_QUERY if name in family.inside else hint
            raise UserError(f"{name} reads the attention of CLS, which the encoder of {kind} lacks", "pruner", mean)
        if point.place in ("vit", "vit_attention") and name not in family.inside:
            raise UserError(f"{name} prunes inside the encoder of {kind}: {family.reason}", "pruner", hint)
        reads = sorted(set(pruner.needs(point)) - {"newline"})
        if point.place == "encoder" and (reads or getattr(pruner.options, "feature", "") == "encoder"):
            what = reads[0] if reads else "features of the encoder"
            why = "which are known behind its projector only"
            raise UserError(f"{name} reads {what} of the visual tokens of {kind}, {why}", "pruner", hint)


def _check_layers(name: str, points: tuple[Point, ...], layout: Layout) -> None:
    for point in points:
        limit = {"vit": layout.depth.vit, "vit_attention": layout.depth.vit, "llm": layout.depth.llm}.get(
            point.place, 1
        )
        if point.place not in PLACES or point.layer >= limit:
            raise UserError(
                f"{name} acts at {point.place} {point.layer}, but there are {limit}",
                "pruner",
                f"0 to {limit - 1} exist",
            )


def check(
    parts: Parts,
    pruner: Pruner,
    keep: float | int,
    guided: bool,
    positions: str | None,
    counts: Sequence[int] = (),
) -> tuple[tuple[Point, ...], int]:
    """All that can be refused before a forward.

    Args:
        parts: The model.
        pruner: What shall prune it.
        keep: Fraction in (0, 1] or number of tokens.
        guided: Whether there is a question.
        positions: None, "compact" or "original".
        counts: Numbers of tokens that samples have, where they differ.

    Returns:
        As `plan_points`.

    Raises:
        UserError: it cannot work, with what to type instead.
    """
    _check_keep(parts, keep)
    if positions not in (None, "compact", "original"):
        raise UserError(f"there are no {positions} positions", "positions", "type compact or original")
    if positions == "compact" and parts.grid_positions:
        raise UserError(
            f"rotary positions of {parts.layout.kind} are places in the image (M-RoPE), which cannot be counted anew",
            "positions",
            "leave it out, or type positions=original",
        )
    points, depth = plan_points(parts, pruner)
    for point in points:
        _check_needs(parts, pruner, point, guided)
    patches = 0 if parts.anyres else parts.patches
    layers = parts.layout.depth.llm if points[0].place == "llm" else depth
    for count in counts or ([patches] if patches else []):
        budget = keep if isinstance(keep, int) else max(token_budget(count, keep), 1)
        require_budget(pruner, count, budget, layers)
    return points, depth


def _check_keep(parts: Parts, keep: float | int) -> None:
    patches = parts.patches
    if isinstance(keep, bool) or (isinstance(keep, float) and not 0 < keep <= 1):
        raise UserError(f"{keep} is no share of the tokens", "keep", "type a fraction in (0, 1] or a number of tokens")
    if isinstance(keep, int) and keep < 1:
        raise UserError(f"{keep} tokens cannot be kept", "keep", "type 1 or more, or a fraction in (0, 1]")
    if parts.anyres or not patches:
        return
    if isinstance(keep, int) and keep > patches:
        raise UserError(f"{keep} tokens are more than the {patches} there are", "keep", f"type at most {patches}")
    if isinstance(keep, float) and token_budget(patches, keep) < 1:
        raise UserError(f"keep={keep} of {patches} tokens is none", "keep", f"type at least {1 / patches:.2g}")


def _check_needs(parts: Parts, pruner: Pruner, point: Point, guided: bool) -> None:
    name, needs = name_of(pruner), set(pruner.needs(point))
    reads_cls = needs & CLS or ("attention" in needs and getattr(pruner.options, "importance", "") == "cls_row")
    if reads_cls and not parts.layout.special:
        where = "this encoder" if parts.family is None else f"the encoder of {parts.layout.kind}"
        other = "choose one without: random, grid, pool, divprune, zero_tprune or tome"
        hint = f"{MEAN_QUERY}, or {other}" if name == "flowcut" else other
        raise UserError(f"{name} reads the attention of CLS, which {where} lacks", "pruner", hint)
    if needs & TEXT and parts.layout.kind == "text":
        raise UserError(f"{name} compares patches with a question, but here are words", "pruner", "choose another")
    if needs & TEXT and parts.family is not None:
        raise UserError(
            f"{name} compares patches with the question in the space of a CLIP, from which the encoder of "
            f"{parts.layout.kind} does not come",
            "pruner",
            "choose one that does not: random, grid, divprune, zero_tprune, tome or fastv",
        )
    if needs & TEXT and not guided:
        raise UserError(f"{name} compares patches with the question", "guide", "give a Guide, or choose another pruner")
    early = needs & BEFORE if point == Point("llm", 0) else set()
    if missing := sorted(early | (needs - GIVEN[point.place])):
        raise UserError(f"{name} reads {missing[0]} at {point.place} {point.layer}, where there is none", "pruner")


def name_of(pruner: Any) -> str:
    """The pruner's name in configs."""
    return str(getattr(pruner.options, "name", type(pruner).__name__))
