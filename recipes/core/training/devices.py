"""Which device a run works on, without torch where torch has no say."""

from recipes.core.config.settings import RunConfig, TrainerConfig
from recipes.core.process.cores import may_have_gpu


def device_of(config: RunConfig) -> str:
    """ "cpu" or "cuda".

    Raises:
        UserError: CUDA is asked for and absent, or has fewer devices than the run has processes.
    """
    asked = config.trainer.device
    if asked == "cpu" or (asked == "auto" and not (config.needs_torch and may_have_gpu())):
        return "cpu"
    from recipes.core.training.trainer import resolve_device

    return resolve_device(config.trainer)


def trains_in_bf16(config: TrainerConfig, device: str) -> bool:
    """Whether models are trained in bf16, by autocast, on "cpu" or "cuda"."""
    return config.precision == "bf16" or (config.precision == "auto" and device == "cuda")
