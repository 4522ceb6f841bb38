"""Config and card of the recipe `pst`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import EQUIVALENCE, Card, Claim, RunConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.data.tasks.labelled_config import LabelledTextsConfig, ReviewSentimentConfig, WikiTopicsConfig
from recipes.core.models.adapter_config import float32_problems
from recipes.core.models.config import CausalLMConfig, MiniLMConfig, SmolLM2TextConfig

PST, MAGNITUDE, MOVEMENT, RANDOM, START, NONE = "pst", "magnitude", "movement", "random", "start", "none"
LOW_RANK, FULL = "low_rank", "full"
PART_MAGNITUDE, PART_FACTORS, PART_LINES = "magnitude", "factors", "lines"
ACCURACY, ZEROS, OVERLAP, RAMP_LOSS = "accuracy", "zeros", "overlap", "ramp_loss"
TRAINED, TRAINED_SHARE, SELECTED = "trained_parameters", "trained_share", "selected_step"


@dataclass(frozen=True)
class PruningConfig:
    """Which weights are set to zero, when, and what is trained beside."""

    score: str = setting(
        PST, help="what the lowest of are set to zero, in each layer: pst: |W| plus low-rank and line scores that are "
        "learnt; magnitude: |W|; movement: a full matrix that is learnt; random: drawn numbers; start: |W| before "
        "training; none: nothing is set to zero; arms choose it",
        choices=(PST, MAGNITUDE, MOVEMENT, RANDOM, START, NONE),
    )  # fmt: skip
    parts: tuple[str, ...] = setting(
        (PART_MAGNITUDE, PART_FACTORS, PART_LINES), help="pst: what the score is the sum of: |W|, A B, and a number a "
        "row plus a number a column", choices=(PART_MAGNITUDE, PART_FACTORS, PART_LINES),
    )  # fmt: skip
    weights: str = setting(
        LOW_RANK, help="what is trained of the model: U V beside each linear layer, or all of it",
        choices=(LOW_RANK, FULL),
    )  # fmt: skip
    sparsity: float = setting(0.9, help="share of each layer's weights that are zero in the end", ge=0, lt=1)
    initial: float = setting(0.0, help="the same at the start", ge=0, lt=1, origin="code")
    warmup: float = setting(0.1, help="share of the steps before it grows", ge=0, lt=1, origin="code")
    cooldown: float = setting(0.3, help="share of the steps behind that, of which the best is kept", ge=0, lt=1)
    weight_rank: int = setting(4, help="r1, the rank of U V; published: 8", ge=1)
    score_rank: int = setting(4, help="r2, the rank of A B; published: 8", ge=1)
    beta: float = setting(1.0, help="what U V is multiplied by", gt=0, origin="code")
    alphas: tuple[float, float] = setting((1.0, 1.0), help="what A B, and row and column scores, are multiplied by")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if self.initial > self.sparsity:
            problems.append(("initial", f"is more than sparsity={self.sparsity:g}; type a smaller one"))
        if self.warmup + self.cooldown >= 1:
            problems.append(("cooldown", f"and warmup={self.warmup:g} leave no step to prune in; type smaller ones"))
        if not self.parts or len(set(self.parts)) < len(self.parts):
            problems.append(("parts", "names none, or one twice; type [magnitude, factors, lines], or some of them"))
        return problems


@dataclass(frozen=True)
class RatesConfig:
    """Learning rates of what is neither U, V nor a score of PST's: these have `trainer.learning_rate`."""

    head: float = setting(1e-3, help="classifier", gt=0)
    full: float = setting(1e-4, help="weights=full: all weights of the model", gt=0)
    movement: float = setting(1e-2, help="score=movement: the matrices of scores", gt=0)


@dataclass(frozen=True)
class TaskConfig:
    """The classifier."""

    max_tokens: int = setting(64, help="longer texts are cut", unit="tokens", ge=3)
    validation: float = setting(
        0.1, help="share of each class's training documents that choose among the steps at full sparsity", gt=0, lt=1
    )
    train_head: bool = setting(
        True, help="train the head as well; the published code leaves it as it was drawn, which we do not"
    )
    watch_every: int = setting(20, help="steps between measurements on validation texts", unit="steps", ge=1)
    batch_tokens: int = setting(2048, help="tokens of a forward where nothing is trained", unit="tokens", ge=3)


@dataclass(frozen=True, kw_only=True)
class PSTConfig(RunConfig):
    """Config of one `pst` run."""

    data: ReviewSentimentConfig | WikiTopicsConfig | LabelledTextsConfig = setting(help="texts with a label each")
    model: MiniLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="pretrained model")
    pruning: PruningConfig = setting(PruningConfig(), help="pruning")
    rates: RatesConfig = setting(RatesConfig(), help="learning rates")
    task: TaskConfig = setting(TaskConfig(), help="classifier")

    @property
    def sequence_tokens(self) -> int:
        """Most tokens that a forward sees of a text."""
        return self.task.max_tokens

    @property
    def sequence_limit(self) -> tuple[str, int]:
        """The key that says how long texts are."""
        return "task.max_tokens", self.task.max_tokens

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems = float32_problems(self.model, "weights are set to zero in float32")
        if self.trainer.early_stopping.metric is not None:
            message = "would end a run before sparsity is full; the best step behind that is kept anyway: leave it out"
            problems.append(("trainer.early_stopping.metric", message))
        if self.trainer.parallel == "fsdp":
            problems.append(("trainer.parallel", "fsdp shares out weights, and a mask is of a whole layer; type ddp"))
        return problems

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        pruning, path = self.pruning, getattr(self.model, "path", None)
        zeros = "none" if pruning.score == NONE else f"{pruning.sparsity:g} of each layer, by {pruning.score}"
        trained = f"U V of rank {pruning.weight_rank}" if pruning.weights == LOW_RANK else "all weights"
        return [
            ("data", self.data.described),
            ("model", str(getattr(self.model, "description", path or "all-MiniLM-L6-v2 (asset)"))),
            ("zeros", zeros),
            ("trained", trained + ("" if self.task.train_head else ", not the head")),
        ]

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run, though they may in other arms, and why."""
        score, parts = self.pruning.score, self.pruning.parts if self.pruning.score == PST else ()
        low_rank, full = self.pruning.weights == LOW_RANK, "all weights are trained"
        grows = "pruning.initial pruning.warmup"
        learns = low_rank or bool(parts)
        return unread_keys(
            ("pruning.sparsity", score != NONE, "nothing is set to zero"),
            (grows, score not in (NONE, START), f"score={score}: sparsity does not grow"),
            ("pruning.parts", score == PST, f"score={score} has no parts"),
            ("pruning.score_rank", PART_FACTORS in parts, "no A B is learnt"),
            ("pruning.alphas", bool({PART_FACTORS, PART_LINES} & {*parts}), "no such scores are learnt"),
            ("pruning.weight_rank pruning.beta", low_rank, full),
            ("trainer.learning_rate", learns, f"{full}, by rates.full"),
            ("rates.full", not low_rank, "U V are trained, by trainer.learning_rate"),
            ("rates.movement", score == MOVEMENT, f"score={score} has no matrix of scores"),
            ("rates.head", self.task.train_head, "the head is not trained"),
        )


CONFIG = PSTConfig

CARD = Card(
    title="PST: weights chosen by low-rank scores while low-rank updates are trained",
    paper="arXiv 2205.11005 (Li, Luo, Tan, Wang, Huang, Li, Bai; IJCAI 2022)",
    weights="parameters, by magnitude plus a score that the task's gradient teaches: kept, or set to zero",
    summary="A pretrained model is fine-tuned while more and more of its weights become zero. Which, a score says: "
    "magnitude, plus a product of two thin matrices, plus a number a row and a column. These, and a low-rank "
    "update of the weights, are all that is trained.",
    claim=Claim(
        statement="At equal sparsity and ranks, scores that learn leave a better classifier than magnitude",
        metric=ACCURACY,
        arm="pst",
        baseline="magnitude",
        direction=1,
        published="as good as the best method that trains all weights and scores, at 50% and 90%, with 1.5% of the "
        "parameters; numbers of single tasks not known to us",
        minimal_effect=0.01,
    ),
    claims=(
        Claim(
            statement="It is as good as movement pruning, which trains all weights and a score for each",
            metric=ACCURACY,
            arm="pst",
            baseline="movement",
            direction=1,
            published="comparable, with 1.5% of the parameters",
            minimal_effect=0.02,
            kind=EQUIVALENCE,
        ),
        Claim(
            statement="It is better than a random choice of weights",
            metric=ACCURACY,
            arm="pst",
            baseline="random",
            direction=1,
            published="none: ours",
            minimal_effect=0.02,
        ),
        Claim(
            statement="The loss just behind the growth of sparsity is lower than by magnitude",
            metric=RAMP_LOSS,
            arm="pst",
            baseline="magnitude",
            direction=-1,
            published="none: ours",
            minimal_effect=0.02,
        ),
    ),
    cost="(r1 + r2 + 1) (in + out) parameters a layer and their Adam state; weights, scores and mask of all layers "
    "lie in memory in a step, and one selection of the n-th lowest score is made a layer and step; nothing at "
    "inference, where zeros save no time without a sparse kernel",
    pair_keys=("arm", "pruning"),
    version=1,
    headlines=(ACCURACY, ZEROS, OVERLAP, RAMP_LOSS, TRAINED_SHARE),
    frontiers=((ZEROS, ACCURACY),),
    price=(TRAINED, OVERLAP),
    control="random",
    metrics=(*(ACCURACY, "macro_f1", ZEROS, OVERLAP, RAMP_LOSS, TRAINED, TRAINED_SHARE, SELECTED, "watch/*"),),
    watched=("watch/*",),
)
