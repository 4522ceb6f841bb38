"""What MaPO reads of the reference: one number a token from each hook, then one mask for every answer, cached."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recipes.alignment.pairs import PairSet, by_row, valid_tokens
from recipes.alignment.sparsepo.config import HOOKS
from recipes.alignment.sparsepo.method import channel_mean, mapo_mask
from recipes.core.errors import UserError
from recipes.core.losses.logprobs import CHUNK, project
from recipes.core.losses.objectives import IGNORE
from recipes.core.models.head import OutputHead, decoder, output_head
from recipes.core.scoring.columns import Shape, column_files, read_columns, write_rows
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.scoring.rows import row_batches
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json

VERSION = 2
# (end of a module's name, whether its input or its output is read, type of hook), of Llama- and GPT-2-type models.
_PLACES = (
    ("mlp.down_proj", "input", "mlp"),
    ("mlp.c_proj", "input", "mlp"),
    ("self_attn.q_proj", "output", "attn"),
    ("self_attn.k_proj", "output", "attn"),
    ("self_attn.v_proj", "output", "attn"),
    ("self_attn.o_proj", "input", "attn"),
    ("attn.c_proj", "input", "attn"),
    ("input_layernorm", "output", "resid"),
    ("post_attention_layernorm", "output", "resid"),
    ("ln_1", "output", "resid"),
    ("ln_2", "output", "resid"),
    (".mlp", "output", "resid"),
)
_LAYERS = ("layers", "h")  # name of the list of decoder layers


def mapo_masks(model: Any, pairs: PairSet, hooks: Sequence[str], mapping: str, device: str) -> np.ndarray:
    """MaPO's mask of every answer, computed only if no run has done so before.

    Args:
        model: The reference, a `TextModel`.
        pairs: The answers.
        hooks: Types of hook, of `HOOKS`.
        mapping: "zn_rescale" or "sigmoid".
        device: Where to compute.

    Returns:
        float32 [tokens] in [0, 1].

    Raises:
        UserError: the model has no place for a type of hook.
    """

    def build(folder: Path) -> None:
        """Write mask.npy: the mask [tokens] of all answers, one after the other."""
        model.to(device).eval()
        shape: Shape = ((int(pairs.offsets[-1]),), np.float32)
        with column_files(folder, {"mask": shape}) as columns:
            for numbers, batch in row_batches(pairs.rows(), device, "reading the reference's activations"):
                lengths = (batch["labels"] != IGNORE).sum(1)
                scores = {
                    kind: [by_row(values, lengths) for values in hook]
                    for kind, hook in hook_scores(model, batch, hooks, mapping).items()
                }
                valid = valid_tokens(lengths)
                mask = mapo_mask(scores, valid, mapping)
                write_rows(columns["mask"], pairs.offsets, numbers, mask[valid].cpu().numpy())

    parts = {
        "model": weights_hash(model),
        "pairs": pairs.fingerprint,
        "hooks": list(hooks),
        "mapping": mapping,
        "version": VERSION,
    }
    return read_columns(build_once("mapo-masks", sha256_json(parts)[:32], build))["mask"]


@torch.no_grad()
def hook_scores(model: Any, batch: dict[str, Tensor], hooks: Sequence[str], mapping: str) -> dict[str, list[Tensor]]:
    """The channel mean [N] of each hook of each type at the positions that predict completion tokens."""
    by_kind: dict[str, list[Tensor]] = {kind: [] for kind in HOOKS if kind in hooks}
    predicted = batch["labels"] != IGNORE

    def take(kind: str, activation: Tensor) -> None:
        if kind in by_kind:
            by_kind[kind].append(channel_mean(activation[predicted], mapping))

    base = decoder(model.language_model)
    with _hooks(base, take):
        last = base(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    take("resid", last)
    if "logits" in by_kind:
        by_kind["logits"].append(_logit_scores(last[predicted], output_head(model.language_model), mapping))
    if missing := [kind for kind, scores in by_kind.items() if not scores]:
        raise UserError(
            f"{type(model.language_model).__name__} has no place known for {missing[0]} activations",
            where="mask.hooks",
            hint=f"type mask.hooks=[{','.join(kind for kind in by_kind if by_kind[kind])}]",
        )
    return by_kind


def _logit_scores(hidden: Tensor, head: OutputHead, mapping: str) -> Tensor:
    logits = project(hidden, head)
    parts = [slice(start, start + CHUNK) for start in range(0, len(hidden), CHUNK)]
    return torch.cat([channel_mean(logits(part), mapping) for part in parts])


@contextmanager
def _hooks(base: nn.Module, take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `take(type, activation)` at every place during the forwards inside the block."""

    def reader(kind: str, what: str) -> Callable[..., None]:
        def read(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            value = inputs[0] if what == "input" else output
            take(kind, value[0] if isinstance(value, tuple) else value)

        return read

    handles = [module.register_forward_hook(reader(kind, what)) for module, what, kind in _places(base)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _places(base: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    yield base.get_input_embeddings(), "output", "resid"  # type: ignore[operator, misc]
    for name, module in base.named_modules():
        parent, _, last = name.rpartition(".")
        if parent in _LAYERS and last.isdigit():
            yield module, "output", "resid"
        for end, what, kind in _PLACES:
            if f".{name}".endswith(end if end.startswith(".") else f".{end}"):
                yield module, what, kind
