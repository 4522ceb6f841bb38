"""Constraint tests per token: rejection sampling beside a mask over the vocabulary and beside `genlm-control`.

    pip install genlm-control      # optional; it brings many packages: best in an environment of its own
    python -m benchmarks.constraints [--device cuda] [--threads 2] [--requests 6] [--draws 20]

SmolLM2-135M and the first requests that ship of `awrs`, without Python code. Local constraining writes an answer to
each; at every place on the way all samplers draw from the same distribution under the same constraint: ours of two
estimators and the library's `recursive_awrs`. Their weights are compared with the exact Z of a mask. Promise: at most
1/100 of the tests of a mask. Besides, the share of the method's time that is the model's forwards, 5 particles.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.record import record
from recipes.core.config import compose
from recipes.decoding.awrs import recipe
from recipes.decoding.awrs.config import SMCConfig
from recipes.decoding.awrs.method import log_sum
from recipes.decoding.awrs.movers import ConstrainedMover, Row, RowRejection, estimate

LARGEST_SHARE = 0.01
Drawn = tuple[float, int, float]  # weight, tests, seconds


@dataclass(frozen=True)
class Place:
    """A text behind which a token is drawn; its number is the seed of all draws there."""

    number: int
    mover: ConstrainedMover
    row: Row
    text: bytes


def main(options: argparse.Namespace) -> int:
    """Measure, compare and record."""
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    words = ["tracker=none", "data.tasks=[date,ending,ipv4,email,sum,json]", f"data.limit={options.requests}"]
    config: Any = compose.compose("awrs", words)
    prepared = recipe.AwrsRecipe().prepare(config, options.device)
    start, places = time.perf_counter(), _places(config, prepared)
    print(f"{len(places)} places in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    ways: dict[str, Callable[[Place, int], list[Drawn]]] = {
        name: partial(_ours, replace(config.smc, estimator=name)) for name in ("two_loop", "recursive", "none")
    }
    try:
        from genlm.control.sampler.token import recursive_awrs
    except ImportError:
        print("genlm-control is not installed", file=sys.stderr)
    else:
        ways["genlm-control"] = partial(_theirs, recursive_awrs)
    exact = np.array([_exact(place) for place in places])
    vocabulary = int((places[0].row.logp > -np.inf).sum())
    table = {
        name: _row([way(place, options.draws) for place in places], exact, vocabulary) for name, way in ways.items()
    }
    answers, _ = recipe.answer(config, prepared)
    result = {
        "places": len(places),
        "draws": options.draws,
        "vocabulary": vocabulary,
        "ways": table,
        "forward_share": float(np.mean([one.forward_share for one in answers])),
    }
    print(json.dumps(result, indent=2))
    record("constraints", options.device, result)
    return int(table["two_loop"]["share_of_a_mask"] > LARGEST_SHARE)


def _places(config: Any, prepared: Any) -> list[Place]:
    """Where local constraining comes on its way, prompt by prompt."""
    places, move = list[Place](), ConstrainedMover.move

    def recorded(mover: ConstrainedMover, particle: Any, row: Any, random: Any) -> Any:
        if row is not None:
            places.append(Place(len(places), mover, row, particle.text))
        return move(mover, particle, row, random)

    ConstrainedMover.move = recorded  # type: ignore[method-assign]
    try:
        recipe.answer(replace(config, smc=SMCConfig(estimator="none", particles=1)), prepared)
    finally:
        ConstrainedMover.move = move  # type: ignore[method-assign]
    return places


def _exact(place: Place) -> float:
    """Z: the probability that the constraint leaves."""
    return float(np.exp(log_sum(np.where(place.mover.mask(place.text), place.row.logp, -np.inf))))


def _ours(options: SMCConfig, place: Place, draws: int) -> list[Drawn]:
    random, row, results = np.random.default_rng(place.number), place.row, list[Drawn]()
    for _ in range(draws):
        start = time.perf_counter()
        test = partial(place.mover.accepts, place.text)
        draw = estimate(options, RowRejection(row.logp, test, row.total, row=row, random=random), row, random)
        results.append((float(np.exp(draw.log_weight)), draw.tests, time.perf_counter() - start))
    return results


def _theirs(sampler: Any, place: Place, draws: int) -> list[Drawn]:
    logps, tokens = torch.from_numpy(place.row.logp), range(len(place.row.logp))
    asked, generator = list[int](), torch.Generator().manual_seed(place.number)

    async def accept(token: int) -> bool:
        asked.append(token)
        return place.mover.accepts(place.text, token)

    def keys(logps: torch.Tensor) -> torch.Tensor:  # as the library's sampler draws them
        uniform = torch.rand(logps.shape, dtype=torch.float64, generator=generator)
        return logps + uniform.log_().neg_().log_().neg_().to(logps.dtype)

    async def all_draws() -> list[Drawn]:
        results = []
        for _ in range(draws):
            asked.clear()
            start = time.perf_counter()
            answer = await sampler(logps=logps, toks=tokens, accept=accept, make_keys=keys, max_rejects=float("inf"))
            results.append((float(np.exp(answer[1])), len(set(asked)), time.perf_counter() - start))
        return results

    return asyncio.run(all_draws())


def _row(drawn: list[list[Drawn]], exact: np.ndarray, vocabulary: int) -> dict[str, float]:
    """Means over places; medians of times."""
    numbers = np.array(drawn)
    tests = float(numbers[..., 1].mean())
    return {
        "tests": tests,
        "median_tests": float(np.median(numbers[..., 1])),
        "share_of_a_mask": tests / vocabulary,
        "ms": 1000 * float(np.median(numbers[..., 2])),
        "weight": float(numbers[..., 0].mean()),
        "exact_weight": float(exact.mean()),
        "weight_off": float(np.sqrt(((numbers[..., 0] - exact[:, None]) ** 2).mean())),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--requests", type=int, default=6)
    parser.add_argument("--draws", type=int, default=20)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(_options()))
