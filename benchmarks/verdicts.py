"""How often each verdict comes out, by simulation of the rule: effects below the minimal one, skewed noise, more seeds.

    python -m benchmarks.verdicts

Differences of seeds are drawn with a true mean given in units of their standard deviation; the minimal effect is one
standard deviation unless said otherwise. Noise: normal; skewed (a centred exponential, to either side); and heavy
(Student's t with 3 degrees of freedom, scaled to deviation 1). `more_seeds` is judged by trials of as many seeds as it
asks for. docs/statistics.md shows the tables; a test holds the two together.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.record import RESULTS
from recipes.core.config.settings import Claim
from recipes.core.statistics.intervals import Array, paired_t_arrays
from recipes.core.statistics.verdict import verdict
from recipes.core.storage.files import write_json

DRAWS = 200_000
SEEDS = (3, 5, 10)
EFFECTS = (0.0, 0.5, 0.9, 1.0, 1.5, 2.0, 3.0)
NOISE: dict[str, Callable[[np.random.Generator, tuple[int, int]], Array]] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "skewed up": lambda random, shape: random.standard_exponential(shape) - 1,
    "skewed down": lambda random, shape: 1 - random.standard_exponential(shape),
    "heavy": lambda random, shape: random.standard_t(3, shape) / 3**0.5,
}
SAMPLES = {
    "0.01, 0.02, 0.09": (0.01, 0.02, 0.09),
    "0.11, -0.01, 0.04, -0.02": (0.11, -0.01, 0.04, -0.02),
    "0.09, -0.06, 0.05": (0.09, -0.06, 0.05),
    "0.01, -0.02, 0.02": (0.01, -0.02, 0.02),
}


def shares(differences: Array, minimal: float) -> dict[str, float]:
    """Share of supported and contradicted by the rule.

    Args:
        differences: [trials, seeds].
        minimal: The minimal effect.
    """
    mean, half, _ = paired_t_arrays(differences, 0.95)
    supported, contradicted = (mean - half > 0) & (mean >= minimal), mean + half < minimal
    return {"supported": round(float(supported.mean()), 4), "contradicted": round(float(contradicted.mean()), 4)}


def rates() -> list[dict[str, object]]:
    """One row for each noise, number of seeds and true effect; the same draws for all effects."""
    rows: list[dict[str, object]] = []
    for noise, draw in NOISE.items():
        for seeds in SEEDS:
            sample = draw(np.random.default_rng([seeds, 11]), (DRAWS, seeds))
            rows += [
                {"noise": noise, "seeds": seeds, "effect": effect, **shares(sample + effect, 1.0)} for effect in EFFECTS
            ]
    return rows


def false_alarms() -> list[dict[str, object]]:
    """`supported` without a difference, where the minimal effect is so small that it stops nothing."""
    return [
        {"noise": noise, "seeds": seeds, **shares(draw(np.random.default_rng([seeds, 13]), (DRAWS, seeds)), 1e-9)}
        for noise, draw in NOISE.items()
        for seeds in SEEDS
    ]


def settled() -> list[dict[str, object]]:
    """Trials of as many seeds as `more_seeds` asks for, with the sample's mean and deviation."""
    claim, rows = Claim("a", "m", "arm", "baseline", 1, "", 0.02), []
    for name, sample in SAMPLES.items():
        answer, values = verdict(claim, sample), np.array(sample)
        seeds = len(sample) + (answer.more_seeds or 0)
        draws = np.random.default_rng([seeds, 17]).standard_normal((DRAWS // 4, seeds))
        power = shares(values.mean() + values.std(ddof=1) * draws, 0.02)
        word = "supported" if values.mean() >= 0.02 else "contradicted"
        rows.append({"sample": name, "more": answer.more_seeds, "seeds": seeds, "word": word, "share": power[word]})
    return rows


def tables(result: dict[str, Any]) -> list[str]:
    """The tables of docs/statistics.md: false alarms, rates of `supported`, power of `more_seeds`."""
    cells = {(row["noise"], row["seeds"], row["effect"]): row["supported"] for row in result["rates"]}
    alarms = {(row["noise"], row["seeds"]): row for row in result["false_alarms"]}
    effects = [
        [noise, str(seeds), *(f"{cells[noise, seeds, effect]:.3f}" for effect in EFFECTS)]
        for noise in NOISE
        for seeds in SEEDS
    ]
    wrong = [
        [noise, word, *(f"{alarms[noise, seeds][word]:.3f}" for seeds in SEEDS)]
        for noise in NOISE
        for word in ("supported", "contradicted")
    ]
    more = [
        [row["sample"], row["word"], str(row["more"]), str(row["seeds"]), f"{row['share']:.2f}"]
        for row in result["more_seeds"]
    ]
    return [
        _table(["noise", "verdict", *(f"{seeds} seeds" for seeds in SEEDS)], wrong),
        _table(["noise", "seeds", *(f"effect {effect:g}" for effect in EFFECTS)], effects),
        _table(["differences so far", "estimate says", "more seeds", "seeds in all", "share that is settled so"], more),
    ]


def _table(heads: list[str], rows: list[list[str]]) -> str:
    rule = [":--", *["--:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, rule, *rows))


def main() -> None:
    """Simulate and write the results."""
    path = RESULTS / "verdicts-cpu.json"
    simulated = {"rates": rates(), "false_alarms": false_alarms(), "more_seeds": settled()}
    write_json(path, {"command": "python -m benchmarks.verdicts", "draws": DRAWS, **simulated})
    print(f"written: benchmarks/results/{path.name}; its tables are those of docs/statistics.md:\n")
    print("\n".join(tables(simulated)))


if __name__ == "__main__":
    main()
