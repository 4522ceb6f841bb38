"""A tiny language model and stream for the tests of `sample-reweighting`, also in processes of their own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.core.config.settings import TrainerConfig
from recipes.core.models.vision_language import TextModel
from recipes.core.training.parallel import distributed
from recipes.core.training.sequences import sequence_collate
from recipes.core.training.task import TrainEvents, Training
from recipes.core.training.trainer import train
from recipes.pretraining.sample_reweighting.config import ReweightConfig
from recipes.pretraining.sample_reweighting.objectives import Reweighted

VOCABULARY, LENGTH = 50, 12
CONFIG = TrainerConfig(
    batch_size=8, max_steps=6, warmup_ratio=0.0, save_steps=3, log_steps=1, learning_rate=0.01, threads=1
)
REWEIGHT = ReweightConfig(strategy="linupper", r=0.4, warmup_steps=2, scope="global")


class Sequences:
    """48 random sequences of two domains; those of the second are easier."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> dict[str, Any]:
        random = torch.Generator().manual_seed(index)
        tokens = torch.randint(0, VOCABULARY if index % 2 else 3, (LENGTH,), generator=random).numpy()
        return {"id": f"sequence {index}", "tokens": tokens, "domain": 1 - index % 2, "duplicate": index % 3 == 0}


def tiny_model() -> TextModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return TextModel(LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **sizes)))


class Lines(TrainEvents):
    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def on_metrics(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        self.lines.append(metrics)


def go(folder: Path, reweight: ReweightConfig = REWEIGHT, **changes: Any) -> dict[str, Any]:
    """Train in a folder; weights and metrics at the end."""
    config = replace(CONFIG, nproc=distributed.world_size(), **changes)
    model, events = tiny_model(), Lines()
    passes = config.process_batch_size // (config.micro_batch_size or config.process_batch_size)
    objective = Reweighted(reweight, passes, ("hard", "easy"), duplicates=True)
    items: Any = Sequences()
    training = Training(model, objective, items, sequence_collate, before_step=objective.before_step)
    train(training, config, 3, folder, events)
    return {"weights": {name: w.detach().clone() for name, w in model.named_parameters()}, "lines": events.lines}


def batch_of(count: int, lengths: list[int] | None = None) -> dict[str, Any]:
    """The first sequences as a batch; `lengths` cuts what they predict."""
    batch = sequence_collate([Sequences()[index] for index in range(count)])
    for row, length in enumerate(lengths or []):
        batch["labels"][row, length:] = -100
    return batch


def plain_losses(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """[b] mean NLLs from full logits."""
    logits = model.language_model(input_ids=batch["input_ids"]).logits  # type: ignore[operator]
    nll = nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"], reduction="none", ignore_index=-100)
    return nll.sum(1) / (batch["labels"] != -100).sum(1)
