"""Config that the alignment recipes share: data of pairs, the reference, the loss. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from recipes.core.config.settings import DATA_CONTENT, MODEL_CONTENT, SEEDS, RunConfig, setting
from recipes.core.data.text.chat_dates import CHAT_DATE, is_day
from recipes.core.evaluation.extra_config import QuestionsConfig
from recipes.core.models.adapter_config import LoraConfig, lora_problems
from recipes.core.models.config import CausalLMConfig, SmallLMConfig, SmolLM2TextConfig
from recipes.core.models.memory import decoder_size
from recipes.core.scoring.sizes import ALWAYS, AUTO, NEVER, STORE, score_bytes

# Patterns of what every alignment recipe measures during training, for `Card.watched`.
WATCHED = ("reward*", "kl*", "length", "accuracy*")

LOSSES = (
    "sft",
    "dpo",
    "dpo_smooth",
    "dpo_robust",
    "hinge",
    "ipo",
    "dpo_mean",
    "simpo",
    "cpo",
    "orpo",
    "kto",
    "tdpo1",
    "tdpo2",
    "rpo",
    "dpop",
    "odpo",
    "wpo",
)

WITHOUT_REFERENCE = ("sft", "simpo", "cpo", "orpo")
READ_DISTRIBUTIONS = ("tdpo1", "tdpo2")  # a KL over the vocabulary, for which the reference's last states are needed
NO_STATES, LAST_STATES, ALL_STATES = "none", "last", "all"


@dataclass(frozen=True)
class Reads:
    """What training reads of the reference at the tokens of answers; nothing else is computed.

    Attributes:
        logps: Its log-probs.
        states: Its hidden states: of no layer, of the last one, which its head gets, or of all.
    """

    logps: bool
    states: str


@dataclass(frozen=True)
class SentimentConfig:
    """Review sentences begun by people and finished by the reference; an exact lexicon judges the endings."""

    name: str = setting("sentiment", help="data set", choices=("sentiment",))
    path: str | None = setting(
        None, help="null: these pairs are made in the run; your own: data=preferences", content=DATA_CONTENT
    )
    pairs: int = setting(1200, help="most training pairs", unit="pairs", ge=1)
    prompts: int = setting(2500, help="training sentences begun, until there are enough pairs", unit="prompts", ge=1)
    test_prompts: int = setting(300, help="held-out sentences begun", unit="prompts", ge=2)
    prompt_words: int = setting(4, help="first words of a sentence that make its prompt", unit="words", ge=1)
    max_new_tokens: int = setting(20, help="longest completion", unit="tokens", ge=2)
    temperature: float = setting(1.0, help="of the samples that pairs are made of", gt=0)
    min_gap: float = setting(0.1, help="pairs whose scores differ by less are ties and are dropped", gt=0)
    test_fraction: float = setting(0.1, help="share of the sentences kept for testing", gt=0, lt=1)
    seed: int = setting(0, help="split and samples; all arms and seeds share one set of pairs", ge=0, lt=SEEDS)

    @property
    def description(self) -> str:
        """What pairs a dry run announces."""
        return f"up to {self.pairs:,} sampled pairs"

    @property
    def max_pairs(self) -> int:
        """Most pairs to train on."""
        return self.pairs

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if self.path is not None:
            problems.append(("path", "sentiment makes its own pairs; for your own file type data=preferences as well"))
        if self.prompts < self.pairs:
            message = f"{self.prompts} prompts cannot make {self.pairs} pairs; raise it or lower pairs"
            problems.append(("prompts", message))
        return problems


@dataclass(frozen=True)
class ChainArithmeticConfig:
    """Sums a+b+c= answered by running sums; an answer is right or wrong, and its first wrong token is known."""

    name: str = setting("chain-arithmetic", help="data set", choices=("chain-arithmetic",))
    path: str | None = setting(
        None, help="null: these pairs are made in the run; your own: data=preferences", content=DATA_CONTENT
    )
    low: int = setting(10, help="smallest number that is added", ge=0)
    high: int = setting(49, help="largest number that is added", ge=1)
    questions: int = setting(800, help="problems answered for pairs, new to the reference", unit="problems", ge=2)
    samples: int = setting(16, help="answers sampled for each problem", unit="samples", ge=2, origin="ours")
    test_prompts: int = setting(400, help="held-out problems", unit="problems", ge=2)
    temperature: float = setting(1.0, help="of the samples that pairs are made of", gt=0, origin="code")
    max_new_tokens: int = setting(12, help="longest answer; longer ones are left out", unit="tokens", ge=2)
    seed: int = setting(0, help="split and samples; all arms and seeds share one set of pairs", ge=0, lt=SEEDS)

    @property
    def description(self) -> str:
        """What pairs a dry run announces."""
        return f"{self.questions:,} sums, {self.samples} sampled answers each"

    @property
    def max_pairs(self) -> int:
        """Most pairs to train on."""
        return self.questions

    @property
    def problems(self) -> int:
        """Number of different problems."""
        return max(self.high - self.low + 1, 0) ** 3

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if self.path is not None:
            message = "chain-arithmetic makes its own pairs; for your own file type data=preferences as well"
            problems.append(("path", message))
        if self.high < self.low:
            problems.append(("high", f"{self.high} is less than low={self.low}"))
        elif self.problems <= self.questions + self.test_prompts:
            message = f"{self.problems} problems leave none to train the reference on; raise it or lower questions"
            problems.append(("high", message))
        return problems


@dataclass(frozen=True)
class PreferencesConfig:
    """Your own pairs: prompt, chosen and rejected, as text or as messages, as `trl` takes them."""

    name: str = setting("preferences", help="data set", choices=("preferences",))
    path: str | None = setting(
        None,
        help="JSON, JSONL, Parquet or CSV file, a folder of them, or a name on the hub",
        content=DATA_CONTENT,
    )
    format: str = setting(
        "auto",
        help="auto: from the path; stream: a hub data set, fetched row by row and not stored whole",
        choices=("auto", "jsonl", "parquet", "csv", "datasets", "stream"),
    )
    prompt_column: str | None = setting(None, help="null: prompt, or what both answers begin with")
    chosen_column: str | None = setting(None, help="null: chosen")
    rejected_column: str | None = setting(None, help="null: rejected")
    split: str = setting("train", help="published split to train on, or all; data without splits is train")
    test_split: str | None = setting(
        None, help="published split to test on; null: test, else validation, else test_fraction of split"
    )
    on_error: str = setting(
        "fail", help="a row that cannot be used stops the run, or is left out and counted", choices=("fail", "skip")
    )
    limit: int | None = setting(None, help="read only the first rows of a split; null: all", unit="rows", ge=2)
    test_fraction: float | None = setting(
        None, help="share of the pairs kept for testing; null: the published split, or 0.1 where there is none",
        gt=0, lt=1,
    )  # fmt: skip
    test_prompts: int = setting(16, help="held-out prompts that the policy answers", unit="prompts", ge=1)
    max_tokens: int = setting(512, help="longest prompt with answer; longer answers are cut", unit="tokens", ge=4)
    max_new_tokens: int = setting(64, help="longest sampled answer", unit="tokens", ge=2)
    chat_date: str = setting(CHAT_DATE, help="what chat templates that write today's date write: YEAR-MONTH-DAY")
    seed: int = setting(0, help="which pairs are kept for testing", ge=0, lt=SEEDS)

    @property
    def description(self) -> str:
        """What pairs a dry run announces."""
        return f"pairs of {self.path}"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = [] if self.path else [("path", "is missing; type data.path=FILE or a name on the hub")]
        if self.test_split is not None and self.test_fraction is not None:
            problems.append(
                ("test_fraction", "and test_split are two ways to choose what is tested on; type one of them")
            )
        if self.test_split == self.split:
            problems.append(("test_split", f"{self.split} is what is trained on; name another, or type test_fraction"))
        if not is_day(self.chat_date):
            problems.append(("chat_date", f"{self.chat_date!r} is no day; type one as in {CHAT_DATE}"))
        return problems


@dataclass(frozen=True)
class CorruptedConfig:
    """Review sentences, chosen, beside themselves with some words replaced, rejected: which tokens are bad is known."""

    name: str = setting("corrupted-reviews", help="data set", choices=("corrupted-reviews",))
    pairs: int = setting(400, help="most training pairs", unit="pairs", ge=1)
    test_pairs: int = setting(60, help="most held-out pairs", unit="pairs", ge=1)
    words: int = setting(3, help="words of a sentence that are replaced", unit="words", ge=1)
    min_words: int = setting(8, help="shorter sentences are left out", unit="words", ge=2)
    prompt: str = setting("Write a sentence of a film review.", help="what the sentences answer")
    test_prompts: int = setting(16, help="answers of the policy to that prompt", unit="prompts", ge=1)
    max_new_tokens: int = setting(40, help="longest sampled answer", unit="tokens", ge=2)
    test_fraction: float = setting(0.1, help="share of the sentences kept for testing", gt=0, lt=1)
    seed: int = setting(0, help="split, and which words are replaced by which", ge=0, lt=SEEDS)

    @property
    def description(self) -> str:
        """What pairs a dry run announces."""
        return f"up to {self.pairs:,} sentences with {self.words} words replaced"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if self.words >= self.min_words:
            problems.append(("words", f"a sentence of min_words={self.min_words} would not keep one of its words"))
        if not self.prompt.strip():
            problems.append(("prompt", "is empty"))
        return problems


AlignmentDataConfig = SentimentConfig | ChainArithmeticConfig | PreferencesConfig | CorruptedConfig


@dataclass(frozen=True)
class TuningConfig:
    """How a model is tuned in the run before the run's own training, once for all arms and seeds."""

    steps: int = setting(76, help="steps of tuning", unit="steps", ge=1)
    batch_size: int = setting(32, help="texts or pairs per step", unit="rows", ge=1)
    learning_rate: float = setting(3e-4, help="peak learning rate", gt=0)
    seed: int = setting(0, help="its own seed: all arms and seeds share what is tuned", ge=0, lt=SEEDS)


@dataclass(frozen=True)
class ReferenceConfig(TuningConfig):
    """The frozen model that the policy starts from, or another one that it is measured against."""

    steps: int = setting(
        600, help="steps of fine-tuning on the data's texts; 0: the model as it is", unit="steps", ge=0
    )
    batch_size: int = setting(64, help="texts per step", unit="texts", ge=1)
    learning_rate: float = setting(3e-3, help="peak learning rate", gt=0)
    model: str | None = setting(
        None,
        help="folder or hub name of another reference (data=preferences); null: what the policy starts from",
        content=MODEL_CONTENT,
    )
    store: str = setting(
        AUTO,
        help="what the loss reads of it is kept on disk for all runs (always), or computed beside each step (never); "
        "auto: kept if it takes at most max_gib, and the pairs are at most 10,000 or 8 times those that a run sees",
        choices=STORE,
    )
    max_gib: float = setting(
        8.0, help="auto: most disk that it may take, for the training and for the held-out pairs", unit="GiB", gt=0
    )


@dataclass(frozen=True)
class PreferenceConfig:
    """The preference loss and its coefficients; each loss reads its own."""

    loss: str = setting("tdpo1", help="loss of a pair; arms choose it", choices=LOSSES)
    beta: float = setting(0.1, help="strength of the pull to the reference (of simpo and orpo: scale)", gt=0)
    alpha: float = setting(0.5, help="weight of the KL difference in tdpo2", ge=0, origin="paper")
    gamma: float = setting(0.5, help="target margin of simpo", ge=0, origin="code")
    label_smoothing: float = setting(0.1, help="expected share of wrong labels (smooth, robust)", ge=0, lt=0.5)
    nll_weight: float = setting(1.0, help="weight of the chosen answer's NLL (cpo, rpo)", ge=0, origin="code")
    nll: str = setting(
        "answer",
        help="NLL of sft, rpo, cpo and orpo: a mean over each answer's tokens, then over answers; or over all tokens "
        "of the batch, as in trl",
        choices=("answer", "batch"),
    )
    nll_prompt: bool = setting(False, help="orpo's NLL is of the prompt's tokens as well, as in trl", origin="paper")
    positive_weight: float = setting(50.0, help="lambda of dpop", ge=0, origin="paper")
    offset_weight: float = setting(1.0, help="alpha of odpo", ge=0, origin="code")
    desirable_weight: float = setting(1.0, help="weight of chosen answers in kto", gt=0, origin="paper")
    undesirable_weight: float = setting(1.0, help="weight of rejected answers in kto", gt=0, origin="paper")


@dataclass(frozen=True)
class EvaluationConfig(QuestionsConfig):
    """What is measured, and when."""

    watch_every: int = setting(12, help="steps between measurements of reward and KL", unit="steps", ge=1)
    samples: int = setting(2, help="completions sampled for each held-out prompt", unit="samples", ge=1)
    kl: float = setting(3.0, help="KL to the reference at which arms are compared", unit="nats", gt=0)
    heatmap: int = setting(6, help="pairs in the token heatmap", unit="pairs", ge=0)


@dataclass(frozen=True, kw_only=True)
class AlignmentRunConfig(RunConfig):
    """Config that all alignment runs have; a recipe adds its own keys."""

    data: AlignmentDataConfig = setting(help="preference pairs")
    model: SmallLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model")
    reference: ReferenceConfig = setting(help="reference model")
    preference: PreferenceConfig = setting(help="preference loss")
    lora: LoraConfig = setting(LoraConfig(), help="low-rank adapters")
    evaluation: EvaluationConfig = setting(help="evaluation")

    @property
    def reads(self) -> Reads:
        """What training reads of the reference."""
        loss = self.preference.loss
        return Reads(loss not in WITHOUT_REFERENCE, LAST_STATES if loss in READ_DISTRIBUTIONS else NO_STATES)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        tuned = self.reference.steps > 0
        problems, loss = lora_problems(self.lora, self.trainer, self.model, tuned), self.preference.loss
        if loss == "kto" and self.trainer.batch_size < 2:
            message = "kto measures drift as a mean over the batch, and one pair is no mean; type 2 or more"
            problems.append(("trainer.batch_size", message))
        if loss == "odpo" and not isinstance(self.data, SentimentConfig):
            problems.append(("preference.loss", "odpo needs answers with scores: data=sentiment"))
        if not self.reference.steps and isinstance(self.model, SmallLMConfig):
            problems.append(
                ("reference.steps", "0 leaves a model that nobody trained; type more, or model=smollm2-135m")
            )
        return problems

    @property
    def sequence_tokens(self) -> int | None:
        """Most tokens of a pair: both answers with their prompt."""
        return 2 * self.data.max_tokens if isinstance(self.data, PreferencesConfig) else None

    @property
    def sequence_limit(self) -> tuple[str, int] | None:
        """Tokens of an answer with its prompt."""
        return ("data.max_tokens", self.data.max_tokens) if isinstance(self.data, PreferencesConfig) else None

    @property
    def one_copy(self) -> bool:
        """Whether the reference is the policy with its adapters off, so that the weights are held once.

        Not where it is scored once more, and so hashed, or tuned, when the policy has been made: a recipe says so.
        """
        return self.lora.rank > 0 and self.reference.model is None

    @property
    def frozen_models(self) -> tuple[Any, ...]:
        """The reference, unless it is the policy."""
        path = self.reference.model
        return () if self.one_copy else (CausalLMConfig(path=path) if path else self.model,)

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        data, reference = self.data, self.reference
        tuned = f"fine-tuned for {reference.steps} steps" if reference.steps else "as it is"
        return [
            ("data", f"{data.name}: {data.description}, up to {data.test_prompts} held-out prompts"),
            ("model", self.model.description),
            ("reference", reference.model or f"the model, {tuned}"),
            ("reference scores", self._reads_text()),
        ]

    @property
    def reference_in_bf16(self) -> bool:
        """Whether hidden states of the reference are kept in bf16, as far as is known before a device is chosen."""
        trainer = self.trainer
        on_cuda = trainer.precision == "auto" and trainer.device == "cuda"
        return on_cuda or trainer.precision == "bf16" or trainer.dtype == "bfloat16"

    def reference_bytes(self, tokens: int) -> int | None:
        """Bytes on disk of what training reads of the reference at the tokens of answers; None if its size is unknown.

        Args:
            tokens: Of all answers to train on.
        """
        size = decoder_size(self.model)
        if size is None:
            return None
        layers = {NO_STATES: 0, LAST_STATES: 1, ALL_STATES: size.layers}[self.reads.states]
        return score_bytes(tokens, layers, size.width, self.reference_in_bf16)

    def _reads_text(self) -> str:
        """What training reads of the reference, and what it costs where that is known before the data are read."""
        reads, data = self.reads, self.data
        if not reads.logps:
            return "nothing that training reads"
        states = {NO_STATES: "", LAST_STATES: " and last hidden states", ALL_STATES: " and hidden states of all layers"}
        what = f"log-probs{states[reads.states]} of answers' tokens"
        if self.reference.store == NEVER:
            return f"{what}, computed beside each step"
        size = self.reference_bytes(1)
        cost = "" if size is None else f", {size:,} bytes a token"
        if size and isinstance(data, SentimentConfig | ChainArithmeticConfig):
            cost = f", at most {size * 2 * data.max_pairs * data.max_new_tokens / 2**20:,.1f} MiB"
        if cost and reads.states != NO_STATES:
            cost += f" in {'bf16' if self.reference_in_bf16 else 'fp32'}"
        beside = "" if self.reference.store == ALWAYS else f"; beside each step above {self.reference.max_gib:g} GiB"
        return f"{what}, kept on disk{cost}{beside}"

    def parameters(self) -> int | None:
        """Parameters of the policy."""
        return self.model.parameters
