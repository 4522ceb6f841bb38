"""The one loader of pretrained models, tokenizers and processors, from a folder or a hub name.

What cannot be loaded whole is refused with one line that names the file: nothing missing is drawn at random, nothing
pickled is opened, no code that a checkpoint brings along is run.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from recipes.core.errors import UserError
from recipes.core.models.dropout import without_dropout
from recipes.core.models.loaded import note_source
from recipes.core.models.memory import stored_parameters
from recipes.core.models.processors import load_for_images
from recipes.core.storage import hub
from recipes.core.storage.files import home_path
from recipes.core.storage.fingerprints import stamp_of
from recipes.core.storage.model_files import (
    AGAIN,
    check_tokenizer_files,
    check_weight_files,
    first_line,
    read_json,
)
from recipes.core.storage.places import is_run, run_of

R = TypeVar("R")
# Buffers that older versions of transformers saved and newer ones compute.
_COMPUTED = re.compile(
    r"\.(masked_bias|causal_mask|rotary_emb\.inv_freq)$|\.attn\.attention\.bias$|(^|\.)position_ids$"
)
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "chat_template.json", "chat_template.jinja")
WEIGHT_FILES = (".json", ".safetensors")  # what a model is made of
LARGER = 4  # times the weights of the files: what is less is compared tensor by tensor
SHOWN = 4  # tensors or pieces that a message lists
_PATH_LIKE = re.compile(r"[/.~]|.*(/.*/|/$|\\)")  # absolute, relative to here or home, or more than owner/name


def load_model(kind: Any, path: str, key: str, *, unused: str = "", **options: Any) -> Any:
    """A model with every tensor that its class has, and no other, read from safetensors, and without dropout.

    Args:
        kind: A model class of `transformers`, or one of its Auto classes.
        path: Local folder or hub name.
        key: The config key it came from, for messages.
        unused: Pattern of the names of tensors that the caller never reads (a pooler, a head): these may be absent
            from the files, or there and of no use. Nothing else may.
        options: Passed on to `from_pretrained`.

    Raises:
        UserError: it cannot be had; or its files are damaged, pickled, quantised, need code of their own, hold another
            kind of model, lack tensors, have others or of other shapes, or hold NaN or infinity.
    """
    where, folder = f"{key}={path}", source_folder(path, key)
    check_weight_files(folder, where)
    config = load_config(path, key)
    check_kind(kind, config, where)
    _check_size(kind, config, folder, where)
    if (folder / "generation_config.json").exists():
        read_json(folder / "generation_config.json", where)
    strict: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
    stamp = stamp_of({file.name: file for file in folder.iterdir() if file.suffix in WEIGHT_FILES})
    load = _from_pretrained(kind.from_pretrained, output_loading_info=True, ignore_mismatched_sizes=True, **strict)
    what = f"cannot be loaded as {config.model_type} model"
    model, report = _call_loader(load, folder, where, what, **options)
    _check_report(report, unused, where)
    _check_ties(model, where)
    _check_finite(model, where)
    _keep_ends(model, where)
    note_source(model, stamp)
    return without_dropout(model)


def load_config(path: str, key: str) -> Any:
    """The `config.json` of a model as `transformers` reads it.

    Raises:
        UserError: it is missing, damaged, of a type that `transformers` does not know, or of a quantised model.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    where, folder = f"{key}={path}", source_folder(path, key, weights=False)
    content = read_json(folder / "config.json", where)
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise UserError(_unknown_type(kind, content), where, f"type {key}=FOLDER of a model that transformers knows")
    if content.get("quantization_config"):
        quantised = content["quantization_config"]
        method = quantised.get("quant_method", "") if isinstance(quantised, dict) else ""
        raise UserError(
            f"the weights are quantised{f' ({method})' if method else ''}, and can be neither trained nor compared",
            where,
            f"type {key}=FOLDER of the model in float16, bfloat16 or float32",
        )
    load = _from_pretrained(AutoConfig.from_pretrained, trust_remote_code=False)
    return _call_loader(load, folder, where, "config.json does not describe a model")


def load_tokenizer(path: str, key: str, **options: Any) -> Any:
    """The tokenizer of a model.

    Raises:
        UserError: it cannot be had, is missing, or its files are damaged.
    """
    from transformers import AutoTokenizer

    where, folder = f"{key}={path}", source_folder(path, key, weights=False)
    name = check_tokenizer_files(folder, where)
    if (folder / "config.json").exists():  # AutoTokenizer reads it too
        load_config(path, key)
    load = _from_pretrained(AutoTokenizer.from_pretrained, trust_remote_code=False)
    tokenizer = _call_loader(load, folder, where, f"the tokenizer cannot be read from {name}", **options)
    if not tokenizer.get_vocab():
        raise UserError(f"the tokenizer in {name} knows no tokens", where, _tokenizer_hint(key))
    return tokenizer


def load_processor(path: str, key: str) -> Any:
    """The processor of a vision-language model: its tokenizer, and what makes pixels of images.

    Raises:
        UserError: it cannot be had, is missing, or its files are damaged.
    """
    where, folder = f"{key}={path}", source_folder(path, key, weights=False)
    check_tokenizer_files(folder, where)
    for file in processor_files(path, key):
        if file.suffix == ".json":
            read_json(file, where)
    load = _from_pretrained(load_for_images, trust_remote_code=False)
    return _call_loader(load, folder, where, "its processor cannot be loaded")


def processor_files(path: str, key: str) -> list[Path]:
    """The files by which a vision-language model makes pixels and prompts, besides those of its tokenizer."""
    folder = source_folder(path, key, weights=False)
    return [folder / name for name in PROCESSOR_FILES if (folder / name).exists()]


def source_folder(path: str, key: str, weights: bool = True) -> Path:
    """The local folder of a model: the one named, the model that a run of ours trained, or where the hub's files are.

    Args:
        path: Local folder, run folder or hub name (`owner/name`, or `owner/name@revision`).
        key: The config key it came from, for messages.
        weights: Whether the weights are needed too.

    Raises:
        UserError: nothing is there, or it cannot be fetched.
    """
    folder, where = home_path(path), f"{key}={path}"
    if folder.is_dir():
        try:
            any(folder.iterdir())
        except OSError as error:
            raise UserError(f"the folder cannot be read: {error.strerror}", where, "allow it with chmod") from error
        return _of_run(folder, key, where)
    if folder.exists():
        raise UserError("is a file, not the folder of a model", where, f"type {key}={folder.parent}")
    if _PATH_LIKE.match(path):
        raise UserError("there is no such folder", where, f"type {key}=FOLDER or a hub name")
    return hub.download(path, key, weights)


def _of_run(folder: Path, key: str, where: str) -> Path:
    """The folder itself, or that of the model that it, being the folder of a run, has trained."""
    if run := run_of(folder):
        from recipes.core.models.run_models import run_model

        return run_model(run, key, where)
    if folder.parent.name == "checkpoints" and is_run(run := folder.parent.parent):
        raise UserError("is a checkpoint of a run", where, f"type {key}={run}, which stands for its final model")
    return folder


def check_kind(kind: Any, config: Any, where: str) -> None:
    """Refuse a model of another kind than is needed, before its weights are read.

    Raises:
        UserError: it is of another kind.
    """
    mapping = getattr(kind, "_model_mapping", None)
    if mapping is None:
        expected = getattr(kind, "config_class", None)
        fits = expected is None or isinstance(config, expected)
    else:
        fits = type(config) in mapping
    if not fits:
        needed = _KINDS.get(kind.__name__, f"a {kind.__name__}")
        raise UserError(
            f"is a {config.model_type} model; {needed} is needed", where, "give the folder of another model"
        )


def check_tokenizer_fits(tokenizer: Any, model: Any, where: str, later: tuple[str, ...] = ()) -> None:
    """Refuse a tokenizer with ids that the model has no embedding for.

    Args:
        tokenizer: The tokenizer.
        model: A `transformers` model.
        where: Key and value of the model, for the message.
        later: Pieces that the model gets embeddings for later, and that do not count.

    Raises:
        UserError: there are such ids.
    """
    rows = len(model.get_input_embeddings().weight)
    beyond = {piece: i for piece, i in tokenizer.get_vocab().items() if i >= rows and piece not in later}
    if beyond:
        pieces = list_text([f"{piece!r} = {i:,}" for piece, i in sorted(beyond.items(), key=lambda item: item[1])])
        raise UserError(
            f"the tokenizer gives {len(beyond):,} ids that the model has no embedding for (it has {rows:,}): {pieces}",
            where,
            "use the tokenizer of the model, or save the model after resize_token_embeddings and training",
        )


def list_text(names: list[str]) -> str:
    """Names in a message: the first few, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


@contextmanager
def silent() -> Iterator[None]:
    """Keep what libraries write while they load off the terminal: what matters of it is checked and raised here."""
    import transformers

    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


# What a class needs, in the words of people.
_KINDS = {
    "AutoModelForCausalLM": "a causal language model",
    "AutoModelForImageTextToText": "a vision-language model",
    "LlavaForConditionalGeneration": "a LLaVA",
    "CLIPModel": "a CLIP with both towers",
    "BertModel": "a sentence encoder of type bert",
}


def _from_pretrained(load: Callable[..., R], **always: Any) -> Callable[..., R]:
    return lambda folder, **options: load(folder, **always, **options)


def _call_loader(load: Callable[..., R], folder: Path, where: str, what: str, **options: Any) -> R:
    """Call a loader of a library. What it raises comes from files that people bring, whatever its type."""
    try:
        with silent():
            return load(str(folder), **options)
    except Exception as error:
        raise UserError(f"{what}: {first_line(error)}", where, AGAIN) from error


def _check_size(kind: Any, config: Any, folder: Path, where: str) -> None:
    """Refuse a config of a far larger model than the files hold: memory would be taken for all that they lack."""
    import torch

    build = getattr(kind, "from_config", None) or kind._from_config
    try:
        with silent(), torch.device("meta"):
            model = build(config)
    except Exception:  # the loader says in its own words what is wrong
        return
    described = sum(parameter.numel() for parameter in model.parameters())
    if described > LARGER * (stored := stored_parameters(folder)[0]) > 0:
        what = f"config.json describes a model of {described:,} weights, and the files hold {stored:,}"
        raise UserError(what, where, "config.json and *.safetensors must come from the same save_pretrained")


def _check_report(report: dict[str, Any], unused: str, where: str) -> None:
    """Refuse a model whose tensors are not those of its files, one by one."""
    spare = re.compile(unused) if unused else None

    def matters(names: Any) -> list[str]:
        return sorted(name for name in names if spare is None or not spare.search(name))

    shapes = {name: (tuple(stored), tuple(wanted)) for name, stored, wanted in report["mismatched_keys"]}
    missing = matters(report["missing_keys"])
    unexpected = matters(name for name in report["unexpected_keys"] if not _COMPUTED.search(name))
    faults = []
    if missing:
        faults.append(f"the files lack {_tensors(missing)} of the model: {list_text(missing)}")
    if unexpected:
        faults.append(f"the files hold {_tensors(unexpected)} that the model has not: {list_text(unexpected)}")
    if other := matters(shapes):
        compared = [f"{name} is {list(shapes[name][0])}, not {list(shapes[name][1])}" for name in other]
        faults.append(f"{_tensors(other)} with another shape than config.json says: {list_text(compared)}")
    if faults:
        hint = "config.json and *.safetensors must come from the same save_pretrained of this kind of model"
        raise UserError("; ".join(faults), where, hint)


def _check_ties(model: Any, where: str) -> None:
    """Refuse tensors that config.json calls one and the files hold as two."""
    expected = model.get_expanded_tied_weights_keys(all_submodels=True)
    apart = sorted(set(expected) - set(model.all_tied_weights_keys))
    if apart:
        raise UserError(
            f"config.json says that these tensors are shared, and the files hold others: {list_text(apart)}",
            where,
            'write "tie_word_embeddings": false into config.json if they are meant to differ',
        )


def _check_finite(model: Any, where: str) -> None:
    broken = [name for name, tensor in model.named_parameters() if not bool(tensor.isfinite().all())]
    if broken:
        text = f"the files hold NaN or infinity in {_tensors(broken)}: {list_text(broken)}"
        raise UserError(text, where, "train or download the model again")


def _keep_ends(model: Any, where: str) -> None:
    """Of a model's own settings for generation keep the ids that end texts; the others would change what is sampled.

    The library applies a checkpoint's `repetition_penalty` or `min_p` to every call that does not name them.
    """
    from transformers import GenerationConfig

    settings = getattr(model, "generation_config", None)
    if settings is None:
        return
    ids = {name: getattr(settings, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, value in ids.items():
        if not all(isinstance(i, int) for i in (value if isinstance(value, list) else [value]) if value is not None):
            text = f"generation_config.json names {name} {str(value)[:60]!r}, which is no token id"
            raise UserError(text, where, f"write null there for {name} of the tokenizer")
    model.generation_config = GenerationConfig(**ids)


def _tensors(names: list[str]) -> str:
    return f"{len(names):,} tensor{'' if len(names) == 1 else 's'}"


def _unknown_type(kind: Any, content: dict[str, Any]) -> str:
    import transformers

    if content.get("auto_map"):
        return f"the model ({kind}) needs code that it brings along (auto_map), which is never run"
    if kind is None:
        return "config.json names no model_type"
    return f"transformers {transformers.__version__} knows no model_type {str(kind)[:60]!r} (config.json)"


def _tokenizer_hint(key: str) -> str:
    return f"type {key}=FOLDER with the files that tokenizer.save_pretrained writes"
