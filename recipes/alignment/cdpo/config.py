"""Config and card of the recipe `cdpo`. Imports no torch."""

from dataclasses import dataclass

from recipes.alignment.config import WATCHED, AlignmentRunConfig, ChainArithmeticConfig, TuningConfig
from recipes.core.config.settings import SEEDS, Card, Claim, setting

WEIGHTS = ("none", "contrast", "surprisal", "ratio", "random", "uniform", "oracle")
# Those that read what the positive and the negative model say.
CONTRASTED = ("contrast", "surprisal", "ratio", "random", "uniform")
WEIGHABLE = ("dpo", "rpo")


@dataclass(frozen=True)
class CriticalConfig:
    """What the tokens of rejected answers weigh."""

    weights: str = setting("contrast", help="where the weights come from; arms choose it", choices=WEIGHTS)
    beta_ce: float = setting(1.0, help="strength of the contrast", ge=0, origin="paper")
    only_negative: bool = setting(
        True, help="weigh rejected answers only; else chosen tokens weigh what the score says", origin="paper"
    )
    agg: str = setting(
        "sequence",
        help="one logistic loss a pair (the paper), or one a position (the code)",
        choices=("sequence", "position"),
        origin="paper",
    )


@dataclass(frozen=True)
class ContrastConfig(TuningConfig):
    """How the positive and the negative model are fine-tuned from the reference."""

    steps: int = setting(60, help="steps of fine-tuning on right (wrong) answers", unit="steps", ge=1)
    batch_size: int = setting(32, help="answers per step", unit="answers", ge=1)
    learning_rate: float = setting(3e-4, help="peak learning rate", gt=0, origin="code")
    seed: int = setting(0, help="order of the answers: all arms and seeds share both models", ge=0, lt=SEEDS)


@dataclass(frozen=True, kw_only=True)
class CDPOConfig(AlignmentRunConfig):
    """Config of one `cdpo` run."""

    contrast: ContrastConfig = setting(help="positive and negative model")
    critical: CriticalConfig = setting(help="token weights")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems, loss, critical = super().check(), self.preference.loss, self.critical
        if critical.weights != "none" and loss not in WEIGHABLE:
            hint = f"type preference.loss={' or '.join(WEIGHABLE)}, or critical.weights=none"
            problems.append(("critical.weights", f"{loss} is not weighed by tokens here; {hint}"))
        if critical.agg == "position" and loss != "dpo":
            problems.append(("critical.agg", f"position is a form of dpo, not of {loss}; type preference.loss=dpo"))
        if isinstance(self.data, ChainArithmeticConfig):
            if self.evaluation.samples > 1:
                problems.append(
                    ("evaluation.samples", "chain-arithmetic is decoded greedily, where one sample says all")
                )
        elif critical.weights == "oracle":
            message = "oracle needs answers whose first wrong token is known: data=chain-arithmetic"
            problems.append(("critical.weights", message))
        return problems

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`: with the two models, where they are needed."""
        if self.critical.weights not in CONTRASTED:
            return super().describe()
        contrast = f"the reference tuned on right and on wrong answers, {self.contrast.steps} steps each"
        return [*super().describe(), ("contrast", contrast)]


CONFIG = CDPOConfig

CARD = Card(
    title="cDPO: critical tokens by contrastive estimation",
    paper="arXiv 2411.19943 (ICML 2025)",
    weights="tokens of wrong answers, by the contrast of a model tuned on right answers and one tuned on wrong ones",
    summary="DPO whose rejected tokens weigh 1 - s, s being the token's probability under the contrast of a model "
    "tuned on right answers and one tuned on wrong answers: tokens that only wrong answers have weigh most.",
    claim=Claim(
        statement="weighing rejected tokens by contrastive estimation answers more problems right than DPO",
        metric="accuracy",
        arm="cdpo",
        baseline="dpo",
        direction=1,
        published="77.2 against 70.5 on GSM8K and 33.4 against 29.4 on MATH500, average of three models (RPO: 75.4 and "
        "32.3)",
        minimal_effect=0.02,
        only="data=chain-arithmetic",
    ),
    cost="two short fine-tunings and two forwards over all answers, cached; a training step costs what one of DPO does",
    pair_keys=("arm", "preference", "critical"),
    version=1,
    control="random",
    frontiers=(("kl", "accuracy"),),
    price=("kl", "pairs/chosen"),
    metrics=("frontier/*", "reward*", "kl*", "length", "pairs/*", "data/*", "accuracy*", "critical/*", "extra/*"),
    watched=WATCHED,
    headlines=(
        "accuracy",
        "reward",
        "kl",
        "pairs/",
        "critical/auroc",
        "critical/hit",
        "critical/score",
        "critical/weight",
        "data/",
    ),
)
