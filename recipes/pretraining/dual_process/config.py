"""Config and card of the recipe `dual-process`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import Card, Claim, RunConfig, setting
from recipes.core.config.unread import unread_keys

TEMPORARY, ACTIVE, PROBABILISTIC, DRIFT, NONE = "temporary", "active", "probabilistic", "drift", "none"
UNSEEN, MATCHED, TAIL, VALIDATION, AMBIGUOUS = "unseen", "unseen_matched", "tail", "val", "ambiguous"
HEAD_SWITCH, TAIL_SWITCH, SWITCH = "head_switch", "tail_switch", "switch"
SETS = (VALIDATION, UNSEEN, MATCHED, TAIL, AMBIGUOUS, HEAD_SWITCH, TAIL_SWITCH, SWITCH)
WATCHED = (VALIDATION, UNSEEN, TAIL, TAIL_SWITCH, HEAD_SWITCH)
LENGTH = 7  # tokens of a sequence
BINS = 5  # of the frequency of a class's tokens
HEAD = 20  # first tokens of a class that are its head
CLASS, LATE = "class", "late"


@dataclass(frozen=True)
class PartsOfSpeechConfig:
    """Sequences of a noun, an adjective and a copula, drawn in the run: slots always tell roles, tokens mostly."""

    name: str = setting("parts-of-speech", help="data set", choices=("parts-of-speech",))
    vocabulary: int = setting(
        1000, help="nouns and adjectives together; a tenth as many are never trained on", unit="tokens", ge=100,
        le=1_000_000,
    )  # fmt: skip
    alpha: float = setting(
        1.5, help="exponent of the Zipf law by which tokens are drawn; 0: all alike", ge=0, origin="paper"
    )
    ambiguity: float = setting(
        0.1, help="share of each class's tokens, in each of five bins of frequency, that stand in either role", ge=0,
        le=0.5, origin="paper",
    )  # fmt: skip

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [("vocabulary", "is no multiple of 100; type 1000")] if self.vocabulary % 100 else []

    @property
    def rows(self) -> int:
        """Rows of the embedding: nouns, adjectives, copula, mask, and what is never trained on."""
        return self.vocabulary + 2 + self.vocabulary // 10

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        law = f"Zipf {self.alpha:g}" if self.alpha else "all alike"
        return f"{self.vocabulary:,} nouns and adjectives, {law}, {self.ambiguity:g} of them ambiguous"


@dataclass(frozen=True)
class ToyBertConfig:
    """A small BERT whose output layer is its embedding, trained from nothing in the run."""

    name: str = setting("toy-bert", help="model", choices=("toy-bert",))
    layers: int = setting(2, help="layers; published: 6", ge=1)
    width: int = setting(64, help="hidden width", ge=4, origin="code")
    heads: int = setting(1, help="attention heads", ge=1, origin="code")
    inner: int = setting(128, help="width inside the MLP", ge=4, origin="code")
    dropout: float = setting(0.0, help="dropout of states and of attention; published: 0.1", ge=0, lt=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [("heads", f"width={self.width} does not divide by it")] if self.width % self.heads else []

    def parameters(self, rows: int) -> int:
        """Parameters, with an embedding of so many rows."""
        width, inner = self.width, self.inner
        # Attention, MLP, two norms.
        block = 4 * width * (width + 1) + 2 * width * inner + inner + width + 4 * width
        # Table, bias of the output, seven positions and two types with their norm; transform and norm of the head.
        return rows * (width + 1) + 9 * width + 2 * width + self.layers * block + width * (width + 1) + 2 * width


@dataclass(frozen=True, kw_only=True)
class ForgetConfig:
    """Which embeddings are drawn anew, and when; arms choose it."""

    mode: str = setting(
        TEMPORARY, help="temporary, active: all embeddings are drawn anew every so many steps, up to a step or to the "
        "end; probabilistic: ordinary steps, then those of the body alone, some of a batch's tokens with drawn "
        "embeddings; drift: such tokens in all steps, and embeddings are trained; none: nothing is forgotten",
        choices=(TEMPORARY, ACTIVE, PROBABILISTIC, DRIFT, NONE),
    )  # fmt: skip
    every: int | None = setting(
        None, help="k, steps between resets; null: temporary: a fortieth of all steps, active: a quarter", unit="steps",
        ge=1,
    )  # fmt: skip
    until: int | None = setting(
        None, help="N, temporary: resets come before this step, 0: none do; null: three eighths of all steps",
        unit="steps", ge=0,
    )  # fmt: skip
    std: float = setting(1.0, help="standard deviation of what is drawn", gt=0, origin="code")
    initial_std: float = setting(1.0, help="that of the embeddings before the first step; published: 0.02", gt=0)
    clear_moments: bool = setting(True, help="whether a reset also clears the optimizer's moments of the embeddings")
    share: float = setting(
        0.1, help="probabilistic, drift: probability of each of a batch's tokens to have a drawn embedding", ge=0, le=1,
        origin="paper",
    )  # fmt: skip
    begin: float = setting(0.5, help="probabilistic: share of the steps before, which are ordinary", ge=0, lt=1)

    @property
    def resets(self) -> bool:
        """Whether all embeddings are drawn anew."""
        return self.mode in (TEMPORARY, ACTIVE)

    @property
    def replaces(self) -> bool:
        """Whether tokens have drawn embeddings for a step."""
        return self.mode in (PROBABILISTIC, DRIFT)

    def interval(self, steps: int) -> int:
        """k, in a run of so many steps."""
        return self.every or max(steps // (40 if self.mode == TEMPORARY else 4), 1)

    def last(self, steps: int) -> int:
        """N, in a run of so many steps."""
        if self.mode == ACTIVE:
            return steps
        return 3 * steps // 8 if self.until is None else self.until

    def first_replaced(self, steps: int) -> int:
        """Steps done when tokens are replaced for the first time."""
        return round(self.begin * steps) if self.mode == PROBABILISTIC else 0


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and when."""

    watch_every: int = setting(100, help="steps between measurements", unit="steps", ge=1)
    sequences: int = setting(200, help="sequences of each set", unit="sequences", ge=1)
    last: int = setting(3, help="measurements at the end that the means late/* are over", ge=1)
    batch: int = setting(500, help="sequences of a forward", unit="sequences", ge=1)


@dataclass(frozen=True, kw_only=True)
class DualProcessConfig(RunConfig):
    """Config of one `dual-process` run."""

    data: PartsOfSpeechConfig = setting(help="sequences")
    model: ToyBertConfig = setting(help="model, trained from nothing")
    forget: ForgetConfig = setting(ForgetConfig(), help="forgetting")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), help="what is measured")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems, forget, steps = [], self.forget, self.trainer.max_steps
        if forget.resets:
            every, last = forget.interval(steps), forget.last(steps)
            # A run too short for a share of its steps resets nothing; a number that was typed is meant.
            typed = forget.every is not None or bool(forget.until)
            if forget.every is not None and every >= steps:
                message = f"the first reset would come after the last step; type less than trainer.max_steps={steps}"
                problems.append(("forget.every", message))
            if last > steps:
                message = f"would reset after the last step, {steps}; type less, or arm=active"
                problems.append(("forget.until", message))
            elif typed and 0 < last <= every < steps:
                problems.append(("forget.until", f"no reset comes before it with k = {every}; type more, or 0"))
        if forget.replaces and self.trainer.processes > 1:
            key = self.trainer.processes_key
            problems.append((key, f"a batch's tokens are drawn in one process; type {key}=1"))
        if self.trainer.parallel == "fsdp":
            problems.append(("trainer.parallel", "fsdp shares out embeddings that are drawn whole; type ddp"))
        return problems

    @property
    def sequence_tokens(self) -> int:
        """Tokens of a sequence."""
        return LENGTH

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run."""
        mode, forget = self.forget.mode, self.forget
        return unread_keys(
            ("forget.every forget.clear_moments", forget.resets, f"mode={mode} has no reset"),
            ("forget.until", mode == TEMPORARY, f"mode={mode} does not stop"),
            ("forget.std", mode != NONE, "nothing is drawn anew"),
            ("forget.share", forget.replaces, f"mode={mode} replaces no tokens of a batch"),
            ("forget.begin", mode == PROBABILISTIC, f"mode={mode} has no ordinary steps before"),
        )

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        forget, steps = self.forget, self.trainer.max_steps
        schedule = f"mode {forget.mode}, embeddings begin at a standard deviation of {forget.initial_std:g}"
        if forget.resets:
            schedule += f", are drawn anew at {forget.std:g} every {forget.interval(steps):,} steps"
            schedule += f" before step {forget.last(steps):,}"
        model = f"BERT, {self.model.layers} layers, width {self.model.width}, trained in the run"
        return [("data", self.data.description), ("model", model), ("forgetting", schedule)]

    def parameters(self) -> int:
        """Parameters of the model."""
        return self.model.parameters(self.data.rows)


CONFIG = DualProcessConfig

CARD = Card(
    title="Dual process learning: temporary forgetting of embeddings",
    paper="arXiv 2406.00053 (Anand, Lepori, Merullo, Pavlick; ICLR 2025)",
    weights="what a token's embedding remembers against what its context says: embeddings are drawn anew on a schedule",
    summary="Where slots of a sequence always tell a token's role and its embedding mostly does, a model may learn to "
    "read either. Embeddings that are forgotten again and again early in training make it read the slots, and tokens "
    "that were never trained on are answered, too.",
    claim=Claim(
        statement="After temporary forgetting a model answers tokens it never saw more often than without, at "
        "equal standard deviation of embeddings",
        metric=UNSEEN,
        arm="temporary",
        baseline="none",
        direction=1,
        published="without forgetting the accuracy rises early, then vanishes; with it, it stays (figures)",
        minimal_effect=0.05,
    ),
    claims=(
        Claim(
            statement="Rare tokens in the other class's slot are more often answered by their slot",
            metric=TAIL_SWITCH,
            arm="temporary",
            baseline="none",
            direction=1,
            published="context decides for the tail (figures)",
            minimal_effect=0.05,
        ),
        Claim(
            statement="So are frequent ones",
            metric=HEAD_SWITCH,
            arm="temporary",
            baseline="none",
            direction=1,
            published="not claimed; a pilot of two seeds: .76 and .96 against .48 and .42",
            minimal_effect=0.05,
        ),
        Claim(
            statement="It leaves more of the memory of frequent tokens than active forgetting does",
            metric=f"{CLASS}/{HEAD_SWITCH}",
            arm="temporary",
            baseline="active",
            direction=1,
            published="active forgetting removes the preference for memory, temporary keeps both (figures)",
            minimal_effect=0.05,
        ),
        Claim(
            statement="Active forgetting answers tokens never seen more often than no forgetting",
            metric=UNSEEN,
            arm="active",
            baseline="none",
            direction=1,
            published="it keeps what vanishes without forgetting (figures)",
            minimal_effect=0.05,
        ),
        Claim(
            statement="Probabilistic forgetting in the second half answers tokens never seen more often than training "
            "the body alone",
            metric=UNSEEN,
            arm="probabilistic",
            baseline="body_only",
            direction=1,
            published="GPT-2 large, syllogisms of a new token: .03 before, .97 after",
            minimal_effect=0.05,
        ),
        Claim(
            statement="The standard deviation alone does much of it: where embeddings begin at 1.0, not 0.02, tokens "
            "never seen are answered",
            metric=UNSEEN,
            arm="none",
            baseline="none_small",
            direction=1,
            published="not in the paper; a pilot: .87 and .80 against .00",
            minimal_effect=0.05,
        ),
    ),
    cost="a draw of the embeddings at a reset; else that of ordinary training",
    pair_keys=("arm", "forget"),
    version=1,
    control="active",
    headlines=(UNSEEN, TAIL_SWITCH, HEAD_SWITCH, f"{CLASS}/{HEAD_SWITCH}", VALIDATION),
    price=(VALIDATION,),
    metrics=(*SETS, f"{SWITCH}/bin_*", f"{CLASS}/*", f"{LATE}/*", "resets"),
    watched=WATCHED,
)
