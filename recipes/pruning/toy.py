"""Toy models that pruning recipes share: what other modules may use of them."""

from recipes.pruning.toy_decoder import prompt, toy_llava
from recipes.pruning.toy_encoder import Digits, load_guide, toy_vit

__all__ = ["Digits", "load_guide", "prompt", "toy_llava", "toy_vit"]
