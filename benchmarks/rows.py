"""A million preference pairs and a million captions: time and memory to prepare them and to train on them.

    python -m benchmarks.rows [ROWS] [COMPARED]

Writes ROWS pairs of about 200 tokens an answer and ROWS captions of small images, five an image. In processes of their
own, pairs are prepared and trained on for 20 steps by a tiny model, and captions are prepared and read in 20 batches
with their images; both once for the first time and once with warm caches. The first COMPARED pairs are also prepared by
`datasets.map` with the same tokenizer, as TRL has it: the prompt alone and with each answer. Memory is what no file
backs ("Anonymous"), the peak of a process and its children. Promises: under 2 GiB, a second start in under 10 s, no
slower than `datasets.map`.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from recipes.core.config.registry import ROOT

ROWS, COMPARED, STEPS, TESTED = 1_000_000, 20_000, 20, 20
WORDS, PROMPT_WORDS, CAPTION_WORDS, PER_IMAGE = 150, 15, 9, 5
LIMIT, SECOND_START = 2 << 30, 10.0
EVERY = 0.2  # seconds between two looks at a process
PAIRS = ("sparsepo", "arm=simpo", "data=preferences", "reference.steps=0", "data.max_tokens=512", "data.test_prompts=2")


def main(rows: int = ROWS, compared: int = COMPARED) -> int:
    """Measure, print and record; the exit code is 1 if a promise is broken."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        model = _tiny_model(folder / "model")
        pairs, captions = _write_pairs(folder / "pairs.jsonl", rows), _write_captions(folder / "captions", rows)
        result: dict[str, Any] = {"rows": rows, "bytes": {"pairs": pairs.stat().st_size}}
        tested = f"data.test_fraction={TESTED / rows}"
        result["pairs"] = _twice(folder, [*PAIRS, f"data.path={pairs}", f"model={model}", tested])
        result["captions"] = _twice_prepared(folder, captions, model)
        result["beside_datasets_map"] = _beside_map(folder, pairs, model, compared)
        print(json.dumps(result, indent=2))
        record("rows", "cpu", result)
    runs = [run for kind in ("pairs", "captions") for run in result[kind].values()]
    slow = any(result[kind]["second"]["prepare_seconds"] > SECOND_START for kind in ("pairs", "captions"))
    return int(
        slow or any(run["anonymous_bytes"] > LIMIT for run in runs) or result["beside_datasets_map"]["ratio"] < 1
    )


def _twice(folder: Path, words: list[str]) -> dict[str, dict[str, float]]:
    """The same run with empty caches and with warm ones."""
    tail = [f"trainer.max_steps={STEPS}", f"outputs={folder / 'outputs'}", "trainer.threads=1", "budget=smoke"]
    runs = {}
    for when in ("first", "second"):
        runs[when] = _measure(["-m", "benchmarks.rows", "run", *words, *tail], folder)
        print(words[0], when, json.dumps(runs[when]), flush=True)
    return runs


def _twice_prepared(folder: Path, captions: Path, model: Path) -> dict[str, dict[str, float]]:
    runs = {}
    for when in ("first", "second"):
        runs[when] = _measure(
            ["-m", "benchmarks.rows", "captions", str(captions), str(model)], folder / "home-captions"
        )
        print("captions", when, json.dumps(runs[when]), flush=True)
    return runs


def _beside_map(folder: Path, pairs: Path, model: Path, count: int) -> dict[str, Any]:
    """Preparation of the first pairs by Steelyard and by `datasets.map`, one after the other, and their ratio."""
    few = folder / "few.jsonl"
    with pairs.open("rb") as source:
        few.write_bytes(b"".join(line for line, _ in zip(source, range(count), strict=False)))
    runs = {}
    for how in ("steelyard", "datasets"):
        runs[how] = _measure(["-m", "benchmarks.rows", how, str(few), str(model)], folder / f"home-{how}")
    wall, cpu = (
        runs["datasets"][name] / runs["steelyard"][name] for name in ("prepare_seconds", "prepare_cpu_seconds")
    )
    return {"rows": count, **runs, "ratio": wall, "cpu_ratio": cpu}


def _measure(words: list[str], home: Path) -> dict[str, float]:
    """Run Python; its wall time, the peak of its anonymous memory, and what it prints last as JSON."""
    caches = {"STEELYARD_HOME": str(home / "caches"), "HF_HOME": str(home / "hf"), "OMP_NUM_THREADS": "1"}
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=os.environ | caches, stdout=subprocess.PIPE, encoding="utf-8"
    )
    while process.poll() is None:
        peak = max(peak, sum(_anonymous(pid) for pid in _family(process.pid)))
        time.sleep(EVERY)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{words[2:4]} ended with {process.returncode}")
    lines = output.strip().splitlines()
    return {"wall_seconds": time.perf_counter() - began, "anonymous_bytes": peak, **json.loads(lines[-1])}


def _family(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text(encoding="utf-8").split()
        except OSError:
            continue
        for child in children:
            yield from _family(int(child))


def _anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:")), 0)


def _clock() -> Callable[[], dict[str, float]]:
    """Started now: wall and processor time until it is asked; the latter tells more on a busy machine."""
    wall, cpu = time.perf_counter(), time.process_time()
    return lambda: {
        "prepare_seconds": time.perf_counter() - wall,
        "prepare_cpu_seconds": time.process_time() - cpu,
    }


def _run(*words: str) -> None:
    """One run anew; prints how long it took until its training began, and its recipe to prepare."""
    from recipes.core.config.compose import compose
    from recipes.core.config.registry import recipe_class
    from recipes.core.runner import run

    config = compose(words[0], list(words[1:]))
    kind, seconds = recipe_class(config.recipe), {}
    prepare, began = kind.prepare, time.perf_counter()

    def timed(self: Any, *arguments: Any) -> Any:
        took = _clock()
        prepared = prepare(self, *arguments)
        seconds.update(took(), start_seconds=time.perf_counter() - began)
        return prepared

    kind.prepare = timed
    run(config, fresh=True, command="benchmark", page=False)
    print(json.dumps(seconds))


def _prepare_captions(path: str, model: str) -> None:
    """Captions of both splits, and batches of them with their images."""
    import torch
    from torch.utils.data import DataLoader

    from recipes.core.data.config import ImageTextConfig
    from recipes.core.data.images.load import load_captions
    from recipes.core.data.images.tokenized import tokenize
    from recipes.core.models.sources import load_tokenizer
    from recipes.core.training.caption_batches import CaptionItems, caption_collate, token_mean

    tokenizer = load_tokenizer(model, "model.path")
    took = _clock()
    data = load_captions(ImageTextConfig(path=path, captions="all"), 0)
    train, _ = (tokenize(split, tokenizer, tokenizer.eos_token_id, 128) for split in (data.train, data.test))
    prepared = took()
    items = CaptionItems(data.train, train, range(len(train)), lambda image: torch.from_numpy(image.astype(np.float32)))
    loader = DataLoader(items, 32, shuffle=True, collate_fn=caption_collate([], tokenizer.eos_token_id, token_mean))
    for _ in zip(range(STEPS), loader, strict=False):
        pass
    print(json.dumps(prepared | {"captions": len(train)}))


def _prepare_with_us(path: str, model: str) -> None:
    from recipes.alignment.config import PreferencesConfig
    from recipes.alignment.preferences import load_preferences
    from recipes.core.models.sources import load_tokenizer

    tokenizer, config = load_tokenizer(model, "model.path"), PreferencesConfig(path=path, max_tokens=1 << 20)
    took = _clock()
    pairs = len(load_preferences(config, tokenizer).train)
    print(json.dumps(took() | {"pairs": pairs}))


def _prepare_with_map(path: str, model: str) -> None:
    import datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    end = tokenizer.eos_token

    def tokenise(batch: dict[str, list[str]]) -> dict[str, Any]:
        columns = {"prompt_ids": batch["prompt"]}
        for name in ("chosen", "rejected"):
            columns[f"{name}_ids"] = [p + a + end for p, a in zip(batch["prompt"], batch[name], strict=True)]
        return {name: tokenizer(texts, add_special_tokens=False)["input_ids"] for name, texts in columns.items()}

    took = _clock()
    rows = datasets.load_dataset("json", data_files=path, split="train")
    rows = rows.map(tokenise, batched=True, remove_columns=rows.column_names)
    print(json.dumps(took() | {"pairs": len(rows)}))


def _words() -> list[str]:
    from recipes.core.data.text.domains import domain_documents

    documents = (document for name in ("wiki-en", "python-reference") for document in domain_documents(name))
    return [word for document in documents for word in document.text.split()]


def _write_pairs(path: Path, rows: int) -> Path:
    words, draws = _words(), random.Random(0)

    def text(count: int) -> str:
        start = draws.randrange(len(words) - count)
        return " ".join(words[start : start + count])

    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            row = {"prompt": text(PROMPT_WORDS), "chosen": f" {text(WORDS)}", "rejected": f" {text(WORDS)}"}
            file.write(json.dumps(row) + "\n")
    return path


def _write_captions(folder: Path, rows: int) -> Path:
    from PIL import Image

    folder.mkdir()
    words, draws, pixels = _words(), random.Random(0), np.random.default_rng(0)
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as file:
        for number in range(rows // PER_IMAGE):
            name = f"{number // 1000}/{number}.png"
            (folder / name).parent.mkdir(exist_ok=True)
            Image.fromarray(pixels.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / name)
            starts = [draws.randrange(len(words) - CAPTION_WORDS) for _ in range(PER_IMAGE)]
            texts = [" ".join(words[start : start + CAPTION_WORDS]) for start in starts]
            file.write(json.dumps({"image": name, "caption": texts}) + "\n")
    return folder / "captions.jsonl"


def _tiny_model(folder: Path) -> Path:
    """A language model of one layer, with the tokenizer of SmolLM2."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from recipes.core.models.config import SmolLM2TextConfig
    from recipes.core.models.text import load_tokenizer

    tokenizer = load_tokenizer(SmolLM2TextConfig())
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


CHILDREN: dict[str, Callable[..., None]] = {
    "run": _run,
    "captions": _prepare_captions,
    "steelyard": _prepare_with_us,
    "datasets": _prepare_with_map,
}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in CHILDREN:
        CHILDREN[sys.argv[1]](*sys.argv[2:])
    else:
        sys.exit(main(*map(int, sys.argv[1:])))
