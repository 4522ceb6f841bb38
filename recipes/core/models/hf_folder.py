"""The model in a checkpoint of ours, written into a folder as the libraries of others load it.

A checkpoint names weights as they are named in what was trained; beside them, `model/` says what of it is a model, and
under which names `transformers` knows it.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipes.core.models.sources import silent
from recipes.core.storage.files import read_json, write_json
from recipes.core.storage.places import ADAPTER, LANGUAGE_MODEL

DESCRIPTION, ORIGIN, WEIGHTS = "model", "origin.json", "model.safetensors"
ADAPTER_WEIGHTS, GENERATION = "adapter_model.safetensors", "generation_config.json"
TOKENIZER = "tokenizer_config.json"
VISION = "vision.safetensors"  # of a caption model that no class of transformers is
Prefixes = Sequence[tuple[str, str]]


def holds_model(checkpoint: Path) -> bool:
    """Whether a checkpoint says how a model is read out of it."""
    return (checkpoint / DESCRIPTION / ORIGIN).is_file()


def write_model(checkpoint: Path, folder: Path) -> None:
    """Write the model of a checkpoint into an empty folder, for `from_pretrained` of the class in its config.json.

    Adapters are merged into the weights that they were trained on; where nothing else was trained they are written into
    `adapter/` by themselves too, for `peft.PeftModel.from_pretrained`.

    Args:
        checkpoint: Its folder, which `holds_model`.
        folder: Where to write.
    """
    described = checkpoint / DESCRIPTION
    origin = read_json(described / ORIGIN)
    shutil.copytree(described, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(ORIGIN))
    stored = load_file(checkpoint / WEIGHTS)
    weights = rename(stored, _prefixes(origin))
    if origin["scale"]:
        if (folder / ADAPTER).exists():
            save_adapter(weights, folder / ADAPTER)
        weights = merge_adapters(weights, origin["scale"], origin["transposed"])
    if origin.get("vision"):
        save_file(rename(stored, [(origin["vision"], "")]), folder / VISION, metadata={"format": "pt"})
        folder = folder / LANGUAGE_MODEL
    save_weights(weights, folder, origin.get("unread", ()))


def rename(weights: Mapping[str, Tensor], prefixes: Prefixes) -> dict[str, Tensor]:
    """The weights whose names begin with one of the prefixes, under the names that begin with its partner instead."""
    renamed = {}
    for name, values in weights.items():
        for old, new in prefixes:
            if name.startswith(old):
                renamed[new + name.removeprefix(old)] = values
                break
    return renamed


def merge_adapters(weights: Mapping[str, Tensor], scale: float, transposed: bool) -> dict[str, Tensor]:
    """Weights with their adapters added, under the names of the model without adapters.

    Args:
        weights: By name: `x.base_layer.weight` beside `x.lora_A.default.weight` [r, in] and `x.lora_B.default.weight`
            [out, r]; others stay.
        scale: alpha / r.
        transposed: Whether base weights are [in, out].

    Source:
        LoRA (arXiv 2106.09685), Section 4.1: W + alpha / r B A.
    """
    merged = {}
    for name, values in weights.items():
        if ".lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            layer = name.removesuffix(".base_layer.weight")
            added = scale * weights[f"{layer}.lora_B.default.weight"] @ weights[f"{layer}.lora_A.default.weight"]
            values = (values + (added.T if transposed else added)).to(values.dtype)
        merged[name.replace(".base_layer.", ".")] = values.contiguous()
    return merged


def save_adapter(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write the adapters among weights into a folder, under the names that peft gives them there.

    Args:
        weights: As in `merge_adapters`.
        folder: Of the adapters; it holds their `adapter_config.json` already.
    """
    adapters = {
        f"base_model.model.{name.replace('.default', '')}": values.contiguous()
        for name, values in weights.items()
        if ".lora_" in name
    }
    save_file(adapters, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def save_weights(weights: Mapping[str, Tensor], folder: Path, unread: Sequence[str] = ()) -> None:
    """Write weights as `save_pretrained` of the model does: its names on disk, its shards, tied ones once.

    Args:
        weights: Under the names that the model has in memory; of tied ones at least one.
        folder: Holds the config of the model, and its settings for generation if it has any.
        unread: Names of weights that its class has and nothing reads; zeros stand for them.
    """
    from transformers import AutoConfig, GenerationConfig

    with silent():
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):  # every weight is replaced
            model = model_class(config)(config)
        tied = {**model.all_tied_weights_keys}
        shapes = model.state_dict()
        weights = {**weights} | {name: torch.zeros(shapes[name].shape) for name in unread}
        for name, other in [*tied.items(), *((other, name) for name, other in tied.items())]:
            if other in weights:
                weights.setdefault(name, weights[other])
        model.load_state_dict(weights, assign=True)
        model.tie_weights()
        if (folder / GENERATION).exists():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        model.save_pretrained(folder)
    bound_texts(model, folder)


def writer(model: Any, tokenizer: Any) -> Callable[[Path], None]:
    """What writes a model of `transformers` and its tokenizer into a folder that `from_pretrained` takes."""

    def write(folder: Path) -> None:
        with silent():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        bound_texts(model, folder)

    return write


def bound_texts(model: Any, folder: Path) -> None:
    """Make the tokenizer in a folder cut texts to the positions of the model there, where it is asked to cut them.

    One that cuts them earlier stays; so does one whose model has no limit.
    """
    path, longest = folder / TOKENIZER, positions(model)
    if longest is None or not path.is_file():
        return
    content = read_json(path)
    if content.get("model_max_length") is None or content["model_max_length"] > longest:
        write_json(path, content | {"model_max_length": longest})


def positions(model: Any) -> int | None:
    """Tokens that a model of `transformers` takes; None if its config sets no limit.

    Models of RoBERTa's kind count positions from one behind the id of padding: their tables have as many rows more.
    """
    rows = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tables = (part for name, part in model.named_modules() if name.endswith("embeddings.position_embeddings"))
    skipped = [table.padding_idx + 1 for table in tables if getattr(table, "padding_idx", None) is not None]
    return None if rows is None else int(rows) - max(skipped, default=0)


def model_class(config: Any) -> Any:
    """The class of the model with a config: the one that it names, or that of its type with a head for text."""
    import transformers
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    for name in config.architectures or ():
        if hasattr(transformers, name):
            return getattr(transformers, name)
    for kind in (AutoModelForCausalLM, AutoModelForImageTextToText):
        if type(config) in kind._model_mapping:
            return kind._model_mapping[type(config)]
    raise ValueError(f"no class is known for {type(config).__name__}")


def _prefixes(origin: Mapping[str, Any]) -> Prefixes:
    """Pairs of the names' beginnings; checkpoints of before name the one that is left out."""
    return [(old, new) for old, new in origin.get("prefixes", [(origin.get("prefix", ""), "")])]
