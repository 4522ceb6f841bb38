"""Config and card of the recipe `icr`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import EXAMPLE_UNIT, Card, Claim, UntrainedConfig, setting
from recipes.core.models.config import CausalLMConfig, SmolLM2TextConfig
from recipes.core.search.config import RANKING_METRICS, CollectionConfig, WikiSearchConfig
from recipes.core.training.toys.config import ToyLMConfig
from recipes.retrieval.config import FirstStageConfig

CHOSEN_HEADS = ("retrieval", "contrastive", "random")
METRIC = "RR@10"


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """What orders the candidates of a query."""

    name: str = setting(
        "attention", help="attention of the query's tokens; letters: logits of letters that name the passages, behind "
        "a prompt that asks for them; encoder: cosines of a sentence encoder; first_stage: its own order; given: the "
        "order in which they come (a control)",
        choices=("attention", "letters", "encoder", "first_stage", "given"),
    )  # fmt: skip
    tokens: str = setting(
        "span", help="attention: whose is read, of all tokens of the question or of the last one before the answer",
        choices=("span", "last"),
    )  # fmt: skip
    query_span: str = setting(
        "full", help="which tokens are the question: all behind the passages (the code), or the query's (the paper)",
        choices=("full", "query_only"), origin="code",
    )  # fmt: skip
    calibration: str = setting(
        "difference", help="difference: less the attention of the query N/A; none; only: that of N/A alone (a control)",
        choices=("difference", "none", "only"),
    )  # fmt: skip
    mask: bool = setting(True, help="leave out tokens far below the mean of their passage")
    heads: str = setting(
        "all", help="whose attention is summed: of all heads, or of those that pay most to right passages of labelled "
        "queries, or that tell them best from the others, or of drawn ones",
        choices=("all", *CHOSEN_HEADS),
    )  # fmt: skip
    head_count: int = setting(16, help="heads that are chosen", unit="heads", ge=1, origin="code")
    labelled: int = setting(64, help="queries that heads are chosen by; none is tested on", unit="queries", ge=1)
    temperature: float = setting(0.001, help="contrastive: of the softmax over a list", gt=0)


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """The prompt that holds the candidates."""

    order: str = setting(
        "reverse", help="reverse: the first candidate stands last, next to the query; forward",
        choices=("reverse", "forward"), origin="code",
    )  # fmt: skip
    template: str = setting(
        "find", help="what is asked for: passages that help with the query (find), or an answer from them (answer)",
        choices=("find", "answer"),
    )  # fmt: skip
    span: str = setting(
        "with_marker", help="a passage's tokens: its number in brackets included, or its text only",
        choices=("with_marker", "text_only"), origin="code",
    )  # fmt: skip
    words: int = setting(300, help="of a passage, at most; fewer where a prompt would not fit", unit="words", ge=1)
    batch_size: int = setting(4, help="prompts of a forward", unit="prompts", ge=1)
    window: int = setting(20, help="letters: passages of a prompt; longer lists in windows", unit="passages", ge=2)
    stride: int = setting(10, help="letters: from one window to the next", unit="passages", ge=1)
    shown: int = setting(4, help="queries whose passages the report shades", unit="queries", ge=0)


@dataclass(frozen=True, kw_only=True)
class ICRConfig(UntrainedConfig):
    """Config of one `icr` run."""

    data: WikiSearchConfig | CollectionConfig = setting(help="collection")
    model: ToyLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model")
    first_stage: FirstStageConfig = setting(FirstStageConfig(), help="candidates")
    scoring: ScoringConfig = setting(ScoringConfig(), help="scores of candidates")
    prompt: PromptConfig = setting(PromptConfig(), help="prompt")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if self.prompt.stride > self.prompt.window:
            problems.append(("prompt.stride", f"leaves passages out between windows of {self.prompt.window}"))
        if self.scoring.name == "letters" and self.prompt.window > 26:
            problems.append(("prompt.window", "there are 26 letters; type prompt.window=26 or less"))
        if self.scoring.heads != "all" and self.scoring.mask:
            problems.append(("scoring.mask", "is for all heads together; type scoring.mask=false"))
        if self.scoring.heads != "all" and self.scoring.tokens != "span":
            problems.append(("scoring.tokens", "chosen heads are read over the whole question; type span"))
        if self.scoring.heads != "all" and self.prompt.span != "with_marker":
            problems.append(("prompt.span", "chosen heads are summed with the markers; type with_marker"))
        return problems

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        return [
            ("data", self.data.description),
            ("candidates", self.first_stage.description),
            ("model", self.model.description),
            ("order by", self.scoring.name),
        ]


CONFIG = ICRConfig

CARD = Card(
    title="In-context re-ranking: passages by the attention of a query",
    paper="arXiv 2410.02642 (Chen, Gutierrez, Su; ICLR 2025)",
    weights="tokens of passages, by the attention of a query beyond what a query that says nothing would pay",
    summary="All candidates of a query stand in one prompt. What its tokens attend to, summed over all layers and "
    "heads, less the same for the query N/A, orders them. Nothing is trained and nothing generated: one forward over "
    "the passages, and a short one for each of the two queries.",
    claim=Claim(
        statement="Less the attention that a query without content pays, attention ranks better than by itself",
        metric=METRIC,
        arm="icr",
        baseline="no_calibration",
        direction=1,
        published="better with calibration on all sets of the paper; no number known to us",
        minimal_effect=0.05,
        unit=EXAMPLE_UNIT,
    ),
    claims=(
        Claim(
            statement="Attention ranks better than the logits of letters that the same model is asked for",
            metric=METRIC,
            arm="icr",
            baseline="letters",
            direction=1,
            published="nDCG@10 48.5 against 38.4 of generated permutations (Llama-3.1-8B, eleven sets of BEIR)",
            minimal_effect=0.05,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="All tokens of the question rank better than the last one",
            metric=METRIC,
            arm="icr",
            baseline="last_token_calibrated",
            direction=1,
            published="an ablation of the paper; no number known to us",
            minimal_effect=0.05,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="It ranks better than BM25",
            metric=METRIC,
            arm="icr",
            baseline="bm25",
            direction=1,
            published="nDCG@10 48.5 against 38.4 (Llama-3.1-8B); 46.5 with 3B",
            minimal_effect=0.05,
            unit=EXAMPLE_UNIT,
        ),
    ),
    cost="one forward over all candidates of a query, and two short ones; nothing is trained",
    pair_keys=("arm", "scoring"),
    version=1,
    control="shuffled",
    headlines=(METRIC, "nDCG@10"),
    price=("tokens_read",),
    trains=False,
    metrics=(*RANKING_METRICS, "tokens_read"),
)
