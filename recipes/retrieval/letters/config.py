"""Config of listwise ranking by letters: prompts, how an order is read, how the model is tuned. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import DATA_CONTENT, EXAMPLE_UNIT, MODEL_CONTENT, Claim, RunConfig, setting
from recipes.core.models.adapter_config import LoraConfig, lora_problems
from recipes.core.models.config import CausalLMConfig, SmolLM2TextConfig
from recipes.core.search.config import RANKING_METRICS, CollectionConfig, WikiSearchConfig
from recipes.core.training.toys.config import ToyLMConfig
from recipes.retrieval.config import FirstStageConfig, keys_of_no_use

FIRST_LOGIT, GENERATE, TOP = "first_logit", "generate", "first_logit_topk"
BARE, MAX = "bare", "max"
ALPHA, NUMERIC = "alpha", "numeric"
MOST_LETTERS, MOST_NUMBERS = 26, 9  # names that are one token
NONE, COMBINED, GENERATION, RANKING = "none", "combined", "generation", "ranking"
WEIGHTED, RANKNET, LAMBDARANK, LISTNET = "ranknet_weighted", "ranknet", "lambdarank", "listnet"
RANK_LOSSES = (WEIGHTED, RANKNET, LAMBDARANK, LISTNET)
MEASURED = ("rank_loss", "pair_agreement", "letter_mass", "answer_nll")  # of held-out lists, while the model is tuned
WORK = ("prefills", "decode_steps", "forwards", "tokens_read", "malformed", "ms")  # what the order of a query took
METRICS = (*RANKING_METRICS, *MEASURED, *WORK, "teacher_tau")


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """The prompt that holds the candidates of a query."""

    words: int = setting(
        300, help="of a passage, at most; fewer where a prompt would not fit", unit="words", ge=1, origin="code"
    )
    window: int = setting(
        20, help="passages of a prompt; longer lists in windows from the tail", unit="passages", ge=2, origin="paper"
    )
    stride: int = setting(10, help="from one window to the next", unit="passages", ge=1, origin="paper")
    names: str = setting(ALPHA, help="what names a passage: a letter, or a number", choices=(ALPHA, NUMERIC))
    batch_size: int = setting(8, help="prompts of a forward", unit="prompts", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if self.stride > self.window:
            problems.append(("stride", f"leaves passages out between windows of {self.window}"))
        if self.names == ALPHA and self.window > MOST_LETTERS:
            problems.append(("window", f"there are {MOST_LETTERS} letters; type prompt.window={MOST_LETTERS} or less"))
        return problems


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """What orders the candidates of a query."""

    by: str = setting(
        "letters", help="letters: their logits, or the order that the model writes; encoder: cosines of a sentence "
        "encoder, the teacher; first_stage: its own order; given: the order in which they come (a control)",
        choices=("letters", "encoder", "first_stage", "given"),
    )  # fmt: skip
    decode: str = setting(
        FIRST_LOGIT, help="letters: logits of the first name in one forward; the order written out, token by token; or "
        "those of the first names that are among the best tokens of all (what a server says)",
        choices=(FIRST_LOGIT, GENERATE, TOP),
    )  # fmt: skip
    visible: int = setting(
        30, help="first_logit_topk: best tokens of all that are seen", unit="tokens", ge=0, origin="code"
    )
    letter_merge: str = setting(
        BARE, help="the logit of a name: of its token behind '[', or the largest of all that say it, blanks aside",
        choices=(BARE, MAX),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """How the model learns to rank: from lists of queries that nothing is measured on."""

    objective: str = setting(
        COMBINED, help="combined: loss of the written order and rank loss of its first name; generation: the former; "
        "ranking: the latter; none: the model as it is",
        choices=(COMBINED, GENERATION, RANKING, NONE), origin="paper",
    )  # fmt: skip
    rank_loss: str = setting(WEIGHTED, help="rank loss of the first name's logits", choices=RANK_LOSSES, origin="paper")
    coefficient: float = setting(10.0, help="what the rank loss is multiplied by", ge=0, origin="paper")
    rank_from: float = setting(
        0.0, help="share of the steps before the rank loss sets in (an LM-tuned start)", ge=0, lt=1
    )
    lists: int | None = setting(2000, help="queries that are learnt from; null: all", unit="queries", ge=1)
    passages: int = setting(
        20, help="passages of a list: the first of BM25 for its query, one of them relevant", unit="passages", ge=2
    )
    order: str = setting(
        "shuffled", help="how a list is handed on: shuffled by the seed, or as BM25 ranks it",
        choices=("shuffled", "ranked"),
    )  # fmt: skip
    teacher: str = setting(
        "encoder", help="order behind the relevant passages, which come first: cosines of a sentence encoder, or a "
        "TREC run of yours (all of its order is taken)", choices=("encoder", "run"),
    )  # fmt: skip
    encoder: str | None = setting(
        None, help="folder or hub name of a BERT-type sentence encoder; null: all-MiniLM-L6-v2", content=MODEL_CONTENT
    )
    path: str | None = setting(None, help="teacher=run: file of a TREC run of all queries", content=DATA_CONTENT)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if (self.teacher == "run") != (self.path is not None):
            message = "is missing; type tuning.path=FILE of a TREC run" if self.path is None else (
                "is for tuning.teacher=run; type that too"
            )  # fmt: skip
            problems.append(("path", message))
        if self.rank_from and self.objective != COMBINED:
            problems.append(("rank_from", f"is for tuning.objective={COMBINED}, not {self.objective}"))
        return problems


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and when."""

    watch_every: int = setting(100, help="steps between measurements of held-out lists", unit="steps", ge=1)
    shown: int = setting(6, help="queries whose logits the report shows", unit="queries", ge=0)


@dataclass(frozen=True, kw_only=True)
class LettersRunConfig(RunConfig):
    """Config of one run that ranks by letters."""

    data: WikiSearchConfig | CollectionConfig = setting(help="collection")
    model: ToyLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model")
    lora: LoraConfig = setting(LoraConfig(), help="low-rank adapters")
    first_stage: FirstStageConfig = setting(FirstStageConfig(), help="candidates")
    prompt: PromptConfig = setting(PromptConfig(), help="prompt")
    ranking: ReadingConfig = setting(ReadingConfig(), help="order of candidates")
    tuning: TuningConfig = setting(TuningConfig(), help="tuning")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), help="evaluation")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = lora_problems(self.lora, self.trainer, self.model)
        numbers = self.prompt.names == NUMERIC and self.prompt.window > MOST_NUMBERS
        if numbers and self.asks:
            message = f"numbers above {MOST_NUMBERS} are no single token; type prompt.window={MOST_NUMBERS} or less"
            problems.append(("prompt.window", message))
        if self.tunes and self.tuning.passages > self.prompt.window:
            message = f"is more than a prompt holds, prompt.window={self.prompt.window}"
            problems.append(("tuning.passages", message))
        if not self.asks and self.tuning.objective != NONE:
            message = f"ranking.by={self.ranking.by} asks no model; type tuning.objective=none"
            problems.append(("tuning.objective", message))
        if self.tuning.objective == RANKING and self.ranking.decode == GENERATE:
            problems.append(("ranking.decode", "a model that learnt no order cannot write one; type first_logit"))
        return problems

    @property
    def asks(self) -> bool:
        """Whether a language model is asked."""
        return self.ranking.by == "letters"

    @property
    def tunes(self) -> bool:
        """Whether it is tuned."""
        return self.asks and self.tuning.objective != NONE

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        rows = [("data", self.data.description), ("candidates", self.first_stage.description)]
        if self.asks:
            rows.append(("model", self.model.description))
        if self.tunes:
            count = "all" if self.tuning.lists is None else f"{self.tuning.lists:,}"
            rows.append(("tuned on", f"{count} lists of {self.tuning.passages} passages, {self.tuning.objective}"))
        rows.append(("order by", self.ranking.decode if self.asks else self.ranking.by))
        return [*rows, *(("of no use", f"{key}: {why}") for key, why in self.unread())]

    def unread(self) -> list[tuple[str, str]]:
        """Keys that are typed and change nothing in this run, and why."""
        ranking, tuning, no_model = self.ranking, self.tuning, f"ranking.by={self.ranking.by} asks no model"
        ranks = self.tunes and tuning.objective in (COMBINED, RANKING)
        by_bm25 = self.first_stage.name == "bm25" or self.tunes
        rules = [
            ("ranking.visible", self.asks and ranking.decode == TOP, f"only for {TOP}"),
            ("ranking.letter_merge", self.asks and ranking.decode != GENERATE, "no logits of names are read"),
            *((f"prompt.{key}", self.asks, no_model) for key in ("window", "stride", "names", "batch_size")),
            *((f"tuning.{key}", ranks, "no rank loss is learnt") for key in ("rank_loss", "coefficient")),
            ("tuning.order", self.tunes, "nothing is learnt"),
            ("tuning.encoder", tuning.teacher == "encoder" or ranking.by == "encoder", "a run is the teacher"),
            ("evaluation.shown", self.asks, no_model),
            ("first_stage.encoder", self.searches, "no encoder searches"),
            ("first_stage.seed", self.first_stage.order == "shuffled" or self.shuffles, "nothing is shuffled"),
            *((f"first_stage.{key}", by_bm25, "BM25 ranks nothing") for key in ("k1", "b")),
        ]
        return keys_of_no_use(self, rules)

    @property
    def shuffles(self) -> bool:
        """Whether lists to learn from are shuffled."""
        return self.tunes and self.tuning.order == "shuffled"

    @property
    def searches(self) -> bool:
        """Whether the encoder of the first stage searches."""
        return self.first_stage.name == "dense"

    def parameters(self) -> int | None:
        """Parameters of the model; 0 where none is tuned."""
        return self.model.parameters if self.tunes else 0


def no_step_claim(arm: str, baseline: str, published: str) -> Claim:
    """The claim that one forward takes the place of the steps in which an order is written.

    Args:
        arm: What reads an order off one token.
        baseline: What writes it.
        published: What the paper says of it.
    """
    return Claim(
        statement="No token is generated where written orders take four steps a passage",
        metric="decode_steps",
        arm=arm,
        baseline=baseline,
        direction=-1,
        published=published,
        minimal_effect=1.0,
        unit=EXAMPLE_UNIT,
    )
