"""Config and card of the recipe `xtr`. Imports no torch."""

from dataclasses import dataclass
from importlib.util import find_spec

from recipes.core.config.settings import EXAMPLE_UNIT, ORDER, Card, Claim, setting
from recipes.core.config.unread import unread_keys
from recipes.core.search.config import JUDGED, RANKING_METRICS, in_batch_problems
from recipes.retrieval.config import EncoderRunConfig

UNTRAINED = "none"
TRAIN_SCORES = ("xtr", "xtr_norm_n", "colbert", "pooled", UNTRAINED)
TOKEN_SCORES = ("xtr", "full", "exhaustive")  # of the tokens of a query and those of passages
IMPUTATIONS = ("topk_min", "zero", "const", "none")
RECALL, GOLD_TOKENS, CANDIDATES, CANDIDATE_TOKENS = "candidate_recall", "gold_tokens", "candidates", "candidate_tokens"


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What the encoder learns."""

    train_score: str = setting(
        "xtr", help="score of a passage in training: from the tokens that a search of the batch would return, over the "
        "query tokens that returned one (xtr) or over all (xtr_norm_n); from all tokens (colbert); the cosine of mean "
        "vectors (pooled); none: nothing is trained", choices=TRAIN_SCORES,
    )  # fmt: skip
    k_train: int = setting(64, help="xtr: tokens of the batch that each query token returns", unit="tokens", ge=1)
    temperature: float = setting(0.05, help="of the softmax over the passages of a batch; the paper has 1", gt=0)
    projection: int | None = setting(
        128, help="width of the vectors of a trained encoder, by a linear map; null: that of the encoder; untrained "
        "encoders have no map", ge=1, origin="paper",
    )  # fmt: skip
    projection_rate: float = setting(1e-3, help="learning rate of that map", gt=0, origin="paper")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How passages are retrieved and scored."""

    infer_score: str = setting(
        "xtr", help="xtr: from the tokens that the search returns; full: candidates of that search, scored from all "
        "their tokens; exhaustive: the same of all passages; pooled: cosines of mean vectors; bm25",
        choices=(*TOKEN_SCORES, "pooled", "bm25"),
    )  # fmt: skip
    k_prime: int = setting(50, help="k': tokens of the collection that each query token returns", unit="tokens", ge=1)
    imputation: str = setting(
        "topk_min", help="xtr: what a query token counts that returned none of a passage's: the lowest score that it "
        "returned, zero, a constant, or nothing (the mean is over those that did)", choices=IMPUTATIONS,
    )  # fmt: skip
    const: float = setting(0.2, help="const: that constant", ge=-1, le=1, origin="paper")
    sweep: tuple[int, ...] = setting(
        (10, 200), help="other k' at which the same vectors are measured too", unit="tokens", ge=1
    )
    passages: int | None = setting(
        None, help="passages that are searched at most: all that answer a query, others drawn; null: all",
        unit="passages", ge=1,
    )  # fmt: skip
    index: str = setting(
        "exact", help="search of tokens: exact, or approximate in the nearest inverted lists (needs the extra ann)",
        choices=("exact", "approximate"),
    )  # fmt: skip
    probes: int = setting(16, help="approximate: lists that are searched", unit="lists", ge=1)
    depth: int = setting(1000, help="passages of a ranking that are kept", unit="passages", ge=100)
    shown: int = setting(4, help="queries whose passages the report shades", unit="queries", ge=0)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if self.index == "approximate" and find_spec("faiss") is None:
            problems.append(("index", "faiss is not installed: type pip install -e '.[ann]', or search.index=exact"))
        if self.k_prime in self.sweep or len(set(self.sweep)) < len(self.sweep):
            problems.append(("sweep", f"has k_prime={self.k_prime} or a number twice; type others"))
        return problems


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """What is measured during training."""

    every: int = setting(50, help="steps between measurements", unit="steps", ge=1)
    passages: int = setting(64, help="that are searched", unit="passages", ge=2)
    queries: int = setting(32, help="that are asked", unit="queries", ge=1)


@dataclass(frozen=True, kw_only=True)
class XTRConfig(EncoderRunConfig):
    """Config of one `xtr` run."""

    objective: ObjectiveConfig = setting(ObjectiveConfig(), help="training objective")
    search: SearchConfig = setting(SearchConfig(), help="retrieval")
    watch: WatchConfig = setting(WatchConfig(), help="learning curve")

    @property
    def trains(self) -> bool:
        """Whether the run trains the encoder."""
        return self.objective.train_score != UNTRAINED

    @property
    def reads_tokens(self) -> bool:
        """Whether passages are scored by vectors of tokens."""
        return self.search.infer_score in TOKEN_SCORES

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        score, infer = self.objective.train_score, self.search.infer_score
        problems = in_batch_problems(self.trainer) if self.trains else []
        problems += self.data.depth_problems("search.depth", self.search.depth)
        if self.trains and infer == "bm25":
            problems.append(("objective.train_score", "bm25 reads no encoder; type objective.train_score=none"))
        elif self.trains and (score == "pooled") != (infer == "pooled"):
            problems.append(("search.infer_score", f"does not fit objective.train_score={score}: pooled needs pooled"))
        if self.trains and self.trainer.batch_size * (1 + self.pairs.negatives) < 2:
            problems.append(("trainer.batch_size", "one passage is nothing to choose from; type a larger batch"))
        if self.trains and self.encoder.trainable_layers == 0 and self.objective.projection is None:
            problems.append(("encoder.trainable_layers", "nothing is left to train; type objective.projection=128"))
        return problems

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        return [
            ("data", self.data.description),
            ("encoder", self.model.path or "all-MiniLM-L6-v2 (asset)"),
            ("trained on", self.objective.train_score if self.trains else "nothing"),
            ("scored by", self.search.infer_score),
        ]

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run, though they may in other arms, and why."""
        score, search, infer = self.objective.train_score, self.search, self.search.infer_score
        untrained, no_tokens = "nothing is trained", f"search.infer_score={infer} searches no tokens"
        imputes = infer == "xtr" or (self.reads_tokens and search.imputation == "const")
        return unread_keys(
            ("objective.projection objective.projection_rate objective.temperature", self.trains, untrained),
            ("encoder.trainable_layers pairs watch", self.trains, untrained),
            ("objective.k_train", score in ("xtr", "xtr_norm_n"), f"objective.train_score={score} searches no batch"),
            ("objective.projection_rate", self.objective.projection is not None, "there is no map"),
            ("pairs.depth", self.pairs.negatives > 0, "no negatives are drawn"),
            ("model encoder", infer != "bm25", "bm25 reads no encoder"),
            ("search.k_prime search.imputation search.sweep search.index search.shown", self.reads_tokens, no_tokens),
            ("search.const", imputes, "nothing is imputed by it"),
            ("search.probes", self.reads_tokens and search.index == "approximate", "no inverted lists are searched"),
        )

    def parameters(self) -> int | None:
        """Those of the encoder, which its files know."""
        return None if self.trains else 0


CONFIG = XTRConfig

CARD = Card(
    title="XTR: passages scored by the tokens that a search returns",
    paper="arXiv 2304.01982 (Lee, Dai, Duddu, Lei, Naim, Chang, Zhao; NeurIPS 2023)",
    weights="pairs of a query token and a passage token, by whether a search for the one returns the other",
    summary="Every token of a passage has a vector. Each query token returns its k' nearest of the collection; "
    "passages are scored from those alone, and what is missing is set to the lowest score returned, so that no "
    "passage is read again. The training score counts the tokens that such a search of the batch would return.",
    claim=Claim(
        statement="Trained to retrieve tokens, an encoder ranks better by few of them than trained on sums of maxima",
        metric=JUDGED,
        arm="xtr",
        baseline="colbert",
        direction=1,
        published="MRR@10 37.4 against 27.7 scored so (MS MARCO, T5-base, k' = 40,000)",
        minimal_effect=0.01,
    ),
    claims=(
        Claim(
            statement="More right passages are among its candidates",
            metric=RECALL,
            arm="xtr",
            baseline="colbert",
            direction=1,
            published="recall@1000 98.0 against 91.8",
            minimal_effect=0.005,
        ),
        Claim(
            statement="More tokens of a right passage are returned",
            metric=GOLD_TOKENS,
            arm="xtr",
            baseline="colbert",
            direction=1,
            published="1.48 tokens of a candidate without it; no number of right passages known to us",
            minimal_effect=2.0,
        ),
        Claim(
            statement="The lowest score returned stands for a missing one better than 0.2, that better than 0, that "
            "better than nothing",
            metric=JUDGED,
            arm="untrained",
            baseline="untrained_none",
            direction=1,
            published="MRR@10 37.4, 36.4, 36.2, 22.6 of XTR-base",
            minimal_effect=0.005,
            unit=EXAMPLE_UNIT,
            kind=ORDER,
            arms=("untrained", "untrained_const", "untrained_zero", "untrained_none"),
        ),
        Claim(
            statement="Its own score ranks better than the mean vector of the same encoder",
            metric=JUDGED,
            arm="untrained",
            baseline="untrained_pooled",
            direction=1,
            published="BEIR nDCG@10 49.1 against 45.2 of GTR-base, which was trained otherwise",
            minimal_effect=0.01,
            unit=EXAMPLE_UNIT,
        ),
    ),
    cost="in training one top-k over the similarities of a batch; a query costs a search of tokens and a scatter of "
    "n k' scores, no vectors of candidates",
    pair_keys=("arm", "objective", "search"),
    version=1,
    control="untrained",
    headlines=(JUDGED, "nDCG@10", RECALL, GOLD_TOKENS),
    price=("full/RR@10", CANDIDATES),
    metrics=(
        *RANKING_METRICS,
        *(CANDIDATES, RECALL, GOLD_TOKENS, CANDIDATE_TOKENS, f"k*/{RECALL}", f"k*/{GOLD_TOKENS}", "watch/*"),
    ),
    watched=("watch/*",),
)
