"""The schedules: which groups of parameters are trained when, at which rate. Imports no torch."""

from typing import Any

from recipes.core.training.stage_plan import NEW, Stage

STAGED, FULL, LORA_ONLY, EEVE, NONE = "staged", "full", "lora_only", "eeve", "none"
EMBEDDING, HEAD, ODD, EVEN, REST, LORA = "embedding", "head", "odd", "even", "rest", "lora"
ALL = (EMBEDDING, HEAD, ODD, EVEN, REST)
TABLES = (EMBEDDING, HEAD)

# Name, groups, share, rate: in multiples of the run's, "tables" and "adapters" of those of the schedule.
# Shares of `staged` and of `eeve` are ours; rates of `eeve` are those of VinaSmol (1e-3, 5e-4, 2e-4, 1e-4).
Row = tuple[str, tuple[str, ...], float, float | str]
PLANS: dict[str, tuple[Row, ...]] = {
    STAGED: (
        ("tables", TABLES, 0.2, "tables"),
        ("odd layers", (ODD,), 0.2, 1.0),
        ("even layers", (EVEN,), 0.2, 1.0),
        ("adapters", (LORA,), 0.4, "adapters"),
    ),
    FULL: (("all", ALL, 1.0, 1.0),),
    LORA_ONLY: (("adapters", (LORA,), 1.0, "adapters"),),
    EEVE: (
        ("new rows of the embedding", (EMBEDDING + NEW,), 0.05, 5.0),
        ("new rows of the head", (HEAD + NEW,), 0.05, 5.0),
        ("new rows of both", (EMBEDDING + NEW, HEAD + NEW), 0.1, 5.0),
        ("head", (HEAD,), 0.1, 2.5),
        ("new rows of the embedding, head", (EMBEDDING + NEW, HEAD), 0.1, 2.5),
        ("adapters", (LORA, *TABLES), 0.45, 1.0),
        ("layers", (ODD, EVEN), 0.15, 0.5),
    ),
}


def needs_new(schedule: Any) -> bool:
    """Whether a schedule trains rows that only new tokens have."""
    return schedule.name == EEVE or (schedule.name == STAGED and schedule.new_rows_only)


def plan(schedule: Any, rate: float) -> tuple[Stage, ...]:
    """The stages of a schedule.

    Args:
        schedule: A `ScheduleConfig` that trains something.
        rate: Peak rate of the run.
    """
    rates = {"tables": schedule.tables_rate, "adapters": schedule.adapters_rate}
    rows = PLANS[schedule.name]
    shares = schedule.shares if schedule.shares and len(schedule.shares) == len(rows) else [row[2] for row in rows]
    stages = []
    for (name, groups, _, factor), share in zip(rows, shares, strict=True):
        if schedule.new_rows_only and groups == TABLES and schedule.name == STAGED:
            groups = tuple(group + NEW for group in groups)
        if schedule.tables and groups == (LORA,):
            groups = (LORA, *TABLES)
        stages.append(Stage(name, groups, share, rate * (rates[factor] if isinstance(factor, str) else factor)))
    return tuple(stages)
