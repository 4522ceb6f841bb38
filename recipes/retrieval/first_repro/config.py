"""Config and card of the recipe `first-repro`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import EXACT, EXAMPLE_UNIT, FULL, ORDER, Card, Claim, setting
from recipes.retrieval.letters.config import MEASURED, METRICS, EvaluationConfig, LettersRunConfig, no_step_claim

METRIC = "pair_agreement"
IN_FULL = f"budget={FULL}"


@dataclass(frozen=True)
class ReproEvaluationConfig(EvaluationConfig):
    """What is measured, and when."""

    seen: tuple[int, ...] = setting(
        (5, 10, 30, 120), help="best tokens that a server says, for what is left of an order", unit="tokens", ge=0
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [("seen", "names a number twice")] if len(set(self.seen)) < len(self.seen) else []


@dataclass(frozen=True, kw_only=True)
class FirstReproConfig(LettersRunConfig):
    """Config of one `first-repro` run."""

    evaluation: ReproEvaluationConfig = setting(ReproEvaluationConfig(), help="evaluation")


CONFIG = FirstReproConfig

CARD = Card(
    title="FIRST reproduced: one token, read off models tuned in different ways",
    paper="arXiv 2411.05508 (Chen, Pradeep, Lin; SIGIR 2025)",
    weights="passages of a prompt, by the logits of their letters, whatever the model was tuned on",
    summary="Asks what single-token ranking needs: nothing, tuning on written orders, the rank loss besides, or that "
    "behind a start from written orders; what is left of it where a server says the best 30 tokens only; and how much "
    "it gains over shuffled candidates, BM25 and a sentence encoder.",
    claim=Claim(
        statement="A model that learnt to write orders ranks better by its first letter's logits, which nobody trained",
        metric=METRIC,
        arm="lm",
        baseline="none",
        direction=1,
        published="LM training already improves zero-shot single-token reranking (abstract, no number known to us)",
        minimal_effect=0.02,
    ),
    claims=(
        no_step_claim("lm", "written", "21 to 42% less latency"),
        Claim(
            statement="Both read a prompt once in each window",
            metric="prefills",
            arm="lm",
            baseline="written",
            direction=-1,
            published="by construction; a server's change of its batches broke it for months",
            minimal_effect=0.0,
            unit=EXAMPLE_UNIT,
            kind=EXACT,
        ),
        Claim(
            statement="Of a model as it is, the best 30 tokens of a server lose the order of some lists",
            metric="changed",
            arm="none_server",
            baseline="none",
            direction=1,
            published="limited logits lose identifiers without a word (users of the code)",
            minimal_effect=0.05,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="A start from written orders does not help the rank loss",
            metric="rank_loss",
            arm="lm_rank",
            baseline="lm_then_lm_rank",
            direction=-1,
            published="it may hinder (abstract, no number known to us)",
            minimal_effect=0.002,
        ),
        Claim(
            statement="The rank loss adds to the LM loss",
            metric="RR@10",
            arm="lm_rank",
            baseline="lm",
            direction=1,
            published="nDCG@10 .729 against .737 of RankZephyr (generation), DL19",
            minimal_effect=0.01,
            only=IN_FULL,
        ),
        Claim(
            statement="The better the first stage, the less is gained over it",
            metric="gain",
            arm="lm_rank",
            baseline="after_dense",
            direction=1,
            published="diminishing returns over stronger first stages (abstract)",
            minimal_effect=0.01,
            only=IN_FULL,
            kind=ORDER,
            arms=("lm_rank", "after_bm25", "after_dense"),
        ),
    ),
    cost="one forward for each window; tuning as for a written order",
    pair_keys=("arm", "ranking", "tuning", "first_stage", "prompt"),
    version=1,
    control="written",
    headlines=(METRIC, "rank_loss", "RR@10", "gain", "forwards", "changed"),
    price=("answer_nll",),
    metrics=(*METRICS, "gain", "changed"),
    watched=MEASURED,
)
