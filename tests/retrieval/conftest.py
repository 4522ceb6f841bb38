"""A collection in the layout of BEIR, and small models with random weights that read it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from tests.core import tokenizer_kinds

PASSAGES = {
    "cat": ("Cat", "A small animal that hunts mice and sleeps a lot."),
    "dog": ("Dog", "An animal that barks and likes to run with people."),
    "oak": ("", "A large tree with acorns and hard wood."),
    "pine": ("", "A tree with needles that stays green in winter."),
    "car": ("Car", "A machine with four wheels and an engine."),
}
QUERIES = {"q1": "animal that barks", "q2": "tree with needles", "q3": "machine with an engine", "q4": "small animal"}
JUDGED = [("q1", "dog", 1), ("q1", "cat", 0), ("q2", "pine", 2), ("q3", "car", 1), ("q4", "cat", 1)]


def write_collection(folder: Path, **changes: Any) -> Path:
    """The collection above in files, with other rows where they are given: corpus, queries, qrels."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    corpus = changes.get("corpus", [{"_id": id, "title": t, "text": x} for id, (t, x) in PASSAGES.items()])
    queries = changes.get("queries", [{"_id": id, "text": text} for id, text in QUERIES.items()])
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    qrels = changes.get("qrels", JUDGED)
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in qrels)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def training_collection(folder: Path) -> Path:
    """The same with queries t1 to t4 to train on: those of the test with a word more."""
    queries = {**QUERIES, **{id.replace("q", "t"): f"{text} too" for id, text in QUERIES.items()}}
    write_collection(folder, queries=[{"_id": id, "text": text} for id, text in queries.items()])
    test = (folder / "qrels" / "test.tsv").read_text(encoding="utf-8")
    (folder / "qrels" / "train.tsv").write_text(test.replace("\nq", "\nt"), encoding="utf-8")
    return folder


@pytest.fixture
def collection_folder(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "collection")


def random_model(kind: str, vocabulary: int, positions: int = 1024) -> Any:
    """A causal language model, in evaluation mode, whose attention is not flat."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0}
    if kind == "llama":
        model: Any = LlamaForCausalLM(
            LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                        num_key_value_heads=1, max_position_embeddings=positions, initializer_range=0.6, **shape)
        )  # fmt: skip
    else:
        shape |= {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": positions}
        model = GPT2LMHeadModel(GPT2Config(initializer_range=0.3, **shape))
    return model.eval().requires_grad_(False)


def model_folder(folder: Path, kind: str = "llama", positions: int = 1024) -> Path:
    """Such a model as a user has it on disk."""
    tokenizer = tokenizer_kinds.byte_level(False, False)
    random_model(kind, len(tokenizer), positions).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def encoder_folder(folder: Path, layers: int = 3, positions: int = 64) -> Path:
    """A BERT with random weights, whose words are those of the collection above, as a user has it on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    words = sorted(
        set(re.findall(r"\w+|[^\w\s]", " ".join([*QUERIES.values(), *map(" ".join, PASSAGES.values())]).lower()))
    )
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=positions, initializer_range=0.5, **shape)
    BertModel(config).save_pretrained(folder)
    return folder
