"""Trainer settings in the words of transformers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.optim import SGD

from recipes.core.config.settings import WARMUP_TIMES_LINEAR, TrainerConfig
from recipes.core.training.devices import trains_in_bf16

# Schedules that the library calls otherwise; one that it does not have is made by our trainer, whatever stands here.
_NAMES = {"constant": "constant_with_warmup", WARMUP_TIMES_LINEAR: "linear"}


def training_arguments(config: TrainerConfig, seed: int, device: str, store: Path) -> transformers.TrainingArguments:
    """The arguments of `transformers.Trainer`.

    Args:
        config: Trainer settings.
        seed: Decides the data order.
        device: "cpu" or "cuda".
        store: Where checkpoints go.
    """
    schedule, warmup, options = schedule_arguments(config, config.max_steps)
    micro = config.micro_batch_size or config.process_batch_size
    return transformers.TrainingArguments(
        output_dir=str(store),
        max_steps=config.max_steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=config.process_batch_size // micro,
        optim="adamw_torch_fused" if config.optimizer == "adamw" else config.optimizer,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        warmup_steps=warmup,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs=options,
        save_strategy="steps",
        save_steps=config.save_steps,
        logging_strategy="steps",
        logging_steps=config.log_steps,
        logging_nan_inf_filter=False,
        bf16=trains_in_bf16(config, device),
        use_cpu=device == "cpu",
        ddp_find_unused_parameters=False,
        ddp_backend={"cpu": "gloo", "cuda": "nccl"}[device] if config.processes > 1 else None,
        seed=seed,
        data_seed=seed,
        dataloader_drop_last=True,
        dataloader_num_workers=config.workers,
        dataloader_pin_memory=device == "cuda",
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )


def warmup_times_linear(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate that a step has, the first one is 0.

    Args:
        step: How many are done.
        steps: Of the run.
        warmup: Steps of the warm-up.

    Source:
        BERT (arXiv 1810.04805) and ELECTRA (arXiv 2003.10555), official code: (1 - t / T) min(1, t / warmup).
    """
    return max(1 - step / steps, 0.0) * min(1.0, step / max(warmup, 1))


def schedule_arguments(config: TrainerConfig, steps: int) -> tuple[str, int, dict[str, Any]]:
    """The schedule of the rate over so many steps: its name in transformers, steps of warm-up, what it is told."""
    is_decay = config.schedule == "warmup_stable_decay"
    options = {"num_decay_steps": max(round(config.decay_ratio * steps), 1)} if is_decay else {}
    return _NAMES.get(config.schedule, config.schedule), round(config.warmup_ratio * steps), options


def rate_multiplier(config: TrainerConfig, steps: int) -> Callable[[int], float]:
    """Steps done -> share of the peak learning rate, in a training of so many steps."""
    name, warmup, options = schedule_arguments(config, steps)
    if config.schedule == WARMUP_TIMES_LINEAR:
        return partial(warmup_times_linear, steps=steps, warmup=warmup)
    alone = SGD([torch.zeros(1)], lr=1.0)
    rate: Callable[[int], float] = transformers.get_scheduler(
        name, alone, warmup, steps, scheduler_specific_kwargs=options
    ).lr_lambdas[0]
    return rate
