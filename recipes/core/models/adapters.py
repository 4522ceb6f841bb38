"""Low-rank adapters (LoRA) in causal language models: trained in place, switched off where the model itself is meant.

One set of weights serves both: the adapted model and the model as it was before.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from recipes.core.errors import UserError
from recipes.core.models.adapter_config import LoraConfig
from recipes.core.models.build import local_seed
from recipes.core.models.vision_language import R, Readout, TextModel

M = TypeVar("M", bound=nn.Module)


def with_adapters(model: M, lora: LoraConfig, seed: int) -> M:
    """The model as a run trains it: with the adapters of its config, or as it is. Arguments as in `add_adapters`."""
    return add_adapters(model, lora.rank, lora.alpha, lora.targets, seed) if lora.rank else model


def add_adapters(model: M, rank: int, alpha: float, targets: Sequence[str], seed: int) -> M:
    """Put adapters beside linear layers of the language model, in place; from then on nothing else of it is trained.

    Args:
        model: The model, with images or without. At the start the adapters change nothing.
        rank: Rank r of each adapter.
        alpha: Its output is scaled by alpha / r.
        targets: Names of the layers, or of what their names end in; empty: all linear layers but the head.
        seed: Of the initialisation; touches no global generator.

    Returns:
        The same model.

    Raises:
        UserError: `peft` is not installed, no layer has such a name, or the output head has; the rank is larger than
            that of any layer's weights.

    Source:
        LoRA (arXiv 2106.09685), Eq. 3: W x + alpha / r B A x, with B = 0 at the start.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        hint = "type pip install -e '.[lora]', or lora.rank=0 to train all weights"
        raise UserError("low-rank adapters need the package peft", f"lora.rank={rank}", hint) from error
    layers = list(targets) or "all-linear"
    language_model = _language_model(model)
    transposed = any(isinstance(part, Conv1D) for part in language_model.modules())
    _check_rank(rank, language_model)
    options = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # any number scales
        target_modules=layers,
        task_type="CAUSAL_LM",
        fan_in_fan_out=transposed,
    )
    try:
        with local_seed(seed):
            inject_adapter_in_model(options, language_model)
    except ValueError as error:
        names = {
            name.rpartition(".")[2] for name, part in language_model.named_modules() if isinstance(part, nn.Linear)
        }
        hint = f"its linear layers are {', '.join(sorted(names))}; [] takes all but the head"
        raise UserError("the model has no such layers", f"lora.targets=[{','.join(targets)}]", hint) from error
    if hasattr(language_model.get_output_embeddings(), "lora_A"):
        hint = "leave the head out; [] takes all linear layers but the head"
        raise UserError("the output head can have no adapter", f"lora.targets=[{','.join(targets)}]", hint)
    for name, parameter in language_model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return model


def _language_model(model: Any) -> Any:
    """The `transformers` model that reads the tokens; in a LLaVA, its text part. The head of that is never trained."""
    if hasattr(model, "llava"):
        model.llava.get_output_embeddings().requires_grad_(False)
        return model.llava.model.language_model
    return model.language_model


@contextmanager
def without_adapters(language_model: Any) -> Iterator[None]:
    """Inside the block the model is what it was before adapters were put in; nothing changes for one without."""
    layers = [part for part in language_model.modules() if hasattr(part, "enable_adapters") and hasattr(part, "lora_A")]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


class Unadapted(nn.Module):
    """A model as it is without the adapters that it has or will get, behind the interface of `TextModel`.

    It shares the other's weights and trains nothing; its training mode is none of its business.

    Args:
        model: The model.
    """

    def __init__(self, model: TextModel) -> None:
        super().__init__()
        # In a list, so that the weights are those of the other model alone.
        self._shared = [model]

    @property
    def language_model(self) -> Any:
        """The `transformers` model; whatever runs it runs it without adapters."""
        return _Without(self._shared[0].language_model)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixels: Tensor | None, readout: Readout[R]) -> R:
        """As `TextModel.forward`, without adapters and without gradient."""
        [model] = self._shared
        with torch.no_grad(), without_adapters(model.language_model):
            result: R = model(input_ids, attention_mask, pixels, readout)
        return result

    def to(self, *args: Any, **kwargs: Any) -> "Unadapted":
        """Move the shared weights."""
        self._shared[0].to(*args, **kwargs)
        return self


class _Without:
    """A language model whose calls run without adapters."""

    def __init__(self, language_model: Any) -> None:
        self._model = language_model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self._model)(*args, **kwargs)

    @property
    def base_model(self) -> Callable[..., Any]:
        return self._run(self._model.base_model)

    @property
    def generate(self) -> Callable[..., Any]:
        return self._run(self._model.generate)

    def _run(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with torch.no_grad(), without_adapters(self._model):
                return call(*args, **kwargs)

        return run


def _check_rank(rank: int, language_model: nn.Module) -> None:
    """Refuse adapters that have more weights than what they stand beside, and say nothing that fewer could not."""
    head = language_model.get_output_embeddings()  # type: ignore[operator]
    layers = [part for part in language_model.modules() if isinstance(part, nn.Linear | Conv1D) and part is not head]
    most = max((min(_sides(part)) for part in layers), default=rank)
    if rank > most:
        what = f"no linear layer of the model has weights of a rank above {most:,}"
        raise UserError(
            what, f"lora.rank={rank}", f"type lora.rank={most} or less, or lora.rank=0 to train all weights"
        )


def _sides(layer: Any) -> tuple[int, int]:
    return (layer.nx, layer.nf) if isinstance(layer, Conv1D) else (layer.in_features, layer.out_features)
