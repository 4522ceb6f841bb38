"""Training in stages: what each changes and what it leaves to the bit, its rate, and that a kill changes nothing."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recipes.core.config.settings import TrainerConfig
from recipes.core.errors import UserError
from recipes.core.runs import checkpoints
from recipes.core.training.stage_plan import Stage, stage_starts
from recipes.core.training.stages import Stages
from recipes.core.training.task import TrainEvents, Training
from recipes.core.training.trainer import train

ROWS, OLD, STEPS = 12, 8, 12
SETTINGS: dict[str, Any] = {
    **{"max_steps": STEPS, "batch_size": 4, "save_steps": 2, "log_steps": 1, "learning_rate": 0.1},
    **{"weight_decay": 0.1, "warmup_ratio": 0.34, "schedule": "cosine"},
}
PLAN = (
    Stage("all rows", ("table",), 1, 0.1),
    Stage("body", ("body",), 1, 0.2),
    Stage("new rows", ("table:new", "head"), 1, 0.1),
    Stage("drawn anew", ("head",), 1, 0.1, reset=(("head", 0.5),)),
)


class Net(nn.Module):
    """A table, a body and a head; `rest` is in no group."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.body = nn.Embedding(ROWS, 6), nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.1), nn.Tanh())
        self.rest, self.head = nn.LayerNorm(6), nn.Linear(6, ROWS)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.rest(self.body(self.table(ids))))
        return logits


class Loss:
    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        return torch.tensor(float(batch["x"].numel()))

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor) -> Any:
        loss = nn.functional.cross_entropy(model(batch["x"]).flatten(0, 1), batch["y"].flatten(), reduction="sum")
        return loss / normalizer, {}


class Kept(TrainEvents):
    """Tensors and rate after each step; kills the process after one of them."""

    def __init__(self, kill_after: int = 0) -> None:
        self.kill_after, self.rates = kill_after, dict[int, float]()
        self.tensors: dict[int, dict[str, str]] = {}
        self.state: dict[int, int] = {}
        self.stages: Stages | None = None

    def on_step_end(self, step: int, model: nn.Module) -> None:
        self.tensors[step] = hashes(model)
        if self.stages is not None and self.stages._optimizer is not None:
            state = self.stages._optimizer.state.values()
            self.state[step] = sum(v.nbytes for one in state for v in one.values() if v.dim())

    def on_metrics(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        self.rates[step] = metrics["learning_rate"]
        if step == self.kill_after:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)


def digest(values: Tensor) -> str:
    return hashlib.sha256(values.detach().contiguous().numpy().tobytes()).hexdigest()


def hashes(model: nn.Module) -> dict[str, str]:
    named = {name: digest(values) for name, values in model.named_parameters()}
    table = model.get_parameter("table.weight")
    del named["table.weight"]
    return named | {"old rows": digest(table[:OLD]), "new rows": digest(table[OLD:])}


def go(folder: Path, events: Kept, plan: tuple[Stage, ...] = PLAN) -> tuple[Net, Stages]:
    model, trainer = Net(), TrainerConfig(**SETTINGS)
    groups = {
        "table": [model.table.weight],
        "body": list(model.body.parameters()),
        "head": list(model.head.parameters()),
    }
    stages = Stages(model, plan, groups, trainer, 3, OLD)
    ids = torch.randint(ROWS, (40, 5), generator=torch.Generator().manual_seed(1))
    events.stages = stages

    def collate(rows: list[int]) -> dict[str, Any]:
        return {"x": ids[rows, :-1], "y": ids[rows, 1:], "ids": rows}

    training = Training(model, Loss(), range(40), collate, stages=stages)  # type: ignore[arg-type]
    train(training, trainer, 3, folder, events)
    return model, stages


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Kept, Stages]:
    events = Kept()
    model, stages = go(tmp_path_factory.mktemp("whole"), events)
    return hashes(model), events, stages


def test_a_stage_changes_its_own_and_leaves_all_else_to_the_bit(whole: tuple[dict[str, str], Kept, Stages]) -> None:
    _, events, _ = whole
    before = hashes(Net())
    changed = {}
    for end in (3, 6, 9, 12):
        after = events.tensors[end]
        changed[end] = {name for name in after if after[name] != before[name]}
        before = after
    body, head = {"body.0.weight", "body.0.bias"}, {"head.weight", "head.bias"}
    assert changed == {3: {"old rows", "new rows"}, 6: body, 9: {"new rows", *head}, 12: head}


def test_rates_warm_up_and_fall_in_each_stage(whole: tuple[dict[str, str], Kept, Stages]) -> None:
    rates = [round(rate, 6) for _, rate in sorted(whole[1].rates.items())]
    # One step of warm-up, then the half cosine over the two steps left.
    assert rates == [0, 0.1, 0.05, 0, 0.2, 0.1, 0, 0.1, 0.05, 0, 0.1, 0.05]


def test_the_optimizer_holds_moments_of_the_stage_alone(whole: tuple[dict[str, str], Kept, Stages]) -> None:
    _, events, stages = whole
    assert [events.state[end] for end in (3, 6, 9, 12)] == [stages.state_bytes(number) for number in range(4)]
    table, body, head = ROWS * 6, 6 * 6 + 6, 6 * ROWS + ROWS
    assert [stages.trained(number) for number in range(4)] == [table, body, (ROWS - OLD) * 6 + head, head]
    assert stages.state_bytes(2) == 8 * (table + head)  # AdamW knows no part of a table
    assert sorted(map(len, stages.seconds.values())) == [2, 2, 2, 2]


def test_a_group_is_drawn_anew_from_seed_and_step_alone(tmp_path: Path) -> None:
    plan = (Stage("one", ("body",), 11, 0.1), Stage("two", ("head",), 1, 1e-12, reset=(("head", 0.5),)))
    heads = [go(tmp_path / str(number), Kept(), plan)[0].head.weight for number in range(2)]
    assert torch.equal(*heads) and not torch.allclose(heads[0], Net().head.weight, atol=0.1)
    assert 0.35 < heads[0].std() < 0.65


@pytest.mark.parametrize("step", [6, 8, 9])
def test_a_run_killed_at_once_ends_as_one_that_was_not(
    step: int, whole: tuple[dict[str, str], Kept, Stages], tmp_path: Path
) -> None:
    code = f"from {__name__} import *; go(Path({str(tmp_path)!r}), Kept({step}))"
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=Path(__file__).parents[3])
    assert killed.returncode == -9, killed.stderr.decode()
    assert checkpoints.newest_valid(tmp_path / "checkpoints", print) is not None
    model, _ = go(tmp_path, events := Kept())
    assert hashes(model) == whole[0] and min(events.tensors) > 4
    assert events.rates == {at: rate for at, rate in whole[1].rates.items() if at in events.rates}


def test_shares_become_steps() -> None:
    assert stage_starts((0.2, 0.2, 0.2, 0.4), 100) == (0, 20, 40, 60)
    assert stage_starts((1, 1, 1), 100) == (0, 33, 67)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((1, 1, 1e-6), "stage c begins after step 10 of 10 and would reset after the last step"),
        ((1e-6, 1, 1), "stage a begins after step 0 of 10 and has no step before the next one"),
    ],
)
def test_a_stage_without_a_step_is_refused(shares: tuple[float, ...], message: str) -> None:
    plan = [Stage(name, ("body",), share, 0.1) for name, share in zip("abc", shares, strict=True)]
    with pytest.raises(UserError, match=message):
        Stages(Net(), plan, {"body": []}, TrainerConfig(**SETTINGS | {"max_steps": 10}), 0)


def test_a_group_without_parameters_is_refused() -> None:
    with pytest.raises(UserError, match="nothing in adapters, which stage four trains"):
        Stages(Net(), (Stage("four", ("adapters",), 1, 0.1),), {"adapters": []}, TrainerConfig(**SETTINGS), 0)
