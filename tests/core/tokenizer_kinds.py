"""Small tokenizers of the kinds that published models have."""

import random
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = "the a cat dog sat ran big small red blue house tree fast slow good bad why how what is are you we they"
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
# Writes tools, reasoning and calls of tools, begins with the begin-of-text token, reads a variable of its own.
TOOLED = (
    "<s>{% if loud %}LOUD {% endif %}{% if tools %}tools: {{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content or '' }}{% for call in m.tool_calls or [] %}<call>{{ call | tojson }}</call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Knows parts, as templates of models that see do.
PARTS = CHATML.replace("{{ m['content'] }}", "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}")


def texts() -> list[str]:
    """What the tokenizers are trained on."""
    drawn = random.Random(0)
    return [" ".join(drawn.choices(WORDS.split(), k=12)) + "." for _ in range(300)]


def byte_level(bos: bool = False, adds_bos: bool = False, template: str | None = None, eos: str = "</s>") -> Any:
    """Byte-level BPE, as GPT-2 and Qwen have; with or without a BOS, added by itself or not."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts(),
        trainers.BpeTrainer(vocab_size=340, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    if adds_bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>"} if bos else {}
    return _named(made, template, eos_token=eos, **names)


def word_mark() -> Any:
    """A normalizer puts the word mark before every text, as in Llama 2 and Mistral 0.1."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    alphabet = list("abcdefghijklmnopqrstuvwxyz.▁</>|_")
    made.train_from_iterator(
        texts(),
        trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _named(made, None, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram() -> Any:
    """As T5 has: the model's own vocabulary lists the control tokens, and the tokenizer ends texts by itself."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(
        texts(),
        trainers.UnigramTrainer(
            vocab_size=120,
            special_tokens=SPECIAL,
            unk_token="<unk>",
            initial_alphabet=list("</s>|"),
            show_progress=False,
        ),
    )
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return _named(made, None, eos_token="</s>", unk_token="<unk>")


def words() -> Any:
    """One token a word, control tokens among them."""
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.train_from_iterator(texts(), trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False))
    return _named(made, None, eos_token="</s>", unk_token="<unk>")


def word_pieces() -> Any:
    """As BERT has: texts stand between two marks, small letters only."""
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(
        texts(), trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    )
    marks = [("<s>", 1), ("</s>", 2)]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    return _named(made, None, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _named(made: Tokenizer, template: str | None, **names: str) -> Any:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", **names)
    tokenizer.chat_template = template
    return tokenizer


KINDS: dict[str, Callable[[], Any]] = {
    "plain": lambda: byte_level(bos=True, adds_bos=True),
    "bos-not-added": lambda: byte_level(bos=True),
    "without-bos": byte_level,
    "word-mark": word_mark,
    "unigram": unigram,
    "words": words,
    "word-pieces": word_pieces,
    "chat": lambda: byte_level(True, True, CHATML, "<|im_end|>"),
    "chat-without-bos": lambda: byte_level(template=CHATML, eos="<|im_end|>"),
    "thinking": lambda: byte_level(template=THINKING, eos="<|im_end|>"),
    "tooled": lambda: byte_level(True, True, TOOLED, "<|im_end|>"),
    "parts": lambda: byte_level(template=PARTS, eos="<|im_end|>"),
}
