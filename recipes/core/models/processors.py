"""Processors of vision-language models, for images alone: nothing here reads videos, which want further libraries."""

from importlib import import_module
from typing import Any

VIDEO, WORDS = "video_processor", "num2words"


def load_for_images(folder: str, **options: Any) -> Any:
    """The processor of a folder, as AutoProcessor chooses it, without a part for videos.

    Args:
        folder: Local folder.
        options: Of `from_pretrained`.
    """
    import transformers
    from transformers import AutoConfig, AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.processing_utils import ProcessorMixin

    settings, _ = ProcessorMixin.get_processor_dict(folder)
    kind: Any = getattr(transformers, settings.get("processor_class") or "", None)
    if kind is None:
        config = AutoConfig.from_pretrained(folder, **options)
        kind = PROCESSOR_MAPPING.get(type(config), None)
    if kind is None or VIDEO not in kind.get_attributes():
        return AutoProcessor.from_pretrained(folder, **options)
    return without_videos(kind).from_pretrained(folder, **options)


def without_videos(kind: Any) -> Any:
    """A processor class that takes a video processor, as one under its name that takes none."""
    parts = kind.get_attributes()
    module: Any = import_module(kind.__module__)
    if getattr(module, WORDS, str) is None:  # asked for by SmolVLM, and used to spell the number of frames
        setattr(module, WORDS, str)

    def get_arguments(cls: Any, *args: Any, **options: Any) -> list[Any]:
        loaded: list[Any] = super(limited, cls)._get_arguments_from_pretrained(*args, **options)
        return [*loaded[: parts.index(VIDEO)], None, *loaded[parts.index(VIDEO) :]]

    limited: Any = type(
        kind.__name__,
        (kind,),
        {
            "get_attributes": classmethod(lambda _: [part for part in parts if part != VIDEO]),
            "_get_arguments_from_pretrained": classmethod(get_arguments),
            VIDEO: _NoVideos(),
            "__module__": kind.__module__,
        },
    )
    return limited


class _NoVideos:
    """Stands where a processor reads settings of its videos: none is set."""

    def __getattr__(self, name: str) -> None:
        return None
