"""The output head: what makes logits of a model's last hidden states.

    logits = cap tanh(scale (hidden W^T + b) / cap)

Losses, scores, divergences and samplers ask the head and multiply by no weight themselves. `output_head` reads it off a
model's head and config; `check_head` compares it with the model's own logits when a model is loaded.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.core.errors import UserError
from recipes.core.models.dropout import evaluation
from recipes.core.storage.model_files import first_line

# Config keys that logits are multiplied by (Cohere, Falcon-H1, Muse), divided by (Granite; MiniCPM3 and Inkling divide
# the hidden states, which is the same) and capped by (Gemma 2, RecurrentGemma, xLSTM).
MULTIPLIERS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")
SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
# Model types in which such a key is something else: HyperCLOVA X multiplies by the divisor, MPT reads no multiplier.
MULTIPLIED = ("hyperclovax",)
IGNORED = {"mpt": "logit_scale"}
# Model types of several parts that do to their logits what their text config says; the others leave them as they are.
BY_TEXT_CONFIG = ("gemma3n", "gemma4", "gemma4_unified", "paligemma")

Curve = tuple[float, float | None]  # scale and soft-cap
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}  # of the largest logit
LARGE = 1e4  # a logit that every cap bends


@dataclass(frozen=True)
class OutputHead:
    """An output head, by which hidden states become logits.

    Attributes:
        weight: [V, d]
        bias: [V], if it has one.
        scale: What logits are multiplied by.
        softcap: No logit is larger than that, if they are capped.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @property
    def vocabulary(self) -> int:
        """V, the number of tokens it predicts."""
        return len(self.weight)

    @property
    def curve(self) -> Curve:
        """Scale and soft-cap: what an `autograd.Function` takes besides the tensors."""
        return self.scale, self.softcap

    @property
    def plain(self) -> bool:
        """Whether logits are the product with the weight and nothing else."""
        return self.bias is None and self.curve == (1.0, None)

    def to(self, *args: Any, **kwargs: Any) -> "OutputHead":
        """On another device or in another dtype."""
        bias = None if self.bias is None else self.bias.to(*args, **kwargs)
        return replace(self, weight=self.weight.to(*args, **kwargs), bias=bias)

    def detach(self) -> "OutputHead":
        """Without gradient."""
        return replace(self, weight=self.weight.detach(), bias=None if self.bias is None else self.bias.detach())

    def rows(self, ids: Tensor | slice) -> "OutputHead":
        """The head of the tokens `ids` [k], or of those of a slice, alone."""
        return replace(self, weight=self.weight[ids], bias=None if self.bias is None else self.bias[ids])

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., V] of hidden states [..., d], differentiable."""
        return self._scale_and_cap(functional.linear(hidden, self.weight, self.bias))

    def target_logits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """[N] logit of one token each, `targets` [N], of hidden states [N, d]."""
        products = (hidden * self.weight[targets]).sum(-1)
        return self._scale_and_cap(products if self.bias is None else products + self.bias[targets])

    @torch.no_grad()
    def fill_logits(self, hidden: Tensor, out: Tensor) -> Tensor:
        """`logits` of hidden states [n, d] in the weight's dtype, without gradient, in the buffer `out` [n, V]."""
        torch.mm(hidden, self.weight.t(), out=out)
        if self.bias is not None:
            out.add_(self.bias)
        if self.scale != 1:
            out.mul_(self.scale)
        if self.softcap is not None:
            out.div_(self.softcap).tanh_().mul_(self.softcap)
        return out

    @torch.no_grad()
    def slope(self, logits: Tensor) -> Tensor | float | None:
        """d logits / d (hidden W^T + b) where the logits are [n, V]: scale (1 - (logits / cap)^2), None for 1."""
        if self.softcap is None:
            return None if self.scale == 1 else self.scale
        return (logits / self.softcap).square_().neg_().add_(1).mul_(self.scale)

    def _scale_and_cap(self, products: Tensor) -> Tensor:
        scaled = products if self.scale == 1 else products * self.scale
        return scaled if self.softcap is None else self.softcap * torch.tanh(scaled / self.softcap)


def output_head(model: Any) -> OutputHead:
    """The output head of a `transformers` causal language model, its tensors those of the model.

    Raises:
        UserError: it has none, or one that is no linear layer.
    """
    module = model.get_output_embeddings()
    if not isinstance(module, nn.Linear):
        kind = "it has none" if module is None else type(module).__name__
        raise UserError(f"the head of {_class_name(model)} is no linear layer: {kind}", hint="choose another model")
    return OutputHead(module.weight, module.bias, *_curve(model.config))


@torch.no_grad()
def untie(model: Any) -> None:
    """Give a head that is the embedding a copy of its own, in place; one that has its own stays.

    Args:
        model: A causal language model of `transformers`, which is told so, too: it is saved and read untied.
    """
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    if head.weight.data_ptr() != table.data_ptr():
        return
    head.weight = nn.Parameter(table.detach().clone(), requires_grad=table.requires_grad)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}


def last_hidden_state(model: Any, **inputs: Any) -> Tensor:
    """[batch, time, d] what the head of a `transformers` causal language model gets; inputs of None are left out."""
    given = {name: value for name, value in inputs.items() if value is not None}
    # A cache would copy all keys and values, for nothing.
    states: Tensor = decoder(model)(**given, use_cache=False).last_hidden_state
    return states


def decoder(model: Any) -> Any:
    """The part of a `transformers` causal language model that comes before its head."""
    base = model.base_model
    return model.get_decoder() if base is model else base


@torch.no_grad()
def check_head(model: Any, where: str = "") -> None:
    """Compare logits through `output_head` with the model's own on a few tokens.

    Args:
        model: A `transformers` model that gives logits of token ids; its training mode is left as it was.
        where: Where it comes from, for messages: "model.path=FOLDER".

    Raises:
        UserError: they differ, are not finite, or the model does not run as a causal language model.
    """
    with evaluation(model), trial_forward(model, where):
        _check(model)


@contextmanager
def trial_forward(model: Any, where: str) -> Iterator[None]:
    """Turn whatever the code of a model raises inside the block into one error about the model.

    Raises:
        UserError: the block raised; `where` names the model.
    """
    try:
        yield
    except UserError as error:
        raise UserError(error.what, error.where or where, error.hint) from error
    except Exception as error:  # nobody knows what a model raises that is used for what it is not
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(
            f"{_class_name(model)} does not run as a causal language model: {reason}",
            where,
            "choose a model that continues text",
        ) from error


def _check(model: Any) -> None:
    head, ids = output_head(model), probe_ids(model)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    states = last_hidden_state(model, **inputs)
    largest = _compare(model, head, inputs, states, 1.0)
    # Once more with logits so large that no cap leaves them as they are.
    _compare(model, head, inputs, states, LARGE / max(largest, 1e-6))


def _compare(model: Any, head: OutputHead, inputs: dict[str, Tensor], states: Tensor, factor: float) -> float:
    """The model's largest logit where its head gets `factor` times its states. Raises UserError if ours differ."""
    with _larger_states(model.get_output_embeddings(), factor):
        theirs = model(**inputs, use_cache=False).logits
    ours, largest = head.logits(states * factor), float(theirs.abs().max())
    if not math.isfinite(largest):
        hint = "its weights are broken: choose another checkpoint"
        raise UserError(f"{_class_name(model)} gives logits that are not finite", hint=hint)
    tolerance = largest * TOLERANCE.get(head.weight.dtype, 0.02)
    if ours.shape != theirs.shape or float((ours - theirs).abs().max()) > tolerance:
        raise UserError(
            f"logits of {_class_name(model)} are no function of its last hidden states that is known here: weight, "
            "bias, scale and soft-cap give other ones, so that it would be trained on other losses than its own",
            hint="choose a model of another type",
        )
    return largest


def _curve(config: Any) -> Curve:
    """Scale and soft-cap of a model's logits, by its config."""
    kind = getattr(config, "model_type", None)
    keys = config.get_text_config() if kind in BY_TEXT_CONFIG else config

    def values(names: tuple[str, ...]) -> Iterator[float]:
        for name in names:
            value = getattr(keys, name, None)
            if value is not None and IGNORED.get(str(kind)) != name:
                yield float(value)

    scale = 1.0
    for value in values(MULTIPLIERS):
        scale *= value
    for value in values(DIVISORS):
        scale = scale * value if kind in MULTIPLIED else scale / value
    return scale, next(values(SOFTCAPS), None)


def probe_ids(model: Any) -> Tensor:
    """int64 [2, 8] ids from all over the vocabulary, none of them a special token, which may want an image."""
    config = model.config.to_dict()
    named = [value for key, value in config.items() if key.endswith(("token_id", "token_index"))]
    special = {i for value in named for i in (value if isinstance(value, list) else [value])}
    count = min(len(model.get_input_embeddings().weight), len(model.get_output_embeddings().weight))
    plain = [i for i in range(count) if i not in special] or [0]
    ids = torch.tensor([plain[i * len(plain) // 16] for i in range(16)]).view(2, 8)
    return ids.to(model.get_output_embeddings().weight.device)


@contextmanager
def _larger_states(module: nn.Module, factor: float) -> Iterator[None]:
    """Multiply what a head gets, inside the block."""
    hook = module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * factor, *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


def _class_name(model: Any) -> str:
    return type(model).__name__
