"""What a run needs of this machine in memory and disk, from its config alone, and whether it has that. No torch."""

from typing import Any

from recipes.core.config.settings import RunConfig
from recipes.core.errors import UserError
from recipes.core.models.adapter_config import LoraConfig
from recipes.core.models.memory import PROGRAM, Memory, decoder_size, training_memory
from recipes.core.process.memory import usable_memory
from recipes.core.runs.checkpoints import KEEP
from recipes.core.training.devices import trains_in_bf16

MIB = 2**20


def needs(config: RunConfig, device: str, runs: int = 1) -> list[tuple[str, str]]:
    """Rows for `--dry-run`: parameters, memory of a process and disk of all `runs`, as far as can be estimated."""
    parameters = config.parameters()
    if parameters == 0:
        return [("parameters", "0: nothing is trained")]
    size = decoder_size(getattr(config, "model", None)) if config.trains_model else None
    parameters = size.parameters if parameters is None and size else parameters
    if parameters is None:
        return [("parameters", "known when the checkpoint is loaded")]
    rows = [("parameters", f"{parameters:,}"), ("memory", _memory_text(config, parameters, device))]
    if advice := _advice(config, device):
        rows.append(("does not fit", advice))
    # A checkpoint has weights and optimizer, no gradients.
    memory = training_estimate(config, device)
    disk = (memory.weights + memory.optimizer if memory else 12 * parameters) * KEEP * runs
    text = f"about {disk / MIB:,.0f} MiB for the last {KEEP} checkpoints{' of each cell' * (runs > 1)}"
    return [*rows, ("disk", text)]


def check_memory(config: RunConfig, device: str) -> None:
    """Refuse a run that cannot fit, whatever its data are, unless `trainer.check_memory` is off.

    Raises:
        UserError: weights, gradients and optimizer are more than the memory there is; says what to change.
    """
    memory, room = training_estimate(config, device), _room(device)
    if memory is None or room is None or not config.trainer.check_memory:
        return
    certain = memory.certain * _processes(config, device)
    what = "weights, frozen models, gradients" if memory.frozen else "weights, gradients"
    if certain > room:
        raise UserError(
            f"the run does not fit: {what} and optimizer take {certain / MIB:,.0f} MiB, "
            f"and this {_machine(device)} has {room / MIB:,.0f} MiB",
            f"model={getattr(config, 'model').name}",  # noqa: B009
            f"{_remedies(config, certain=True)}, or trainer.check_memory=false if you know better",
        )


def _memory_text(config: RunConfig, parameters: int, device: str) -> str:
    memory = training_estimate(config, device)
    if memory is None:
        return f"about {16 * parameters / MIB:,.0f} MiB for weights, gradients and optimizer, plus activations"
    tokens = config.sequence_tokens
    names = ("weights", "frozen", "gradients", "optimizer", *(("activations",) if tokens else ()))
    parts = {name: getattr(memory, name) for name in names}
    total = sum(parts.values())
    listed = ", ".join(f"{name} {value / MIB:,.0f}" for name, value in parts.items() if value)
    if device == "cpu":
        total, listed = total + PROGRAM, f"program {PROGRAM / MIB:,.0f}, {listed}"
    each = " each process" if config.trainer.processes > 1 else ""
    if tokens is None:
        return f"about {total / MIB:,.0f} MiB{each} ({listed}), plus activations"
    return f"about {total / MIB:,.0f} MiB{each} ({listed}) where sequences have {tokens:,} tokens"


def _advice(config: RunConfig, device: str) -> str:
    """What to change where the whole estimate is more than there is; empty if it fits."""
    memory, room = training_estimate(config, device), _room(device)
    if memory is None or room is None:
        return ""
    total = process_memory(memory, device) * _processes(config, device)
    if total <= room:
        return ""
    return f"this {_machine(device)} has {room / MIB:,.0f} MiB: {_remedies(config, certain=memory.certain > room)}"


def _remedies(config: RunConfig, certain: bool) -> str:
    trainer, ways = config.trainer, []
    lora = getattr(config, "lora", None)
    if not certain and not trainer.gradient_checkpointing:
        ways.append("trainer.gradient_checkpointing=true")
    if not certain and (trainer.micro_batch_size or trainer.process_batch_size) > 1:
        ways.append("a smaller trainer.micro_batch_size")
    if lora is not None and not lora.rank:
        ways.append("lora.rank=8")
    if trainer.dtype == "float32":
        ways.append("trainer.dtype=bfloat16")
    if trainer.optimizer.startswith("adamw") and "8bit" not in trainer.optimizer and not (lora and lora.rank):
        ways.append("trainer.optimizer=adamw_bnb_8bit")
    return f"type {', '.join(ways)}" if ways else "choose a smaller model"


def training_estimate(config: RunConfig, device: str) -> Memory | None:
    """What a process of a run needs to train; None if the model's size is not known, or nothing is trained."""
    model: Any = getattr(config, "model", None)
    size = decoder_size(model) if config.trains_model else None
    if size is None or config.steps == 0:
        return None
    trainer = config.trainer
    tokens = (config.sequence_tokens or 0) * (trainer.micro_batch_size or trainer.process_batch_size)
    bf16 = trains_in_bf16(trainer, device)
    lora = getattr(config, "lora", LoraConfig())
    return training_memory(size, trainer, lora, tokens, bf16, model, config.frozen_models)


def process_memory(memory: Memory, device: str) -> float:
    """Bytes of a process that trains, with the program on the CPU."""
    return memory.total + (PROGRAM if device == "cpu" else 0)


def _room(device: str) -> int | None:
    if device == "cpu":
        return usable_memory()
    import torch  # is imported by now: it has said that there is a device

    return int(torch.cuda.get_device_properties(0).total_memory)


def _processes(config: RunConfig, device: str) -> int:
    """Processes that share the memory."""
    return config.trainer.nproc if device == "cpu" else 1


def _machine(device: str) -> str:
    return "machine" if device == "cpu" else "GPU"
