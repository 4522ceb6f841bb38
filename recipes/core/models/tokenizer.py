"""Tokenizers: a BPE trained in the run, and the image tokens that any tokenizer gets."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recipes.core.cache import cached
from recipes.core.data.captions import CaptionSplit
from recipes.core.files import sha256_json

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
VISION, PATCH, ROW, VISION_END = "<vision>", "<vpatch>", "<vrow_sep>", "</vision>"
IMAGE_TOKENS = (VISION, PATCH, ROW, VISION_END)
FORMAT = 1


def train_bpe(split: CaptionSplit, vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the captions of a split, or the one trained on them before.

    A word and the space before it are merged into one piece where they are frequent.

    Args:
        split: The captions.
        vocabulary: Largest size, special tokens included.
    """

    def build(folder: Path) -> None:
        _bpe(split, vocabulary).save_pretrained(folder)

    folder = cached("tokenizers", sha256_json([FORMAT, split.fingerprint(), vocabulary])[:32], build)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def add_image_tokens(tokenizer: Any) -> Any:
    """Give a language model's tokenizer the image tokens, and a padding token if it has none."""
    tokenizer.add_special_tokens({"additional_special_tokens": list(IMAGE_TOKENS)})
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def _bpe(split: CaptionSplit, vocabulary: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS, *IMAGE_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(split), trainer, length=len(split))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=list(IMAGE_TOKENS),
        clean_up_tokenization_spaces=False,
    )


def _texts(split: CaptionSplit) -> Iterable[str]:
    return (split.caption(i).text for i in range(len(split)))
