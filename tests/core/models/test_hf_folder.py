"""A model in a checkpoint, written as the libraries of others load it: what they compute is what it computed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaModel,
)

from recipes.core.models.adapters import add_adapters
from recipes.core.models.hf_folder import merge_adapters, positions, rename, write_model, writer
from recipes.core.models.run_models import describer
from recipes.core.models.tokenizer import train_bpe
from recipes.core.models.vision_language import TextModel
from recipes.core.storage.files import read_json, write_json

IDS = torch.arange(3, 11)[None]
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def model_of(kind: str, tied: bool = True) -> TextModel:
    torch.manual_seed(0)
    if kind == "gpt2":
        return TextModel(GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=16)))
    return TextModel(LlamaForCausalLM(LlamaConfig(vocab_size=300, tie_word_embeddings=tied, **SHAPE)))


class Trained(nn.Module):
    """A policy beside something else that is trained."""

    def __init__(self, policy: TextModel) -> None:
        super().__init__()
        self.policy, self.masks = policy, nn.Linear(2, 2)


def written(model: TextModel, folder: Path) -> Path:
    """The folder of a model that was trained beside something else, made from its checkpoint."""
    whole, checkpoint = Trained(model), folder / "checkpoint-1"
    checkpoint.mkdir()
    save_model(whole, str(checkpoint / "model.safetensors"))
    describer(whole, train_bpe(["a b c"], "abc", 300))(checkpoint)
    write_model(checkpoint, folder / "hf")
    return folder / "hf"


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(IDS).logits


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("llama", False), ("gpt2", True)])
def test_a_language_model_has_the_logits_it_had(kind: str, tied: bool, tmp_path: Path) -> None:
    model = model_of(kind, tied)
    folder = written(model, tmp_path)
    again, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    torch.testing.assert_close(logits(again), logits(model.language_model), atol=1e-5, rtol=0)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    config = read_json(folder / "config.json")
    assert (config["architectures"], config["dtype"]) == ([type(model.language_model).__name__], "float32")
    assert tied == ("lm_head.weight" not in load_file(folder / "model.safetensors"))


@pytest.mark.parametrize(("stated", "limit"), [(None, 16), (1000, 16), (8, 8)])
def test_its_tokenizer_cuts_texts_to_its_positions(stated: int | None, limit: int, tmp_path: Path) -> None:
    tokenizer, text = train_bpe(["a b c"], "abc", 300), "a b c " * 100
    if stated is not None:
        tokenizer.model_max_length = stated
    model = model_of("gpt2").language_model
    writer(model, tokenizer)(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.model_max_length == limit == len(again(text, truncation=True)["input_ids"])


def test_the_folder_of_a_run_does_so_too(tmp_path: Path) -> None:
    assert AutoTokenizer.from_pretrained(written(model_of("gpt2"), tmp_path)).model_max_length == 16


def test_positions_that_are_counted_behind_padding_are_left_out() -> None:
    shape = {"vocab_size": 300, "max_position_embeddings": 18, "pad_token_id": 1, **SHAPE}
    assert (positions(RobertaModel(RobertaConfig(**shape))), positions(BertModel(BertConfig(**shape)))) == (16, 18)


def test_ends_of_texts_that_the_model_cannot_write_are_its_tokenizers(tmp_path: Path) -> None:
    model = model_of("gpt2")
    assert model.language_model.generation_config.eos_token_id == 50256
    settings = read_json(written(model, tmp_path) / "generation_config.json")
    assert {name: settings[f"{name}_token_id"] for name in ("pad", "bos", "eos")} == {"pad": 0, "bos": 1, "eos": 2}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adapters_are_merged_and_lie_beside_as_peft_reads_them(kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = model_of(kind).language_model
    model = add_adapters(model_of(kind), 2, 6.0, [], 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    folder, expected = written(model, tmp_path), logits(model.language_model)
    assert (expected - logits(base)).abs().max() > 0.01
    merged = AutoModelForCausalLM.from_pretrained(folder)
    assert not any("lora" in name for name in merged.state_dict())
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=0)
    beside = peft.PeftModel.from_pretrained(base, folder / "adapter")
    torch.testing.assert_close(logits(beside), expected, atol=1e-5, rtol=0)


def test_merged_weights_keep_their_kind() -> None:
    weights = {"x.base_layer.weight": torch.ones(2, 2, dtype=torch.bfloat16)}
    weights |= {"x.lora_A.default.weight": torch.ones(1, 2), "x.lora_B.default.weight": torch.ones(2, 1)}
    merged = merge_adapters(weights, 0.5, transposed=False)
    assert torch.equal(merged["x.weight"], torch.full((2, 2), 1.5, dtype=torch.bfloat16))


def test_a_checkpoint_of_before_names_the_prefix_alone(tmp_path: Path) -> None:
    model = model_of("llama")
    written(model, tmp_path)
    checkpoint = tmp_path / "checkpoint-1"
    write_json(checkpoint / "model" / "origin.json", {"prefix": "policy.language_model.", "scale": 0, "transposed": 0})
    write_model(checkpoint, tmp_path / "again")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "again"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_names_are_changed_by_the_first_prefix_that_fits_and_others_are_left_out() -> None:
    weights = {name: torch.zeros(1) for name in ("a.b.w", "a.c.w", "d.w")}
    assert list(rename(weights, [("a.b.", "x."), ("a.", "")])) == ["x.w", "c.w"]
