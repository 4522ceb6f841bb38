"""Card of the recipe `xar`, and the names of its metrics. Imports no torch."""

from recipes.core.config.settings import Card, Claim

ERROR, GAP, NEAR = "velocity_mse", "exposure_gap", "exposure_gap/near"
FRECHET, RISE, FLOOR, ACCURACY = "frechet", "frechet_rise", "frechet_floor", "accuracy"
CLASSIFIER, TOKENS = "classifier_accuracy", "training_tokens"

CARD = Card(
    title="xAR: next-X prediction",
    paper="arXiv 2502.20388 (Ren, Yu, He, Shen, Yuille, Chen; 2025)",
    weights="what a token may see of the image: the noisy or the true entities before its own",
    summary="An image is drawn entity by entity (cells of neighbouring tokens), each by flow matching. In training the "
    "entities before are noisy, each at a time of its own, so that the model relies on no context without errors.",
    claim=Claim(
        statement="A model that learned from noisy context loses less than teacher forcing when it reads what it drew "
        "itself in place of the truth, at equal steps",
        metric=GAP,
        arm="cells",
        baseline="clean",
        direction=-1,
        published="no number: noisy context is said to remove exposure bias",
        minimal_effect=0.01,
    ),
    claims=(
        Claim(
            statement="So it does at equal compute",
            metric=GAP,
            arm="cells",
            baseline="clean_equal_compute",
            direction=-1,
            published="not in the paper; teacher forcing reads twice the tokens",
            minimal_effect=0.01,
        ),
        Claim(
            statement="It loses less when the context is its estimate of the true entities, whose content stays",
            metric=NEAR,
            arm="cells",
            baseline="clean",
            direction=-1,
            published="not in the paper",
            minimal_effect=0.01,
        ),
        Claim(
            statement="Its images are nearer to the real ones than those of teacher forcing",
            metric=FRECHET,
            arm="cells",
            baseline="clean",
            direction=-1,
            published="FID of ImageNet 256x256, Inception features; no number of this comparison was at hand",
            minimal_effect=0.02,
        ),
        Claim(
            statement="Noise on finished entities drives its images away from the real ones by less",
            metric=RISE,
            arm="cells",
            baseline="clean",
            direction=-1,
            published="not in the paper: what robustness to one's errors would show",
            minimal_effect=0.02,
        ),
        Claim(
            statement="Cells give images nearer to the real ones than patches do",
            metric=FRECHET,
            arm="cells",
            baseline="patches",
            direction=-1,
            published="cells are the best of five entities (ImageNet); not expected to be decided on 8x8 pixels",
            minimal_effect=0.02,
        ),
    ),
    cost="none in training (teacher forcing: twice the tokens); entities x steps forwards of one entity in sampling",
    pair_keys=("arm", "entity", "context", "flow", "sampler"),
    version=1,
    control="clean_equal_compute",
    headlines=(GAP, FRECHET, ACCURACY, ERROR),
    price=(ACCURACY, ERROR),
    metrics=(ERROR, f"{GAP}*", f"{FRECHET}*", ACCURACY, CLASSIFIER, TOKENS),
    watched=(ERROR,),
)
