"""Preference pairs and captions of any number: time and memory to prepare them and to train on them.

    python -m benchmarks.rows [--parts pairs,prepared,captions,map] [--rows N] [--answer-words N] [--compared N]
                              [--folder FOLDER]

Writes N pairs (answers of 150 words, about 200 tokens) and N captions of small images, five an image. Each part runs in
processes of its own, and is recorded in a file of its own:
    pairs: pairs are prepared and trained on for 20 steps by a tiny model;
    prepared: pairs are prepared only;
    captions: captions are prepared and read in 20 batches with their images;
    map: the first pairs are prepared beside `datasets.map` with the same tokenizer, as TRL has it: the prompt alone and
    with each answer.
All but the last are done twice, for the first time and with warm caches. With `--folder` the data stay there, and are
used again where they lie there already; caches and outputs are always new. Memory is what no file backs ("Anonymous"),
the peak of a process and its children. Promises: under 2 GiB, a second start in under 10 s, no slower than
`datasets.map`.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from recipes.core.config.registry import ROOT

ROWS, COMPARED, STEPS, TESTED = 1_000_000, 20_000, 20, 20
PROMPT_WORDS, ANSWER_WORDS, CAPTION_WORDS, PER_IMAGE = 15, 150, 9, 5
LIMIT, SECOND_START = 2 << 30, 10.0
EVERY = 0.2  # seconds between two looks at a process
PAIRS = ("sparsepo", "arm=simpo", "data=preferences", "reference.steps=0", "data.max_tokens=512", "data.test_prompts=2")

Result = dict[str, Any]


def main(options: argparse.Namespace) -> int:
    """Measure the chosen parts, print and record each; the exit code is 1 if a promise is broken."""
    broken = False
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR"))))
        model = _tiny_model(folder / "model")
        for part in options.parts:
            result = PARTS[part](folder / part, model, options)
            print(json.dumps(result, indent=2))
            record(f"rows_{part}", "cpu", result)
            broken |= _is_broken(result)
    return int(broken)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), type=lambda text: text.split(","), help="which to measure")
    parser.add_argument("--rows", type=int, default=ROWS, help="pairs and captions")
    parser.add_argument("--answer-words", type=int, default=ANSWER_WORDS, help="words of an answer")
    parser.add_argument("--compared", type=int, default=COMPARED, help="pairs of the part map")
    parser.add_argument(
        "--folder", type=lambda text: Path(text).resolve(), help="where the data stay; otherwise they are removed"
    )
    options = parser.parse_args()
    if unknown := next((part for part in options.parts if part not in PARTS), None):
        parser.error(f"there is no part {unknown!r}; choose from {', '.join(PARTS)}")
    return options


def _is_broken(result: Result) -> bool:
    runs = [result[when] for when in ("first", "second") if when in result]
    slow = any(run["prepare_seconds"] > SECOND_START for run in runs[1:])
    return slow or any(run["anonymous_bytes"] > LIMIT for run in runs) or result.get("ratio", 1) < 1


def _pairs(folder: Path, model: Path, options: argparse.Namespace) -> Result:
    """Pairs to the end of a short run, with empty caches and with warm ones."""
    pairs = _write_pairs(folder, options.rows, options.answer_words)
    words = [*PAIRS, f"data.path={pairs}", f"model={model}", f"data.test_fraction={TESTED / options.rows}"]
    words += [f"trainer.max_steps={STEPS}", f"outputs={folder / 'outputs'}", "trainer.threads=1", "budget=smoke"]
    return _setting(options, pairs) | _twice(["run", *words], folder)


def _prepared(folder: Path, model: Path, options: argparse.Namespace) -> Result:
    """Pairs, prepared only."""
    pairs = _write_pairs(folder, options.rows, options.answer_words)
    return _setting(options, pairs) | _twice(["steelyard", str(pairs), str(model)], folder)


def _captions(folder: Path, model: Path, options: argparse.Namespace) -> Result:
    """Captions, prepared and read."""
    captions = _write_captions(folder, options.rows)
    return {"rows": options.rows} | _twice(["captions", str(captions), str(model)], folder)


def _against_datasets_map(folder: Path, model: Path, options: argparse.Namespace) -> Result:
    """Preparation of pairs by Steelyard and by `datasets.map`, one after the other, and their ratio."""
    pairs = _write_pairs(folder, options.compared, options.answer_words)
    runs = {}
    for how in ("steelyard", "datasets"):
        runs[how] = _measure(["-m", "benchmarks.rows", how, str(pairs), str(model)], folder / f"home-{how}")
    wall, cpu = (
        runs["datasets"][name] / runs["steelyard"][name] for name in ("prepare_seconds", "prepare_cpu_seconds")
    )
    setting = {"rows": options.compared, "answer_words": options.answer_words}
    return setting | runs | {"ratio": wall, "cpu_ratio": cpu}


def _setting(options: argparse.Namespace, pairs: Path) -> Result:
    return {"rows": options.rows, "answer_words": options.answer_words, "bytes": pairs.stat().st_size}


def _twice(words: list[str], folder: Path) -> Result:
    """The same with empty caches and with warm ones."""
    runs = {}
    for name in ("home", "outputs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for when in ("first", "second"):
        runs[when] = _measure(["-m", "benchmarks.rows", *words], folder / "home")
        print(words[0], when, json.dumps(runs[when]), flush=True)
    return runs


def _measure(words: list[str], home: Path) -> dict[str, float]:
    """Run Python; wall time, peak of anonymous memory, load of the machine, and what is printed last as JSON."""
    caches = {"STEELYARD_HOME": str(home / "caches"), "HF_HOME": str(home / "hf"), "OMP_NUM_THREADS": "1"}
    began, peak, seen, loads = time.perf_counter(), 0, set[int](), []
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=os.environ | caches, stdout=subprocess.PIPE, encoding="utf-8"
    )
    while process.poll() is None:
        family = {process.pid, *_below(process.pid)}
        # One that has just been forked and runs no program yet has its parent's memory, which would count twice.
        peak, seen = max(peak, sum(_anonymous(pid) for pid in family & (seen | {process.pid}))), family
        loads.append(os.getloadavg()[0])
        time.sleep(EVERY)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{words[2:4]} ended with {process.returncode}")
    lines = output.strip().splitlines()
    measured = {"wall_seconds": time.perf_counter() - began, "anonymous_bytes": peak}
    return measured | {"load": float(np.mean(loads))} | json.loads(lines[-1])


def _below(pid: int) -> Iterator[int]:
    """The processes that a process has started, and theirs."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").glob("*/children"))
        children = [int(child) for task in tasks for child in task.read_text(encoding="utf-8").split()]
    except OSError:  # it has ended
        return
    for child in children:
        yield child
        yield from _below(child)


def _anonymous(pid: int) -> int:
    """Bytes; what a process shares with others, as one that was forked does, is divided among them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:  # it has ended
        return 0
    sizes = {name: int(size.split()[0]) * 1024 for name, _, size in (line.partition(":") for line in lines[1:])}
    return sizes.get("Pss_Anon", sizes["Anonymous"]) if sizes else 0


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


def _write_pairs(folder: Path, rows: int, answer: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path, words, draws = folder / f"pairs-{rows}x{answer}.jsonl", _words(), random.Random(0)

    def text(count: int) -> str:
        start = draws.randrange(len(words) - count)
        return " ".join(words[start : start + count])

    if path.exists():
        return path
    with _new_file(path) as file:
        for _ in range(rows):
            row = {"prompt": text(PROMPT_WORDS), "chosen": f" {text(answer)}", "rejected": f" {text(answer)}"}
            file.write(json.dumps(row) + "\n")
    return path


def _write_captions(folder: Path, rows: int) -> Path:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    path, words, draws, pixels = folder / f"captions-{rows}.jsonl", _words(), random.Random(0), np.random.default_rng(0)
    if path.exists():
        return path
    with _new_file(path) as file:
        for number in range(rows // PER_IMAGE):
            name = f"{number // 1000}/{number}.png"
            (folder / name).parent.mkdir(exist_ok=True)
            Image.fromarray(pixels.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / name)
            starts = [draws.randrange(len(words) - CAPTION_WORDS) for _ in range(PER_IMAGE)]
            texts = [" ".join(words[start : start + CAPTION_WORDS]) for start in starts]
            file.write(json.dumps({"image": name, "caption": texts}) + "\n")
    return path


@contextmanager
def _new_file(path: Path) -> Iterator[Any]:
    """A file to write, under its name once it is whole."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        yield file
    part.rename(path)


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

PARTS: dict[str, Callable[[Path, Path, argparse.Namespace], Result]] = {
    "pairs": _pairs,
    "prepared": _prepared,
    "captions": _captions,
    "map": _against_datasets_map,
}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in CHILDREN:
        CHILDREN[sys.argv[1]](*sys.argv[2:])
    else:
        sys.exit(main(_options()))
