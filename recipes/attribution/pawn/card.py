"""What the paper claims, as a trial tests it. Imports no torch."""

from recipes.core.config.settings import Card, Claim

YOURS = "data=detection-texts"


def _claim(statement: str, metric: str, baseline: str, effect: float, published: str, only: str = "") -> Claim:
    return Claim(statement, metric, "pawn", baseline, 1, published, effect, only or "data=continuations")


PAWN = Card(
    title="PAWN: perplexity attention for the detection of machine-written text",
    paper="arXiv 2501.03940 (Miralles-González, Huertas-Tato, Martín, Camacho; Information Fusion 2025)",
    weights="tokens of a text, by the hidden states of the language model that reads it",
    summary="A frozen language model says five things of each token; a small network makes features of them, and their "
    "mean over the text is weighed by what the model's states say of each token. That mean is what is judged.",
    claim=_claim(
        "On an unseen domain, generator or decoding, learned weights of tokens detect better than their plain mean",
        "auroc/unseen",
        "mpn",
        0.02,
        "MAGE, GPT-2: .957 against .911 on unseen models, .936 against .917 on unseen domains",
    ),
    claims=(
        _claim(
            "Where nothing has changed, learned weights detect better than the plain mean",
            "auroc/seen",
            "mpn",
            0.02,
            "MAGE, GPT-2: .981 against .926",
        ),
        _claim(
            "On an unseen domain, metrics weighed by states detect better than states alone",
            "auroc/unseen/domain",
            "hsff",
            0.02,
            "MAGE, GPT-2: .936 against .829",
        ),
        _claim(
            "Weights have to be learned: a gate that stays as it was drawn detects worse on what is unseen",
            "auroc/unseen",
            "random_gate",
            0.02,
            "not in the paper",
        ),
        _claim(
            "Weights have to see the states: a gate that sees places alone detects worse on what is unseen",
            "auroc/unseen",
            "position_only",
            0.02,
            "not in the paper",
        ),
        _claim(
            "A network detects better on what is unseen than a logistic regression on means and deviations of metrics",
            "auroc/unseen",
            "linear",
            0.02,
            "not in the paper",
        ),
        _claim(
            "Training detects better on what is unseen than Fast-DetectGPT, which needs none",
            "auroc/unseen",
            "fast_detectgpt",
            0.02,
            "RAID without training on it, recall at 5% false positives: .828 against .745",
        ),
        _claim(
            "On your texts, learned weights of tokens detect better than their plain mean",
            "auroc/seen",
            "mpn",
            0.02,
            "MAGE, GPT-2: .981 against .926",
            YOURS,
        ),
    ),
    cost="one pass of a language model over every text, cached; a head of a million weights trained on what it said",
    pair_keys=("arm", "detector"),
    version=1,
    control="random_gate",
    headlines=("auroc/",),
    price=("auroc/seen",),
    metrics=("auroc/*", "recall/*", "parameters"),
    watched=("auroc/*", "recall/*"),
)
