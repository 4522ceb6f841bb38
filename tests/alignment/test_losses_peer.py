"""The losses beside those of `trl` (extra `[peers]`): same model, same batch, loss and gradients of every weight."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from recipes.alignment.losses import LOSSES, Completions, PreferenceBatch
from tests.alignment.pairs import side

trl = pytest.importorskip("trl", minversion="1.16")

WORDS, PAIRS, PROMPT = 37, 4, 3
LENGTHS = [[4, 2, 6, 1], [3, 5, 2, 6]]  # completion tokens of the chosen and of the rejected answers
SHARED: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "per_device_train_batch_size": PAIRS,
    "report_to": "none",
}
DPO = {  # ours, our coefficients -> what trl calls it
    "dpo": ({"beta": 0.3}, {"loss_type": ["sigmoid"], "beta": 0.3}),
    "hinge": ({"beta": 0.3}, {"loss_type": ["hinge"], "beta": 0.3}),
    "ipo": ({"beta": 0.3}, {"loss_type": ["ipo"], "beta": 0.3}),
    "dpo_mean": ({"beta": 2.0}, {"loss_type": ["sigmoid_norm"], "beta": 2.0}),
    "dpo_robust": (
        {"beta": 0.3, "label_smoothing": 0.2},
        {"loss_type": ["robust"], "beta": 0.3, "label_smoothing": 0.2},
    ),
    "sft": ({}, {"loss_type": ["sft"]}),
    "rpo": (
        {"beta": 0.3, "nll_weight": 0.7},
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7], "beta": 0.3},
    ),
    "wpo": ({"beta": 0.3}, {"loss_type": ["sigmoid"], "beta": 0.3, "use_weighting": True}),
}
CPO = {
    "cpo": ({"beta": 0.3, "nll_weight": 0.7}, {"beta": 0.3, "cpo_alpha": 0.7}),
    "simpo": ({"beta": 2.5, "gamma": 1.2}, {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 1.2, "cpo_alpha": 0.0}),
}
Sequences = dict[str, Tensor]  # input_ids, attention_mask, completion_mask: [rows, time]


def model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    # Wide initial weights: policy and reference shall disagree.
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, initializer_range=0.3, **shape))


def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"w{i}" for i in range(WORDS - 4))]
    words_to_ids = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    raw = Tokenizer(words_to_ids)
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def sequences(seed: int) -> Sequences:
    """Chosen answers, then rejected ones, of mixed length behind the same prompts, padded on the right."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(sum(LENGTHS, []))[:, None] + PROMPT
    steps = torch.arange(int(lengths.max()))
    attention = (steps < lengths).long()
    ids = torch.randint(4, WORDS, attention.shape, generator=draw) * attention
    ids[PAIRS:, :PROMPT] = ids[:PAIRS, :PROMPT]
    return {"input_ids": ids, "attention_mask": attention, "completion_mask": attention * (steps >= PROMPT)}


def scored(policy: nn.Module, reference: nn.Module, rows: Sequences, mask: str = "completion_mask") -> Completions:
    """Our view of the rows, from full logits."""
    inputs = {name: rows[name] for name in ("input_ids", "attention_mask")}
    logits = policy(**inputs).logits[:, :-1]
    with torch.no_grad():
        ref_logits = reference(**inputs).logits[:, :-1]
    return side(logits, rows["input_ids"][:, 1:], ref_logits, rows[mask][:, 1:].bool())


def part(answers: Completions, rows: Tensor | slice) -> Completions:
    return Completions(**{name: values[rows] for name, values in vars(answers).items() if values is not None})


def paired(policy: nn.Module, reference: nn.Module, rows: Sequences) -> PreferenceBatch:
    answers = scored(policy, reference, rows)
    chosen, rejected = part(answers, slice(PAIRS)), part(answers, slice(PAIRS, None))
    # trl averages the NLL over all tokens of the batch.
    return PreferenceBatch(chosen, rejected, nll_length=chosen.mask.sum() / PAIRS)


def gradients(policy: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(policy.parameters())))


def assert_same(policy: nn.Module, ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    gradients_of_ours = gradients(policy, ours)
    assert any(bool(gradient.abs().max() > 1e-3) for gradient in gradients_of_ours)
    for a, b in zip(gradients_of_ours, gradients(policy, theirs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def rows_of_text() -> list[dict[str, Any]]:
    """What the trainers want to see when they are built; their losses are then given `sequences`."""
    return [{"prompt": "w1 w2 ", "chosen": "w3 w4", "rejected": "w5"} for _ in range(PAIRS)]


@pytest.mark.parametrize("name", DPO)
def test_dpo_trainer(name: str, tmp_path: Path) -> None:
    ours, theirs = DPO[name]
    policy, reference, rows = model(0), model(1), sequences(0)
    trainer = trl.DPOTrainer(
        policy,
        reference,
        trl.DPOConfig(str(tmp_path), **SHARED, **theirs),
        train_dataset=Dataset.from_list(rows_of_text()),
        processing_class=tokenizer(),
    )
    expected = trainer._compute_loss(policy, dict(rows), False)
    assert_same(policy, LOSSES[name].compute(paired(policy, reference, rows), **ours).mean(), expected)


def test_kto_trainer(tmp_path: Path) -> None:
    weights = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.8}
    policy, reference, rows = model(0), model(1), sequences(0)
    text = [{"prompt": "w1 w2 ", "completion": "w3 w4", "label": i % 2 == 0} for i in range(2 * PAIRS)]
    trainer = trl.KTOTrainer(
        policy,
        reference,
        trl.KTOConfig(str(tmp_path), train_sampling_strategy="sequential", **SHARED, **weights),
        train_dataset=Dataset.from_list(text),
        processing_class=tokenizer(),
    )
    labels = torch.tensor([True, False, True, True, False, False, True, False])
    signs = set()
    for other in range(2, 8):
        mismatched = sequences(other)
        batch = rows | {f"KL_{name}": values for name, values in mismatched.items()} | {"label": labels}
        expected = trainer._compute_loss(policy, batch, False)
        answers = scored(policy, reference, rows)
        ratios = scored(policy, reference, mismatched).log_ratio()
        signs.add(bool(ratios.mean() > 0))
        ours = PreferenceBatch(part(answers, labels), part(answers, ~labels), mismatched=ratios)
        assert_same(policy, LOSSES["kto"].compute(ours, **weights).mean(), expected)
    assert signs == {True, False}  # the reference point has been zero and above


def two_sided(rows: Sequences) -> dict[str, Tensor]:
    """The batch of trl's experimental trainers."""
    labels = rows["input_ids"].masked_fill(rows["completion_mask"] == 0, -100)
    named = {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"], "labels": labels}
    sides = {"chosen": slice(PAIRS), "rejected": slice(PAIRS, None)}
    return {f"{kind}_{name}": values[where] for kind, where in sides.items() for name, values in named.items()}


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("cpo", {"beta": 0.3, "nll_weight": 0.7}, {"beta": 0.3, "cpo_alpha": 0.7}),
        (
            "simpo",
            {"beta": 2.5, "gamma": 1.2},
            {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 1.2, "cpo_alpha": 0.0},
        ),
    ],
)
def test_cpo_trainer(name: str, ours: dict[str, float], theirs: dict[str, Any], tmp_path: Path) -> None:
    cpo = pytest.importorskip("trl.experimental.cpo")
    policy, rows = model(0), sequences(0)
    trainer = cpo.CPOTrainer(
        policy,
        cpo.CPOConfig(str(tmp_path), **SHARED, **theirs),
        train_dataset=Dataset.from_list(rows_of_text()),
        processing_class=tokenizer(),
    )
    expected, _ = trainer.get_batch_loss_metrics(policy, two_sided(rows))
    assert_same(policy, LOSSES[name].compute(paired(policy, policy, rows), **ours).mean(), expected)


def test_orpo_trainer(tmp_path: Path) -> None:
    orpo = pytest.importorskip("trl.experimental.orpo")
    policy, rows = model(0), sequences(0)
    trainer = orpo.ORPOTrainer(
        policy,
        orpo.ORPOConfig(str(tmp_path), beta=0.4, **SHARED),
        train_dataset=Dataset.from_list(rows_of_text()),
        processing_class=tokenizer(),
    )
    expected, _ = trainer.get_batch_loss_metrics(policy, two_sided(rows))
    # Its NLL covers the prompt too.
    everything = part(scored(policy, policy, rows, "attention_mask"), slice(PAIRS))
    batch = replace(paired(policy, policy, rows), nll=everything, nll_length=everything.mask.sum() / PAIRS)
    assert_same(policy, LOSSES["orpo"].compute(batch, beta=0.4).mean(), expected)
