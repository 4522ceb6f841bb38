"""The one loader: damaged, foreign and pickled files are refused by name, and nothing missing is drawn at random."""

import ast
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from recipes.core.config.registry import ROOT
from recipes.core.errors import UserError
from recipes.core.models.causal import load_causal_lm
from recipes.core.models.normalisation import image_processor
from recipes.core.models.sources import load_model, load_processor, load_tokenizer
from recipes.core.models.tokenizer import train_bpe
from recipes.core.models.vision_language import TextModel
from recipes.core.scoring.sampling import sample

Captured = pytest.CaptureFixture[str]
KEY, WEIGHTS, INDEX = "model.path", "model.safetensors", "model.safetensors.index.json"
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> Path:
    """A random Llama with a head of its own, and its tokenizer."""
    folder = tmp_path_factory.mktemp("whole") / "a model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        tokenizer = train_bpe(["It is this or that.", "Who knows?"], "loader", 300)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=False, **SHAPE)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def load(folder: Path) -> Any:
    tokenizer = load_tokenizer(str(folder), KEY)
    return load_causal_lm(str(folder), KEY, tokenizer)


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    """Change keys of a JSON file; None takes them away."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return change


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def cut(name: str, share: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return rewrite


def folder_instead(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def indexed(first: str, second: str) -> Callable[[Path], None]:
    """An index in place of the single file; the first half of the tensors is in a first shard that is there."""

    def change(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        names = sorted(weights)
        half = {name: weights[name] for name in names[::2]}
        save_file(half, folder / SHARD, metadata={"format": "pt"})
        index = {name: first if name in half else second for name in names}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))

    return change


def both(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: [change(folder) for change in changes] and None


def adapters_only(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/name", "peft_type": "LORA"}')


SHARD, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no head": (tensors(lambda w: w.pop("lm_head.weight")), r"the files lack 1 tensor of the model: lm_head\.weight"),
    "more layers": (edit("config.json", num_hidden_layers=4), r"lack 18 tensors of the model: .* and 14 more"),
    "fewer layers": (edit("config.json", num_hidden_layers=1), r"hold 9 tensors that the model has not"),
    "other width": (edit("config.json", intermediate_size=24), r"6 tensors with another shape .* not \[16, 24\]"),
    "far wider": (
        edit("config.json", vocab_size=2**31, intermediate_size=2**20),
        r"describes a model of [\d,]+ weights, and the files hold [\d,]+",
    ),
    "other head": (edit("config.json", num_attention_heads=3), r"config\.json does not describe"),
    "another name": (tensors(lambda w: w.update(x=w.pop("model.norm.weight"))), r"lack 1 .*norm.*; .*hold 1 .*: x"),
    "NaN": (tensors(lambda w: w["model.norm.weight"].fill_(float("nan"))), r"NaN or infinity in 1 tensor: model\.norm"),
    "tied, and two": (edit("config.json", tie_word_embeddings=True), r"shared, and the files hold others: lm_head"),
    "whole numbers": (
        tensors(lambda w: w.update({"lm_head.weight": (w["lm_head.weight"] * 100).to(torch.int8)})),
        rf"{WEIGHTS} holds lm_head\.weight as I8, and a model's weights are real numbers",
    ),
    "eight bits": (
        tensors(lambda w: w.update({"lm_head.weight": w["lm_head.weight"].to(torch.float8_e4m3fn)})),
        rf"{WEIGHTS} holds lm_head\.weight as F8_E4M3",
    ),
    "cut short": (cut(WEIGHTS, 0.9), rf"{WEIGHTS} \([\d,]+ bytes\) is cut short or damaged"),
    "cut in the header": (cut(WEIGHTS, 0.001), rf"{WEIGHTS} \([\d,]+ bytes\) is cut short or damaged"),
    "no bytes": (write(WEIGHTS, b""), rf"{WEIGHTS} is empty \(0 bytes\)"),
    "pointer": (write(WEIGHTS, POINTER), rf"{WEIGHTS} is a pointer of git-lfs"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), r"the folder holds no \*\.safetensors"),
    "weights a folder": (folder_instead(WEIGHTS), rf"{WEIGHTS} is a folder"),
    "adapters": (adapters_only, r"the folder holds adapters \(adapter_config\.json\), not a model"),
    "adapters beside": (write("adapter_config.json", b"{}"), r"adapters beside a model"),
    "index of a pickle": (indexed(SHARD, "pytorch_model-2.bin"), r"pytorch_model-2\.bin is pickled"),
    "shard absent": (indexed(SHARD, SECOND), r"00002\.\S+ is missing"),
    "shard elsewhere": (indexed(SHARD, "../other.safetensors"), r"'\.\./other\.safetensors', which is no"),
    "index lies": (indexed(SHARD, SHARD), r"the files lack \d+ tensors of the model"),
    "index empty": (both(indexed(SHARD, SHARD), write(INDEX, b"{}")), r"names no files"),
    "no index": (both(indexed(SHARD, SHARD), lambda f: (f / INDEX).unlink()), r"model-00001\S+, but neither"),
    "config absent": (lambda f: (f / "config.json").unlink(), r"config\.json is missing"),
    "config no JSON": (write("config.json", b"{'a': 1}"), r"config\.json is no JSON"),
    "config not text": (write("config.json", b"\xff\xfe\x00"), r"config\.json is no JSON"),
    "config a list": (write("config.json", b"[]"), r"config\.json holds no JSON object"),
    "config a folder": (folder_instead("config.json"), r"config\.json is a folder"),
    "config a pointer": (write("config.json", POINTER), r"config\.json is a pointer of git-lfs"),
    "type unknown": (edit("config.json", model_type="lama"), r"knows no model_type 'lama'"),
    "type absent": (edit("config.json", model_type=None), r"config\.json names no model_type"),
    "type a number": (edit("config.json", model_type=3), r"knows no model_type '3'"),
    "type a list": (edit("config.json", model_type=["llama"]), r"knows no model_type"),
    "values of other types": (edit("config.json", hidden_size="wide"), r"config\.json does not describe a model"),
    "code of its own": (
        edit("config.json", model_type="mine", auto_map={"AutoModelForCausalLM": "code.Mine"}),
        r"\(mine\) needs code that it brings along \(auto_map\), which is never run",
    ),
    "quantised": (edit("config.json", quantization_config={"quant_method": "gptq", "bits": 4}), r"quantised \(gptq\)"),
    "generation no JSON": (write("generation_config.json", b"{"), r"generation_config\.json is no JSON"),
    "end no id": (write("generation_config.json", b'{"eos_token_id": ["x"]}'), r"eos_token_id .* is no token id"),
    "tokenizer absent": (lambda f: (f / "tokenizer.json").unlink(), r"the folder holds no tokenizer"),
    "tokenizer no JSON": (cut("tokenizer.json", 0.5), r"tokenizer\.json is no JSON"),
    "tokenizer mangled": (edit("tokenizer.json", model={"type": "BPE"}), r"cannot be read from tokenizer\.json"),
    "tokenizer a pointer": (write("tokenizer.json", POINTER), r"tokenizer\.json is a pointer of git-lfs"),
    "tokenizer config no JSON": (write("tokenizer_config.json", b"nothing"), r"tokenizer_config\.json is no JSON"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_or_foreign_is_refused_by_name(
    kind: str, copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change, message = DAMAGE[kind]
    change(copy)
    with pytest.raises(UserError, match=message) as caught:
        load(copy)
    assert caught.value.where == f"{KEY}={copy}" and caught.value.hint
    assert "\n" not in caught.value.what and len(caught.value.what) < 500
    assert capfd.readouterr() == ("", "")


def test_a_models_own_settings_for_generation_leave_what_is_sampled_alone(copy: Path) -> None:
    prompts = [np.arange(3, 9, dtype=np.int32), np.arange(20, 23, dtype=np.int32)]

    def drawn(temperature: float) -> list[list[int]]:
        model = TextModel(load_causal_lm(str(copy), KEY))
        assert model.language_model.generation_config.eos_token_id == [2, 7]
        return [row.tolist() for row in sample(model, prompts, 2, 12, temperature, 0, "cpu")]

    write("generation_config.json", b'{"eos_token_id": [2, 7]}')(copy)
    plain = drawn(0.0), drawn(1.0)
    settings = {
        "eos_token_id": [2, 7],
        "repetition_penalty": 50.0,
        "min_new_tokens": 12,
        "min_p": 0.9,
        "do_sample": True,
    }
    write("generation_config.json", json.dumps(settings).encode())(copy)
    assert (drawn(0.0), drawn(1.0)) == plain


def test_what_is_whole_is_loaded_to_the_bit(whole: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    indexed(SHARD, SECOND)(copy)
    stored = load_file(whole / WEIGHTS)
    second = {name: stored[name] for name in sorted(stored)[1::2]}
    save_file(second, copy / SECOND, metadata={"format": "pt"})
    monkeypatch.setenv("HOME", str(whole.parent))
    for folder in (str(whole), str(copy), "~/a model"):
        state = load_causal_lm(folder, KEY).state_dict()
        assert state.keys() == stored.keys() and all(torch.equal(state[name], stored[name]) for name in stored)


def test_tied_heads_and_buffers_of_old_checkpoints_are_no_fault(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=8, n_layer=1, n_head=2, n_positions=16))
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    assert "lm_head.weight" not in weights
    weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 16, 16)
    weights["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(weights, tmp_path / WEIGHTS, metadata={"format": "pt"})
    loaded = load_causal_lm(str(tmp_path), KEY)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    torch.testing.assert_close(loaded.lm_head.weight, model.lm_head.weight)


def test_a_base_model_is_no_language_model(whole: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(whole).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"lack 1 tensor of the model: lm_head\.weight"):
        load_causal_lm(str(tmp_path), KEY)


BERT = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def test_an_encoder_is_no_causal_language_model(tmp_path: Path) -> None:
    BertForMaskedLM(BertConfig(**BERT)).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="BertLMHeadModel is no causal language model: a token sees those after it"):
        load_causal_lm(str(tmp_path / "bert"), KEY)
    vision = CLIPVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    CLIPVisionModel(vision).save_pretrained(tmp_path / "clip")
    with pytest.raises(UserError, match="is a clip_vision_model model; a causal language model is needed"):
        load_causal_lm(str(tmp_path / "clip"), KEY)


def test_a_language_model_is_no_encoder(whole: Path) -> None:
    with pytest.raises(UserError, match="is a llama model; a sentence encoder of type bert is needed"):
        load_model(BertModel, str(whole), KEY)


@pytest.mark.parametrize("drop", ["pooler", "encoder.layer.0.output.dense.bias"])
def test_tensors_that_are_never_read_may_be_absent_and_no_others(drop: str, tmp_path: Path) -> None:
    BertForMaskedLM(BertConfig(**BERT)).save_pretrained(tmp_path)
    if drop != "pooler":  # a masked language model has none, but a head that a sentence encoder does without
        tensors(lambda w: w.pop(f"bert.{drop}"))(tmp_path)
        with pytest.raises(UserError, match=rf"lack 1 tensor of the model: {drop}"):
            load_model(BertModel, str(tmp_path), KEY, unused=r"^(pooler|cls)\.")
        return
    assert load_model(BertModel, str(tmp_path), KEY, unused=r"^(pooler|cls)\.").config.hidden_size == 8
    with pytest.raises(UserError, match=r"lack 2 tensors of the model: pooler.*; the files hold .* has not: cls"):
        load_model(BertModel, str(tmp_path), KEY)


def test_a_visual_encoder_may_come_from_a_classifier(tmp_path: Path) -> None:
    from recipes.core.models.encoder import load_encoder

    shape = {"image_size": 8, "patch_size": 4, "num_channels": 3, "num_labels": 3}
    ViTForImageClassification(ViTConfig(**{**BERT, "vocab_size": None}, **shape)).save_pretrained(tmp_path)
    assert load_encoder(str(tmp_path)).tokens == 4
    tensors(lambda w: w.pop("vit.embeddings.cls_token"))(tmp_path)
    with pytest.raises(UserError, match=r"lack 1 tensor of the model: embeddings\.cls_token"):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize("how", ["longer", "special"])
def test_every_id_of_the_tokenizer_has_an_embedding(how: str, whole: Path, copy: Path) -> None:
    tokenizer = load_tokenizer(str(whole), KEY)
    rows = len(tokenizer)
    new = [f"<new{i}>" for i in range(6)] if how == "longer" else ["<begin>"]
    tokenizer.add_tokens(new) if how == "longer" else tokenizer.add_special_tokens({"bos_token": new[0]})
    tokenizer.save_pretrained(copy)
    with pytest.raises(UserError, match=rf"gives {len(new)} ids .* \(it has {rows}\): '{new[0]}' = {rows}"):
        load(copy)


def test_what_is_no_folder(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for path, message in {
        str(whole / WEIGHTS): "is a file, not the folder of a model",
        str(tmp_path / "gone"): "there is no such folder",
        str(tmp_path / "link"): "there is no such folder",
        "models/of/mine": "there is no such folder",
        "./mine": "there is no such folder",
        "owner/two words": "no name that the hub allows",
        "owner/name--of": "no name that the hub allows",
    }.items():
        for call in (load_causal_lm, load_tokenizer, load_processor, image_processor):
            with pytest.raises(UserError, match=message):
                call(path, KEY)


def test_messages_show_no_control_characters(copy: Path) -> None:
    edit("config.json", model_type="\x1b[31mred\n")(copy)
    with pytest.raises(UserError) as caught:
        load(copy)
    assert caught.value.what.isprintable()


# What reads files that the project itself has written or fetched, in forms that the loader does not take.
ELSEWHERE = {
    "recipes/core/models/smollm2.py": 2,
    "recipes/core/models/tokenizer.py": 1,
    # What the loader calls for processors.
    "recipes/core/models/processors.py": 3,
    # Configs that the run itself has written.
    "recipes/core/models/hf_folder.py": 2,
    "recipes/core/models/caption_folder.py": 1,
}


def test_everything_pretrained_comes_through_the_one_loader() -> None:
    calls: Counter[str] = Counter()
    for file in (ROOT / "recipes").rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "from_pretrained"]
        if names:
            calls[file.relative_to(ROOT).as_posix()] = len(names)
    assert calls.pop("recipes/core/models/sources.py")
    assert calls == ELSEWHERE
