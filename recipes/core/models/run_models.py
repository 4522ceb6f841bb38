"""The model that a run has trained, as a folder that the loader takes like any other.

A run leaves it in `hf/`. One of before that had none has a final checkpoint, from which the same folder is made.
"""

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from recipes.core.errors import UserError
from recipes.core.models.hf_folder import DESCRIPTION, ORIGIN, WEIGHTS, Prefixes, holds_model, write_model
from recipes.core.runs import checkpoints
from recipes.core.runs.folder import DONE, RunFolder
from recipes.core.runs.records import load_run
from recipes.core.storage.cache import build_once, changes
from recipes.core.storage.checksums import are_entries
from recipes.core.storage.files import read_json, sha256_file, write_json, write_text
from recipes.core.storage.places import ADAPTER, HF
from recipes.core.storage.seals import MANIFESTS

__all__ = ["WEIGHTS", "describer", "final_checkpoint", "run_model"]

VERSION = 2
CONFIG = "config.json"


def describer(
    model: nn.Module,
    tokenizer: Any,
    beside: Sequence[Path] = (),
    *,
    view: Any = None,
    prefixes: Prefixes | None = None,
    unread: Sequence[str] = (),
    processor: Any = None,
) -> Callable[[Path], None]:
    """What writes, into the folder of a checkpoint, how to read a model of `transformers` out of its weights.

    Args:
        model: What is trained; the first `transformers` model in it is described, unless `view` is given.
        tokenizer: Its tokenizer.
        beside: Files that belong to it too.
        view: The model to describe, where it is another one of the same weights; its own weights are not looked at.
        prefixes: How the names of its weights begin in the checkpoint, and in itself.
        unread: Names of weights that it has in itself alone, and never reads.
        processor: What makes its inputs of images and text.
    """

    def describe(checkpoint: Path) -> None:
        """Write config, tokenizer, settings of generation and adapters, and origin.json into `model/`."""
        name, shown = ("", view) if view is not None else _language_model(model)
        folder = checkpoint / DESCRIPTION
        save_config(shown, tokenizer, folder)
        (processor or tokenizer).save_pretrained(folder)
        for file in beside:
            shutil.copyfile(file, folder / file.name)
        names = prefixes or [(f"{name}." if name else "", "")]
        origin = {"prefixes": names, "unread": list(unread)} | describe_adapters(model, names, folder)
        write_json(folder / ORIGIN, origin)

    return describe


def describe_adapters(model: nn.Module, prefixes: Prefixes, folder: Path) -> dict[str, Any]:
    """How the adapters in a model are merged, for origin.json.

    Their config goes into `adapter/` of a folder, unless more was trained: without that they would be another model.

    Args:
        model: What is trained.
        prefixes: How the names of the weights begin that are the model which is left.
        folder: Of the description.
    """
    configs = (getattr(part, "peft_config", {}).get("default") for part in model.modules())
    adapters = next((config for config in configs if config), None)
    if adapters is None:
        return {"scale": 0.0, "transposed": False}
    beginnings = tuple(old for old, _ in prefixes)
    trained = (name for name, weights in model.named_parameters() if weights.requires_grad)
    if all("lora_" in name for name in trained if name.startswith(beginnings)):
        _save_adapter_config(adapters, folder / ADAPTER)
    return {"scale": adapters.lora_alpha / adapters.r, "transposed": adapters.fan_in_fan_out}


def final_checkpoint(folder: Path, where: str, instead: str) -> Path:
    """The checkpoint in which a finished run has ended, compared with its checksums.

    Args:
        folder: The run's folder.
        where: Key and value that named it, for messages.
        instead: What else to type.

    Raises:
        UserError: the run is not finished or damaged, or the checkpoint missing or damaged.
    """
    check_done(folder, where, instead)
    passed_over: list[str] = []
    checkpoint = checkpoints.newest_valid(RunFolder(folder).checkpoints, passed_over.append)
    steps = RunFolder(folder).status().get("step")
    if checkpoint is None or checkpoints.step_of(checkpoint) != steps:
        why = f" ({passed_over[0]})" if passed_over else ""
        raise UserError(f"the run's final weights are missing or damaged{why}", where, instead)
    return checkpoint


def run_model(folder: Path, key: str, where: str) -> Path:
    """The model of a finished run, as a folder that holds config, tokenizer and weights.

    Args:
        folder: The run's folder.
        key: The config key it came from, for messages.
        where: Key and value, for messages.

    Raises:
        UserError: the run is not finished or damaged, or has trained no such model.
    """
    instead = f"type {key}=FOLDER of another model, or mend the run: type its command with --fresh"
    check_done(folder, where, instead)
    if not (folder / HF).exists():
        return _from_checkpoint(folder, where, instead)
    if problem := folder_problem(folder / HF):
        raise UserError(f"the run is damaged: {HF}/{problem}", where, instead)
    if not (folder / HF / CONFIG).exists():
        raise _no_model(folder, where, instead)
    return folder / HF


def folder_problem(folder: Path) -> str:
    """The first thing that is wrong with a folder of a model with our manifest; empty if nothing is."""
    try:
        files = read_json(folder / MANIFESTS[HF]).get("files")
    except (OSError, UserError):
        files = None
    if not files or not are_entries(files):
        return f"{MANIFESTS[HF]} is missing or damaged"
    return next(iter(changes(folder, files)), "")


def check_done(folder: Path, where: str, instead: str) -> None:
    """Refuse a run that is damaged or not finished; arguments and errors as in `final_checkpoint`."""
    record = load_run(folder)
    if record.problem:
        raise UserError(f"the run is damaged: {record.problem}", where, instead)
    if record.state != DONE:
        raise UserError(f"the run is {record.state}, not {DONE}", where, "finish it: type its command again")


def _from_checkpoint(folder: Path, where: str, instead: str) -> Path:
    """The model of a run without `hf/`, made once from its final checkpoint and kept in the cache."""
    checkpoint = final_checkpoint(folder, where, instead)
    if not holds_model(checkpoint):
        raise _no_model(folder, where, instead)
    content = sha256_file(checkpoint / checkpoints.MANIFEST)
    return build_once("run-models", f"{content[:32]}-{VERSION}", lambda staging: write_model(checkpoint, staging))


def _no_model(folder: Path, where: str, instead: str) -> UserError:
    recipe = load_run(folder).recipe
    return UserError(f"a run of {recipe} like this one leaves no language model to load", where, instead)


def _language_model(model: nn.Module) -> tuple[str, Any]:
    from transformers import PreTrainedModel

    return next((name, part) for name, part in model.named_modules() if isinstance(part, PreTrainedModel))


def save_config(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write what the model is, and with which tokens it begins and ends texts: its own, or its tokenizer's."""
    from transformers import GenerationConfig

    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    if not model.can_generate():
        return
    ids, rows = {}, len(model.get_input_embeddings().weight)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(model.generation_config, name)
        known = value if isinstance(value, list) else [value]
        ids[name] = value if all(one is not None and one < rows for one in known) else getattr(tokenizer, name)
    GenerationConfig(**ids).save_pretrained(folder)


def _save_adapter_config(adapters: Any, folder: Path) -> None:
    """Write the config of adapters; of a set of layers, the library writes the names in any order."""
    adapters.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    content = read_json(path)
    layers = content.get("target_modules")
    content["target_modules"] = sorted(layers) if isinstance(layers, list) else layers
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
