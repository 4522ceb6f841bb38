"""Config and card of the recipe `sparsepo`. Imports no torch."""

from dataclasses import dataclass, replace

from recipes.alignment.config import ALL_STATES, WATCHED, AlignmentRunConfig, PreferencesConfig, Reads
from recipes.core.config.settings import Card, Claim, setting

KINDS = ("none", "learned", "mapo", "uniform", "random", "oracle")
HOOKS = ("mlp", "attn", "resid", "logits")
MASKABLE = ("tdpo1", "tdpo2")


@dataclass(frozen=True)
class MaskConfig:
    """What tokens weigh in the reward term and in the KL term."""

    kind: str = setting("learned", help="where the masks come from; arms choose it", choices=KINDS)
    share: str = setting(
        "common", help="learned: one network for both terms, or one each", choices=("common", "indep"), origin="code"
    )
    place: str = setting("both", help="which term is masked", choices=("both", "reward", "kl"), origin="code")
    init: str = setting(
        "positive",
        help="learned: start near 1 (positive) or at N(0, 0.02), nearly 0 (official)",
        choices=("positive", "official"),
    )
    dead: str = setting(
        "fail",
        help="learned: masks that start at 0 nearly everywhere stop the run, or are drawn again",
        choices=("fail", "redraw"),
    )
    norm: str = setting(
        "none", help="mean1: divide by the mean over the answer", choices=("none", "mean1"), origin="paper"
    )
    l1_u: float = setting(0.0, help="penalty on the sum of the reward mask", ge=0, origin="code")
    l1_d: float = setting(0.0, help="penalty on the sum of the KL mask", ge=0, origin="code")
    learning_rate: float = setting(1e-3, help="learned: peak learning rate of the masks", gt=0)
    hooks: tuple[str, ...] = setting(HOOKS, help="mapo: types of activation", choices=HOOKS, origin="code")
    mapping: str = setting(
        "zn_rescale", help="mapo: how activations are mapped", choices=("zn_rescale", "sigmoid"), origin="code"
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if not self.hooks or len(set(self.hooks)) < len(self.hooks):
            problems.append(("hooks", "needs at least one type, each once"))
        for key, mask, place, other in (("l1_u", "reward", "kl", "l1_d"), ("l1_d", "KL", "reward", "l1_u")):
            if getattr(self, key) and self.place == place:
                problems.append((key, f"penalises the {mask} mask, which place={place} does not use; type {other}"))
        return problems


@dataclass(frozen=True, kw_only=True)
class SparsePOConfig(AlignmentRunConfig):
    """Config of one `sparsepo` run."""

    mask: MaskConfig = setting(help="token masks")

    @property
    def reads(self) -> Reads:
        """Learned masks read the hidden states of all layers."""
        return replace(super().reads, states=ALL_STATES) if self.mask.kind == "learned" else super().reads

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems = super().check()
        if self.mask.kind != "none" and self.preference.loss not in MASKABLE:
            hint = "type preference.loss=tdpo1, or mask.kind=none"
            problems.append(("mask.kind", f"{self.preference.loss} has no terms to mask; {hint}"))
        if isinstance(self.data, PreferencesConfig) and self.mask.kind == "oracle":
            problems.append(("arm", "oracle needs data whose judge looks at known words: data=sentiment"))
        return problems


CONFIG = SparsePOConfig

CARD = Card(
    title="SparsePO: preference alignment with sparse token masks",
    paper="arXiv 2410.05102 (Christopoulou, Cardenas, Lampouras, Bou Ammar, Wang; EMNLP Findings 2025)",
    weights="answer tokens in preference optimisation, by learned masks",
    summary="Token-level DPO in which every token has a weight in the reward term and one in the KL term, from a "
    "small ReLU network on the reference's hidden states, or from its activations.",
    claim=Claim(
        statement="SparsePO earns more reward than DPO at the same KL to the reference",
        metric="frontier/reward",
        arm="sparsepo_common",
        baseline="dpo",
        direction=1,
        published="better frontiers of reward and KL on sentiment control (figure only); win rates 10 points higher "
        "on summarisation and 3 on dialogue",
        minimal_effect=0.02,
        only="data=sentiment",
    ),
    cost="one pass of the reference over all answers, cached; then a KL over the vocabulary and a tiny network a step",
    pair_keys=("arm", "preference", "mask"),
    version=1,
    control="random",
    watched=(*WATCHED, "mask/*"),
    headlines=("frontier/", "reward", "kl", "pairs/accuracy", "mask/", "data/"),
    frontiers=(("kl", "reward"),),
    price=("kl", "pairs/chosen"),
    metrics=("frontier/*", "reward*", "kl*", "length", "pairs/*", "data/*", "accuracy*", "mask/*", "extra/*"),
)
