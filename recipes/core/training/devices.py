"""Which device a run works on, without torch where torch has no say."""

from recipes.core.config.settings import RunConfig
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
