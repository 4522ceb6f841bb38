"""Two processes that train together, each scenario of the tests after the other: starting them is what takes time."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.core.config.settings import TrainerConfig
from recipes.core.models.adapter_config import LoraConfig
from recipes.core.models.adapters import Unadapted, with_adapters
from recipes.core.models.vision_language import TextModel
from recipes.core.training.parallel import distributed, sharding
from recipes.core.training.parallel.launch import variables
from recipes.core.training.task import TrainEvents, Training, TrainResult
from recipes.core.training.trainer import train

CONFIG = TrainerConfig(
    batch_size=8, max_steps=12, warmup_ratio=0.2, save_steps=4, log_steps=3, learning_rate=0.05, threads=1
)


class Numbers(Dataset[Any]):
    """42 items of 1 to 5 tokens: an epoch ends in the middle of a batch."""

    def __len__(self) -> int:
        return 42

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        return {"index": index, "x": torch.randn(1 + index % 5, 3, generator=generator)}


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    indices = [item["index"] for item in items]
    x = torch.cat([item["x"] for item in items])
    return {"x": x, "indices": torch.tensor(indices), "ids": [f"item-{index}" for index in indices]}


class TokenMean:
    """Squared error per token over the tokens of the global batch; keeps which items it saw.

    Args:
        reference: What it reads of a frozen model before it calls the one that is trained.
    """

    def __init__(self, reference: Callable[[Tensor], Tensor] | None = None) -> None:
        self.reference = reference
        self.seen: list[list[int]] = []

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        return torch.tensor(float(len(batch["x"])))

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self.seen.append(batch["indices"].tolist())
        start = 0.0 if self.reference is None else self.reference(batch["x"])
        error = (model(batch["x"]).squeeze(-1) - start - batch["x"].sum(-1).sin()).square()
        count = torch.tensor(float(len(error)))
        metrics = {"error": torch.stack([error.sum(), count]), "error_max": torch.stack([error.max(), torch.ones(())])}
        return error.sum() / normalizer, {name: pair.detach() for name, pair in metrics.items()}


class Blocks(nn.Module):
    """A few blocks in a list, a weight that is used twice and one that is never trained."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.start = nn.Linear(3, 8, bias=False)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Dropout(dropout), nn.Tanh()) for _ in range(3))
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.tied = nn.Linear(3, 8, bias=False)
        self.tied.weight = self.start.weight
        self.moved_whole = False

    def to(self, *args: Any, **kwargs: Any) -> "Blocks":
        """Notes that it was moved before it was shared out, if it was."""
        self.moved_whole |= not sharding.is_sharded(self)
        super().to(*args, **kwargs)
        return self

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.start(x)
        for block in self.blocks:
            hidden = block(hidden)
        return (self.frozen(hidden) @ self.tied.weight).sum(-1)

    def measured(self) -> Tensor:
        """What a recipe computes beside the forward, as captions are generated."""
        with torch.no_grad():
            return self.blocks[0](self.start(torch.ones(2, 3))).sum()


class Beside:
    """A frozen model that an objective reads, whole and in parts; keeps how many of its weights this process holds
    between steps.
    """

    def __init__(self) -> None:
        self.model = Blocks(0).requires_grad_(False)
        for parameter in self.model.parameters():
            parameter.mul_(0.5)
        self.held: set[int] = set()

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad(), sharding.frozen_on(self.model, x.device) as model:
            model.measured()
            read: Tensor = model(x)
        with torch.no_grad(), sharding.frozen_on(self.model, x.device) as model:
            model.measured()
        parts = [each.to_local() if isinstance(each, DTensor) else each for each in self.model.parameters()]
        self.held.add(sum(part.numel() for part in parts))
        return read


class Decoder(nn.Module):
    """A small Llama behind the interface of `Blocks`.

    Args:
        rank: Of its low-rank adapters; 0: all weights are trained.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        self.text = TextModel(LlamaForCausalLM(LlamaConfig(vocab_size=40, initializer_range=0.3, **sizes)))
        with_adapters(self.text, LoraConfig(rank=rank), 0)
        self.reference = partial(last_logits, Unadapted(self.text)) if rank else None

    def forward(self, x: Tensor) -> Tensor:
        return last_logits(self.text, x)

    def measured(self) -> Tensor:
        """As of `Blocks`."""
        with torch.no_grad():
            return last_logits(self.text, torch.ones(2, 3)).sum()


def last_logits(model: nn.Module, x: Tensor) -> Tensor:
    """[rows] means of the logits behind the three numbers of a row, as tokens."""
    ids = (x * 10).long() % 40
    mean: Tensor = model(ids, torch.ones_like(ids), None, lambda hidden, head: head.logits(hidden[:, -1]).mean(-1))
    return mean


class Recorder(TrainEvents):
    """Keeps metrics and measurements; asks to stop after a step in the last process only."""

    def __init__(self, stop_after: int = 0) -> None:
        self.stop_after = stop_after
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.measured: list[float] = []

    def on_metrics(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        self.lines.append((step, metrics))

    def on_step_end(self, step: int, model: nn.Module) -> None:
        self.measured.append(model.measured().item())  # type: ignore[operator]
        if step == self.stop_after and distributed.rank() == distributed.world_size() - 1:
            signal.raise_signal(signal.SIGTERM)


def go(
    folder: Path,
    stop_after: int = 0,
    dropout: float = 0.0,
    rank: int | None = None,
    beside: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """Train `Blocks`, or with a `rank` a `Decoder`, (on) in a folder; how it ended, as plain values.

    `beside`: with a frozen model that the objective reads.
    """
    config = replace(CONFIG, nproc=distributed.world_size(), **changes)
    net: Any = Blocks(dropout) if rank is None else Decoder(rank)
    frozen = Beside() if beside else None
    objective, events = TokenMean(frozen or getattr(net, "reference", None)), Recorder(stop_after)
    training = Training(net, objective, Numbers(), collate, watch_steps=frozenset(range(1, 13)))
    if frozen:
        training = replace(training, frozen=(frozen.model,))
    result: TrainResult = train(training, config, 3, folder, events)
    moved_whole = getattr(net, "moved_whole", None)
    net.to("cpu")  # as an evaluation does, alone: the weights stay whole
    return {
        "result": (result.status, result.steps, result.resumed_from),
        "weights": {name: value.detach().clone() for name, value in net.named_parameters()},
        "lines": events.lines,
        "measured": events.measured,
        "seen": objective.seen,
        "moved_whole": moved_whole,
        "held": frozen and sorted(frozen.held),
        "frozen_moved_whole": frozen and frozen.model.moved_whole,
        "read_alone": frozen and distributed.is_first() and [frozen(torch.ones(2, 3)).tolist() for _ in range(2)],
    }


Scenario = tuple[str, dict[str, Any]]


def run_together(folder: Path, scenarios: list[Scenario]) -> list[list[dict[str, Any]]]:
    """Each scenario, (subfolder, arguments of `go`), in two processes; for each, how it ended in each process."""
    torch.multiprocessing.start_processes(_work, (folder, scenarios), nprocs=2, start_method="spawn")
    by_rank = [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(2)]
    return [list(ends) for ends in zip(*by_rank, strict=True)]


def _work(rank: int, folder: Path, scenarios: list[Scenario]) -> None:
    os.environ |= variables(rank, 2) | {"OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    with distributed.process_group("cpu", folder / "meeting"):
        ends = [go(folder / name, **arguments) for name, arguments in scenarios]
    torch.save(ends, folder / f"rank-{rank}.pt")
    distributed.end_process()
