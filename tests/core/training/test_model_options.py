"""What trainer settings change in the model, and that they change nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recipes.alignment.objectives import PreferenceModel
from recipes.core.config.settings import TrainerConfig
from recipes.core.errors import UserError
from recipes.core.losses.objectives import WeightedCrossEntropy
from recipes.core.models.adapters import add_adapters
from recipes.core.models.attention_functions import RowsAttention, use_attention
from recipes.core.models.vision_language import TextModel
from recipes.core.training.model_options import apply_options, can_checkpoint, trained_models, uncompiled
from recipes.core.training.task import TrainEvents, Training
from recipes.core.training.trainer import train
from tests.core.models.heads import tiny

CHECKPOINTING = TrainerConfig(gradient_checkpointing=True)


def text_batch(rows: int = 4, time: int = 12) -> dict[str, Tensor]:
    ids = torch.randint(3, 40, (rows, time), generator=torch.Generator().manual_seed(0))
    labels = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], 1)
    weights = torch.rand(rows, time, generator=torch.Generator().manual_seed(1)) * (labels != -100)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "weights": weights}


def weighted_loss(model: nn.Module) -> Tensor:
    return WeightedCrossEntropy()(model, text_batch(), torch.tensor(7.0))[0]


def packed_loss(model: nn.Module) -> Tensor:
    """Of rows that share their beginnings and lie behind one another."""
    batch = text_batch()
    batch["input_ids"][2:, :5] = batch["input_ids"][:2, :5]
    return PreferenceModel(model)(batch, lambda hidden, head: head.logits(hidden).square().mean())[0]


def text_model(kind: str = "llama") -> TextModel:
    return TextModel(tiny(kind)).train()


def adapted() -> TextModel:
    model = add_adapters(text_model(), 2, 4.0, (), 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.constant_(parameter, 0.1)
    return model


def gradients(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> tuple[dict[str, Tensor], int]:
    """Gradients by name, and the bytes that the backward pass kept for them."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss(model)
    value.backward()
    named = model.named_parameters()
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}, kept


@pytest.mark.parametrize("loss", [weighted_loss, packed_loss])
@pytest.mark.parametrize("make", [text_model, lambda: text_model("gptj"), lambda: text_model("gemma2"), adapted])
def test_checkpointing_keeps_less_and_gives_the_same_gradients(make: Any, loss: Any) -> None:
    plain, checkpointed = make(), make()
    apply_options(checkpointed, CHECKPOINTING)
    expected, all_kept = gradients(plain, loss)
    measured, kept = gradients(checkpointed, loss)
    assert expected.keys() == measured.keys() and len(expected) > 3
    for name, gradient in expected.items():
        torch.testing.assert_close(measured[name], gradient, rtol=1e-6, atol=1e-6)
    assert kept < 0.7 * all_kept


def test_only_what_is_trained_is_checkpointed() -> None:
    frozen, trained = text_model().requires_grad_(False), text_model()
    both = nn.ModuleDict({"frozen": frozen, "trained": trained})
    assert trained_models(both) == [trained.language_model]
    apply_options(both, CHECKPOINTING)
    assert trained.language_model.is_gradient_checkpointing and not frozen.language_model.is_gradient_checkpointing
    assert not can_checkpoint(nn.ModuleDict({"frozen": frozen, "head": nn.Linear(2, 2)}))


def test_a_model_without_such_layers_is_refused_before_training(tmp_path: Path) -> None:
    training = Training(nn.Linear(2, 2), WeightedCrossEntropy(), range(64), list)  # type: ignore[arg-type]
    with pytest.raises(UserError) as caught:
        train(training, CHECKPOINTING, 0, tmp_path, TrainEvents())
    assert caught.value.where == "trainer.gradient_checkpointing=true"
    assert "no transformer layers that can compute their activations anew" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_attention_is_chosen_and_computes_the_same() -> None:
    chosen = text_model()
    apply_options(chosen, TrainerConfig(attention="eager"))
    assert chosen.language_model.config._attn_implementation == "eager"
    for loss in (weighted_loss, packed_loss):
        expected, _ = gradients(text_model(), loss)
        chosen.zero_grad()
        measured, _ = gradients(chosen, loss)
        for name, gradient in expected.items():
            torch.testing.assert_close(measured[name], gradient, rtol=1e-4, atol=1e-5)


def test_attention_that_is_part_of_the_method_is_not_exchanged() -> None:
    model = text_model()
    use_attention(model.language_model, RowsAttention(lambda call, rows: rows))
    with pytest.raises(UserError, match="part of its method") as caught:
        apply_options(model, TrainerConfig(attention="eager"))
    assert caught.value.where == "trainer.attention=eager"


def test_attention_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="FalconH1ForCausalLM has no such attention") as caught:
        apply_options(text_model("falcon_h1"), TrainerConfig(attention="flex_attention"))
    assert caught.value.where == "trainer.attention=flex_attention"


def test_weights_in_bfloat16_leave_buffers_adapters_and_other_parts_as_they_are() -> None:
    whole = nn.ModuleDict({"text": adapted(), "masks": nn.Linear(2, 2)})
    apply_options(whole, TrainerConfig(dtype="bfloat16"))
    for name, parameter in whole.named_parameters():
        exact = "lora_" in name or name.startswith("masks.")
        assert parameter.dtype == (torch.float32 if exact else torch.bfloat16), name
    assert all(buffer.dtype != torch.bfloat16 for buffer in whole.buffers())
    tied = whole["text"].language_model
    assert (tied.lm_head.weight is tied.model.embed_tokens.weight) == tied.config.tie_word_embeddings


@pytest.mark.slow
def test_compiled_layers_give_the_same_gradients_and_can_be_switched_off() -> None:
    compiled = text_model()
    apply_options(compiled, TrainerConfig(compile=True))
    layers = list(compiled.language_model.model.layers)
    calls = [layer._compiled_call_impl for layer in layers]
    assert all(calls)
    expected, _ = gradients(text_model(), packed_loss)
    measured, _ = gradients(compiled, packed_loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(measured[name], gradient, rtol=1e-4, atol=1e-5)
    with uncompiled(compiled):
        assert not any(layer._compiled_call_impl for layer in layers)
    assert [layer._compiled_call_impl for layer in layers] == calls
    assert compiled.state_dict().keys() == text_model().state_dict().keys()


@pytest.mark.parametrize("settings", [{"attention": "eager"}, {"dtype": "bfloat16"}, {"compile": True}])
def test_a_run_without_a_transformer_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="this run trains no model of transformers"):
        apply_options(nn.Linear(2, 2), TrainerConfig(**settings))
