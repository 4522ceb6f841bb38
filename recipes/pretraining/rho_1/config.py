"""Config and card of the recipe `rho-1`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import Card, Claim, setting
from recipes.core.text_recipe.config import METRICS, WATCHED, TextConfig

RANKINGS = ("rho1", "uniform", "random", "top_loss", "oracle")


@dataclass(frozen=True)
class SelectConfig:
    """Which tokens carry loss."""

    by: str = setting("rho1", help="what the tokens of a batch are ranked by; arms choose it", choices=RANKINGS)
    share: float = setting(
        0.6, help="share of the tokens that rho1, random and top_loss select", gt=0, le=1, origin="paper"
    )


@dataclass(frozen=True, kw_only=True)
class Rho1Config(TextConfig):
    """Config of one `rho-1` run."""

    select: SelectConfig = setting(help="selection of tokens")

    @property
    def needs_reference(self) -> bool:
        """Only the excess loss is made of one."""
        return self.select.by == "rho1"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems = super().check()
        if self.select.by == "oracle" and not self.noise.share:
            problems.append(("noise.share", "is 0: the oracle leaves planted tokens out, and none is planted"))
        return problems


CONFIG = Rho1Config

CARD = Card(
    title="Rho-1: selective language modelling",
    paper="arXiv 2404.07965 (Lin, Gou, Gong, Liu, Shen, Xu, Lin, Yang, Jiao, Duan, Chen; NeurIPS 2024)",
    weights="tokens of a batch, by how much worse the model predicts them than a reference",
    summary="The loss is the mean over the tokens of a batch whose loss exceeds that of a reference by most; the "
    "others are read, but not learned.",
    claim=Claim(
        statement="A model trained on the tokens of highest excess loss predicts clean text better than trained on all",
        metric="log_loss",
        arm="rho1",
        baseline="uniform",
        direction=-1,
        published="16 points of average few-shot accuracy on mathematics for a model of 1B, 10 for one of 7B",
        minimal_effect=0.02,
    ),
    cost="one reference trained and one scoring pass over the stream, cached; then no forward more",
    pair_keys=("arm", "select"),
    version=1,
    control="random",
    headlines=("log_loss", "noise/", "kept/"),
    price=("worst_domain",),
    metrics=(*METRICS, "noise/*"),
    watched=WATCHED,
)
