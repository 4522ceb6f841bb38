"""Config and card of the recipe `t-reg`. Imports no torch."""

from dataclasses import dataclass

from recipes.alignment.config import WATCHED, AlignmentRunConfig, SentimentConfig, TuningConfig
from recipes.core.config.settings import Card, Claim, setting

GIVEN = ("self", "oracle", "dpo")
REWARDS = ("none", *GIVEN, "random", "zero", "constant")
REGULARISABLE = ("dpo", "simpo")
SIDES = ("both", "chosen", "rejected")
_TASK = (
    "Below are an instruction and a response. Rewrite the response to make it more {how}. "
    "Output only the rewritten response.\n\nInstruction:\n{{x}}\n\nResponse:\n{{y}}"
)
BETTER = _TASK.format(how="helpful, correct, coherent and concise")
WORSE = _TASK.format(how="unhelpful, incorrect, incoherent and verbose")


@dataclass(frozen=True)
class RegConfig:
    """Token rewards, and the term that draws the policy's own to them."""

    rewards: str = setting("oracle", help="where token rewards come from; arms choose it", choices=REWARDS)
    alpha: float = setting(0.25, help="weight of the regulariser", ge=0, origin="paper")
    weight: str = setting(
        "dpo", help="weight of a pair: that of the loss's own gradient, or static", choices=("dpo", "static")
    )
    static: float = setting(1.0, help="static: that weight", ge=0)
    detach_w: bool = setting(True, help="no gradient flows through the weight of a pair")
    sides: str = setting("both", help="answers that are regularised", choices=SIDES, origin="paper")
    flip: float = setting(0.0, help="oracle: share of the rewards whose sign is flipped", ge=0, le=1)
    shuffled: str = setting("oracle", help="random: whose rewards are shuffled within each answer", choices=GIVEN)
    constant: float = setting(0.5, help="constant: reward of every token of a chosen answer", ge=-0.5, le=0.5)
    better: str = setting(BETTER, help="self: asks for a better answer; {x} is the prompt, {y} the answer")
    worse: str = setting(WORSE, help="self: asks for a worse answer")
    on_long: str = setting(
        "fail",
        help="pairs whose prompts for self rewards exceed the model's context stop the run, or no arm has them",
        choices=("fail", "skip"),
    )

    @property
    def source(self) -> str | None:
        """Which source is computed, shuffled or not; None if none is."""
        source = self.shuffled if self.rewards == "random" else self.rewards
        return source if source in GIVEN else None

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [
            (key, "does not contain {y}, the answer") for key in ("better", "worse") if "{y}" not in getattr(self, key)
        ]


@dataclass(frozen=True, kw_only=True)
class TRegConfig(AlignmentRunConfig):
    """Config of one `t-reg` run."""

    treg: RegConfig = setting(help="token rewards and their regulariser")
    trained: TuningConfig = setting(help="the DPO model that rewards are read off (treg.rewards=dpo)")

    @property
    def one_copy(self) -> bool:
        """Never: rewards are scored with the reference."""
        return False

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems = super().check()
        if self.treg.rewards != "none" and self.preference.loss not in REGULARISABLE:
            hint = "type preference.loss=dpo or simpo, or treg.rewards=none"
            problems.append(("treg.rewards", f"{self.preference.loss} has no token rewards to regularise; {hint}"))
        if self.treg.source == "oracle" and not isinstance(self.data, SentimentConfig):
            hint = "data=sentiment, or arm=self, whose rewards come from the model"
            problems.append(("treg.rewards", f"oracle needs data whose judge knows words: {hint}"))
        return problems


CONFIG = TRegConfig

CARD = Card(
    title="T-REG: preference optimisation with token-level reward regularisation",
    paper="arXiv 2412.02685 (Zoom; ACL 2025)",
    weights="answer tokens in preference optimisation, by given token rewards",
    summary="DPO or SimPO with a term that draws the policy's implicit token rewards to given ones; here those of an "
    "exact judge, in the paper those that the reference gives itself under two prompts.",
    claim=Claim(
        statement="DPO regularised with token rewards of the judge earns more reward than DPO at the same KL to the "
        "reference; published for rewards that models of 8 and 9 billion parameters give themselves",
        metric="frontier/reward",
        arm="dpo_reg",
        baseline="dpo",
        direction=1,
        published="AlpacaEval 2 length-controlled win rate 50.8 against 47.0 of DPO, Arena-Hard 40.3 against 35.9 "
        "(Llama-3-8B-Instruct)",
        minimal_effect=0.02,
        only="data=sentiment",
    ),
    cost="two more passes of the reference over answers behind longer prompts, cached; a step costs what DPO's does",
    pair_keys=("arm", "preference", "treg"),
    version=1,
    control="random",
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
        "rewards/*",
        "corrupted/*",
        "extra/*",
    ),
    watched=WATCHED,
    headlines=("frontier/", "reward", "kl", "pairs/accuracy", "rewards/", "corrupted/", "data/"),
)
