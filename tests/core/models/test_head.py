"""The output head: losses, divergences and gradients are those of the model's own logits, or the model is refused."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertLMHeadModel, LlamaForCausalLM

from recipes.core.errors import UserError
from recipes.core.losses import kernels, logprobs, tiles
from recipes.core.losses.kernels import deferred_cross_entropy, token_nll, weighted_cross_entropy
from recipes.core.losses.logprobs import DIRECTIONS, log_squares, logprobs_and_kl, project
from recipes.core.models.from_config import load_text_model
from recipes.core.models.head import OutputHead, check_head, output_head
from recipes.core.models.vision_language import CaptionModel, PatchEmbedding, TextModel
from recipes.core.scoring.fingerprints import weights_hash
from tests.core.models.heads import KINDS, V, tiny

IDS = torch.tensor([[5, 9, 30, 17, 22, 8, 40], [3, 11, 19, 19, 4, 35, 6]])
TARGETS = IDS[:, 1:].flatten()
WEIGHTS = torch.linspace(0.2, 2.0, len(TARGETS))
ALL_KINDS = pytest.mark.parametrize("kind", KINDS)
Loss = Callable[[Tensor, OutputHead], Tensor]


def weighted(hidden: Tensor, head: OutputHead) -> Tensor:
    return weighted_cross_entropy(hidden, head, TARGETS, WEIGHTS.to(hidden.dtype), 5)[0]


def deferred(hidden: Tensor, head: OutputHead) -> Tensor:
    return deferred_cross_entropy(hidden, head, TARGETS, lambda _: WEIGHTS, 5, keep=6 * V)[0]


def by_nll(hidden: Tensor, head: OutputHead) -> Tensor:
    return WEIGHTS.to(hidden.dtype) @ token_nll(hidden, head, TARGETS, 5)


def by_tiles(hidden: Tensor, head: OutputHead) -> Tensor:
    with mock.patch.object(kernels, "WIDE", 0):
        return by_nll(hidden, head)


def through_the_head(model: Any, loss: Loss) -> Tensor:
    """A loss of the model's read-out at the positions that predict."""
    read = lambda hidden, head: loss(hidden[:, :-1].flatten(0, 1), head)  # noqa: E731
    value: Tensor = TextModel(model)(IDS, torch.ones_like(IDS), None, read)
    return value


def full_logits(model: Any) -> Tensor:
    logits: Tensor = model(input_ids=IDS).logits[:, :-1].flatten(0, 1)
    return logits


def same_gradients(model: Any, ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(theirs, parameters, allow_unused=True)
    for a, b in zip(torch.autograd.grad(ours, parameters, allow_unused=True), expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, atol=3e-4, rtol=3e-4)


@ALL_KINDS
@pytest.mark.parametrize("loss", [weighted, deferred, by_nll, by_tiles])
def test_losses_and_gradients_are_those_of_the_models_logits(
    kind: str, loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TOKENS", 5)
    monkeypatch.setattr(tiles, "COLUMNS", 15)
    model = tiny(kind)
    theirs = WEIGHTS @ cross_entropy(full_logits(model), TARGETS, reduction="none")
    same_gradients(model, through_the_head(model, loss), theirs)


@ALL_KINDS
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_divergences_are_those_of_the_models_logits(kind: str, direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "KEEP", 0 if kind == "phi" else logprobs.KEEP)
    model, reference = tiny(kind), tiny("cohere", 1)
    logp, logq = (full_logits(one).log_softmax(1) for one in (model, reference))
    first, second = (logp, logq.detach()) if direction == "policy_ref" else (logq.detach(), logp)
    theirs = WEIGHTS @ (first.exp() * (first - second)).sum(1)
    ref_hidden, ref_head = TextModel(reference)(IDS, torch.ones_like(IDS), None, lambda hidden, head: (hidden, head))
    frozen = project(ref_hidden[:, :-1].flatten(0, 1), ref_head)

    def loss(hidden: Tensor, head: OutputHead) -> Tensor:
        return WEIGHTS @ logprobs_and_kl(hidden, head, TARGETS, frozen, 5, direction).kl

    same_gradients(model, through_the_head(model, loss), theirs)


@ALL_KINDS
def test_statistics_and_single_logits_are_those_of_the_models_logits(kind: str) -> None:
    model = tiny(kind)
    logits = full_logits(model).detach()
    logp, some = logits.log_softmax(1), torch.tensor([7, 0, 31])
    squares = through_the_head(model, lambda hidden, head: log_squares(hidden, head, 5))
    torch.testing.assert_close(squares, (2 * logp).logsumexp(1), atol=1e-4, rtol=1e-4)
    single = through_the_head(model, lambda hidden, head: head.target_logits(hidden, TARGETS))
    torch.testing.assert_close(single, logits.gather(1, TARGETS[:, None])[:, 0], atol=1e-4, rtol=1e-4)
    rows = through_the_head(model, lambda hidden, head: head.rows(some).logits(hidden))
    torch.testing.assert_close(rows, logits[:, some], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("curve", [(0.7, None), (1.0, 2.0), (0.7, 2.0)])
@pytest.mark.parametrize("biased", [False, True])
def test_gradcheck_with_bias_scale_and_softcap(curve: tuple[float, float | None], biased: bool) -> None:
    draw, count = torch.Generator().manual_seed(0), 7
    hidden, weight, bias, ref_hidden, ref_weight = (
        torch.randn(*shape, generator=draw, dtype=torch.float64)
        for shape in ((3, 2), (count, 2), (count,), (3, 2), (count, 2))
    )
    leaves, targets = [leaf.requires_grad_() for leaf in (hidden, weight, bias)], torch.tensor([6, 0, 3])
    frozen = project(ref_hidden, OutputHead(ref_weight, None, 1.5, 3.0))

    def values(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
        head, weights = OutputHead(weight, bias, *curve), torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
        kls = [logprobs_and_kl(hidden, head, targets, frozen, 2, way).kl @ weights for way in DIRECTIONS]
        loss, _ = weighted_cross_entropy(hidden, head, targets, weights, 2)
        late, _ = deferred_cross_entropy(hidden, head, targets, lambda _: weights, 2, keep=2 * count)
        nlls = [token_nll(hidden, head, targets, 2)]
        with mock.patch.object(kernels, "WIDE", 0):
            nlls.append(token_nll(hidden, head, targets))
        return (*kls, loss, late, *(weights @ nll.square() for nll in nlls))

    assert torch.autograd.gradcheck(values, leaves if biased else leaves[:2])


def test_a_plain_head_computes_what_it_always_did_to_the_bit() -> None:
    hidden, weight = torch.randn(37, 16), torch.randn(V, 16)
    head, products = OutputHead(weight), hidden @ weight.T
    assert head.plain and head.slope(products) is None
    assert torch.equal(head.logits(hidden), products)
    assert torch.equal(head.fill_logits(hidden, torch.empty(37, V)), products)
    assert torch.equal(head.rows(torch.tensor([3, 1])).logits(hidden[0]), weight[[3, 1]] @ hidden[0])


@pytest.mark.parametrize("kind", ["phi", "gptj", "gemma2", "granite", "opt"])
def test_caption_models_see_images_and_follow_the_logits_of_any_head(kind: str) -> None:
    language = tiny(kind)
    if kind in ("phi", "gptj"):
        language.lm_head.bias.data[13] = 100.0
    width = language.get_input_embeddings().weight.shape[1]
    model = CaptionModel(language, PatchEmbedding(4, 2, 1, width), [1, 7, 7, 7, 7], 7, 2, lambda image: image).eval()
    pixels, ids = torch.rand(2, 1, 4, 4), torch.tensor([model.prefix_ids] * 2)
    captions = model.generate_captions(pixels, 3)
    logits = model(ids, torch.ones_like(ids), pixels, lambda hidden, head: head.logits(hidden[:, -1]))
    own = language(inputs_embeds=model._embed(ids, pixels)).logits[:, -1]
    torch.testing.assert_close(logits, own, atol=1e-4, rtol=1e-4)
    assert [row[0] for row in captions] == own.argmax(-1).tolist()
    assert kind not in ("phi", "gptj") or captions == [[13, 13, 13]] * 2


@ALL_KINDS
def test_a_known_head_passes_the_check_and_nothing_is_touched(kind: str) -> None:
    model = tiny(kind).train()
    state = torch.get_rng_state()
    check_head(model, "model.path=here")
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert not model.get_output_embeddings()._forward_pre_hooks


def strange(change: Callable[[Tensor], Tensor]) -> Any:
    """A Llama that does something to its logits of which its config says nothing."""

    class Strange(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = change(output.logits)
            return output

    model = tiny("llama")
    model.__class__ = Strange
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda z: z * 2,
        lambda z: z / 1.001,
        lambda z: 30 * torch.tanh(z / 30),
        lambda z: z + torch.linspace(0, 1, V),
        lambda z: z * torch.linspace(0.9, 1, V),
        lambda z: z[..., :-1],
        lambda z: z.sign() * z.abs() ** 1.1,
        lambda z: z.clamp(max=40),
    ],
)
def test_a_model_that_does_something_else_to_its_logits_is_refused_by_name(change: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UserError, match=r"^model.path=X: logits of Strange are no function of its last hidden states"):
        check_head(strange(change), "model.path=X")


def test_a_cap_is_noticed_even_by_logits_that_it_leaves_as_they_are() -> None:
    model = strange(lambda z: 1000 * torch.tanh(z / 1000))
    with torch.no_grad():
        model.lm_head.weight.mul_(1e-3)
    with pytest.raises(UserError, match="logits of Strange"):
        check_head(model)


def test_broken_weights_and_models_that_do_not_continue_text_are_refused() -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    with pytest.raises(UserError, match="LlamaForCausalLM gives logits that are not finite"):
        check_head(model)
    model.lm_head = nn.Embedding(V, 16)
    with pytest.raises(UserError, match="the head of LlamaForCausalLM is no linear layer: Embedding"):
        output_head(model)
    model = tiny("llama")
    model.model.forward = None  # whatever a model's own code may raise
    with pytest.raises(UserError, match="LlamaForCausalLM does not run as a causal language model: TypeError"):
        check_head(model)


def test_a_folder_whose_model_transforms_its_states_once_more_is_refused_when_loaded(tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertLMHeadModel(BertConfig(vocab_size=V, is_decoder=True, **shape)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"reference.path={tmp_path}: logits of BertLMHeadModel"):
        load_text_model(str(tmp_path))


def test_scale_bias_and_softcap_are_part_of_what_a_reference_is_cached_by() -> None:
    for kind, key, value in (("granite", "logits_scaling", 4.0), ("gemma2", "final_logit_softcapping", 6.0)):
        model = TextModel(tiny(kind))
        before = weights_hash(model)
        setattr(model.language_model.config, key, value)
        assert weights_hash(model) != before
    model = TextModel(tiny("phi"))
    before = weights_hash(model)
    model.language_model.lm_head.bias.data[0] += 1
    assert weights_hash(model) != before


def test_nothing_outside_of_the_output_head_takes_a_models_head() -> None:
    # What may: who freezes or swaps a head as a module, and who asks how it is shaped.
    modules = {"models/llava.py", "models/as_llava.py", "models/adapters.py"}
    root = Path(__file__).parents[3] / "recipes"
    for path in root.rglob("*.py"):
        # A rotation unties a head and turns its weights, as it does those of every layer.
        others = {"models/head.py", "compression/rsq/rotation.py"}
        if path.relative_to(root).as_posix().removeprefix("core/") in modules | others:
            continue
        names = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)]
        assert not {"lm_head", "get_output_embeddings"} & {node.attr for node in names}, path
    for name in modules:
        tree = ast.parse((root / "core" / name).read_text("utf-8"))
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.MatMult)], name
