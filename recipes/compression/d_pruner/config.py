"""Config and card of the recipe `d-pruner`. Imports no torch."""

from dataclasses import dataclass

from recipes.compression.config import CalibrationConfig, HeldOutConfig
from recipes.compression.d_pruner.texts_config import TrainedLMConfig, TwoTextsConfig
from recipes.core.config.settings import EQUIVALENCE, EXAMPLE_UNIT, ORDER, Card, Claim, UntrainedConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.models.adapter_config import float32_problems
from recipes.core.models.config import CausalLMConfig, SmolLM2TextConfig

DUAL, GENERAL, DOMAIN, SUM_RANK = "dual", "general", "domain", "sum_rank"
MAGNITUDE, WANDA, SPARSEGPT, MASK_ONLY, RANDOM, DENSE = (
    *("magnitude", "wanda", "sparsegpt", "mask_only", "random", "dense"),
)
METHODS = (DUAL, GENERAL, DOMAIN, SUM_RANK, MAGNITUDE, WANDA, SPARSEGPT, MASK_ONLY, RANDOM, DENSE)
BY_GRADIENT, BY_OBS = (DUAL, DOMAIN, SUM_RANK), (DUAL, GENERAL, SUM_RANK)
BY_LAYER_OUTPUT = (WANDA, SPARSEGPT, MASK_ONLY)  # block by block, behind the blocks that are pruned already
OPEN, MIX = "open", "mix"
NAMED, EQUAL, SWAPPED = "named", "equal", "swapped"
NLL, ON_DOMAIN, ON_OPEN = "nll", "nll/domain", "nll/open"
LEAST = 0.02  # nats per token: 2% of perplexity


@dataclass(frozen=True)
class PruneConfig:
    """How many weights become zero, and which."""

    method: str = setting(
        DUAL,
        help="dual: gradient on the domain text, regularised by importance to the open text; general: that importance "
        "alone; domain: that gradient alone; sum_rank: mean of both ranks; magnitude; wanda: magnitude times norm of "
        "the input; sparsegpt: other weights make up for those that go; mask_only: its zeros, the other weights as "
        "they were; random; dense: nothing; arms choose it",
        choices=METHODS,
    )
    sparsity: float = setting(
        0.5, help="share of zeros in each linear layer of the blocks; of the model that is left", ge=0, lt=1,
        origin="paper",
    )  # fmt: skip
    others: tuple[float, ...] = setting((0.3,), help="other shares, measured too", ge=0, lt=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if len({*self.others, self.sparsity}) <= len(self.others):
            return [("others", "names a share twice, or that of prune.sparsity; for none type prune.others=[]")]
        return []

    @property
    def shares(self) -> tuple[float, ...]:
        """All shares of zeros; that of the model which is left is the last."""
        return () if self.method == DENSE else (*self.others, self.sparsity)


@dataclass(frozen=True)
class ScoreConfig:
    """The score of a weight by gradients."""

    rho: float = setting(
        1.0, help="dual: size of what regularises a gradient, over that of the gradient; at 0 it is `domain`", ge=0
    )
    second_order_sign: int = setting(
        1, help="sign of the second term: 1 as in the paper, -1 as in the expansion of the loss", choices=(1, -1)
    )
    groups: int = setting(
        1, help="iterative blocking: groups of blocks, masked one after another; gradients are taken anew between", ge=1
    )


@dataclass(frozen=True, kw_only=True)
class TwoCalibrationsConfig(CalibrationConfig):
    """Sequences of both texts."""

    text: str = setting(
        OPEN, help="what Wanda and SparseGPT read; mix: half of each; arms choose it", choices=(OPEN, DOMAIN, MIX)
    )
    roles: str = setting(
        NAMED,
        help="equal: sequences of the open text stand for the domain too; swapped: the same two draws in each other's "
        "place; arms choose it",
        choices=(NAMED, EQUAL, SWAPPED),
    )


@dataclass(frozen=True, kw_only=True)
class ShownConfig(HeldOutConfig):
    """Held-out sequences of both texts."""

    shown: int = setting(3, help="sequences of each text that the report shows", unit="sequences", ge=0)


@dataclass(frozen=True, kw_only=True)
class DPrunerConfig(UntrainedConfig):
    """Config of one `d-pruner` run."""

    data: TwoTextsConfig = setting(help="two texts")
    model: TrainedLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model that is pruned")
    prune: PruneConfig = setting(PruneConfig(), help="pruning")
    score: ScoreConfig = setting(ScoreConfig(), help="score by gradients")
    calibration: TwoCalibrationsConfig = setting(TwoCalibrationsConfig(), help="what scores are computed on")
    evaluation: ShownConfig = setting(ShownConfig(), help="what is measured")
    save_model: bool = setting(
        True, help="leave the pruned model in the run, for `steelyard export`; as large as its weights"
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        return float32_problems(self.model, "weights in 4 or 8 bits are not pruned")

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        calibration = self.calibration
        return [
            ("data", self.data.description),
            ("model", self.model.description),
            ("calibration", f"{calibration.sequences} sequences of {calibration.length} tokens of each text"),
            ("pruned", f"{self.prune.method}, shares {', '.join(f'{share:g}' for share in self.prune.shares) or 0}"),
        ]

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run, though they may in other arms, and why."""
        method, other = self.prune.method, f"prune.method={self.prune.method} does without"
        calibrated, data = method in (*BY_GRADIENT, *BY_OBS, *BY_LAYER_OUTPUT), self.data
        return unread_keys(
            ("data.domain", not data.path, "data.path is read in its place"),
            ("data.open", not data.open_path, "data.open_path is read in its place"),
            ("data.text_column", bool(data.path or data.open_path), "texts that ship have one column"),
            ("score.rho", method == DUAL, other),
            ("score.second_order_sign score.groups", method in BY_GRADIENT, other),
            ("calibration.sequences calibration.length calibration.batch", calibrated, other),
            ("calibration.text", method in BY_LAYER_OUTPUT, other),
            ("calibration.roles", method in (*BY_GRADIENT, *BY_OBS), other),
            ("calibration.damp", method in (*BY_OBS, SPARSEGPT, MASK_ONLY), other),
            ("prune.sparsity prune.others save_model", method != DENSE, "the model stays as it is"),
        )


CONFIG = DPrunerConfig


def _claim(statement: str, baseline: str, metric: str, published: str) -> Claim:
    return Claim(statement, metric, DUAL, baseline, -1, published, LEAST, unit=EXAMPLE_UNIT)


PUBLISHED = "close to the best perplexity, behind SparseGPT, and best on most tasks (LLaMA2-7B at 50%)"
CARD = Card(
    title="D-Pruner: weights kept for text at large and for one domain",
    paper="arXiv 2405.06275 (Zhang, Liu, Zhao, Cheng, Bao, Zhang, Mitra, Chen; Findings of NAACL 2024)",
    weights="parameters, by their importance to open text and by their gradient on a domain",
    summary="Weights that matter to open text are found by Optimal Brain Surgeon, layer by layer. Moving them has a "
    "price in the loss on the domain, and what the gradient of both says of a weight decides whether it goes. One "
    "shot, without training.",
    # On the Pareto front of the two texts: neither score that it joins is better on both.
    claim=_claim(
        "Weights kept for both texts predict domain text better than those kept for open text alone",
        GENERAL,
        ON_DOMAIN,
        PUBLISHED,
    ),
    claims=(
        _claim(
            "Weights kept for both texts predict open text better than those kept for the domain alone",
            DOMAIN,
            ON_OPEN,
            "without regularisation perplexity and tasks are worse",
        ),
        _claim("Over both texts they are better than the mean of both ranks", SUM_RANK, NLL, "not in the paper"),
        _claim(
            "Over both texts they are better than SparseGPT calibrated on the domain",
            "sparsegpt_domain",
            NLL,
            "not so: perplexity is a little worse than SparseGPT's",
        ),
        _claim(
            "Over both texts they are better than SparseGPT calibrated on both",
            "sparsegpt_mix",
            NLL,
            "not in the paper",
        ),
        _claim("Over both texts they are better than Wanda", WANDA, NLL, "not in the paper"),
        _claim("Over both texts they are better than the largest weights", MAGNITUDE, NLL, PUBLISHED),
        Claim(
            statement="What SparseGPT gains is made up for by other weights, not by which go",
            metric=NLL,
            arm="sparsegpt_open",
            baseline=MASK_ONLY,
            direction=-1,
            published="not in the paper",
            minimal_effect=LEAST,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="Of two draws of one text it does not matter which stands for the domain",
            metric=NLL,
            arm="equal",
            baseline="equal_swapped",
            direction=-1,
            published="a planted control of ours",
            minimal_effect=LEAST,
            unit=EXAMPLE_UNIT,
            kind=EQUIVALENCE,
        ),
        Claim(
            statement="Dual scores are better than magnitudes, and these than chance",
            metric=NLL,
            arm=DUAL,
            baseline=RANDOM,
            direction=-1,
            published="not in the paper",
            minimal_effect=LEAST,
            unit=EXAMPLE_UNIT,
            kind=ORDER,
            arms=(DUAL, MAGNITUDE, RANDOM),
        ),
    ),
    cost="a forward of the open text with one inverse a layer, and a backward of the domain text",
    pair_keys=("arm", "prune", "score", "calibration"),
    version=1,
    control=DOMAIN,
    headlines=(NLL, "perplexity/", "sparsity"),
    price=(ON_OPEN,),
    frontiers=((ON_OPEN, ON_DOMAIN),),
    trains=False,
    metrics=(NLL, "nll/*", "perplexity/*", "at_*", "sparsity", "mask/*"),
)
