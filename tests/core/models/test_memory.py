"""What training takes, counted from shapes: compared with saved tensors, peft and files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from recipes.core.config.settings import PACKAGE_OF, TORCH_OPTIMIZERS, TrainerConfig
from recipes.core.models.adapter_config import LoraConfig
from recipes.core.models.adapters import add_adapters
from recipes.core.models.config import (
    CausalLMConfig,
    LlavaConfig,
    SmallConfig,
    SmallLMConfig,
    SmolLM2Config,
    SmolLM2TextConfig,
    VisionConfig,
)
from recipes.core.models.memory import (
    DecoderSize,
    decoder_size,
    image_tokens,
    optimizer_bytes,
    stored_parameters,
    training_memory,
)
from recipes.core.models.vision_language import TextModel
from recipes.core.storage.model_files import weight_files

WIDTH, INNER, LAYERS = 64, 96, 2


def llama(layers: int = LAYERS, keys: int = 2, inner: int = INNER) -> Any:
    sizes = {"hidden_size": WIDTH, "intermediate_size": inner, "num_attention_heads": 4, "num_key_value_heads": keys}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, num_hidden_layers=layers, tie_word_embeddings=False, **sizes))


def gpt2(layers: int = LAYERS) -> Any:
    free = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=WIDTH, n_layer=layers, n_head=4, **free))


def kept(model: Any) -> float:
    """Numbers of activations that a forward keeps for each token."""
    ids = torch.ones(4, 32, dtype=torch.long)
    weights = {part.untyped_storage().data_ptr() for part in (*model.parameters(), *model.buffers())}
    storages = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor, lest its place be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.train().base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return sum(size for size, _ in storages.values()) / ids.numel() / 4


@pytest.mark.parametrize("make", [llama, lambda layers: llama(layers, keys=4), gpt2])
def test_what_a_layer_keeps_is_what_is_saved_for_the_backward_pass(make: Any, tmp_path: Path) -> None:
    make(2).save_pretrained(tmp_path)
    size = decoder_size(CausalLMConfig(path=str(tmp_path)))
    assert size is not None
    assert (kept(make(4)) - kept(make(2))) / 2 == pytest.approx(size.saved_numbers(), rel=0.01)


def test_a_folder_says_its_shape_without_its_weights_being_read(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path)
    count = sum(parameter.numel() for parameter in model.parameters())
    expected = DecoderSize(count, LAYERS, WIDTH, INNER, WIDTH // 2, 40)
    assert decoder_size(CausalLMConfig(path=str(tmp_path))) == expected
    assert decoder_size(SmolLM2TextConfig(path=str(tmp_path))) == expected
    (tmp_path / "model.safetensors").write_bytes(b"{" * 30)
    assert decoder_size(CausalLMConfig(path=str(tmp_path))) is None
    assert decoder_size(CausalLMConfig(path="owner/name")) is None


def test_adapters_are_counted_as_peft_makes_them() -> None:
    model = add_adapters(TextModel(llama()), 3, 6.0, (), 0)
    counted = sum(part.numel() for part in model.parameters() if part.requires_grad)
    assert DecoderSize(0, LAYERS, WIDTH, INNER, WIDTH // 2, 40).adapter_parameters(3) == counted


def test_weights_gradients_and_optimizer() -> None:
    size = DecoderSize(1000, 2, 8, 16, 8, 40)

    def parts(lora: int = 0, model: Any = None, frozen: tuple[Any, ...] = (), **settings: Any) -> tuple[float, ...]:
        memory = training_memory(size, TrainerConfig(**settings), LoraConfig(rank=lora), 0, False, model, frozen)
        return memory.weights, memory.frozen, memory.gradients, memory.optimizer

    assert parts() == (4000, 0, 4000, 8000)
    small = SmallLMConfig()
    assert parts(frozen=(small, small)) == (4000, 2 * 4 * small.parameters, 4000, 8000)
    assert parts(frozen=(small, CausalLMConfig(path="owner/name")), dtype="bfloat16")[1] == 2 * small.parameters
    assert parts(model=SmolLM2Config(train_backbone=False)) == (4000, 0, 0, 0)
    assert parts(dtype="bfloat16") == (2000, 0, 2000, 4000)
    assert parts(optimizer="adamw_bnb_8bit") == (4000, 0, 4000, 2000)
    assert parts(parallel="fsdp", nproc=4) == (1000, 0, 1000, 2000)
    adapters = size.adapter_parameters(1)
    assert parts(lora=1, dtype="bfloat16") == (2000 + 4 * adapters, 0, 4 * adapters, 8 * adapters)
    for name in (*TORCH_OPTIMIZERS, *PACKAGE_OF):
        assert 0 <= optimizer_bytes(name, 4) <= 12, name
    assert [optimizer_bytes(name, 4) for name in ("lion_8bit", "ademamix", "adamw_torch_4bit")] == [1, 12, 1]


def test_checkpointing_keeps_one_input_a_layer() -> None:
    size = DecoderSize(0, 30, 576, 1536, 192, 49152)
    plain, checkpointed = (
        training_memory(size, TrainerConfig(gradient_checkpointing=on), LoraConfig(), 4096, False).activations
        for on in (False, True)
    )
    assert plain - checkpointed == 4096 * 4 * (29 * size.saved_numbers() - 30 * 576)


def test_gradients_come_as_activations_go_unless_they_are_added_up() -> None:
    size = DecoderSize(2_000_000, 30, 64, 96, 32, 40)

    def activations(tokens: int, **settings: Any) -> float:
        return training_memory(size, TrainerConfig(batch_size=8, **settings), LoraConfig(), tokens, False).activations

    alone = activations(4096, micro_batch_size=4)
    assert activations(4096) == activations(4096, micro_batch_size=8) == alone - 4 * size.parameters
    layer = 2.5 * size.saved_numbers()
    assert activations(8) == 8 * 4 * layer


@pytest.mark.parametrize(("setting", "patch", "expected"), [("U", 8, 8 * 8 + 8 + 1), ("H", 4, 16 * 16)])
def test_an_image_is_as_many_tokens_as_it_has_patches(setting: str, patch: int, expected: int) -> None:
    model = SmallConfig(patch=patch, vision=VisionConfig(patch=patch))
    assert image_tokens(model, setting, 64) == expected
    assert image_tokens(replace(model, image_size=64), setting, None) == expected
    assert image_tokens(model, setting, None) is None


def test_an_encoders_files_say_how_many_patches_an_image_has(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vision_config": {"image_size": 336, "patch_size": 14}}')
    model = SmallConfig(vision=VisionConfig(path=str(tmp_path)))
    assert image_tokens(model, "H", None) == image_tokens(LlavaConfig(path=str(tmp_path)), "H", None) == 576
    (tmp_path / "config.json").write_text('{"vision_config": [], "image_size": 3}')
    assert image_tokens(model, "H", 64) is None


def test_a_frozen_model_takes_what_it_is_loaded_in() -> None:
    size = DecoderSize(1000, 2, 8, 16, 8, 40)
    assert [size.weight_bytes(*how) for how in ((4,), (2,), (2, "8bit"))] == [4000, 2000, 2 * 40 * 8 + 680]
    eight = SmolLM2TextConfig(load_in="8bit")
    memory = training_memory(size, TrainerConfig(), LoraConfig(rank=8), 0, False, eight, (eight,))
    smol = decoder_size(eight)
    assert smol is not None and memory.frozen == smol.weight_bytes(4, "8bit") < 2 * smol.parameters


def test_the_weights_are_those_that_the_loader_reads(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path, max_shard_size="20kB")
    count = sum(parameter.numel() for parameter in model.parameters())
    assert len(weight_files(tmp_path, "")) > 1 and stored_parameters(tmp_path) == (count, 0)
    save_file({"old": torch.zeros(7)}, tmp_path / "consolidated.safetensors")
    assert stored_parameters(tmp_path) == (count, 0)
    save_file({"model.vision_tower.x": torch.zeros(2, 3), "y": torch.zeros(4)}, tmp_path / "model.safetensors")
    assert stored_parameters(tmp_path) == (10, 6)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    assert stored_parameters(tmp_path) == (0, 0)


def test_the_visual_encoder_of_a_llava_is_not_trained() -> None:
    memory = training_memory(DecoderSize(1000, 2, 8, 16, 8, 40, tower=300), TrainerConfig(), LoraConfig(), 0, False)
    assert (memory.weights, memory.gradients, memory.optimizer) == (4000, 2800, 5600)


def test_models_made_in_the_run_have_the_shape_of_their_config() -> None:
    assert decoder_size(SmallLMConfig(width=64)) == DecoderSize(
        SmallLMConfig(width=64).parameters, 2, 64, 176, 64, 1024
    )
    gpt = decoder_size(SmallLMConfig(architecture="gpt2"))
    assert gpt is not None and not gpt.gated and gpt.inner == 4 * gpt.width
