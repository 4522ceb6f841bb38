"""Config and card of the recipe `rsq`. Imports no torch."""

from dataclasses import dataclass

from recipes.compression.config import CalibrationConfig, HeldOutConfig
from recipes.core.config.settings import EXAMPLE_UNIT, ORDER, Card, Claim, UntrainedConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.data.config import DomainsConfig
from recipes.core.models.adapter_config import float32_problems
from recipes.core.models.config import CausalLMConfig, SmolLM2TextConfig
from recipes.core.training.toys.config import ToyLMConfig

HADAMARD, QR, NONE = "hadamard", "qr", "none"
ATTENTION, UNIFORM, FIRST, LAST, FIRST_LAST = "attention", "uniform", "first", "last", "first_last"
ACTNORM, ACTDIFF, TOKENFREQ, TOKENSIM = "actnorm", "actdiff", "tokenfreq", "tokensim"
CHUNKS, DYNAMIC = (FIRST, LAST, FIRST_LAST), (ATTENTION, ACTNORM, ACTDIFF, TOKENFREQ, TOKENSIM)
GPTQ, RTN = "gptq", "rtn"
PACKED = (2, 3, 4, 8)  # bits that packers of GPTQ weights have
NLL, INCREASE, PERPLEXITY = "nll", "nll_increase", "perplexity"
BITS, EFFECTIVE, ERROR, GAP = "bits_per_weight", "effective_tokens", "output_error", "rotation/logit_gap"


@dataclass(frozen=True)
class RotateConfig:
    """The orthogonal matrix that the model is turned by before it is rounded; its logits stay."""

    kind: str = setting(
        HADAMARD,
        help="hadamard: with drawn signs; qr: drawn evenly; none. Of a model with layer norms, either is drawn and "
        "leaves the mean alone",
        choices=(HADAMARD, QR, NONE),
    )
    heads: bool = setting(True, help="turn values of each head too, by a Hadamard matrix")


@dataclass(frozen=True)
class ImportanceConfig:
    """What a calibration token weighs in the squared error of a layer's outputs."""

    strategy: str = setting(
        ATTENTION,
        help="attention: that it receives; uniform; first, last, first_last: of importance.chunks; actnorm: length of "
        "the block's input; actdiff: small change by the block; tokenfreq: rare ids; tokensim: distance to the others",
        choices=(ATTENTION, UNIFORM, *CHUNKS, *DYNAMIC[1:]),
    )
    r_min: float = setting(
        0.01, help="importance of a sequence's least important token; the most important has 1", gt=0, le=1,
        origin="paper",
    )  # fmt: skip
    power: int = setting(1, help="weights are importance to this power (code: 1, paper: 2)", choices=(1, 2))
    normalise: bool = setting(True, help="divide weights by their mean in each sequence (code)")
    chunks: int = setting(8, help="equal parts of a sequence, for first, last and first_last", ge=2, origin="paper")


@dataclass(frozen=True)
class QuantiseConfig:
    """How weights are rounded."""

    bits: int = setting(3, help="of a weight", unit="bits", choices=PACKED)
    solver: str = setting(
        GPTQ,
        help="gptq: column by column, errors made up for; rtn: each weight to the nearest value; none",
        choices=(GPTQ, RTN, NONE),
    )
    group: int | None = setting(None, help="columns that share a scale; null: a whole row", unit="columns", ge=1)
    clip: bool = setting(True, help="search for the scale of each row", origin="code")
    true_sequential: bool = setting(
        True,
        help="collect inputs of a block's layers anew when those before them are rounded; false: once a block",
        origin="code",
    )
    shifts: int = setting(1, help="copies of each calibration sequence, rolled by equal parts of it (paper: 8)", ge=1)


@dataclass(frozen=True, kw_only=True)
class RsqConfig(UntrainedConfig):
    """Config of one `rsq` run."""

    data: DomainsConfig = setting(help="texts: training documents to calibrate on, held-out ones to measure on")
    model: ToyLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model that is quantised")
    rotate: RotateConfig = setting(RotateConfig(), help="rotation")
    importance: ImportanceConfig = setting(ImportanceConfig(), help="weights of tokens")
    quantise: QuantiseConfig = setting(QuantiseConfig(), help="rounding")
    calibration: CalibrationConfig = setting(CalibrationConfig(), help="sequences that layers are fitted on")
    evaluation: HeldOutConfig = setting(HeldOutConfig(), help="what is measured")
    save_model: bool = setting(
        True, help="leave the model in the run, for `steelyard export`; as large as its weights in 32 bits"
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems = float32_problems(self.model, "weights that are rounded already are not rounded again")
        if self.importance.chunks > self.calibration.length and self.importance.strategy in CHUNKS:
            problems.append(("importance.chunks", "are more than calibration.length has tokens"))
        if self.quantise.shifts > self.calibration.length:
            problems.append(("quantise.shifts", "are more than calibration.length has tokens"))
        return problems

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        options, calibration = self.quantise, self.calibration
        rounded = "nothing is rounded" if options.solver == NONE else f"{options.bits} bits, {options.solver}"
        return [
            ("data", f"{self.data.description}: {calibration.tokens:,} tokens to calibrate on"),
            ("model", self.model.description),
            ("weights", f"{rounded}, rotation {self.rotate.kind}, tokens {self.importance.strategy}"),
        ]

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run, though they may in other arms, and why."""
        solver, strategy, rounds = self.quantise.solver, self.importance.strategy, self.quantise.solver != NONE
        return unread_keys(
            ("rotate quantise.bits quantise.group quantise.clip save_model", rounds, "the model stays as it is"),
            ("rotate.heads", self.rotate.kind != NONE, "nothing is rotated"),
            (
                "importance calibration.sequences calibration.length calibration.batch calibration.damp "
                "quantise.true_sequential quantise.shifts",
                solver == GPTQ,
                f"quantise.solver={solver} reads no text to calibrate on",
            ),
            ("importance.r_min", strategy in DYNAMIC, f"{strategy} weights have no smallest importance"),
            (
                "importance.power importance.normalise",
                strategy in DYNAMIC,
                f"{strategy}: tokens weigh alike, or nothing",
            ),
            ("importance.chunks", strategy in CHUNKS, f"{strategy} weights know no parts"),
        )

    @property
    def sequence_limit(self) -> tuple[str, int] | None:
        """The longest sequences that the model reads."""
        longest = max(self.calibration.length, self.evaluation.length)
        return ("evaluation.length" if longest == self.evaluation.length else "calibration.length"), longest


CONFIG = RsqConfig


def _claim(statement: str, arm: str, baseline: str, published: str, effect: float = 0.01, **more: object) -> Claim:
    """On the NLL of held-out text: less is better."""
    return Claim(statement, NLL, arm, baseline, -1, published, effect, unit=EXAMPLE_UNIT, **more)  # type: ignore[arg-type]


UNREAD_TABLES = "better on all models and tasks at 3 bits; the values of its tables were not read"

CARD = Card(
    title="RSQ: rotate, scale, then quantise",
    paper="arXiv 2503.01820 (Sung, Yadav, Li, Yoon, Bansal; 2025)",
    weights="calibration tokens in the squared error of each layer, by the attention that they receive",
    summary="A model is turned by an orthogonal matrix that leaves its logits as they are, and its layers are rounded "
    "column by column so that their outputs change least where tokens count most. The model that is left loads with "
    "transformers alone.",
    claim=_claim(
        "At 3 bits, calibration tokens weighted by the attention that they receive leave a lower NLL than equal ones",
        "rsq",
        "rotate_uniform",
        UNREAD_TABLES,
    ),
    claims=(
        _claim("Rotation before GPTQ leaves a lower NLL", "rotate_uniform", "gptq", UNREAD_TABLES, 0.02),
        _claim(
            "GPTQ leaves a lower NLL than rounding to the nearest value, and rotation a lower one than GPTQ",
            "rotate_uniform",
            "rtn",
            "known of GPTQ and QuaRot",
            0.02,
            kind=ORDER,
            arms=("rotate_uniform", "gptq", "rtn"),
        ),
        _claim("Weighted tokens leave a lower NLL without rotation", "attention", "gptq", "r_min .1 is best there"),
        _claim("Attention weights tokens better than their place does", "rsq", "first_8", "the adopted strategy"),
        _claim(
            "With an eighth of the calibration tokens weighted ones are better",
            "rsq_few",
            "uniform_few",
            "not in the paper",
        ),
        _claim(
            "With four times the calibration tokens they are better", "rsq_many", "uniform_many", "not in the paper"
        ),
        _claim("At 2 bits weighted tokens are better", "rsq_2bit", "uniform_2bit", "not read"),
        _claim("At 4 bits weighted tokens are better", "rsq_4bit", "uniform_4bit", "not read"),
    ),
    cost="about three forwards of the calibration text, its Hessians, and columns solved one by one",
    pair_keys=("arm", "rotate", "importance", "quantise", "calibration"),
    version=1,
    control="gptq",
    headlines=(NLL, PERPLEXITY, BITS, EFFECTIVE),
    price=(EFFECTIVE,),
    frontiers=((BITS, NLL),),
    trains=False,
    metrics=(NLL, f"{NLL}/*", INCREASE, PERPLEXITY, f"{PERPLEXITY}/*", BITS, EFFECTIVE, ERROR, GAP),
)
