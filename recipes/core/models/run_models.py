"""The model that a run has trained, as a folder that the loader takes like any other.

A final checkpoint holds the weights of all that was trained, under the names they had there. Beside them the run leaves
what tells how to read the model out of it: its config, its tokenizer, and where among the names it is.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recipes.core.errors import UserError
from recipes.core.runs import checkpoints
from recipes.core.runs.folder import DONE, RunFolder
from recipes.core.runs.records import load_run
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import read_json, sha256_file, write_json

FOLDER, ORIGIN, WEIGHTS = "model", "origin.json", "model.safetensors"
VERSION = 1


def describer(model: nn.Module, tokenizer: Any, beside: Sequence[Path] = ()) -> Callable[[Path], None]:
    """What writes, into the folder of a checkpoint, how to read a language model out of its weights.

    Args:
        model: What is trained; the first `transformers` model in it is the one that is meant.
        tokenizer: Its tokenizer.
        beside: Files that belong to it too.
    """

    def describe(checkpoint: Path) -> None:
        """Write config, tokenizer and origin.json into `model/` of a checkpoint."""
        name, language_model = _language_model(model)
        folder = checkpoint / FOLDER
        language_model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for file in beside:
            shutil.copyfile(file, folder / file.name)
        adapters = getattr(language_model, "peft_config", {}).get("default")
        origin = {
            "prefix": f"{name}." if name else "",
            "scale": adapters.lora_alpha / adapters.r if adapters else 0.0,
            "transposed": bool(adapters and adapters.fan_in_fan_out),
        }
        write_json(folder / ORIGIN, origin)

    return describe


def final_checkpoint(folder: Path, where: str, instead: str) -> Path:
    """The checkpoint in which a finished run has ended, compared with its checksums.

    Args:
        folder: The run's folder.
        where: Key and value that named it, for messages.
        instead: What else to type.

    Raises:
        UserError: the run is not finished or damaged, or the checkpoint missing or damaged.
    """
    record = load_run(folder)
    if record.problem:
        raise UserError(f"the run is damaged: {record.problem}", where, instead)
    if record.state != DONE:
        raise UserError(f"the run is {record.state}, not {DONE}", where, "finish it: type its command again")
    passed_over: list[str] = []
    checkpoint = checkpoints.newest_valid(RunFolder(folder).checkpoints, passed_over.append)
    steps = RunFolder(folder).status().get("step")
    if checkpoint is None or checkpoints.step_of(checkpoint) != steps:
        why = f" ({passed_over[0]})" if passed_over else ""
        raise UserError(f"the run's final weights are missing or damaged{why}", where, instead)
    return checkpoint


def run_model(folder: Path, key: str, where: str) -> Path:
    """The language model of a finished run, as a folder in the cache that holds config, tokenizer and weights.

    Adapters are merged into the weights that they were trained on.

    Args:
        folder: The run's folder.
        key: The config key it came from, for messages.
        where: Key and value, for messages.

    Raises:
        UserError: the run is not finished or damaged, or has trained no language model.
    """
    instead = f"type {key}=FOLDER of another model, or mend the run: type its command with --fresh"
    checkpoint = final_checkpoint(folder, where, instead)
    if not (checkpoint / FOLDER / ORIGIN).exists():
        recipe = load_run(folder).recipe
        raise UserError(f"a run of {recipe} like this one leaves no language model to load", where, instead)

    def build(staging: Path) -> None:
        origin = read_json(checkpoint / FOLDER / ORIGIN)
        names = [path.name for path in (checkpoint / FOLDER).iterdir() if path.name != ORIGIN]
        for name in names:
            shutil.copyfile(checkpoint / FOLDER / name, staging / name)
        weights = _strip_prefix(load_file(checkpoint / WEIGHTS), origin["prefix"])
        if origin["scale"]:
            weights = merge_adapters(weights, origin["scale"], origin["transposed"])
        save_file(weights, staging / WEIGHTS, metadata={"format": "pt"})

    content = sha256_file(checkpoint / checkpoints.MANIFEST)
    return build_once("run-models", f"{content[:32]}-{VERSION}", build)


def merge_adapters(weights: dict[str, Tensor], scale: float, transposed: bool) -> dict[str, Tensor]:
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
            values = values + (added.T if transposed else added)
        merged[name.replace(".base_layer.", ".")] = values.contiguous()
    return merged


def _language_model(model: nn.Module) -> tuple[str, Any]:
    from transformers import PreTrainedModel

    return next((name, part) for name, part in model.named_modules() if isinstance(part, PreTrainedModel))


def _strip_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): values for name, values in weights.items() if name.startswith(prefix)}
