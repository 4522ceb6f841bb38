"""Idefics3 and SmolVLM: crops and the whole image with text between them, patches joined by pixel shuffle."""

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import ModuleList
from transformers import Idefics3Processor

from recipes.pruning.adapters.anatomy import Parts
from recipes.pruning.adapters.tiled import Tiled


class Idefics3(Tiled):
    """Several images of a prompt share its budget: only the text between them tells them from the crops of one."""

    kinds = ("idefics3", "smolvlm")
    prompt: ClassVar[str] = "<|im_start|>User:{image}{question}<end_of_utterance>\nAssistant:"
    scattered = True

    def parts(self, model: Any) -> Parts:
        config, core = model.config, model.model
        merged = config.vision_config.hidden_size * config.scale_factor**2
        return self.two_towers(model, core.text_model, (merged, config.text_config.hidden_size))

    def blocks(self, core: Any) -> ModuleList:
        blocks: ModuleList = core.vision_model.encoder.layers
        return blocks

    def process(self, processor: Any, image: Any, text: str, **options: Any) -> dict[str, Tensor]:
        """Idefics3's processor maps characters to tokens, which a tokenizer that takes marked text cannot."""
        if not options.get("sanitize_control_tokens") or not isinstance(processor, Idefics3Processor):
            return super().process(processor, image, text, **options)
        nested: Any = [[image]]
        settings = processor._merge_kwargs(tokenizer_init_kwargs=processor.tokenizer.init_kwargs)["images_kwargs"]
        pictures, replacements = processor._process_images(nested, **settings | {"return_tensors": "pt"})
        [whole], _ = processor.get_text_with_replacements([text], images_replacements=replacements)
        words = processor.tokenizer([whole], return_tensors="pt", **options)
        return {**words, **{name: value for name, value in pictures.items() if name not in ("rows", "cols")}}

    def side(self, config: Any) -> int:
        vision = config.vision_config
        side: int = vision.image_size // vision.patch_size // config.scale_factor
        return side


FAMILY = Idefics3()
