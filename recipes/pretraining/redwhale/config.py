"""Config and card of the recipe `redwhale`. Imports no torch."""

from dataclasses import dataclass, replace

from recipes.core.config.settings import SEEDS, RunConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.data.config import DomainsConfig, WindowsConfig, domain_problems
from recipes.core.models.adapter_config import LoraConfig, float32_problems
from recipes.core.models.config import CausalLMConfig, SmolLM2TextConfig
from recipes.core.training.stage_plan import Stage, stage_problem
from recipes.core.training.toys.config import ToyLMConfig
from recipes.pretraining.redwhale.card import CARD
from recipes.pretraining.redwhale.plans import EEVE, LORA, LORA_ONLY, NONE, PLANS, STAGED, needs_new, plan

__all__ = ["CARD", "CONFIG"]

RANDOM, MEAN, DECOMP_EMB, DECOMP_HEAD, DECOMP_BOTH = "random", "mean", "decomp_emb", "decomp_head", "decomp_both"
INITS = (RANDOM, MEAN, DECOMP_EMB, DECOMP_HEAD, DECOMP_BOTH, EEVE)
EXTEND, MERGES, ADDED = "extend", "merges", "added_tokens"
FILTERED, RAW = "filtered", "raw"
PLANTED = 0.1  # documents for each of those that ship


@dataclass(frozen=True)
class ExtendConfig:
    """The new tokens, and their rows in the model."""

    vocabulary: str = setting(
        EXTEND, help="extend: new tokens behind the old ones; none: the old tokenizer", choices=(NONE, EXTEND)
    )
    tokens: int = setting(500, help="new tokens, if the text gives as many (paper: about 20,000)", unit="tokens", ge=1)
    frequency: int = setting(20, help="merges that are rarer are not learned", ge=1)
    longest: int = setting(8, help="longest new token", unit="characters", ge=1)
    ascii: bool = setting(
        True, help="tokens of ASCII alone too, as a language in Latin letters needs; false: ASCII text keeps its tokens"
    )
    merge: str = setting(
        MERGES, help="new merges behind the old ones, or tokens that are looked for before any", choices=(MERGES, ADDED)
    )
    init: str = setting(
        DECOMP_BOTH,
        help="new rows of embedding and head: random; mean of all; decomp: mean of the old tokens that spell a token, "
        "in the embedding, in the head (the other is random) or in both; eeve: that mean, and the head's row of the "
        "first of them; arms choose it",
        choices=INITS,
    )
    untie: bool = setting(True, help="give a head that is the embedding rows of its own, or three kinds are the same")
    match_norm: bool = setting(False, help="scale new rows to the mean length of the old ones")
    pad_to: int = setting(8, help="rows of the model are a multiple of it; no text has the ones behind", ge=1)


@dataclass(frozen=True)
class ScheduleConfig:
    """What is trained when; arms choose it."""

    name: str = setting(
        STAGED,
        help="staged: embedding and head, odd layers, even layers, adapters; full: all weights; lora_only: adapters; "
        "eeve: its seven stages",
        choices=tuple(PLANS),
    )
    train: bool = setting(True, help="false: nothing is trained, the model is measured right after the extension")
    shares: tuple[float, ...] | None = setting(None, help="of the steps, by stage; null: those of the schedule", gt=0)
    new_rows_only: bool = setting(False, help="staged: old rows of embedding and head stay as they are")
    tables: bool = setting(False, help="embedding and head are trained in a stage of adapters, too", origin="paper")
    tables_rate: float = setting(5.0, help="peak rate of embedding and head, times trainer.learning_rate", gt=0)
    adapters_rate: float = setting(1.0, help="that of adapters", gt=0)


@dataclass(frozen=True)
class ReplayConfig:
    """Text in the language that the model knows: some is trained on, and forgetting is measured on it."""

    path: str | None = setting(
        None, help="file, folder or hub name of such text; null: domains that ship", content="data"
    )
    domains: tuple[str, ...] = setting(("wordnet-glosses", "wiki-en"), help="domains that ship")
    characters: int = setting(400_000, help="text of each domain that is read", unit="characters", ge=1_000)
    share: float = setting(0.1, help="share of the training sequences", ge=0, lt=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return domain_problems(self.domains)


@dataclass(frozen=True)
class CorpusConfig:
    """Filters of the training documents, and what is planted in them to see what they do."""

    use: str = setting(FILTERED, help="documents behind the filters, or all", choices=(FILTERED, RAW))
    lines: bool = setting(True, help="leave out lines that came before")
    ngram: int = setting(5, help="near-duplicates: characters of the runs that are compared", ge=1)
    similarity: float = setting(0.8, help="near-duplicates: Jaccard similarity from which on", ge=0.2, le=1)
    order: int = setting(3, help="characters of the n-grams that perplexity is of", ge=1, le=3)
    low: float = setting(10.0, help="percentile of perplexity below which documents are left out", ge=0, lt=100)
    high: float = setting(90.0, help="percentile above which they are", gt=0, le=100)
    trusted: float = setting(
        0.1, help="share of the documents that n-grams are counted in; perplexity leaves none of them out", gt=0, lt=1
    )
    planted: float | None = setting(
        None,
        help="documents planted for each that is there: repeated lines, near copies, noise; null: 0.1 among texts that "
        "ship, none among yours",
        ge=0,
    )
    seed: int = setting(0, help="which are trusted and planted", ge=0, lt=SEEDS)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [("low", f"is not below high={self.high:g}")] if self.low >= self.high else []


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(WindowsConfig):
    """Held-out stretches of both languages, and when they are read."""

    windows: int = setting(12, help="stretches of each domain, drawn by the seed", unit="windows", ge=1)
    characters: int = setting(400, help="of a stretch at most", unit="characters", ge=20)
    watch_every: int = setting(40, help="steps between measurements", unit="steps", ge=1)


@dataclass(frozen=True, kw_only=True)
class RedWhaleConfig(RunConfig):
    """Config of one `redwhale` run."""

    data: DomainsConfig = setting(help="texts in the new language")
    model: ToyLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model")
    extend: ExtendConfig = setting(ExtendConfig(), help="new tokens and their rows")
    schedule: ScheduleConfig = setting(ScheduleConfig(), help="what is trained when")
    lora: LoraConfig = setting(LoraConfig(rank=16), help="low-rank adapters, in stages that have them")
    replay: ReplayConfig = setting(ReplayConfig(), help="text in the language that the model knows")
    corpus: CorpusConfig = setting(CorpusConfig(), help="filters")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), help="what is measured")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems, schedule = float32_problems(self.model, "rows are made, and stages trained, in fp32"), self.schedule
        if not schedule.train:
            return problems
        stages, usual = plan(schedule, self.trainer.learning_rate), PLANS[schedule.name]
        if schedule.shares is not None and len(schedule.shares) != len(usual):
            what = f"are {len(schedule.shares)}, and schedule.name={schedule.name} has {len(usual)} stages"
            problems.append(("schedule.shares", what))
        elif problem := stage_problem(stages, self.trainer.max_steps):
            problems.append(("schedule.shares" if schedule.shares else "trainer.max_steps", problem))
        if needs_new(schedule) and self.extend.vocabulary == NONE:
            key = "schedule.new_rows_only" if schedule.new_rows_only else "schedule.name"
            problems.append((key, "trains new rows, and extend.vocabulary=none has none; type extend"))
        if self.needs_adapters and not self.lora.rank:
            problems.append(("lora.rank", f"schedule.name={schedule.name} trains adapters; type 1 or more"))
        if self.trainer.processes > 1 or self.trainer.parallel == "fsdp":
            key = self.trainer.processes_key if self.trainer.processes > 1 else "trainer.parallel"
            alone = "trainer.nproc=1" if key == "trainer.parallel" else f"{key}=1"
            problems.append((key, f"stages freeze and thaw weights in one process; type {alone}"))
        return problems

    @property
    def filters(self) -> CorpusConfig:
        """`corpus`, with what is planted."""
        usual = 0.0 if self.data.path or self.data.paths else PLANTED
        return self.corpus if self.corpus.planted is not None else replace(self.corpus, planted=usual)

    @property
    def needs_adapters(self) -> bool:
        """Whether a stage trains adapters."""
        return any(LORA in stage.train for stage in self.stages)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the run; none where nothing is trained."""
        return plan(self.schedule, self.trainer.learning_rate) if self.schedule.train else ()

    @property
    def sequence_tokens(self) -> int:
        """Tokens of a packed sequence."""
        return self.data.length

    @property
    def sequence_limit(self) -> tuple[str, int]:
        """Tokens of a packed sequence."""
        return "data.length", self.data.length

    def parameters(self) -> int | None:
        """Parameters of the model before it gets new rows; 0 if nothing is trained."""
        return self.model.parameters if self.schedule.train else 0

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run."""
        extend, name, corpus = self.extend, self.schedule.name, self.corpus
        keys = ["tokens", "frequency", "longest", "ascii", "merge", "init", "match_norm", "pad_to"]
        raw, other = "corpus.use=raw has no filters", f"schedule.name={name} does not read it"
        trained = "schedule.name schedule.shares schedule.new_rows_only schedule.tables schedule.tables_rate"
        filters = corpus.use == FILTERED
        rules = [
            (" ".join(f"extend.{key}" for key in keys), extend.vocabulary == EXTEND, "there are no new tokens"),
            ("corpus.lines corpus.ngram corpus.similarity corpus.order", filters, raw),
            ("corpus.low corpus.high", filters, raw),
            # Nothing is planted that is of a trusted document.
            (
                "corpus.trusted corpus.seed",
                corpus.use == FILTERED or bool(self.filters.planted),
                f"{raw}, and none is planted",
            ),
            ("data.mixture data.weights", False, "all documents are drawn alike, by replay.share of either language"),
            ("data.duplicates data.duplicate_set data.seed", False, "no sequences are drawn again and again"),
            ("evaluation.shown", False, "the report shows no stretches"),
            ("replay.domains replay.characters", not self.replay.path, "replay.path is read"),
            ("lora schedule.adapters_rate", self.needs_adapters, "nothing trains adapters"),
        ]
        if not self.schedule.train:
            rules.append((f"evaluation.watch_every replay.share {trained}", False, "nothing is trained"))
            return unread_keys(*rules)
        return unread_keys(
            *rules,
            ("schedule.shares", len(PLANS[name]) > 1, f"schedule.name={name} is one stage"),
            ("schedule.new_rows_only schedule.tables_rate", name == STAGED, other),
            ("schedule.tables", name in (STAGED, LORA_ONLY), other),
            ("schedule.adapters_rate", name != EEVE, other),
        )

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        known, extend = self.replay.path or ", ".join(self.replay.domains), self.extend
        new = f"{extend.tokens:,} new tokens, rows {extend.init}" if extend.vocabulary == EXTEND else "no new tokens"
        stages = ", ".join(f"{stage.name} {stage.share:g}" for stage in self.stages) or "nothing is trained"
        return [
            ("data", f"{self.data.description}; replay {self.replay.share:g} of {known}"),
            ("model", self.model.description),
            ("vocabulary", new),
            ("stages, by share of the steps", stages),
        ]


CONFIG = RedWhaleConfig
