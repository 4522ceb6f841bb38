"""Training in stages: groups of parameters frozen, thawed and drawn anew on a schedule of shares of the steps.

A stage is a training of its own inside one run: it changes its groups alone, its optimizer begins without moments, and
its rate warms up and falls as the trainer's settings say of a whole run. Which stage a step belongs to follows from
the step alone. A checkpoint of step t is saved before what the stage that begins behind it resets, so that a run that
is killed and resumed ends as one that was not.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from recipes.core.config.settings import TrainerConfig
from recipes.core.errors import UserError
from recipes.core.training.arguments import rate_multiplier
from recipes.core.training.stage_plan import NEW, Stage, stage_problem, stage_starts

Groups = Mapping[str, Sequence[nn.Parameter]]


class Stages:
    """The schedule of a run, for `Training.stages`.

    Args:
        model: What is trained. Until the first step all that any stage trains wants a gradient, so that an optimizer
            knows it; what none trains is frozen.
        stages: In order.
        groups: Parameters by the name of their group; in several groups they may be, too.
        trainer: Steps, warm-up and fall of the rate.
        seed: Of what is drawn anew.
        first_new: Rows of a table that stay where a stage trains only new ones.
        where: Config key that says the shares, for messages.

    Attributes:
        seconds: From each step to the next in this process, by stage; what is measured between them counts.

    Raises:
        UserError: a stage has no step, or a group has no parameter.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        groups: Groups,
        trainer: TrainerConfig,
        seed: int,
        first_new: int = 0,
        where: str = "trainer.max_steps",
    ) -> None:
        self.stages, self.steps, self.seed, self.first_new = tuple(stages), trainer.max_steps, seed, first_new
        if problem := stage_problem(stages, self.steps):
            raise UserError(problem, where)
        self.starts = stage_starts([stage.share for stage in stages], self.steps)
        self._parts = [_members(stage, groups, where) for stage in stages]
        self._drawn = [[(p, std) for name, std in stage.reset for p in groups[name]] for stage in stages]
        self._rates = [self._rate(number, trainer) for number in range(len(stages))]
        self._hooks: list[RemovableHandle] = []
        self._current: int | None = None
        self._optimizer: Optimizer | None = None
        self._clock: float | None = None
        self.seconds: dict[int, list[float]] = {}
        trained = {id(parameter) for parts in self._parts for parameter, _ in parts}
        self._tables = {id(parameter) for parts in self._parts for parameter, is_new in parts if is_new}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)

    def at(self, step: int) -> int:
        """Number of the stage that the step behind `step` steps belongs to."""
        return int(np.searchsorted(self.starts, min(step, self.steps - 1), side="right")) - 1

    def factor(self, step: int) -> float:
        """What the run's rate is multiplied by behind `step` steps."""
        number = self.at(step)
        value: float = self._rates[number](min(step, self.steps - 1) - self.starts[number])
        return value

    def take_optimizer(self, optimizer: Optimizer) -> None:
        """Keep the optimizer; tables of which only new rows are trained get groups of their own in it.

        Weight decay would move the rows that stay: in such stages it is 0 for the whole table.
        """
        self._optimizer, groups = optimizer, list(optimizer.param_groups)
        optimizer.param_groups.clear()
        for group in groups:
            tables = [parameter for parameter in group["params"] if id(parameter) in self._tables]
            others = [parameter for parameter in group["params"] if id(parameter) not in self._tables]
            for part in (others, *([table] for table in tables)):
                if part:
                    optimizer.add_param_group({**group, "params": part})

    def before_step(self, step: int) -> None:
        """Enter the stage that the step behind `step` steps belongs to, if it is another."""
        number, now = self.at(step), time.perf_counter()
        if self._clock is not None and self._current == number:
            self.seconds.setdefault(number, []).append(now - self._clock)
        if self._current != number:
            self._enter(number, step == self.starts[number])
        self._clock = time.perf_counter()

    def thaw(self) -> None:
        """Let all that any stage trains want a gradient, as before the first step."""
        for parts in self._parts:
            for parameter, _ in parts:
                parameter.requires_grad_(True)

    def trained(self, number: int) -> int:
        """Numbers that a stage trains; of a table of which new rows are trained only these."""
        return sum(p[self.first_new :].numel() if is_new else p.numel() for p, is_new in self._parts[number])

    def state_bytes(self, number: int) -> int:
        """Bytes of AdamW's two moments in a stage; it keeps them of whole tensors."""
        return sum(2 * p.numel() * p.element_size() for p, _ in self._parts[number])

    def _enter(self, number: int, begins: bool) -> None:
        """Thaw and freeze; of a stage that begins also draw anew and forget the optimizer's moments."""
        for hook in self._hooks:
            hook.remove()
        for parts in self._parts:
            for parameter, _ in parts:
                parameter.requires_grad_(False)
        self._hooks = []
        for parameter, is_new in self._parts[number]:
            parameter.requires_grad_(True)
            if is_new:
                self._hooks.append(parameter.register_hook(self._keep_new))
        if self._optimizer is not None:
            self._set_decay({id(parameter) for parameter, is_new in self._parts[number] if is_new})
            if begins:
                self._optimizer.state.clear()
        if begins:
            random = generator(self.seed, self.starts[number])
            for parameter, std in self._drawn[number]:
                reset(parameter, std * torch.randn(parameter.shape, generator=random), self._optimizer)
        self._current, self._clock = number, None

    def _keep_new(self, gradient: Tensor) -> Tensor:
        """The gradient of a table without that of the rows that stay."""
        kept = gradient.clone()
        kept[: self.first_new] = 0
        return kept

    def _set_decay(self, tables: set[int]) -> None:
        assert self._optimizer is not None
        for group in self._optimizer.param_groups:
            usual = group.setdefault("usual_decay", group.get("weight_decay", 0.0))
            group["weight_decay"] = 0.0 if any(id(parameter) in tables for parameter in group["params"]) else usual

    def _rate(self, number: int, trainer: TrainerConfig) -> Callable[[int], float]:
        """Step in a stage -> what the run's rate is multiplied by: the trainer's schedule, over the stage's steps."""
        length = (*self.starts[1:], self.steps)[number] - self.starts[number]
        rate, peak = rate_multiplier(trainer, length), self.stages[number].learning_rate / trainer.learning_rate
        return lambda step: peak * rate(step)


def _members(stage: Stage, groups: Groups, where: str) -> list[tuple[nn.Parameter, bool]]:
    """Parameters of a stage, each once, and whether only new rows of it are trained."""
    members: dict[int, tuple[nn.Parameter, bool]] = {}
    for name in stage.train:
        parameters = groups[name.removesuffix(NEW)]
        if not parameters:
            raise UserError(f"the model has nothing in {name}, which stage {stage.name} trains", where, "leave it out")
        for parameter in parameters:
            # A tied table is trained whole where one of its names is.
            is_new = members.get(id(parameter), (parameter, True))[1] and name.endswith(NEW)
            members[id(parameter)] = (parameter, is_new)
    return list(members.values())


def generator(seed: int, step: int) -> torch.Generator:
    """Random numbers of one step of one run; the global generator is left alone."""
    (state,) = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) >> 1)


@torch.no_grad()
def reset(parameter: nn.Parameter, rows: Tensor, optimizer: Optimizer | None) -> None:
    """Overwrite a parameter in place; where an optimizer is given, its state of this parameter begins anew.

    Args:
        parameter: What is overwritten.
        rows: What it becomes.
        optimizer: Moments and step count of the parameter are dropped: at its next step they are as at its first.
    """
    parameter.copy_(rows)
    if optimizer is not None:
        optimizer.state.pop(parameter, None)
