"""Image-caption data: `load_captions` turns a data config into splits. Imports nothing heavy."""

from recipes.core.data.config import DataConfig, DigitCaptionsConfig, EasyVqaConfig, ImageTextConfig
from recipes.core.data.images.captions import CaptionData


def load_captions(config: DataConfig, seed: int) -> CaptionData:
    """Load the data set that `config` names; everything that only the data can tell is checked here.

    Args:
        config: One of the classes of `recipes.core.data.config.DATA`.
        seed: Seed of the run; used only where `data.seed` is null.

    Returns:
        Train and test split, class names, questions, and what was skipped.

    Raises:
        UserError: the data is missing or wrong, or an asset cannot be had.
    """
    data_seed = seed if config.seed is None else config.seed
    if isinstance(config, DigitCaptionsConfig):
        from recipes.core.data.images.digits import load_digit_captions

        return load_digit_captions(config, data_seed)
    if isinstance(config, EasyVqaConfig):
        from recipes.core.data.images.easy_vqa import load_easy_vqa

        return load_easy_vqa(config, data_seed)
    if isinstance(config, ImageTextConfig):
        from recipes.core.data.images.image_text import load_image_text

        return load_image_text(config, data_seed)
    raise TypeError(f"no loader for {type(config).__name__}")
