"""Adapters: the same at the start, off means the model itself, one copy of weights, only they are trained."""

import typing

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from recipes.core.config import compose, registry
from recipes.core.config.fields import dataclasses_of
from recipes.core.config.settings import TrainerConfig
from recipes.core.errors import UserError
from recipes.core.models.adapter_config import LoraConfig, lora_problems
from recipes.core.models.adapters import Unadapted, add_adapters, with_adapters, without_adapters
from recipes.core.models.config import CausalLMConfig, SmallLMConfig, SmolLM2Config
from recipes.core.models.vision_language import CaptionModel, PatchEmbedding, TextModel

IDS = torch.arange(12).view(2, 6)


def llama() -> TextModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return TextModel(LlamaForCausalLM(LlamaConfig(vocab_size=40, initializer_range=0.3, **shape)))


def gpt2() -> TextModel:
    torch.manual_seed(0)
    return TextModel(GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32)).eval())


def logits(model: TextModel) -> torch.Tensor:
    result: torch.Tensor = model(IDS, torch.ones_like(IDS), None, lambda hidden, head: head.logits(hidden))
    return result


def disturbed(model: TextModel) -> TextModel:
    """As after some training: B is no longer 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("make", [llama, gpt2])
def test_switched_off_the_model_is_what_it_was_bit_for_bit(make: object) -> None:
    plain = logits(make())  # type: ignore[operator]
    model = make()  # type: ignore[operator]
    view = Unadapted(model)
    add_adapters(model, 4, 8.0, (), 0)
    assert torch.equal(logits(model), plain)
    disturbed(model)
    assert (logits(model) - plain).abs().max() > 0.1
    assert torch.equal(logits(view), plain)
    assert torch.equal(view.language_model(IDS).logits, plain)
    base = view.language_model.base_model(IDS).last_hidden_state
    assert torch.equal(base @ view.language_model.get_output_embeddings().weight.T, plain)
    greedy = {"do_sample": False, "max_new_tokens": 5, "pad_token_id": 0}
    assert torch.equal(view.language_model.generate(IDS, **greedy), make().language_model.generate(IDS, **greedy))  # type: ignore[operator]
    # Back on, and still trainable.
    assert (logits(model) - plain).abs().max() > 0.1
    assert {name for name, part in model.named_parameters() if part.requires_grad} == {
        name for name, _ in model.named_parameters() if "lora_" in name
    }
    assert not any("head" in name for name, _ in model.named_parameters() if "lora_" in name)


def test_the_view_holds_no_weights_and_leaves_the_training_mode_alone() -> None:
    model = add_adapters(llama(), 2, 8.0, (), 0).train()
    view = Unadapted(model)
    assert not list(view.parameters()) and not view.state_dict()
    view.to("cpu").eval()
    assert model.training


def test_they_are_switched_on_again_after_an_error() -> None:
    model = disturbed(add_adapters(llama(), 2, 8.0, (), 0))
    before = logits(model)
    with pytest.raises(KeyError), without_adapters(model.language_model):
        raise KeyError
    assert torch.equal(logits(model), before)


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    parameters = [dict(add_adapters(llama(), 2, 8.0, ("q_proj",), seed).named_parameters()) for seed in (0, 0, 1)]
    torch.manual_seed(7)
    assert torch.equal(torch.get_rng_state(), state)
    [*_, name] = [name for name in parameters[0] if "lora_A" in name]
    assert torch.equal(parameters[0][name], parameters[1][name]) and not torch.equal(
        parameters[0][name], parameters[2][name]
    )


def test_only_the_named_layers_get_one() -> None:
    model = add_adapters(llama(), 2, 8.0, ("q_proj", "v_proj"), 0)
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_" in name}
    assert layers == {"q_proj", "v_proj"}
    # r (in + out) parameters a layer, two layers in each of two blocks
    assert sum(part.numel() for part in model.parameters() if part.requires_grad) == 4 * 2 * (16 + 16)


def test_layers_that_are_not_there_are_named_with_those_that_are() -> None:
    with pytest.raises(UserError, match="the model has no such layers") as raised:
        add_adapters(llama(), 2, 8.0, ("c_attn",), 0)
    assert "lora.targets=[c_attn]" in str(raised.value) and "q_proj" in str(raised.value.hint)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_rank_above_that_of_all_weights_is_refused(make: typing.Callable[[], TextModel]) -> None:
    add_adapters(make(), 16, 8.0, (), 0)
    with pytest.raises(UserError, match="no linear layer of the model has weights of a rank above 16") as raised:
        add_adapters(make(), 17, 8.0, (), 0)
    assert "type lora.rank=16 or less" in str(raised.value.hint)


def test_the_head_gets_none_because_losses_read_its_weight() -> None:
    with pytest.raises(UserError, match="the output head can have no adapter") as raised:
        add_adapters(llama(), 2, 8.0, ("q_proj", "lm_head"), 0)
    assert "lora.targets=[q_proj,lm_head]" in str(raised.value)


def test_no_adapters_leave_a_model_as_it_is() -> None:
    model = llama()
    assert with_adapters(model, LoraConfig(), 0) is model
    assert all(part.requires_grad for part in model.parameters())
    with_adapters(model, LoraConfig(rank=2, alpha=6.0), 0)
    assert model.language_model.peft_config["default"].lora_alpha == 6.0


def test_what_sees_images_is_trained_beside_the_adapters() -> None:
    vision = PatchEmbedding(4, 2, 1, 16)
    model = CaptionModel(llama().language_model, vision, [1, 2, 2, 2, 2], 2, 0, lambda image: torch.zeros(1, 4, 4))
    with_adapters(model, LoraConfig(rank=2), 0)
    trained = {name for name, part in model.named_parameters() if part.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {"vision.project.weight", "vision.position"}
    ids = torch.tensor([[1, 2, 2, 2, 2, 7, 8]])
    loss = model(ids, torch.ones_like(ids), torch.ones(1, 1, 4, 4), lambda hidden, head: head.logits(hidden).sum())
    loss.backward()
    assert all(part.grad is not None for name, part in model.named_parameters() if name in trained)


def test_every_recipe_that_trains_a_model_people_bring_takes_adapters() -> None:
    for recipe in {*registry.recipe_names()} - {"pst"}:  # its method is a low-rank update of its own
        hints = typing.get_type_hints(registry.config_class(recipe))
        brings = {CausalLMConfig, SmolLM2Config} & {*dataclasses_of(hints.get("model"))}
        trained = brings and registry.card(recipe).trains and compose.compose(recipe, []).trains_model
        assert not trained or hints["lora"] is LoraConfig, recipe


def test_adapters_stand_beside_trained_weights_in_any_number_of_processes() -> None:
    lora, sharded = LoraConfig(rank=2), TrainerConfig(parallel="fsdp")
    own, small, frozen = CausalLMConfig(path="x"), SmallLMConfig(), SmolLM2Config(train_backbone=False)
    assert lora_problems(lora, TrainerConfig(), own) == lora_problems(lora, TrainerConfig(), small, tuned=True) == []
    for model in (small, frozen):
        assert [key for key, _ in lora_problems(lora, TrainerConfig(), model)] == ["lora.rank"]
    assert lora_problems(lora, sharded, own) == lora_problems(LoraConfig(), sharded, small) == []
    [(key, message)] = lora_problems(lora, sharded, CausalLMConfig(path="x", load_in="4bit"))
    assert key == "trainer.parallel" and "not 4bit ones; type ddp, or model.load_in=float32" in message


def test_quantised_weights_need_adapters_and_are_not_tuned() -> None:
    model = CausalLMConfig(path="x", load_in="4bit")
    [(key, message)] = lora_problems(LoraConfig(), TrainerConfig(), model)
    assert key == "model.load_in" and "4bit weights cannot be trained themselves; type lora.rank=8" in message
    assert lora_problems(LoraConfig(rank=2), TrainerConfig(), model) == []
    assert [key for key, _ in lora_problems(LoraConfig(rank=2), TrainerConfig(), model, tuned=True)] == [
        "reference.steps"
    ]
