"""One of the trainers that `benchmarks.alignment` compares: a process that trains one step whenever it is asked to.

    python -m benchmarks.alignment_trainer --system trl --folder FOLDER ...

It reads a line before each step, and writes one of JSON behind it: seconds and bytes. At its end it sends its losses,
the hashes of its batches and its version.
"""

import argparse
import hashlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

# And whether activations are computed again in the backward.
OURS = {"steelyard": False, "steelyard-checkpointing": True}
PEERS = {"trl": False, "trl-checkpointing": True, "trl-liger": False}
LIGER = "trl-liger"  # with its Triton kernels for norms, rotary positions and MLPs
SYSTEMS = (*OURS, *PEERS)
# Settings that both trainers share.
SETTINGS = (
    *("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "optim", "learning_rate"),
    *("weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm", "warmup_steps", "lr_scheduler_type"),
    *("bf16", "use_cpu", "seed", "data_seed", "dataloader_drop_last", "dataloader_pin_memory", "disable_tqdm"),
)


def systems(device: str) -> tuple[str, ...]:
    """Those that a device runs."""
    return SYSTEMS if device == "cuda" else tuple(one for one in SYSTEMS if one != LIGER)


def run_keys(options: argparse.Namespace) -> list[str]:
    """The keys of a run on pairs."""
    return [
        *("data=preferences", "model=smollm2-135m", "tracker=none", "trainer.log_steps=1"),
        f"trainer.precision={options.precision}",
        *(f"trainer.{name}" for name in ("schedule=constant", "learning_rate=1e-5", f"device={options.device}")),
        *(f"trainer.{name}" for name in (f"threads={options.threads}", f"max_steps={options.steps}")),
        f"trainer.batch_size={options.batch}",
    ]


def prepare_run(arm: str, keys: list[str], device: str) -> tuple[Any, Any, Any]:
    """Config, data and training of an arm of `sparsepo`."""
    from recipes.alignment.sparsepo.recipe import SparsePORecipe
    from recipes.core.config import compose

    config = compose.compose("sparsepo", [f"arm={arm}", *keys])
    recipe = SparsePORecipe()
    prepared = recipe.prepare(config, device)
    return config, prepared, recipe.build(config, prepared)


class _Turns:
    """The child's end: waits for its turn before each step and reports what the step took."""

    def __init__(self, device: str) -> None:
        self.device, self.losses, self.batches = device, [], []  # type: ignore[var-annotated]
        self.wire = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # whatever libraries print
        self.started = False

    def begin(self) -> None:
        """Wait; then a step starts."""
        if not self.started:
            self.send({"ready": True})
            self.started = True
        if not sys.stdin.readline():
            raise SystemExit("nobody waits for this step any more")
        self.before, self.began = self._memory(reset=True), time.perf_counter()

    def end(self) -> None:
        """A step has ended."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        seconds = time.perf_counter() - self.began
        self.send({"seconds": seconds, "bytes": self._memory(reset=False) - self.before})

    def send(self, what: dict[str, Any]) -> None:
        """One line to the parent."""
        print(json.dumps(what), file=self.wire, flush=True)

    def noting(self, collate: Callable[..., Any], rows: Callable[[Any], Iterable[Any]]) -> Callable[..., Any]:
        """A collate function that remembers what went into each batch."""

        def noted(items: list[Any]) -> Any:
            tokens = sorted([list(map(int, ids)) for ids in rows(item)] for item in items)
            self.batches.append(hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:12])
            return collate(items)

        return noted

    def _memory(self, reset: bool) -> int:
        """Bytes in use now, from where the peak is counted; or the peak since then."""
        if self.device == "cuda":
            import torch

            if reset:
                torch.cuda.reset_peak_memory_stats()
            return torch.cuda.max_memory_allocated()
        status = Path("/proc/self/status")
        if not status.exists():  # the peak of the whole process so far
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if reset:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024


def _run_steelyard(folder: Path, options: argparse.Namespace, turns: _Turns) -> str:
    """Train as a run does."""
    import dataclasses

    from recipes.core.training import task, trainer

    keys = [f"data.path={folder / 'pairs.jsonl'}", *run_keys(options)]
    keys.append(f"trainer.gradient_checkpointing={str(OURS[options.system]).lower()}")
    config, prepared, training = prepare_run("dpo", keys, options.device)
    pairs = prepared.train.pairs.pairs
    tokens = [
        {f"{name}_ids": getattr(pair, name).tolist() for name in ("prompt", "chosen", "rejected")} for pair in pairs
    ]
    (folder / "tokens.json").write_text(json.dumps(tokens), encoding="utf-8")

    class Events(task.TrainEvents):
        def on_metrics(self, step: int, metrics: dict[str, float], seconds: float) -> None:
            turns.losses.append(metrics["loss"])

        def on_step_end(self, step: int, model: Any) -> None:
            turns.end()

    training = dataclasses.replace(
        training,
        watch_steps=frozenset(),
        before_step=lambda *_: turns.begin(),
        collate=turns.noting(
            training.collate, lambda item: (item["pair"].prompt, item["pair"].chosen, item["pair"].rejected)
        ),
    )
    # A folder of its own: training would go on from the checkpoint of an earlier measurement.
    trainer.train(training, config.trainer, config.seed, Path(tempfile.mkdtemp(dir=folder)), Events())
    return version("steelyard")


def _run_trl(folder: Path, options: argparse.Namespace, turns: _Turns) -> str:
    """Train with `trl` on the tokens that Steelyard has made."""
    import transformers
    import trl
    from datasets import Dataset
    from torch.utils.data import RandomSampler

    from recipes.core.config import compose
    from recipes.core.models import text
    from recipes.core.training.arguments import training_arguments

    config = compose.compose("sparsepo", ["arm=dpo", f"data.path={folder / 'pairs.jsonl'}", *run_keys(options)])
    same = training_arguments(config.trainer, config.seed, options.device, folder / "trl")
    tokenizer = text.build_text_tokenizer(config.model, [], "")
    rows = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))

    class Trainer(trl.DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return RandomSampler(self.train_dataset, num_samples=len(rows) - len(rows) % options.batch)

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            turns.losses.append(float(loss.detach()))
            return loss

    class Taking(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.end()

    arguments = trl.DPOConfig(
        str(folder / "trl"),
        **{name: getattr(same, name) for name in SETTINGS},
        beta=config.preference.beta,
        precompute_ref_log_probs=True,
        gradient_checkpointing=PEERS[options.system],
        use_liger_kernel=options.system == LIGER,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
    )
    model = text.build_language_model(config.model, tokenizer, config.seed).language_model
    trainer = Trainer(
        model, None, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[Taking()]
    )
    parts = ("prompt_ids", "chosen_ids", "rejected_ids")
    trainer.data_collator = turns.noting(trainer.data_collator, lambda item: (item[part] for part in parts))
    trainer.train()
    return version("trl")


def main(options: argparse.Namespace) -> None:
    """Train, and send what came out."""
    import torch

    torch.set_num_threads(options.threads)
    turns = _Turns(options.device)
    run = _run_trl if options.system in PEERS else _run_steelyard
    release = run(options.folder, options, turns)
    turns.send({"losses": turns.losses, "batches": turns.batches, "version": release})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=SYSTEMS, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="with pairs.jsonl")
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--precision", choices=("fp32", "bf16"), required=True)
    for name in ("threads", "steps", "batch"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main(_options())
