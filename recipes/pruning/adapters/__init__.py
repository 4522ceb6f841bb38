"""Pruners in models of `transformers`, by hooks: no model code is changed, and the attention kernels stay."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn import Module

from recipes.core.errors import UserError
from recipes.pruning.adapters import anatomy, checking
from recipes.pruning.adapters.decoder import DecoderPruning
from recipes.pruning.adapters.encoder import EncoderPruning
from recipes.pruning.adapters.families import families, family_of
from recipes.pruning.adapters.family import Cells, Family, Handle, Noted, View
from recipes.pruning.adapters.images import ImageFeatures
from recipes.pruning.adapters.layout import Layout, layout, parts
from recipes.pruning.adapters.session import Guide, Session, Trace
from recipes.pruning.tokens import Pruner

__all__ = [
    "Cells",
    "Family",
    "Guide",
    "Layout",
    "Trace",
    "View",
    "check",
    "check_language",
    "families",
    "family_of",
    "layout",
    "prune",
]


def check(
    model: Any,
    pruner: Pruner,
    keep: float | int,
    *,
    guided: bool = False,
    positions: str | None = None,
    counts: Sequence[int] = (),
) -> None:
    """Refuse what cannot work, before anything runs.

    Args:
        model: A model of `transformers`.
        pruner: What shall prune it.
        keep: Fraction in (0, 1] or number of tokens.
        guided: Whether there will be a `Guide`.
        positions: As for `prune`.
        counts: Numbers of tokens that samples have, where they differ.

    Raises:
        UserError: with what to type instead.
    """
    checking.check(parts(model), pruner, keep, guided, positions, counts)


def check_language(config: Any, family: Family | None) -> None:
    """Refuse a language model by its config, before there is a model.

    Args:
        config: Its config.
        family: Of the vision-language model; None for LLaVA.

    Raises:
        UserError: it cannot be pruned inside.
    """
    anatomy.check_language(config, anatomy.DECODERS if family is None else family.decoders)


@contextmanager
def prune(
    model: Any,
    pruner: Pruner,
    keep: float | int,
    *,
    seeds: Sequence[int],
    guide: Guide | None = None,
    positions: str | None = None,
    names: Sequence[str] = (),
) -> Iterator[Trace]:
    """Prune one batch: inside the block `model(**inputs)` and `model.generate(**inputs)` just work.

    Padding of the language model's prompts goes to the left, so logits have the pruned length and those of the next
    token stand last. Images that are encoded inside the block belong to the batch. Without a cache each step of
    `generate` is a prefill of its own, in which a pruner that reads the last token chooses anew.

    Args:
        model: A model of `transformers`, see `layout`.
        pruner: What prunes it.
        keep: Fraction in (0, 1] (the budget is `tokens.token_budget` of them) or number of tokens.
        seeds: One for each sample.
        guide: The question, for pruners that read it.
        positions: Rotary positions behind the pruning, at every decode step too: "compact" counts the tokens that are
            there, "original" leaves each token its own; None: the pruner's own policy.
        names: What the samples are called in messages; empty: by their row.

    Yields:
        What happened in the last prefill.

    Raises:
        UserError: see `check`; or inputs that cannot be pruned, or that the model makes NaN or infinities of.
    """
    taken = parts(model)
    points, depth = checking.check(taken, pruner, keep, guide is not None, positions)
    policy = positions or ("original" if taken.grid_positions else pruner.positions)
    session = Session(taken, pruner, points, depth, keep, tuple(seeds), guide, policy, tuple(names))
    with ExitStack() as stack:
        for handle in _install(session, model):
            stack.callback(handle)
        yield session.trace


def _install(session: Session, model: Any) -> list[Handle]:
    """Put all hooks in. Returns what takes each of them out."""
    parts = session.parts
    if parts.family is not None and parts.encoder is None:
        handles = parts.family.encoder_hooks(session) + Noted(session).install() + DecoderPruning(session).install()
        return [*handles, model.register_forward_pre_hook(_no_labels, with_kwargs=True).remove]
    encoder = EncoderPruning(session)
    handles = [encoder.clear, *encoder.install()]
    if parts.core is not None:
        handles += ImageFeatures(session, encoder).install() + DecoderPruning(session).install()
        handles.append(model.register_forward_pre_hook(_no_labels, with_kwargs=True).remove)
    elif parts.layout.kind == "text":
        handles.append(model.register_forward_pre_hook(_words(encoder), with_kwargs=True).remove)
    return handles


def _no_labels(_: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if kwargs.get("labels") is not None:
        raise UserError("logits of a pruned prompt have other columns than its labels", "labels", "leave them out")


def _words(encoder: EncoderPruning) -> Callable[..., None]:
    """Finds the words of a text encoder's input: all but the first and the last token."""

    def note_words(_: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = dict(zip(("input_ids", "attention_mask", "token_type_ids"), args, strict=False)) | kwargs
        ids, mask, types = named.get("input_ids"), named.get("attention_mask"), named.get("token_type_ids")
        if ids is None:
            raise UserError("words are counted by their ids", "input_ids", "give input_ids, not inputs_embeds")
        if types is not None and bool(types.any()):
            raise UserError("a pair of sentences has a separator inside", "token_type_ids", "give one sentence a row")
        mask = torch.ones_like(ids) if mask is None else mask
        if mask.ndim != 2 or bool((mask.diff(dim=1) > 0).any()):
            raise UserError("text is padded on the right only", "attention_mask", "set padding_side=right")
        if int(mask.sum(1).min()) < 2:
            raise UserError("a text lacks CLS or SEP", "input_ids", "tokenize with add_special_tokens=True")
        encoder.text_mask = mask.bool()

    return note_words
