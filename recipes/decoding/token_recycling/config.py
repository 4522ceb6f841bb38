"""Config and card of the recipe `token-recycling`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import EXAMPLE_UNIT, Card, Claim, setting
from recipes.decoding.config import DecodingConfig

DRAFTERS = ("recycling", "prompt_lookup", "ngram_cache", "greedy")
PUBLISHED_NODES = 80


@dataclass(frozen=True)
class DrafterConfig:
    """Who drafts what may follow."""

    name: str = setting("recycling", help="drafter; arms choose it", choices=DRAFTERS)
    k: int = setting(8, help="candidates kept of each token", unit="tokens", ge=1, origin="code")
    nodes: int = setting(
        PUBLISHED_NODES, help="draft tokens in the tree; fewer are those of the smallest ranks", unit="tokens", ge=0,
        le=PUBLISHED_NODES, origin="code",
    )  # fmt: skip
    tree: str = setting(
        "published", help="form of the tree: the template of the code, or one that is drawn with levels of equal size",
        choices=("published", "random"),
    )  # fmt: skip
    update: str = setting(
        "all", help="which tokens that a step read give new candidates", choices=("all", "accepted", "root")
    )
    update_prefill: bool = setting(False, help="whether the tokens of a prompt do", origin="code")
    hot_start: bool = setting(True, help="whether candidates stay from one prompt to the next", origin="paper")
    ngram: int = setting(3, help="prompt_lookup: tokens that are looked for in the text", unit="tokens", ge=1)
    lookup_tokens: int = setting(10, help="prompt_lookup: longest draft", unit="tokens", ge=1)


@dataclass(frozen=True, kw_only=True)
class TokenRecyclingConfig(DecodingConfig):
    """Config of one `token-recycling` run."""

    drafter: DrafterConfig = setting(DrafterConfig(), help="drafter")

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        return [*super().describe(), ("drafter", self.drafter.name)]


CONFIG = TokenRecyclingConfig

CARD = Card(
    title="Token Recycling: drafts from what the model thought likely before",
    paper="arXiv 2408.08696 (Luo, Wang, Zhu, Zhang, Zhang, Yang, Xu; ACL 2025)",
    weights="tokens that the model did not choose, by how likely it found them when it last read the token before",
    summary="The likeliest tokens behind every token that was read are kept; a tree of them is the next draft, which "
    "one forward of the same model verifies. Nothing is trained, and the output is that of plain decoding.",
    claim=Claim(
        statement="A forward of the model yields more tokens with recycled candidates than with prompt lookup",
        metric="tokens_per_step",
        arm="recycling",
        baseline="prompt_lookup",
        direction=1,
        published="2.73 against 1.75 tokens per step, Vicuna-7B on Spec-Bench (its leaderboard)",
        minimal_effect=0.05,
        unit=EXAMPLE_UNIT,
    ),
    claims=(
        Claim(
            statement="Greedy outputs are those of plain decoding, token for token",
            metric="matches_greedy",
            arm="recycling",
            baseline="greedy",
            direction=1,
            published="lossless by construction",
            minimal_effect=0.0,
            unit=EXAMPLE_UNIT,
            kind="exact",
        ),
        Claim(
            statement="Candidates of all tokens that were read help more than those of accepted ones",
            metric="tokens_per_step",
            arm="recycling",
            baseline="accepted_only",
            direction=1,
            published="an ablation of the paper, whose numbers are not known to us",
            minimal_effect=0.05,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="Candidates that stay from one prompt to the next help those that come later",
            metric="tokens_per_step",
            arm="recycling",
            baseline="cold",
            direction=1,
            published="the paper's hot start; no number known to us",
            minimal_effect=0.05,
            unit=EXAMPLE_UNIT,
        ),
    ),
    cost="forwards of a frozen model, one prompt at a time",
    pair_keys=("arm", "drafter"),
    version=1,
    control="greedy",
    headlines=("tokens_per_step", "matches_greedy", "ms_per_token"),
    price=("ms_per_token", "read_per_step"),
    trains=False,
    metrics=("tokens_per_step", "matches_greedy", "read_per_step", "ms_per_token", "drafting_share", "nll"),
)
