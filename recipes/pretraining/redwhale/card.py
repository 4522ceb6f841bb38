"""The card of the recipe `redwhale`: what the paper claims, named before anything was measured. Imports no torch."""

from typing import Any

from recipes.core.config.settings import EQUIVALENCE, EXAMPLE_UNIT, ORDER, Card, Claim

BITS, AT_EXTENSION, FORGETTING = "bits_per_byte", "extension/bits_per_byte", "known/forgetting"
RATIO = "token_ratio"
TRAINED = "schedule.train=True"


def _claim(
    statement: str, baseline: str, published: str, effect: float = 0.02, metric: str = BITS, **more: Any
) -> Claim:
    """That the method leaves less of a metric than another arm, over held-out stretches of text."""
    only = "" if metric == AT_EXTENSION else TRAINED
    return Claim(statement, metric, "redwhale", baseline, -1, published, effect, only, EXAMPLE_UNIT, **more)


NOT_IN_PAPER, BEST = "not in the paper as read", "decomposition of both tables is the best of five"

CARD = Card(
    title="RedWhale: a model adapted to another language",
    paper="arXiv 2408.11294 (Vo, Jung, Lee, Choi; 2024)",
    weights="parameters by stage: tables, odd layers, even layers, adapters; old tokens in the rows of new ones",
    summary="Tokens of the new language behind the old vocabulary, their rows in embedding and head means of the old "
    "tokens that spell them, then training in stages: tables, odd layers, even layers, adapters. Optimizer state "
    "exists only for what a stage trains.",
    claim=_claim(
        "After staged training, rows of both tables from the old tokens that spell a new one leave fewer bits per byte "
        "of the new language than random rows",
        "random",
        "the best of five initialisations (paper; its numbers were not seen)",
    ),
    claims=(
        _claim(
            "Right after the extension, too, in the order: spelt rows, the mean of all rows, random rows",
            "random",
            NOT_IN_PAPER,
            metric=AT_EXTENSION,
            kind=ORDER,
            arms=("redwhale", "mean", "random"),
        ),
        _claim("They leave fewer bits per byte after training than the mean of all rows", "mean", BEST),
        _claim(
            "Both tables are needed: rows that are spelt in the embedding alone leave more", "decomp_emb", BEST, 0.01
        ),
        _claim("And so in the head alone", "decomp_head", BEST, 0.01),
        _claim(
            "New tokens pay: at equal steps the old tokenizer leaves more bits per byte",
            "old_tokens",
            "a token ratio of .57 (paper)",
        ),
        _claim(
            "Stages cost nothing: at equal steps they leave the bits per byte of training all weights",
            "full",
            "chosen for memory; no comparison was seen",
            0.05,
            kind=EQUIVALENCE,
        ),
        _claim(
            "Four stages leave fewer bits per byte than the seven of EEVE",
            "eeve",
            "KoBEST 80.83 after fine-tuning, slightly above EEVE",
            0.01,
        ),
        _claim(
            "Replay holds forgetting down: without it the known language loses more bits per byte",
            "no_replay",
            NOT_IN_PAPER,
            metric=FORGETTING,
        ),
        _claim(
            "Filters pay: with planted repetitions and noise left in, there are more bits per byte",
            "raw",
            "121.6 GB filtered to 43.9 GB; no comparison was seen",
            0.01,
        ),
    ),
    cost="optimizer state of one stage at a time; adapters beside all linear layers in the last",
    pair_keys=("arm", "extend", "schedule", "replay", "corpus"),
    version=2,
    control="mean",
    headlines=(BITS, AT_EXTENSION, RATIO, FORGETTING),
    price=(FORGETTING, RATIO),
    metrics=(
        *(BITS, f"{BITS}/auc", AT_EXTENSION, f"base/{BITS}", RATIO),
        *(f"known/{BITS}", f"known/{AT_EXTENSION}", f"known/base/{BITS}", FORGETTING, f"known/{RATIO}"),
        *("stages/*", "removed/*", "vocabulary/*"),
    ),
    watched=(BITS, f"known/{BITS}"),
)
