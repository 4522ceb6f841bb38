"""Vision-language models and their text-only references, from config. The heavy imports happen when one is built.

Causal language models on their own are built in `recipes.core.models.text`.
"""

from typing import TYPE_CHECKING, Any

from recipes.core.models.config import LlavaConfig, ModelConfig, SmallConfig, SmolLM2Config

if TYPE_CHECKING:
    from recipes.core.data.images.captions import CaptionData
    from recipes.core.models.vision_language import TextModel

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GRAY = ((0.5,), (0.5,))


def build_tokenizer(config: ModelConfig, data: "CaptionData") -> Any:
    """The model's tokenizer: the backbone's with image tokens added, or a BPE trained on the captions."""
    from recipes.core.models import tokenizer as tokenizers

    if isinstance(config, SmallConfig):
        texts = (data.train.caption(i).text for i in range(len(data.train)))
        return tokenizers.train_bpe(texts, data.train.fingerprint(), config.vocabulary, tokenizers.IMAGE_TOKENS)
    if isinstance(config, SmolLM2Config):
        from recipes.core.models.smollm2 import load_tokenizer

        return tokenizers.add_image_tokens(load_tokenizer(config))
    from recipes.core.models.llava import load_llava_tokenizer

    return load_llava_tokenizer(config)


def build_caption_model(
    config: ModelConfig, setting: str, tokenizer: Any, data: "CaptionData", seed: int, device: str, max_tokens: int
) -> Any:
    """A caption model on the CPU, its new parts initialised from `seed` without touching the global generators.

    Args:
        config: Which model.
        setting: "U" (patches into the decoder) or "H" (visual encoder and projector).
        tokenizer: From `build_tokenizer`.
        data: Image size, channels, and labels for a visual encoder trained in the run.
        seed: Of the initialisation.
        device: Where a visual encoder is trained, if it has to be.
        max_tokens: Longest caption.

    Raises:
        UserError: a patch that does not fit the image; no labels for the encoder; weights absent or pickled; a model
            whose context has no room for image and caption.
    """
    if isinstance(config, LlavaConfig):
        from recipes.core.models.llava import load_llava

        model: Any = load_llava(config, tokenizer)
    else:
        from recipes.core.models.build import build

        model = build(config, setting, tokenizer, data, seed, device)
    _check_context(config, len(model.prefix_ids), max_tokens, model)
    return model


def build_text_model(config: ModelConfig, tokenizer: Any, seed: int) -> "TextModel":
    """The language model alone, with the initial weights that `build_caption_model` gives it for the same seed."""
    from recipes.core.models.vision_language import TextModel

    if isinstance(config, LlavaConfig):
        from recipes.core.models.llava import load_llava_text_model

        return TextModel(load_llava_text_model(config))
    from recipes.core.models.build import language_model

    return TextModel(language_model(config, tokenizer, seed))


def load_text_model(path: str, key: str = "reference.path") -> "TextModel":
    """A causal language model from a local folder or the hub, in fp32.

    Raises:
        UserError: it cannot be loaded, or its logits are not those of its output head.
    """
    from recipes.core.models.causal import load_causal_lm
    from recipes.core.models.vision_language import TextModel

    return TextModel(load_causal_lm(path, key))


def load_reference_model(path: str, key: str, tokenizer: Any, instead: str) -> "TextModel":
    """A user's own reference, which must read the model's token ids.

    Args:
        path: Local folder or hub name of the reference.
        key: Config key of the path, for messages.
        tokenizer: The model's; pieces added to it do not count.
        instead: What else to type.

    Raises:
        UserError: it cannot be loaded, its tokenizer is another one, or has ids that it has no embedding for.
    """
    from recipes.core.models.causal import load_causal_lm
    from recipes.core.models.tokenizer import check_same_tokenizer
    from recipes.core.models.vision_language import TextModel

    return TextModel(load_causal_lm(path, key, check_same_tokenizer(path, tokenizer, key, instead)))


def learning_rates(config: ModelConfig) -> dict[str, float]:
    """Peak learning rate by parameter-name prefix, where new parts have their own."""
    if isinstance(config, SmolLM2Config):
        return {"vision.": config.new_learning_rate}
    if isinstance(config, LlavaConfig):
        return {"llava.model.multi_modal_projector.": config.projector_learning_rate}
    return {}


def _check_context(config: ModelConfig, prefix: int, max_tokens: int, model: Any) -> None:
    from recipes.core.errors import UserError

    if isinstance(config, SmallConfig):
        return
    inner = model.llava.config.text_config if isinstance(config, LlavaConfig) else model.language_model.config
    if prefix + max_tokens > inner.max_position_embeddings:
        raise UserError(
            f"captions of {max_tokens} tokens after {prefix} image tokens do not fit the model's context of "
            f"{inner.max_position_embeddings}",
            where=f"data.max_tokens={max_tokens}",
            hint=f"type data.max_tokens={max(inner.max_position_embeddings - prefix, 2)} or less",
        )
