"""Tokenizers: a BPE or characters, made in the run, and the image tokens that any tokenizer gets."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from recipes.core.errors import UserError
from recipes.core.models.sources import load_tokenizer
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
# Special tokens of BERT, in the order of their ids: padding is 0.
BERT_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
INSIDE = "##"  # how pieces begin that stand inside a word
VISION, PATCH, ROW, VISION_END = "<vision>", "<vpatch>", "<vrow_sep>", "</vision>"
IMAGE_TOKENS = (VISION, PATCH, ROW, VISION_END)
FORMAT = 3
LONGEST = 1000  # characters of a run without a break that merges are learned in


def train_bpe(
    texts: Iterable[str], fingerprint: str, vocabulary: int, extra: Sequence[str] = (), begin: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on texts, or the one trained on them before.

    A word and the space before it are merged into one piece where they are frequent.

    Args:
        texts: What to train on; read only if it was not done before.
        fingerprint: Hash of all texts.
        vocabulary: Largest size, special tokens included.
        extra: Special tokens besides those for padding, begin and end of a text.
        begin: Whether it puts the begin-of-text token before texts by itself, as the model that reads them learns it.
    """

    def build(folder: Path) -> None:
        _add_bos(_bpe(texts, vocabulary, extra), begin).save_pretrained(folder)

    return _built_once([fingerprint, vocabulary, list(extra), begin], build)


def character_tokenizer(
    texts: Iterable[str], fingerprint: str, vocabulary: int, begin: bool = False
) -> PreTrainedTokenizerFast:
    """One token a character: the most frequent of the texts, others are unknown. Made only if it was not before.

    Args:
        texts: What characters are taken from.
        fingerprint: Hash of all texts.
        vocabulary: Largest size, special tokens included.
        begin: As in `train_bpe`.
    """

    def build(folder: Path) -> None:
        _add_bos(_characters(texts, vocabulary), begin).save_pretrained(folder)

    return _built_once([fingerprint, vocabulary, "characters", begin], build)


def train_wordpiece(
    texts: Callable[[], Iterable[str]], fingerprint: str, vocabulary: int, lower_case: bool = True
) -> PreTrainedTokenizerFast:
    """A WordPiece as BERT's, trained on texts, or the one trained on them before.

    It begins texts with [CLS] and ends them with [SEP], which is its end-of-text token too.

    Args:
        texts: Gives what to train on; called twice, and only if it was not done before.
        fingerprint: Hash of all texts.
        vocabulary: Largest size, special tokens included. Half of it at most are characters.
        lower_case: Whether texts are read in lower case and without accents.
    """

    def build(folder: Path) -> None:
        _wordpiece(texts, vocabulary, lower_case).save_pretrained(folder)

    return _built_once([fingerprint, vocabulary, "wordpiece", lower_case], build)


def train_on_words(tokenizer: Tokenizer, texts: Iterable[str], trainer: Any) -> None:
    """Train a tokenizer on the words of texts, as it cuts them.

    What is longer than any word, such as base64 or DNA, is cut once more: a trainer's time grows with its square. The
    tokenizer reads texts without that cut.

    Args:
        tokenizer: To train, with its normaliser and how it cuts words; None for texts that are words.
        texts: What to train on.
        trainer: Of the tokenizer's model.
    """
    words, cut = tokenizer.pre_tokenizer, pre_tokenizers.Split(Regex(rf"(?m:.{{1,{LONGEST}}})"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, cut] if words else [cut])
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = words


def add_image_tokens(tokenizer: Any) -> Any:
    """Give a language model's tokenizer the image tokens, and a padding token if it has none."""
    tokenizer.add_special_tokens({"additional_special_tokens": list(IMAGE_TOKENS)})
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def check_same_tokenizer(path: str, tokenizer: Any, key: str, instead: str) -> Any:
    """The tokenizer of a reference that reads the token ids of the model; any other is refused.

    Args:
        path: Folder or hub name of the reference.
        tokenizer: The model's; pieces added to it do not count.
        key: Config key of the path, for messages.
        instead: What else to type.

    Raises:
        UserError: its tokenizer cannot be loaded, or is another one.
    """
    reference = load_tokenizer(path, key)
    theirs = reference.get_vocab()
    added = tokenizer.get_added_vocab()
    ours = {piece: i for piece, i in tokenizer.get_vocab().items() if piece not in added}
    differ = [piece for piece, i in ours.items() if theirs.get(piece) != i]
    if differ:
        raise UserError(
            f"the tokenizer of the reference and of the model differ in {len(differ):,} of {len(ours):,} pieces, "
            f"first {differ[0]!r}",
            where=f"{key}={path}",
            hint=f"use a reference with the model's tokenizer, or {instead}",
        )
    return reference


def _built_once(content: list[Any], build: Callable[[Path], None]) -> PreTrainedTokenizerFast:
    """The tokenizer that `build` saves, or the one that was saved before; `content` is what it depends on."""
    folder = build_once("tokenizers", sha256_json([FORMAT, *content])[:32], build)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _add_bos(tokenizer: PreTrainedTokenizerFast, begin: bool) -> PreTrainedTokenizerFast:
    if begin:
        special = [(BOS, tokenizer.convert_tokens_to_ids(BOS))]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=special
        )
    return tokenizer


def _bpe(texts: Iterable[str], vocabulary: int, extra: Sequence[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS, *extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    train_on_words(tokenizer, texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=list(extra),
        clean_up_tokenization_spaces=False,
    )


def _wordpiece(texts: Callable[[], Iterable[str]], vocabulary: int, lower_case: bool) -> PreTrainedTokenizerFast:
    """Trained with pieces that are numbered before: the trainer numbers characters in an order that changes."""
    normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    counts: Counter[str] = Counter()
    for text in texts():
        counts.update(normalizer.normalize_str(text))
    characters = [each for each in sorted(counts, key=lambda each: (-counts[each], each)) if not each.isspace()]
    characters = sorted(characters[: vocabulary // 4])  # each of them twice: at the begin of a word, and inside
    special = list(BERT_TOKENS.values())
    draft = Tokenizer(models.WordPiece(unk_token=BERT_TOKENS["unk"]))
    draft.normalizer, draft.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        special_tokens=[*special, *characters, *(f"{INSIDE}{each}" for each in characters)],
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        show_progress=False,
    )
    train_on_words(draft, texts(), trainer)
    # Once more without characters as special tokens, which would be cut out of words.
    tokenizer = Tokenizer(models.WordPiece(draft.get_vocab(), unk_token=BERT_TOKENS["unk"]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    first, last = BERT_TOKENS["cls"], BERT_TOKENS["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(each, special.index(each)) for each in (first, last)]
    )
    names = {f"{name}_token": token for name, token in BERT_TOKENS.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=last, clean_up_tokenization_spaces=False, **names
    )


def _characters(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    special = [PAD, BOS, EOS, UNKNOWN]
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    kept = sorted(sorted(counts), key=lambda character: -counts[character])[: vocabulary - len(special)]
    ids = {name: id for id, name in enumerate([*special, *sorted(kept)])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )
