"""A model run block by block is the model: its inputs, its outputs, its gradients."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, masking_utils

from recipes.compression.linears import linears_of
from recipes.compression.walk import Walk
from recipes.core.errors import UserError
from tests.compression.models import KINDS, VOCABULARY, small_model


def _rows(count: int = 5, length: int = 7) -> Tensor:
    return torch.randint(3, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_inputs_and_outputs_are_those_of_the_whole_model(kind: str) -> None:
    model, rows = small_model(kind), _rows()
    expected: dict[str, Tensor] = {}
    handles = [
        linear.module.register_forward_hook(lambda _, inputs, __, name=linear.name: expected.update({name: inputs[0]}))
        for linear in linears_of(model, "model")
    ]
    outputs = model(input_ids=rows, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    seen: dict[str, list[Tensor]] = defaultdict(list)
    for step in Walk(model, rows, "model", batch=2).steps():
        names = {name: linear.name for name, linear in step.block.linears.items()}
        ran = list(step.run(lambda name, inputs, names=names: seen[names[name]].append(inputs)))
        assert [len(each.rows) for each in ran] == [2, 2, 1]
        torch.testing.assert_close(torch.cat([each.inputs for each in ran]), outputs[step.block.number])
    for name, inputs in expected.items():
        torch.testing.assert_close(torch.cat(seen[name]), inputs)


def test_a_changed_block_is_what_the_next_ones_are_applied_to() -> None:
    model, changed, rows = small_model("llama"), small_model("llama"), _rows()
    changed.model.layers[0].mlp.down_proj.weight.data.zero_()
    for step, other in zip(Walk(model, rows, "model").steps(), Walk(changed, rows, "model").steps(), strict=True):
        torch.testing.assert_close(step.hidden[0], other.hidden[0])
        if not step.block.number:
            step.block.linears["mlp.down_proj"].weight.zero_()


def test_a_block_is_run_no_further_than_it_takes() -> None:
    step, seen = next(Walk(small_model("llama"), _rows(), "model", batch=2).steps()), list[str]()

    def read(name: str, inputs: Tensor) -> bool:
        seen.append(name.rpartition(".")[2])
        return name == "self_attn.o_proj"

    assert list(step.run_until(read)) == [range(2), range(2, 4), range(4, 5)]
    assert seen == ["q_proj", "k_proj", "v_proj", "o_proj"] * 3


def test_layers_with_one_input_are_a_group() -> None:
    step = next(Walk(small_model("llama"), _rows(), "model").steps())
    assert step.groups() == [
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    ]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_gradients_of_each_sequence_are_those_of_its_own_backward(kind: str) -> None:
    model, rows = small_model(kind).requires_grad_(False), _rows(3)
    gradients: dict[str, list[Tensor]] = defaultdict(list)
    for step in Walk(model, rows, "model", batch=2).backward():

        def read(name: str, x: Tensor, gradient: Tensor, names: Any = step.block.linears) -> None:
            gradients[names[name].name].append(gradient.mT @ x)

        step.run(read)
    for number, row in enumerate(rows):
        model.requires_grad_(True).zero_grad()
        model(input_ids=row[None], labels=row[None]).loss.backward()
        for linear in linears_of(model, "model"):
            gradient = linear.module.weight.grad.T if linear.transposed else linear.module.weight.grad
            torch.testing.assert_close(torch.cat(gradients[linear.name])[number], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@torch.no_grad()
def test_losses_block_by_block_are_the_models(kind: str) -> None:
    model, rows = small_model(kind), _rows()
    nlls = torch.from_numpy(Walk(model, rows, "model", batch=2).nlls())
    logits = model(input_ids=rows).logits[:, :-1]
    torch.testing.assert_close(nlls, cross_entropy(logits.mT, rows[:, 1:], reduction="none"), rtol=1e-4, atol=1e-5)


def test_masks_of_each_layer_are_its_own() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = MistralForCausalLM(
        MistralConfig(**sizes, num_hidden_layers=2, vocab_size=VOCABULARY, sliding_window=3)
    ).eval()
    rows = _rows()
    with torch.no_grad():
        expected = model(input_ids=rows, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(list(Walk(model, rows, "model").steps())[1].hidden[0], expected)


def test_nan_is_named() -> None:
    model = small_model("gpt2")
    model.transformer.h[1].attn.c_attn.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError) as error:
        for step in Walk(model, _rows(), "model").steps():
            list(step.run())
    assert "transformer.h.1.attn.c_attn" in str(error.value)


def test_blocks_come_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, moves = small_model("llama"), list[tuple[int, str]]()
    numbers = {id(block): number for number, block in enumerate(model.model.layers)}
    original = torch.nn.Module.to

    def to(module: Any, *args: Any, **options: Any) -> Any:
        if id(module) in numbers:
            moves.append((numbers[id(module)], str(args[0])))
            return module
        return original(module, *args, **options)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    walk = Walk(model, _rows(), "model", device="cpu:0")
    for step in walk.steps():
        list(step.run())
    assert moves == [(number, device) for number in range(3) for device in ("cpu:0", "cpu")]


class _LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that were made inside and still live, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = WeakTensorKeyDictionary()
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = function(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple | list) else (results,):
            if isinstance(result, Tensor) and result._base is None:
                self.sizes[result] = result.numel() * result.element_size()
        self.peak = max(self.peak, sum(self.sizes.values()))
        return results


def test_a_model_of_7b_is_walked_in_the_memory_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device: all shapes, no numbers. What lives beside the model's weights is counted."""
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda _: None)  # it looks at numbers
    rows = torch.zeros(16, 512, dtype=torch.int64, device="meta")
    with torch.device("meta"):
        sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32}
        model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=32000)).to(torch.bfloat16).eval()
    assert sum(part.numel() for part in model.parameters()) > 6.7e9
    hidden, batch = 16 * 512 * 4096 * 2, 4 * 512 * 11008 * 2
    with _LiveBytes() as live:
        for step in Walk(model, rows, "model", batch=4).steps():
            for _ in step.run(lambda *_: None):
                pass
    assert 2 * hidden < live.peak < 2 * hidden + 16 * batch
