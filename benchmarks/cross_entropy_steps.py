"""What `benchmarks.cross_entropy` measures in processes of their own: steps, their time, memory and differences."""

import argparse
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipes.core.process.clock import clock

PLAIN = ("full", "weighted", "chunked", "recomputing", "torch")
COMPILED = ("liger", "cce")  # by Triton, at the first step
PEERS = ("torch", *COMPILED)
PEER_SECONDS = 25  # until a peer has compiled its kernels and done its first steps
_Known = dict[str, dict[str, Any]]  # seconds, differences and bytes by variant
LATER = "its turn had not come when this was written"
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


def _inputs(options: argparse.Namespace) -> tuple[Any, ...]:
    import torch

    tokens, dtype = options.sequences * options.length, getattr(torch, options.dtype)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, options.width, generator=generator)
    head = torch.randn(options.vocabulary, options.width, generator=generator) * options.width**-0.5
    targets = torch.randint(0, options.vocabulary, (tokens,), generator=generator)
    weights = torch.rand(tokens, generator=generator) * 2
    hidden, head = (tensor.to(options.device, dtype).requires_grad_() for tensor in (hidden, head))
    return hidden, head, targets.to(options.device), weights.to(options.device)


def _step(variant: str, hidden: Any, head: Any, targets: Any, weights: Any, chunk: int) -> Any:
    """One loss and its gradients in `.grad`."""
    from torch.nn.functional import cross_entropy

    from recipes.core.losses.kernels import token_nll, weighted_cross_entropy
    from recipes.core.models.head import OutputHead

    if variant in PEERS:
        total = (weights * _peer_losses(variant, hidden, head, targets)).sum()
    elif variant == "full":
        total = (weights * cross_entropy((hidden @ head.t()).float(), targets, reduction="none")).sum()
    elif variant == "recomputing":
        total = (weights * token_nll(hidden, OutputHead(head), targets)).sum()
    else:
        rows = chunk if variant == "chunked" else None
        total, _ = weighted_cross_entropy(hidden, OutputHead(head), targets, weights, rows)
    loss = total / len(targets)
    loss.backward()
    return loss.detach()


def _peer_losses(peer: str, hidden: Any, head: Any, targets: Any) -> Any:
    """[tokens] losses as others compute them."""
    if peer == "torch":
        from torch.nn import LinearCrossEntropyOptions
        from torch.nn.functional import linear_cross_entropy

        options = LinearCrossEntropyOptions()
        return linear_cross_entropy(hidden, head, targets, reduction="none", options=options)
    if peer == "liger":
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        return liger_fused_linear_cross_entropy(hidden, head, targets, reduction="none")
    from cut_cross_entropy import linear_cross_entropy as cut_cross_entropy

    return cut_cross_entropy(hidden, head, targets, reduction="none")


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Bytes that one step on the CPU needs beyond its inputs, the gradients it leaves included."""
    import torch

    torch.set_num_threads(options.threads)
    inputs = _inputs(options)
    small = [tensor[:8].detach().requires_grad_(tensor.is_floating_point()) for tensor in inputs]
    small[2] = small[2] % 8
    _step(options.variant, *small, options.chunk)  # libraries make their own buffers on first use
    before = _resident()
    _step(options.variant, *inputs, options.chunk)
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES - before}


def _cuda_bytes(variant: str, inputs: tuple[Any, ...], chunk: int) -> int:
    """The same on CUDA, whose allocator counts what it gives."""
    import torch

    inputs[0].grad = inputs[1].grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _step(variant, *inputs, chunk)
    return torch.cuda.max_memory_allocated() - before


def _resident() -> int:
    """Bytes resident now (Linux), or the peak so far where only that is known."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text(encoding="utf-8").split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES


def measure_time(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Seconds of every repetition of every variant, differences from full logits, and bytes on CUDA.

    Twice: without the compiled peers, then with those that are ready. Whatever they do to the device, the first stays.
    """
    import torch

    torch.set_num_threads(options.threads)
    inputs = _inputs(options)
    expected = _outcome("full", inputs, options.chunk)
    known: _Known = {"seconds": {}, "differences": {}, "memory": {}}
    absent = dict.fromkeys(COMPILED, LATER)
    for group in (PLAIN, COMPILED):
        joined: _Known = {name: dict(values) for name, values in known.items()}
        for variant in group:
            absent.pop(variant, None)
            try:
                with _limit(PEER_SECONDS if variant in PEERS else 0):
                    _first_steps(variant, inputs, expected, joined, options)
            except Exception as error:
                if variant not in PEERS:
                    raise
                absent[variant] = _first_line(error)
        ready = [variant for variant in group if variant not in absent]
        try:
            if ready:
                joined["seconds"] = _in_turns([*known["seconds"], *ready], inputs, options)
                known = joined
        except Exception as error:
            if not known["seconds"]:
                raise
            absent |= dict.fromkeys(ready, f"the device failed when they took turns: {_first_line(error)}")
        yield known | {"absent": absent}


def _first_steps(
    variant: str, inputs: tuple[Any, ...], expected: tuple[Any, ...], joined: _Known, options: argparse.Namespace
) -> None:
    """Warm a variant up, and note its differences and bytes."""
    gaps = _gaps(_outcome(variant, inputs, options.chunk), expected)
    memory = {variant: _cuda_bytes(variant, inputs, options.chunk)} if options.device == "cuda" else {}
    joined["differences"][variant] = gaps
    joined["memory"] |= memory


def _in_turns(variants: Sequence[str], inputs: tuple[Any, ...], options: argparse.Namespace) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    for repetition in range(options.repetitions):
        order = variants if repetition % 2 == 0 else variants[::-1]
        for variant in order:
            inputs[0].grad = inputs[1].grad = None
            seconds[variant].append(_seconds(lambda v=variant: _step(v, *inputs, options.chunk)))
    return seconds


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """End the block after so many seconds, unless it is 0. Raises TimeoutError."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"not ready after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]


def _gaps(measured: tuple[Any, ...], expected: tuple[Any, ...]) -> dict[str, float]:
    """How far loss and gradients are from those of full logits, relative to the largest element of these."""
    pairs = zip(measured, expected, strict=True)
    gaps = [((ours - theirs).abs().max() / theirs.abs().max()).item() for ours, theirs in pairs]
    return dict(zip(("loss_gap", "grad_hidden_gap", "grad_head_gap"), gaps, strict=True))


def _outcome(variant: str, inputs: tuple[Any, ...], chunk: int) -> tuple[Any, Any, Any]:
    hidden, head = inputs[:2]
    hidden.grad = head.grad = None
    return _step(variant, *inputs, chunk), hidden.grad, head.grad


def _seconds(step: Callable[[], Any]) -> float:
    start = clock()
    step()
    return clock() - start
