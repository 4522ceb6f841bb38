"""What the recipe `edu-rerank` claims, named before anything was measured. Imports no torch."""

from recipes.core.config.settings import EXAMPLE_UNIT, Card, Claim

BEST, DISTINCT, TOP = "best_rouge1", "distinct_plans", "top_rouge1"


def _claim(
    statement: str, metric: str, arm: str, baseline: str, effect: float, published: str, unit: str = "seeds"
) -> Claim:
    return Claim(statement, metric, arm, baseline, 1, published, effect, unit=unit)


EDU_RERANK = Card(
    title="EDU plans: summaries that differ in what they say",
    paper="arXiv 2305.17779 (Adams, Fabbri, Ladhak, McKeown, Elhadad; ACL 2023)",
    weights="parts of a document, by whether a plan of the summary takes them",
    summary="A small transformer over vectors of elementary discourse units (EDUs) writes sixteen plans, each a rising "
    "list of units, with a summary for each; a re-ranker chooses. Candidates differ in content, not by noise.",
    claim=_claim(
        "The best of sixteen plans of EDUs says more of the reference than the best of sixteen of sentences",
        BEST,
        "edu_plans",
        "sentence_plans",
        0.01,
        "oracle ROUGE-1 61.7 of EDUs, 57.8 of sentences (CNN/DM)",
    ),
    claims=(
        _claim(
            "Beams over plans have a better best candidate than samples of the same generator",
            BEST,
            "edu_plans",
            "sampling",
            0.01,
            "ROUGE-1 after re-ranking 47.59 (PGA), 46.57 (nucleus sampling of summaries)",
        ),
        _claim(
            "They imply more distinct plans than samples of the same generator",
            DISTINCT,
            "edu_plans",
            "sampling",
            1.0,
            "13.0 of 16 (PGA), 9.9 (nucleus sampling of summaries)",
        ),
        _claim(
            "Learned plans have a better best candidate than random ones",
            BEST,
            "edu_plans",
            "random_plans",
            0.01,
            "no number is known to us",
        ),
        _claim(
            "The best set of EDUs says more of the reference than the best set of sentences",
            BEST,
            "oracle_plan",
            "oracle_sentences",
            0.02,
            "ROUGE-1 61.7 and 57.8; a pilot of ours: .333 and .295",
            EXAMPLE_UNIT,
        ),
        _claim(
            "A re-ranker trained by the margin loss chooses better than chance",
            TOP,
            "edu_plans",
            "rerank_random",
            0.01,
            "47.59 after re-ranking; of a drawn candidate no number is known to us",
        ),
        _claim(
            "It chooses better than the generator's own order",
            TOP,
            "edu_plans",
            "rerank_none",
            0.01,
            "47.59 against 44.0 of the top beam of a writer without plans",
        ),
    ),
    cost="a generator of 1 million weights on frozen vectors; sixteen summaries a document in place of one",
    pair_keys=("arm", "plans", "planner", "reranker", "writer"),
    version=1,
    control="random_plans",
    headlines=("best_rouge", "top_rouge", DISTINCT, "diversity"),
    price=("mean_rouge1",),
    watched=("plan_nll", "writer_nll"),
    metrics=(
        *("best_rouge*", "mean_rouge*", "top_rouge*", DISTINCT, "distinct_texts", "diversity", "adherence_*"),
        *("words", "plan_units", "candidates", "gap_closed", "plan_nll", "writer_nll"),
    ),
)
