"""Config and card of the recipe `sar`. Imports no torch."""

from dataclasses import dataclass

from recipes.attribution.sar.facts import FactsConfig
from recipes.core.config.settings import (
    DATA_CONTENT,
    EXACT,
    EXAMPLE_UNIT,
    MODEL_CONTENT,
    SEEDS,
    Card,
    Claim,
    UntrainedConfig,
    setting,
)
from recipes.core.config.unread import unread_keys
from recipes.core.data.files.records import FORMATS
from recipes.core.models.config import CausalLMConfig, SmallLMConfig, SmolLM2TextConfig

SAR, TOKEN, SENTENCE, PE, LNPE, SE, LS, LENGTH = "sar", "token_sar", "sent_sar", "pe", "lnpe", "se", "ls", "length"
METHODS = (SAR, TOKEN, SENTENCE, PE, LNPE, SE, LS, LENGTH)
WEIGHTED, COMPARED = (SAR, TOKEN), (SAR, SENTENCE)  # methods that weigh tokens, that compare answers
RELEVANCE, UNIFORM, SHUFFLED, STOPWORD = "relevance", "uniform", "shuffled", "stopword"
BOTH, TOKENS, ANSWERS, NEITHER = "both", "tokens", "answers", "neither"
EMBED = "embed"
STOPS = (".", "Q:", "A:", "Question:", "Answer:")


@dataclass(frozen=True)
class UserQuestionsConfig:
    """Your own questions, each with its right answer, or a list of answers that are all right."""

    name: str = setting("questions", help="data set", choices=("questions",))
    path: str | None = setting(
        None,
        help="JSONL, Parquet or CSV file with columns question and answer or answers; a folder, or a datasets name",
        content=DATA_CONTENT,
    )
    format: str = setting("auto", help="auto: from the path", choices=FORMATS)
    split: str | None = setting(None, help="published split; null: test, else validation, else train")
    template: str = setting(
        "plain",
        help="plain: Question: .. Answer: ..; chat: through the model's chat template",
        choices=("plain", "chat"),
    )
    shots: int = setting(2, help="first rows, shown with their answers before each question and not asked", ge=0)
    limit: int | None = setting(None, help="use only the first questions; null: all", unit="questions", ge=2)
    on_error: str = setting(
        "fail", help="a row that cannot be used stops the run, or is left out and counted", choices=("fail", "skip")
    )

    @property
    def description(self) -> str:
        """What a dry run announces."""
        first = "" if self.limit is None else f", the first {self.limit:,}"
        return f"questions of {self.path}{first}"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.path else [("path", "is missing; type data.path=FILE, FOLDER or a datasets name")]


@dataclass(frozen=True, kw_only=True)
class FactLMConfig(SmallLMConfig):
    """A small language model, trained in the run on a share of the facts: it knows these, and makes up the others."""

    name: str = setting("fact-lm", help="model", choices=("fact-lm",))
    known: float = setting(0.5, help="share of the questions whose answers it learns", gt=0, lt=1)
    steps: int = setting(300, help="steps of its training", unit="steps", ge=1)
    batch_size: int = setting(32, help="facts per step", unit="facts", ge=1)
    learning_rate: float = setting(3e-3, help="peak learning rate", gt=0)
    seed: int = setting(0, help="its own, one model for all seeds", ge=0, lt=SEEDS)

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        return f"{super().description} on {self.known:.0%} of the facts ({self.steps:,} steps, once, then cached)"


@dataclass(frozen=True)
class AnswersConfig:
    """How answers are sampled; one greedy answer more decides whether the model is right."""

    samples: int = setting(5, help="answers of a question", unit="answers", ge=1, origin="paper")
    temperature: float = setting(
        0.5, help="of the softmax that they are drawn from; NLLs are at 1", gt=0, origin="paper"
    )
    max_new_tokens: int = setting(11, help="longest answer (paper: 128)", unit="tokens", ge=1)
    stops: tuple[str, ...] = setting(
        STOPS, help="an answer ends before the first of these, in any case, or with its line", origin="code"
    )


@dataclass(frozen=True)
class RelevanceConfig:
    """How much meaning a token carries, and how alike two answers are."""

    by: str = setting(
        "encoder",
        help="whose vectors are compared: a sentence encoder's, or the answering model's own last layer, averaged",
        choices=("encoder", "model"),
    )
    path: str | None = setting(
        None,
        help="folder or hub name of a sentence encoder of type BERT; null: all-MiniLM-L6-v2",
        content=MODEL_CONTENT,
    )
    with_question: str = setting(
        BOTH,
        help="where answers are read behind their question: for the relevance of tokens, for the likeness of answers",
        choices=(BOTH, TOKENS, ANSWERS, NEITHER),
        origin="code",
    )
    weights: str = setting(
        RELEVANCE,
        help="of tokens: relevance; controls: all alike, relevance shuffled within an answer, 0 on stop words",
        choices=(RELEVANCE, UNIFORM, SHUFFLED, STOPWORD),
    )
    copied: str = setting(
        "keep",
        help="tokens of words that stand in the question keep their weight, or get none",
        choices=("keep", "zero"),
    )


@dataclass(frozen=True)
class UncertaintyConfig:
    """What an answer's uncertainty is made of."""

    method: str = setting(
        SAR,
        help="sar; token_sar: weighted tokens alone; sent_sar: agreement alone; pe: NLL of answers; lnpe: of a token; "
        "se: semantic entropy; ls: lexical similarity; length: tokens; arms choose it",
        choices=METHODS,
    )
    t: float = setting(1e-3, help="temperature of agreement: small ones let it count more", gt=0, origin="paper")
    samples: int | None = setting(None, help="first answers that are used; null: all", unit="answers", ge=1)
    cluster: str = setting(
        "exact",
        help="se: answers mean the same if they are equal but for case and accents, or by the cosine of their vectors",
        choices=("exact", EMBED),
    )
    alike: float = setting(0.9, help="se: cosine from which answers mean the same", ge=-1, le=1)
    average: str = setting(
        "cluster", help="se: mean over meanings, or over samples", choices=("cluster", "sample"), origin="code"
    )


@dataclass(frozen=True, kw_only=True)
class SarConfig(UntrainedConfig):
    """Config of one `sar` run."""

    data: FactsConfig | UserQuestionsConfig = setting(help="questions")
    model: FactLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model that answers")
    generation: AnswersConfig = setting(AnswersConfig(), help="answers")
    relevance: RelevanceConfig = setting(RelevanceConfig(), help="relevance of tokens, likeness of answers")
    uncertainty: UncertaintyConfig = setting(UncertaintyConfig(), help="uncertainty")
    shown: int = setting(8, help="answers that the report shows", unit="answers", ge=0)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems, used = [], self.uncertainty.samples or self.generation.samples
        if used > self.generation.samples:
            problems.append(("uncertainty.samples", f"is more than generation.samples={self.generation.samples}"))
        if self.uncertainty.method == LS and used < 2:
            problems.append(("uncertainty.method", "ls compares pairs of answers; use at least two samples"))
        if isinstance(self.model, FactLMConfig) and self.data.shots:
            problems.append(("data.shots", "fact-lm is asked as it was taught, without examples; type data.shots=0"))
        if isinstance(self.model, FactLMConfig) and not isinstance(self.data, FactsConfig):
            problems.append(("model", "fact-lm learns the facts that ship; type model=/folder or model=smollm2-135m"))
        return problems

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        answers = f"{self.generation.samples} sampled at temperature {self.generation.temperature:g}, 1 greedy"
        return [
            ("data", self.data.description),
            ("model", self.model.description),
            ("answers", answers),
            ("uncertainty", self.uncertainty.method),
        ]

    @property
    def weighs_by_relevance(self) -> bool:
        """Whether the relevance of tokens is measured."""
        return self.uncertainty.method in WEIGHTED and self.relevance.weights in (RELEVANCE, SHUFFLED)

    @property
    def compares(self) -> bool:
        """Whether the likeness of answers is measured."""
        return self.uncertainty.method in COMPARED

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run, though they may in other arms, and why."""
        method = self.uncertainty.method
        other = f"uncertainty.method={method} does without"
        embeds = method == SE and self.uncertainty.cluster == EMBED
        vectors = self.weighs_by_relevance or self.compares or embeds
        return unread_keys(
            ("uncertainty.t", self.compares, other),
            ("uncertainty.cluster uncertainty.average", method == SE, other),
            ("uncertainty.alike", embeds, f"{other} vectors" if method == SE else other),
            ("relevance.weights relevance.copied", method in WEIGHTED, other),
            ("shown", method in WEIGHTED, f"{other} weights of tokens, which are what is shown"),
            ("relevance.with_question", self.weighs_by_relevance or self.compares, other),
            ("relevance.by relevance.path", vectors, other),
            ("relevance.path", self.relevance.by == "encoder", "relevance.by=model takes the model's vectors"),
        )


CONFIG = SarConfig


def _better(statement: str, arms: tuple[str, str], published: str) -> Claim:
    """The first of two arms has the larger AUROC, over the questions of all seeds."""
    arm, baseline = arms
    return Claim(statement, "auroc", arm, baseline, 1, published, minimal_effect=0.02, unit=EXAMPLE_UNIT)


CARD = Card(
    title="SAR: which tokens and samples tell whether an answer is right",
    paper="arXiv 2307.01379 (Duan, Cheng, Wang, Zavalny, Wang, Xu, Kailkhura, Xu; ACL 2024)",
    weights="tokens of an answer, by the meaning that is lost without them; answers, by how alike the others are",
    summary="A model answers a question several times. The NLL of each answer's tokens is averaged with weights of "
    "relevance, and an answer that others agree with counts as more certain. The uncertainty is compared with "
    "whether the greedy answer is right.",
    claim=_better(
        "SAR tells wrong answers from right ones better than the mean NLL of a token",
        ("sar", "lnpe"),
        "AUROC .724 against .644, average of eight models and data sets (Rouge-L > .5)",
    ),
    claims=(
        _better("Agreement of samples alone (sentSAR) does, too", ("sent_sar", "lnpe"), ".727 against .644, as above"),
        _better("Relevance of tokens alone (tokenSAR) does, too", ("token_sar", "lnpe"), ".678 against .644, as above"),
        _better("SAR beats semantic entropy (ours: equal texts)", ("sar", "se"), ".724 against .653, as above"),
        _better("SAR beats the NLL of whole answers", ("sar", "pe"), ".724 against .675, as above"),
        _better(
            "It is relevance that helps, not that some tokens weigh more",
            ("token_sar", "token_shuffled"),
            "no such control",
        ),
        _better(
            "Two samples of sentSAR beat semantic entropy of all",
            ("sent_sar_k2", "se"),
            ".708 against .673 (SciQ), .685 against .634 (TriviaQA), two samples against five",
        ),
        Claim(
            statement="Uniform weights are the mean NLL of a token",
            metric="uncertainty",
            arm="token_uniform",
            baseline="lnpe",
            direction=1,
            published="by construction",
            minimal_effect=1e-9,
            unit=EXAMPLE_UNIT,
            kind=EXACT,
        ),
    ),
    cost="K + 1 short answers of a question (the prompt read once), sum of N_j + 1 short texts through an encoder",
    pair_keys=("arm", "relevance", "uncertainty"),
    version=1,
    control="sar_shuffled",
    headlines=("auroc", "accuracy", "weight/", "answers/"),
    price=("answers/encoded",),
    trains=False,
    metrics=("auroc", "auroc/*", "uncertainty", "accuracy", "accuracy_kept", "weight/*", "answers/*"),
)
