"""`rsq`: worked numbers, weights of tokens, orthogonal matrices, the grid, GPTQ with weights, rotations of models."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from recipes.compression.hessians import Hessian
from recipes.compression.rsq.config import ImportanceConfig, QuantiseConfig
from recipes.compression.rsq.method import (
    CLIPS,
    change_importance,
    chunk_importance,
    grid_scale,
    rarity,
    rescale,
    round_to_grid,
    spread,
    token_weights,
)
from recipes.compression.rsq.orthogonal import draw_hadamard, draw_mean_fixing, draw_orthogonal, hadamard
from recipes.compression.rsq.quantise import gptq, quantise, shifted, weighted_square
from recipes.compression.rsq.rotation import rotate
from recipes.compression.rsq.weights import block_weights
from recipes.compression.walk import Walk
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.models.taps import attention_taps
from tests.compression.models import VOCABULARY, small_model

# The worked example of the specification: two heads, three tokens.
HEADS = torch.tensor([[[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]], [[1, 0, 0], [0.9, 0.1, 0], [0.6, 0.2, 0.2]]])
INPUTS = torch.tensor([[1.0, 2], [3, -1], [0, 1]])
PLAIN = QuantiseConfig(bits=3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hessian_of(inputs: Tensor, weights: Tensor | None = None) -> Tensor:
    hessian = Hessian(inputs.shape[-1], "cpu")
    hessian.add(inputs, weights)
    return hessian.mean


def test_the_worked_example() -> None:
    importance = HEADS.sum((0, 1))[None]
    torch.testing.assert_close(importance, torch.tensor([[4.2, 1.1, 0.7]]))
    stretched = rescale(importance, 0.01)
    torch.testing.assert_close(stretched, torch.tensor([[1, 0.123143, 0.01]]), atol=1e-6, rtol=0)
    weights = token_weights(stretched)
    torch.testing.assert_close(weights, torch.tensor([[2.647504, 0.326021, 0.026475]]), atol=1e-6, rtol=0)
    expected = {
        None: [[20, -2], [-2, 12]],
        (1, True): [[11.163388, 8.633888], [8.633888, 21.885023]],
        (2, False): [[2.272955, 3.909015], [3.909015, 8.030529]],
    }
    for options, values in expected.items():
        weighted = None if options is None else token_weights(stretched, *options)
        torch.testing.assert_close(hessian_of(INPUTS[None], weighted), torch.tensor(values).float(), atol=1e-5, rtol=0)


def test_importance_of_tokens() -> None:
    raw = torch.rand(2, 5, generator=generator())
    torch.testing.assert_close(token_weights(rescale(7 * raw, 0.01)), token_weights(rescale(raw, 0.01)))
    assert rescale(torch.full((1, 4), 3.0), 0.01).tolist() == [[1] * 4]  # all equal: no weights
    assert chunk_importance(8, 4, True, True).tolist() == [1, 1, 0, 0, 0, 0, 1, 1]
    assert chunk_importance(3, 8, True, False).tolist() == [1, 0, 0]
    assert rarity(torch.tensor([[5, 5, 7], [5, 9, 9]])).tolist() == [[-3, -3, -1], [-3, -2, -2]]
    states = torch.randn(2, 6, 4, generator=generator())
    torch.testing.assert_close(spread(states), torch.cdist(states, states).square().mean(2))
    torch.testing.assert_close(change_importance(states, states + 1), torch.full((2, 6), -2.0))
    assert shifted(torch.arange(4)[None], 2).tolist() == [[0, 1, 2, 3], [2, 3, 0, 1]]


@pytest.mark.parametrize("order", [1, 2, 4, 12, 20, 28, 36, 48, 60, 576])
def test_hadamard_matrices(order: int) -> None:
    matrix = hadamard(order)
    assert matrix is not None and bool((matrix.abs() == 1).all())
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64))


def test_orthogonal_matrices() -> None:
    assert hadamard(9) is None and hadamard(6) is None and draw_hadamard(9, generator()) is None
    drawn = draw_hadamard(12, generator())
    assert drawn is not None
    eye, ones = torch.eye(12, dtype=torch.float64), torch.ones(12, dtype=torch.float64)
    for matrix in (drawn, draw_orthogonal(12, generator()), draw_mean_fixing(12, generator())):
        torch.testing.assert_close(matrix @ matrix.T, eye)
    torch.testing.assert_close(draw_mean_fixing(12, generator()) @ ones, ones)


def test_the_grid_has_the_values_that_its_bits_allow_and_the_scale_that_loses_least() -> None:
    weight = torch.randn(5, 24, generator=generator())
    for bits in (2, 3, 4):
        scale = grid_scale(weight, bits, clip=False)
        assert torch.equal(scale[:, 0], weight.abs().amax(1) / (2 ** (bits - 1) - 1))
        levels = (round_to_grid(weight, scale, bits) / scale).round()
        assert levels.min() >= -(2 ** (bits - 1)) and levels.max() <= 2 ** (bits - 1) - 1
    best = grid_scale(weight, 3)
    for row in range(5):  # one by one
        scales = [share * float(weight[row].abs().max()) / 3 for share in CLIPS]
        losses = [
            float((round_to_grid(weight[row], torch.tensor(scale), 3) - weight[row]).abs().pow(2.4).sum())
            for scale in scales
        ]
        assert float(best[row, 0]) == pytest.approx(scales[losses.index(min(losses))])
    grouped = grid_scale(weight, 3, group=8)
    torch.testing.assert_close(grouped[:, 8:16], grid_scale(weight[:, 8:16], 3))
    assert grid_scale(torch.zeros(1, 3), 3).tolist() == [[1] * 3]


def dense_gptq(weight: Tensor, hessian: Tensor, damp: float) -> Tensor:
    """The formula of Optimal Brain Quantisation in a fixed order: each column's inverse computed anew."""
    left, scale = weight.double().clone(), grid_scale(weight, 3).double()
    hessian = hessian.double() + damp * hessian.diagonal().mean().double() * torch.eye(len(hessian)).double()
    for column in range(weight.shape[1]):
        inverse = torch.linalg.inv(hessian[column:, column:])
        error = left[:, column] - round_to_grid(left[:, column], scale[:, column], 3)
        left[:, column:] -= torch.outer(error, inverse[0] / inverse[0, 0])
    return left


def test_gptq_equals_the_dense_formula_and_loses_less_than_rounding() -> None:
    ratios = []
    for seed in range(6):
        weight, inputs = (torch.randn(*shape, generator=generator(seed)) for shape in ((6, 20), (3, 40, 20)))
        inputs = inputs @ torch.randn(20, 20, generator=generator(seed + 50))
        weights = token_weights(rescale(torch.rand(3, 40, generator=generator(seed)), 0.01))
        hessian = hessian_of(inputs, weights)
        solved = gptq(weight, hessian, PLAIN, 0.01, "a layer")
        torch.testing.assert_close(solved.double(), dense_gptq(weight, hessian, 0.01), atol=1e-4, rtol=0)
        nearest = round_to_grid(weight, grid_scale(weight, 3), 3)
        ratios.append(weighted_square(weight - solved, hessian) / weighted_square(weight - nearest, hessian))
    assert sum(ratios) / len(ratios) < 0.8
    diagonal = gptq(weight, torch.diag(torch.rand(20, generator=generator()) + 0.1), PLAIN, 0.01, "a layer")
    assert torch.equal(diagonal, nearest)  # columns that know nothing of each other are rounded


def test_weights_of_one_are_plain_gptq_and_weights_of_zero_leave_tokens_out() -> None:
    weight, inputs = (torch.randn(*shape, generator=generator()) for shape in ((6, 10), (4, 16, 10)))
    plain = gptq(weight, hessian_of(inputs), PLAIN, 0.01, "a layer")
    assert torch.equal(gptq(weight, hessian_of(inputs, torch.ones(4, 16)), PLAIN, 0.01, "a layer"), plain)
    kept = token_weights(chunk_importance(16, 2, True, False).expand(4, -1))
    first = gptq(weight, hessian_of(inputs, kept), PLAIN, 0.01, "a layer")
    assert torch.equal(first, gptq(weight, hessian_of(inputs[:, :8]), PLAIN, 0.01, "a layer"))


def test_a_singular_hessian_is_damped_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    weight, inputs = torch.randn(3, 12, generator=generator()), torch.randn(1, 2, 12, generator=generator())
    hessian = hessian_of(inputs) - 0.05 * torch.eye(12)  # what rounding in low precision may leave
    assert bool(gptq(weight, hessian, PLAIN, 0.01, "layer x").isfinite().all())
    assert "the Hessian of layer x is singular: damped" in capsys.readouterr().err


def biased(kind: str) -> Any:
    """A small model in float64 whose gains and biases are drawn too."""
    sizes: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6, "vocab_size": 61}
    sizes |= {"intermediate_size": 40, "num_key_value_heads": 3, "max_position_embeddings": 64}
    torch.manual_seed(0)
    if kind == "qwen2":
        model: Any = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True))
    elif kind == "gemma2":
        model = Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=4))
    else:
        model = small_model(kind)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "norm" in name or "ln_" in name or name.endswith("bias"):
                values.add_(0.3 * torch.randn(values.shape, generator=generator(len(name))))
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["hadamard", "qr"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_a_rotation_leaves_logits_as_they_are(architecture: str, kind: str, tmp_path: Path) -> None:
    ids = torch.randint(2, VOCABULARY, (2, 9), generator=generator())
    single = biased(architecture)
    before = single(ids).logits
    assert rotate(single, kind, True, 0, "model") < 1e-4
    assert float((single(ids).logits - before).abs().max() / before.abs().max()) < 1e-4
    single.save_pretrained(tmp_path)  # the head is a matrix of its own, and stays one
    torch.testing.assert_close(type(single).from_pretrained(tmp_path)(ids).logits, single(ids).logits)
    double = biased(architecture).double()
    before, old = double(ids).logits, double.get_input_embeddings().weight.clone()
    exact = 1e-9 if architecture == "gpt2" else 1e-6  # RMS norms compute in fp32
    assert rotate(double, kind, True, 1, "model") < exact
    assert float((double(ids).logits - before).abs().max()) < exact
    assert float((double.get_input_embeddings().weight - old).abs().max()) > 0.01
    norms = old.norm(dim=1) - double.get_input_embeddings().weight.norm(dim=1)
    assert float(norms.abs().max()) < 1e-9  # no mean is subtracted


def test_heads_that_no_hadamard_matrix_fits_stay_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    sizes: dict[str, Any] = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 6}
    model = LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=8, vocab_size=VOCABULARY))
    assert rotate(model.eval().requires_grad_(False), "hadamard", True, 0, "model") < 1e-4
    assert (
        "no Hadamard matrix of order 6, the width of a head, is known: values are not turned" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arm", "unread", "read"),
    [
        ("rtn", "calibration.sequences", "calibration.offload"),  # the model rests on the CPU in each arm
        ("first_8", "importance.power", "importance.chunks"),  # 0 and 1 squared are 0 and 1
    ],
)
def test_keys_that_change_nothing_are_known(arm: str, unread: str, read: str) -> None:
    keys = dict(compose.compose("rsq", ["budget=smoke", f"arm={arm}"]).unread())
    assert unread in keys and keys.keys().isdisjoint({read, read.partition(".")[0]})


def test_rotations_that_are_not_known_are_refused() -> None:
    with pytest.raises(UserError, match="rotate a model of type gemma2 is not known: its blocks are built otherwise"):
        rotate(biased("gemma2"), "qr", True, 0, "model.path=x")
    sizes: dict[str, Any] = {"hidden_size": 22, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 4}
    model = LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=8, vocab_size=VOCABULARY))
    with pytest.raises(UserError, match="no Hadamard matrix of order 22"):
        rotate(model.eval().requires_grad_(False), "hadamard", True, 0, "model")


def test_weights_too_large_to_be_turned_are_refused() -> None:
    model = small_model("llama").requires_grad_(False)
    model.model.layers[1].mlp.up_proj.weight *= 1e30
    with pytest.raises(UserError, match="rotated, its logits are no numbers"):
        rotate(model, "qr", False, 0, "model")


@pytest.mark.parametrize("strategy", ["attention", "first", "actnorm", "actdiff", "tokenfreq", "tokensim"])
def test_weights_of_a_block(strategy: str) -> None:
    model = small_model("llama").requires_grad_(False)
    rows = torch.randint(2, VOCABULARY, (5, 12), generator=generator())
    step = next(iter(Walk(model, rows, "model", batch=2).steps()))
    weights = block_weights(step, model, rows, ImportanceConfig(strategy=strategy))
    assert weights is not None and weights.shape == rows.shape and bool((weights >= 0).all())
    torch.testing.assert_close(weights.mean(1), torch.ones(5))
    if strategy == "attention":
        with attention_taps(model, [0]) as taps:
            model(rows)
        torch.testing.assert_close(weights, token_weights(rescale(taps[0].received(), 0.01)))
    assert block_weights(step, model, rows, ImportanceConfig(strategy="uniform")) is None


def test_a_layer_whose_inputs_are_no_numbers_is_named() -> None:
    model = small_model("llama").requires_grad_(False)
    model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    config = compose.compose("rsq", ["budget=smoke"])
    with pytest.raises(UserError, match="model.layers.1.mlp.up_proj: activations are not finite"):
        quantise(model, torch.randint(2, VOCABULARY, (3, 8), generator=generator()), config, "model", "cpu")
