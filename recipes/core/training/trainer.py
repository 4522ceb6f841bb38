"""The one trainer: `transformers.Trainer` calling a recipe's objective, with checkpoints that can be trusted.

Accumulation, mixed precision, distribution and the loop come from transformers and accelerate. What is ours: the loss
is normalised over the *global* batch, checkpoints are published atomically and verified, a signal saves and stops at
the next step, a NaN stops the run and names its batch, and the metric stream of a resumed run is that of one never
cut off.
"""

import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from recipes.core.config.settings import WARMUP_TIMES_LINEAR, TrainerConfig
from recipes.core.errors import RunFailed, UserError
from recipes.core.losses.objectives import WEIGHT_MAX
from recipes.core.messages import note
from recipes.core.models.quantised import compute_in, load_trained, plain_weights, quantised_layers, trained_weights
from recipes.core.process.signals import STOPPING, stop_on_signal
from recipes.core.runs import checkpoints
from recipes.core.runs.folder import DONE, INTERRUPTED
from recipes.core.runs.progress import progress
from recipes.core.training.arguments import rate_multiplier, training_arguments
from recipes.core.training.devices import trains_in_bf16
from recipes.core.training.divergence import StepCheck
from recipes.core.training.model_options import (
    apply_options,
    in_own_dtype,
    uncompiled,
    without_autocast,
    without_compiled_layers,
)
from recipes.core.training.parallel import distributed, sharding
from recipes.core.training.passes import WholePasses
from recipes.core.training.task import TrainEvents, Training, TrainResult

# With WANDB_MODE=offline, transformers prints a line when its trainer is imported.
with redirect_stdout(io.StringIO()):
    from transformers.trainer import SAFE_WEIGHTS_NAME, SCHEDULER_NAME

IDS = "ids"
# Longer than it takes until a request to stop has reached every process.
SIGNAL_SECONDS = 2.0


def check_one_batch(size: int, config: TrainerConfig) -> None:
    """Refuse fewer training examples than one batch; recipes ask this before they train a reference, too."""
    if size < config.batch_size:
        raise UserError(
            f"{size} training examples are fewer than one batch",
            where=f"trainer.batch_size={config.batch_size}",
            hint=f"type trainer.batch_size={size} or less",
        )


def resolve_device(config: TrainerConfig) -> str:
    """ "cpu" or "cuda".

    Raises:
        UserError: CUDA is asked for and absent, or has fewer devices than the run has processes.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "no CUDA device is available",
            where="trainer.device=cuda",
            hint="type trainer.device=auto or trainer.device=cpu; `steelyard doctor` tells what this machine has",
        )
    if config.device == "cpu" or not torch.cuda.is_available():
        return "cpu"
    if config.nproc > (devices := torch.cuda.device_count()):
        raise UserError(
            f"each process needs a CUDA device of its own, and this machine has {devices}",
            where=f"trainer.nproc={config.nproc}",
            hint=f"type trainer.nproc={devices} or less, or trainer.device=cpu",
        )
    return "cuda"


def train(training: Training, config: TrainerConfig, seed: int, folder: Path, events: TrainEvents) -> TrainResult:
    """Train, or go on from the newest checkpoint in `folder/checkpoints` that can be trusted.

    Args:
        training: Model, objective, data.
        config: Trainer settings.
        seed: Decides the data order.
        folder: Where checkpoints go.
        events: What to tell the caller.

    Raises:
        UserError: fewer examples than one batch; CUDA is asked for and absent; the model cannot be trained in the way
            that the settings ask for.
        RunFailed: loss, gradient or weights are not finite, or the disk is full; the last good checkpoint stays.
    """
    device = resolve_device(config)
    _check_processes(config)
    check_one_batch(len(training.dataset), config)  # type: ignore[arg-type]
    store = folder / "checkpoints"
    checkpoint = distributed.from_first(
        lambda: checkpoints.newest_valid(store, say=lambda line: note(f"warning: {line}"))
    )
    start = checkpoints.step_of(checkpoint) if checkpoint else 0
    if config.group_by_length:
        _lengths(training.dataset)
    apply_options(training.model, config)
    compute_in(training.model, torch.bfloat16 if trains_in_bf16(config, device) else torch.float32)
    models = (training.model, *training.frozen)
    _place(models, config, device)
    early = config.early_stopping.metric is not None
    with _whole(models) if early else nullcontext():  # it measures once, to know the metric
        events.on_start(start)
    if checkpoint and (start >= config.max_steps or (early and distributed.anywhere(events.stop_early()))):
        _load_weights(training.model, checkpoint)
        _keep_whole(models)
        return TrainResult(DONE, start, start)
    # In a run of several processes, the launching one says so.
    message = STOPPING if distributed.world_size() == 1 else ""
    if config.workers:  # or each of them would warn that it was forked
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with stop_on_signal(message) as stop, progress("training", config.max_steps, start) as bar:
        watcher = _Watcher(events, training, early, stop, bar)
        trainer = _Trainer(training, config, training_arguments(config, seed, device, store), store, events, watcher)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        # All processes stop once one was asked to. The others' own signal must still find this handler.
        if watcher.stopped:
            stop.wait(SIGNAL_SECONDS)
    without_compiled_layers(training.model)
    without_autocast(training.model)
    _keep_whole(models)
    steps = trainer.state.global_step
    return TrainResult(INTERRUPTED if watcher.stopped and steps < config.max_steps else DONE, steps, start)


def _place(models: Sequence[nn.Module], config: TrainerConfig, device: str) -> None:
    """Bring the trained model to its device, or share out all models, which brings them there in parts."""
    if config.parallel == "fsdp" and config.processes > 1:
        for model in models:
            sharding.shard(model, device)
    else:
        models[0].to(device)


@contextmanager
def _whole(models: Sequence[nn.Module]) -> Iterator[None]:
    """Inside the block every process holds all weights of the models."""
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(sharding.whole(model))
        yield


def _keep_whole(models: Sequence[nn.Module]) -> None:
    for model in models:
        sharding.keep_whole(model)


def _check_processes(config: TrainerConfig) -> None:
    if config.processes != distributed.world_size():
        raise RunFailed(
            f"something that one process trains before the run is to be trained in each of {distributed.world_size()}",
            where=f"trainer.nproc={config.processes}",
            hint="the cache changed while the run started; type the same command again",
        )


class _Trainer(transformers.Trainer):
    """`transformers.Trainer` with an objective for a loss and published checkpoints."""

    # The objective divides by the normalizer of the whole accumulated batch.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        training: Training,
        config: TrainerConfig,
        arguments: transformers.TrainingArguments,
        store: Path,
        events: TrainEvents,
        watcher: "_Watcher",
    ) -> None:
        self.training, self.config, self.store, self.events = training, config, store, events
        self.watcher, self.check = watcher, watcher.check
        self.sums: dict[str, Tensor] = {}
        self.logged_at = time.perf_counter()
        super().__init__(
            model=training.model,
            args=arguments,
            data_collator=training.collate,
            train_dataset=training.dataset,
            callbacks=[watcher],
        )
        self.remove_callback(transformers.PrinterCallback)
        if distributed.rank() > 0:
            # Dropout is to differ between processes; the first draws what a process on its own would draw.
            torch.manual_seed(arguments.seed + distributed.rank())

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        """Normalizer of the global batch: over accumulated micro-batches and processes."""
        self.sums = {}
        self.check.begin(self.state.global_step + 1)
        sharding.gather_rest(self.training.model)
        if self.training.stages and batch_samples:
            self.training.stages.before_step(self.state.global_step)
        if self.training.before_step and batch_samples:
            with self.compute_loss_context_manager():
                batches = [self._prepare_inputs(batch) for batch in batch_samples]
                self.training.before_step(self.state.global_step, self.training.model, batches)
        local = torch.stack([self.training.objective.normalizer(batch) for batch in batch_samples]).sum(0).to(device)
        return self.accelerator.gather(local[None]).sum(0) if distributed.world_size() > 1 else local

    def _get_train_sampler(self, train_dataset: Any = None) -> WholePasses:
        """Epochs of whole global batches, so that micro-batches and processes change no batch."""
        size = len(self.training.dataset)  # type: ignore[arg-type]
        lengths = _lengths(self.training.dataset) if self.config.group_by_length else None
        return WholePasses(size, self.config.batch_size, self.args.seed, lambda: self.state.global_step, lengths)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective's partial loss; stops the run if it is not finite."""
        ids = inputs.pop(IDS)
        sharding.gather_rest(self.training.model)
        loss, metrics = self.training.objective(model, inputs, num_items_in_batch)
        self.check.loss(loss, ids)
        pair = torch.stack([loss.detach().float(), torch.zeros_like(loss, dtype=torch.float32)])
        self.sums = distributed.merge(self.sums, {"loss": pair, **metrics})
        # Gradients are averaged over processes, while these are partial sums.
        return loss * distributed.world_size()

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm of the step's gradient; stops the run if it is not finite, before the optimizer spreads it."""
        norm = super()._get_grad_norm(model, grad_norm)
        weights = self.sums.get(WEIGHT_MAX)
        self.check.gradient(norm, None if weights is None else weights[0])
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Send the metrics of the step just done; what the base class averages would depend on where a run resumed."""
        if "grad_norm" not in logs:
            return
        metrics = {}
        for name, pair in distributed.merge_processes(self.sums).items():
            total, count = pair.tolist()
            metrics[name] = total / count if count else total
        metrics |= {"grad_norm": float(logs["grad_norm"]), "learning_rate": float(logs["learning_rate"])}
        now = time.perf_counter()
        self.events.on_metrics(self.state.global_step, metrics, now - self.logged_at)
        self.logged_at = now

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW, with groups of their own for parameters that have their own learning rate."""
        optimizer = super().create_optimizer(model)
        names = {id(parameter): name for name, parameter in self.training.model.named_parameters()}
        groups = list(optimizer.param_groups)
        optimizer.param_groups.clear()
        for group in groups:
            by_rate: dict[float, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                by_rate.setdefault(self._learning_rate(names[id(parameter)], group["lr"]), []).append(parameter)
            for rate, parameters in by_rate.items():
                optimizer.add_param_group({**group, "params": parameters, "lr": rate})
        if self.training.stages:
            self.training.stages.take_optimizer(optimizer)
        if self.training.take_optimizer:
            self.training.take_optimizer(optimizer)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """That of the library; of stages, and of a product of warm-up and fall, which it does not have, ours."""
        stages = self.training.stages
        is_known = stages is None and self.config.schedule != WARMUP_TIMES_LINEAR
        if is_known or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        rate = stages.factor if stages else rate_multiplier(self.config, num_training_steps)
        stepped: Any = optimizer or self.optimizer
        # A plain function: of any other callable a checkpoint would hold the state.
        self.lr_scheduler = LambdaLR(stepped, lambda step: rate(step))
        return self.lr_scheduler

    def _learning_rate(self, name: str, default: float) -> float:
        return next((rate for start, rate in self.training.learning_rates.items() if name.startswith(start)), default)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save into a staging folder and publish it whole."""
        final = self.args.output_dir
        with distributed.publish(self.store, self.state.global_step) as staging:
            self.args.output_dir = str(staging)
            try:
                super()._save_checkpoint(model, trial)
                if distributed.is_first():
                    checkpoints.note_measured(self.store.parent, staging / f"checkpoint-{self.state.global_step}")
            finally:
                self.args.output_dir = final
        if distributed.is_first():
            checkpoints.prune(self.store)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Weights as safetensors; tensors that are tied are stored once.

        No metadata of ours: safetensors writes several entries in random order, and equal weights make equal files.
        """
        folder = Path(str(output_dir or self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        if self.config.parallel == "fsdp":
            if self._is_last():
                sharding.save_whole(folder / SAFE_WEIGHTS_NAME, self.training.model, write=distributed.is_first())
        elif quantised_layers(self.training.model):
            if distributed.is_first():
                weights = plain_weights if self._is_last() else trained_weights
                safetensors.torch.save_file(weights(self.training.model), folder / SAFE_WEIGHTS_NAME)
        elif distributed.is_first():
            safetensors.torch.save_model(self.training.model, str(folder / SAFE_WEIGHTS_NAME))
        if self.training.describe and self._is_last() and distributed.is_first():
            self.training.describe(folder)

    def _is_last(self) -> bool:
        """Whether no step comes after this one."""
        return self.watcher.ended or self.state.global_step == self.args.max_steps

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.config.parallel == "ddp":
            super()._save_optimizer_and_scheduler(output_dir)
            return
        sharding.save(Path(output_dir), self.training.model, self.optimizer)
        if distributed.is_first():
            scheduler: Any = self.lr_scheduler
            torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        _load_weights(self.training.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not (Path(checkpoint) / sharding.FOLDER).exists():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer: Any = self.optimizer
        sharding.load_optimizer(Path(checkpoint), self.training.model, optimizer)
        scheduler: Any = self.lr_scheduler
        scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))
        for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
        if not sharding.is_sharded(model):
            return super()._wrap_model(model, training, dataloader)
        # Autocast only: a model that is shared out needs no wrapper that averages gradients.
        prepared: nn.Module = self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
        return prepared

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """Nothing: the model is there, and one that is shared out must not be moved."""


class _Watcher(transformers.TrainerCallback):
    """Tells the caller of every step, and turns a signal into a saved stop."""

    def __init__(
        self,
        events: TrainEvents,
        training: Training,
        early: bool,
        stop: threading.Event,
        bar: Callable[[int], None],
    ) -> None:
        self.events, self.early, self.stop, self.bar = events, early, stop, bar
        self.watch_steps, self.frozen = training.watch_steps, training.frozen
        self.check = StepCheck()
        self.stopped = self.ended = False

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the new weights before anything measures or saves them."""
        self.check.weights(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, show progress, and save and stop if asked to."""
        self.bar(state.global_step)
        step, model = state.global_step, kwargs["model"]
        measured = step in self.watch_steps
        with _measuring(model, self.frozen) if measured else preserve_rng():
            self.events.on_step_end(step, model)
        if measured and self.early and distributed.anywhere(self.events.stop_early()):
            self.ended = control.should_save = control.should_training_stop = True
        if distributed.anywhere(self.stop.is_set()):
            self.stopped = control.should_save = control.should_training_stop = True


def _lengths(dataset: Any) -> Sequence[int]:
    """Tokens of each item. Raises UserError if the data set does not say them."""
    lengths: Sequence[int] | None = getattr(dataset, "sequence_lengths", None)
    if lengths is None:
        what = "the sequences of this run have one length, or lengths that are not known before they are read"
        raise UserError(what, "trainer.group_by_length=true", "leave it out")
    return lengths


def _load_weights(model: nn.Module, checkpoint: Path) -> None:
    if (checkpoint / sharding.FOLDER).exists():
        sharding.load_weights(checkpoint, model)
    elif sharding.is_sharded(model):
        raise UserError(
            "holds whole weights, as trainer.parallel=ddp saves them", str(checkpoint), "type trainer.parallel=ddp"
        )
    elif quantised_layers(model):
        load_trained(model, safetensors.torch.load_file(checkpoint / SAFE_WEIGHTS_NAME))
    else:
        safetensors.torch.load_model(model, str(checkpoint / SAFE_WEIGHTS_NAME))


@contextmanager
def _measuring(model: nn.Module, frozen: Sequence[nn.Module]) -> Iterator[None]:
    """Inside the block models are whole and run as they are, in their own dtype; what is drawn changes no training."""
    with preserve_rng(), uncompiled(model), in_own_dtype(model), _whole((model, *frozen)):
        yield


@contextmanager
def preserve_rng() -> Iterator[None]:
    """Whatever the block draws, training draws what it would have drawn without it."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
        yield
