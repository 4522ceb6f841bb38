"""Config and card of the recipe `first`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import EXAMPLE_UNIT, FULL, Card, Claim, setting
from recipes.retrieval.config import keys_of_no_use
from recipes.retrieval.letters.config import MEASURED, METRICS, LettersRunConfig, no_step_claim

METRIC = "rank_loss"
FEEDBACK = "feedback/R@100"
OFF, QUERY, ORDER, TEACHER = "off", "query", "order", "teacher"


@dataclass(frozen=True, kw_only=True)
class FeedbackConfig:
    """Relevance feedback: the order of candidates moves the query's vector, which then searches the collection."""

    by: str = setting(
        OFF, help="what moves it: the order of the run; the teacher's (a control); query: nothing, it searches as it "
        "is; off: nothing is searched again", choices=(OFF, QUERY, ORDER, TEACHER),
    )  # fmt: skip
    steps: int = setting(20, help="of Adam", unit="steps", ge=1, origin="code")
    rate: float = setting(
        1e-3, help="learning rate of the query's vector, whose length is 1", gt=0, le=1, origin="code"
    )


@dataclass(frozen=True, kw_only=True)
class FirstConfig(LettersRunConfig):
    """Config of one `first` run."""

    feedback: FeedbackConfig = setting(FeedbackConfig(), help="relevance feedback")

    @property
    def searches(self) -> bool:
        """Feedback searches with the encoder of the first stage, whatever the candidates are of."""
        return super().searches or self.feedback.by != OFF

    def unread(self) -> list[tuple[str, str]]:
        """Keys that are typed and change nothing in this run, and why."""
        by = self.feedback.by
        rules = [
            (f"feedback.{key}", by in (ORDER, TEACHER), f"feedback.by={by} moves no query") for key in ("steps", "rate")
        ]
        return [*super().unread(), *keys_of_no_use(self, rules)]


CONFIG = FirstConfig

CARD = Card(
    title="FIRST: passages by the logits of the first letter",
    paper="arXiv 2406.15657 (Reddy, Doo, Xu, Sultan, Swain, Sil, Ji; EMNLP 2024)",
    weights="pairs of passages, by how near to the top of the teacher's order they stand",
    summary="A language model that is asked to write an order of passages says it with the logits of its first letter "
    "already. One forward reads them, no token is generated; a rank loss whose pairs weigh 1 / (r_i + r_j) is learnt "
    "beside the loss of the written order.",
    claim=Claim(
        statement="Learnt with the weighted rank loss, the first letter's logits rank held-out lists better than "
        "learnt from written orders alone",
        metric=METRIC,
        arm="first",
        baseline="lm",
        direction=-1,
        published="nDCG@10 54.3 against 53.7 of RankZephyr (generation) on eleven sets of BEIR; rank loss not reported",
        minimal_effect=0.005,
    ),
    claims=(
        no_step_claim("first", "generation", "inference about 50% faster than generation"),
        Claim(
            statement="The first letter's logits order pairs as the teacher does more often than by the LM loss alone",
            metric="pair_agreement",
            arm="first",
            baseline="lm",
            direction=1,
            published="not reported",
            minimal_effect=0.02,
        ),
        Claim(
            statement="Pairs near the top that weigh more make a better ranker than pairs that weigh the same",
            metric=METRIC,
            arm="first",
            baseline="unweighted",
            direction=-1,
            published="less than one point of nDCG@10",
            minimal_effect=0.005,
        ),
        Claim(
            statement="Tuning puts the probability of the next token onto letters",
            metric="letter_mass",
            arm="first",
            baseline="zero_shot",
            direction=1,
            published="not reported",
            minimal_effect=0.1,
        ),
        Claim(
            statement="Read off one token it ranks better than the same lists learnt and read as written orders",
            metric="RR@10",
            arm="first",
            baseline="generation",
            direction=1,
            published="nDCG@10 54.3 against 53.7",
            minimal_effect=0.01,
            only=f"budget={FULL}",
        ),
        Claim(
            statement="A query that its order has moved finds more than the query as it is",
            metric=FEEDBACK,
            arm="feedback",
            baseline="feedback_query",
            direction=1,
            published="Recall@100 rises on most sets of BEIR; no number known to us",
            minimal_effect=0.01,
            unit=EXAMPLE_UNIT,
        ),
    ),
    cost="one forward for each window of 20 passages; tuning as for a written order, and one row of logits more",
    pair_keys=("arm", "ranking", "tuning", "feedback"),
    version=1,
    control="generation",
    headlines=(METRIC, "pair_agreement", "RR@10", "forwards", "ms", FEEDBACK),
    price=("answer_nll",),
    metrics=METRICS,
    watched=MEASURED,
)
