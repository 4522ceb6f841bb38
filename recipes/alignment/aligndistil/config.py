"""Config and card of the recipe `aligndistil`. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from recipes.alignment.config import NO_STATES, WATCHED, AlignmentRunConfig, Reads, TuningConfig
from recipes.core.config.settings import Card, Claim, setting

MODES = ("gkd", "theorem1", "theorem1_contrast", "theorem1_adaptive", "aligndistil")
# What the DPO model is extrapolated away from: the reverse DPO model, or else the reference.
CONTRAST = ("gkd", "theorem1_contrast", "aligndistil")
ADAPTIVE = ("theorem1_adaptive", "aligndistil")
SEQUENCES = ("chosen", "both", "sampled")
AUTO = "auto"


@dataclass(frozen=True)
class DistilConfig:
    """The distribution that the policy learns from, and on which texts."""

    mode: str = setting(
        "aligndistil", help="how it is made; none: the preference loss instead", choices=("none", *MODES), origin="code"
    )
    r: float | str = setting(AUTO, help="extrapolation per unit of disagreement; auto: so that mean alpha is 1", gt=0)
    alpha: float = setting(1.0, help="extrapolation of the modes where it is the same for all tokens", gt=0)
    alpha_max: float | None = setting(None, help="no token is extrapolated beyond it; null: no bound", gt=0)
    sequences: str = setting(
        "chosen",
        help="texts to learn on: chosen answers, both, or sampled from the policy at each step",
        choices=SEQUENCES,
        origin="code",
    )
    direction: str = setting(
        "reverse", help="KL(policy || teacher) or KL(teacher || policy)", choices=("reverse", "forward"), origin="paper"
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if isinstance(self.r, str) and self.r != AUTO:
            return [("r", f"{self.r} is no number; type one, or auto")]
        return []


@dataclass(frozen=True, kw_only=True)
class AlignDistilConfig(AlignmentRunConfig):
    """Config of one `aligndistil` run."""

    teacher: TuningConfig = setting(help="DPO model and reverse DPO model")
    distil: DistilConfig = setting(help="distillation")

    @property
    def reads(self) -> Reads:
        """Both teachers are trained with DPO; distillation itself reads the teachers."""
        return super().reads if self.distil.mode == "none" else Reads(logps=True, states=NO_STATES)

    @property
    def one_copy(self) -> bool:
        """Never: both teachers are tuned from the reference."""
        return False

    @property
    def frozen_models(self) -> tuple[Any, ...]:
        """The reference and both teachers."""
        return (*super().frozen_models, self.model, self.model)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems = super().check()
        if self.distil.sequences == "sampled" and self.trainer.processes > 1 and self.trainer.parallel == "fsdp":
            problems.append(
                ("distil.sequences", "no samples can be drawn from a shared-out policy: trainer.parallel=ddp")
            )
        return problems

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        teacher = self.teacher
        return [
            *super().describe(),
            ("teachers", f"DPO and reverse DPO, {teacher.steps} steps of {teacher.batch_size} pairs each"),
        ]


CONFIG = AlignDistilConfig

CARD = Card(
    title="AlignDistil: alignment as token-level distillation",
    paper="arXiv 2503.02832 (Zhang, Zhang, Zhang, Hu, Chen, Xu; ACL 2025)",
    weights="tokens of answers in distillation, by how much a DPO and a reverse DPO model disagree",
    summary="A DPO model and one trained on swapped pairs are extrapolated from each other, token by token by how "
    "much they disagree; the policy learns the resulting distribution over the whole vocabulary.",
    claim=Claim(
        statement="AlignDistil earns more reward than DPO at the same KL to the reference",
        metric="frontier/reward",
        arm="aligndistil",
        baseline="dpo",
        direction=1,
        published="better than DPO and other baselines on AlpacaEval 2, MT-Bench and Arena-Hard, and faster to "
        "converge (abstract; numbers unknown to us)",
        minimal_effect=0.02,
        only="data=sentiment",
    ),
    cost="two DPO trainings before the first run, cached; a step then adds two products with output embeddings",
    pair_keys=("arm", "preference", "distil"),
    version=1,
    control="gkd",
    frontiers=(("kl", "reward"),),
    price=("kl", "pairs/chosen"),
    metrics=(
        "frontier/*",
        "reward*",
        "kl*",
        "length",
        "pairs/*",
        "data/*",
        "accuracy*",
        "expected_reward*",
        "alpha*",
        "distance*",
        "distil/*",
        "teacher/*",
        "extra/*",
    ),
    watched=WATCHED,
    headlines=("frontier/", "reward", "kl", "expected_reward", "alpha", "distance", "teacher/", "pairs/accuracy"),
)
