"""Config and card of the recipe `softplus-attention`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import Card, Claim, RunConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.data.config import DomainsConfig
from recipes.core.models.config import SmallLMConfig

PHI = ("exp", "softplus", "sigmoid", "relu", "elu1")
SCALES = ("sqrt", "log_d", "log_n", "log_d_log_n")
ROPE, ALIBI = "rope", "alibi"
NONE, INTERPOLATION, NTK = "none", "interpolation", "ntk"
ALWAYS, EVALUATION = "train_and_eval", "eval_only"
LOSS, RISE = "loss", "rise"
MULTIPLES = (1, 2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """How a row of attention weights is made; arms choose it."""

    phi: str = setting("softplus", help="function of the scores; exp is a softmax", choices=PHI)
    scale: str = setting(
        "log_d_log_n",
        help="what scores are multiplied by: 1 / sqrt d, of queries and keys as they are; or of those of length 1, "
        "logarithms of their width d and of the number N of keys that a query sees",
        choices=SCALES,
        origin="paper",
    )
    divide: bool = setting(True, help="divide a row by its sum", origin="paper")
    power: float | None = setting(
        None, help="power of the excess over a uniform row (3 or 15 in the paper); null: no re-weighting", gt=0
    )
    apply: str = setting(
        ALWAYS, help="whether the re-weighting is trained with, or only measured with", choices=(ALWAYS, EVALUATION)
    )
    positions: str = setting(ROPE, help="rotary positions, or scores that fall with distance", choices=(ROPE, ALIBI))
    stretch: str = setting(
        NONE,
        help="rotary positions of texts longer than those of training: as they are, interpolated, or of another base",
        choices=(NONE, INTERPOLATION, NTK),
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and when."""

    watch_every: int = setting(100, help="steps between measurements at the training length", unit="steps", ge=1)
    windows: int = setting(
        12, help="held-out stretches of each domain, each read at all lengths", unit="stretches", ge=1
    )
    multiples: tuple[int, ...] = setting(
        MULTIPLES, help="lengths at which they are read, in training lengths; each divides the last", ge=1
    )
    batch_tokens: int = setting(2048, help="tokens of a forward", unit="tokens", ge=2)


@dataclass(frozen=True, kw_only=True)
class SoftplusAttentionConfig(RunConfig):
    """Config of one `softplus-attention` run."""

    data: DomainsConfig = setting(help="texts")
    model: SmallLMConfig = setting(help="model, trained from nothing")
    attention: AttentionConfig = setting(AttentionConfig(), help="rows of attention weights")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), help="what is measured")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems, attention = [], self.attention
        multiples, last = self.evaluation.multiples, max(self.evaluation.multiples, default=1)
        if 1 not in multiples or any(last % each for each in multiples) or list(multiples) != sorted({*multiples}):
            problems.append(("evaluation.multiples", "are 1 and more, in order, each a divisor of the last"))
        if self.model.architecture != "llama":
            problems.append(("model.architecture", "rows are those of rotary attention; type model.architecture=llama"))
        if attention.phi == "exp" and not attention.divide:
            problems.append(("attention.divide", "is false, and exp has no bound; leave it out, or choose another phi"))
        if attention.apply == EVALUATION and attention.power is None:
            problems.append(("attention.power", "is null, and attention.apply=eval_only has nothing to measure with"))
        if attention.stretch != NONE and attention.positions == ALIBI:
            problems.append(
                ("attention.stretch", "is of rotary positions; leave it out with attention.positions=alibi")
            )
        return problems

    @property
    def longest(self) -> int:
        """Tokens of a stretch."""
        return self.data.length * self.evaluation.multiples[-1]

    @property
    def sequence_tokens(self) -> int:
        """Tokens of a packed sequence."""
        return self.data.length

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run."""
        return unread_keys(
            ("attention.apply", self.attention.power is not None, "there is no re-weighting"),
            ("model.vocabulary", self.model.tokenizer == "bpe", "a token is a character"),
        )

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        stretch = f"sequences of {self.data.length:,} tokens, measured up to {self.longest:,}"
        return [("data", f"{self.data.description}: {stretch}"), ("model", self.model.description)]

    def parameters(self) -> int:
        """Parameters of the model."""
        return self.model.parameters


CONFIG = SoftplusAttentionConfig

CARD = Card(
    title="Softplus attention with re-weighting (LSSAR)",
    paper="arXiv 2501.13428 (Gao, Spratling, Gionfrida; version 5)",
    weights="tokens of the context, by how far their attention stands out of a uniform row",
    summary="Softplus in place of exp, scores scaled by the logarithm of how many tokens are seen, rows divided by "
    "their sum; then the excess over a uniform row is raised to a power. What is kept no longer depends on the length.",
    claim=Claim(
        statement="At 16 times the training length, a model with LSSAR (p = 15) loses less than one with softmax",
        metric=f"{LOSS}/16x",
        arm="lssar",
        baseline="softmax",
        direction=-1,
        published="8K tokens, trained on 1K: 3.32 against 6.28 nats (GPT-2 small)",
        minimal_effect=0.1,
    ),
    claims=(
        Claim(
            statement="Its loss at 16 times the training length is that at the training length",
            metric=f"{RISE}/16x",
            arm="lssar",
            baseline="softmax",
            direction=-1,
            published="a rise of 0.13 nats against 3.09",
            minimal_effect=0.5,
        ),
        Claim(
            statement="Re-weighting is what does it: without it softplus rises as softmax does",
            metric=f"{LOSS}/16x",
            arm="lssar",
            baseline="lssa",
            direction=-1,
            published="3.32 against 5.94",
            minimal_effect=0.1,
        ),
        Claim(
            statement="A low power does not do: p = 15 loses less than p = 3",
            metric=f"{LOSS}/16x",
            arm="lssar",
            baseline="lssar_3",
            direction=-1,
            published="3.32 against 6.30",
            minimal_effect=0.1,
        ),
        Claim(
            statement="It loses less than scores that fall with distance (ALiBi)",
            metric=f"{LOSS}/16x",
            arm="lssar",
            baseline="alibi",
            direction=-1,
            published="not in the paper as read",
            minimal_effect=0.05,
        ),
        Claim(
            statement="The softplus matters: re-weighted softmax rows lose more",
            metric=f"{LOSS}/16x",
            arm="lssar",
            baseline="softmax_reweight",
            direction=-1,
            published="3.32 against 7.02",
            minimal_effect=0.1,
        ),
    ),
    cost="no parameter more; no fused kernel, so that rows of weights are held in memory",
    pair_keys=("arm", "attention"),
    version=1,
    control="lssa",
    headlines=(f"{LOSS}/", f"{RISE}/"),
    price=(f"{LOSS}/1x",),
    metrics=(f"{LOSS}/*", f"{RISE}/*"),
    watched=(f"{LOSS}/1x",),
)
