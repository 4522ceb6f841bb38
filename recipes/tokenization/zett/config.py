"""Config and card of the recipe `zett`. Imports no torch."""

import re
from dataclasses import dataclass, fields

from recipes.core.config.settings import (
    EXAMPLE_UNIT,
    MODEL_CONTENT,
    TOKENIZER_CONTENT,
    Card,
    Claim,
    setting,
)
from recipes.core.config.unread import unread_keys
from recipes.core.data.config import domain_problems
from recipes.tokenization.config import (
    FEWEST,
    LM,
    HypernetworkConfig,
    NewVocabularyConfig,
    SampledConfig,
)

HYPERNETWORK, FVT, BFVT, LEXICAL, FOCUS, OFA = "hypernetwork", "fvt", "bfvt", "lexical", "focus", "ofa"
RANDOM, BASE = "random", "base"
INITS = (HYPERNETWORK, FVT, BFVT, LEXICAL, FOCUS, OFA, RANDOM, BASE)
UNKNOWN = "unk"
TARGET = re.compile(r"(bpe|unigram)-([1-9][0-9]*)")
BITS, TOKENS, COSINE = "bits_per_byte", "tokens_per_byte", "held_out/cosine"
MODEL, VARIANT = "model", "variant"
OF_SAMPLED = " ".join(f"hypernetwork.sampled.{key.name}" for key in fields(SampledConfig))
# Surface forms and held-out rows are asked of other arms too.
OF_NETWORK = " ".join(
    f"hypernetwork.{key.name}"
    for key in fields(HypernetworkConfig)
    if key.name not in ("pieces", "held_out", "sampled")
)
GIVEN = "given"  # the target that the user brings


@dataclass(frozen=True)
class TargetsConfig:
    """New tokenizers, none of which the hypernetwork sees in training."""

    path: str | None = setting(
        None, help="tokenizer.json, folder or hub name, the only one then; null: targets", content=TOKENIZER_CONTENT
    )
    targets: tuple[str, ...] = setting(
        ("unigram-4096", "bpe-2048", "bpe-8192"), help="trained in the run: bpe-TOKENS or unigram-TOKENS"
    )
    domains: tuple[str, ...] | None = setting(
        ("sotu-middle", "python-source"),
        help="domains that ship, on whose training documents they are trained; null: those of data",
    )
    min_frequency: int = setting(2, help="bpe: pairs that are rarer are not merged", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        wrong = [name for name in self.targets if not (kind := TARGET.fullmatch(name)) or int(kind[2]) < FEWEST]
        problems = [("targets", f"{name} is not bpe-TOKENS or unigram-TOKENS of {FEWEST} or more") for name in wrong]
        if not self.targets or len(set(self.targets)) < len(self.targets):
            problems.append(("targets", "names none, or one twice"))
        return problems + ([] if self.domains is None else domain_problems(self.domains))

    @property
    def names(self) -> tuple[str, ...]:
        """What targets are called in metrics."""
        return (GIVEN,) if self.path else self.targets

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        return str(self.path) if self.path else f"{', '.join(self.targets)}, trained in the run"


@dataclass(frozen=True)
class RowsConfig:
    """Where the rows of new tokens come from."""

    name: str = setting(
        HYPERNETWORK,
        help="hypernetwork: predicted from the old tokens that spell it; fvt: their mean, bfvt: also where they miss a "
        "byte; lexical: shared tokens alone; focus: sparsemax over shared tokens; ofa: neighbours by the words that a "
        "token is in; random; base: the old tokenizer; arms choose it",
        choices=INITS,
    )
    fallback: str = setting(
        UNKNOWN,
        help="rows that nothing says anything of: that of the unknown token (the mean where there is none), or random",
        choices=(UNKNOWN, RANDOM),
    )
    words: int = setting(5000, help="ofa: most frequent words of the texts, whose vectors are read", ge=1)
    neighbours: int = setting(10, help="ofa: nearest old tokens", ge=1, origin="code")
    tau: float = setting(0.1, help="ofa: temperature of their weights", gt=0, origin="code")
    pad_to: int = setting(1, help="rows of the new model are a multiple of it", unit="rows", ge=1)


@dataclass(frozen=True)
class VariantConfig:
    """A fine-tuned variant of the model, which gets the rows that are made for the model itself, or of its own."""

    rows: str = setting(
        MODEL,
        help="whose rows those of new tokens are made of: model, as a network is trained for it; variant: its own, as "
        "baselines can; arms choose it",
        choices=(MODEL, VARIANT),
    )
    path: str | None = setting(
        None, help="folder or hub name of one, with the same tokenizer; null: tuned in the run", content=MODEL_CONTENT
    )
    steps: int = setting(100, help="steps of its fine-tuning in the run; 0: no variant", unit="steps", ge=0)
    domains: tuple[str, ...] | None = setting(
        ("sotu-early",), help="domains that ship, which it is tuned and measured on; null: those of data"
    )
    batch_size: int = setting(16, help="sequences per step", unit="sequences", ge=1)
    length: int = setting(128, help="tokens of a sequence", unit="tokens", ge=2)
    learning_rate: float = setting(1e-3, help="peak learning rate", gt=0)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.domains is None else domain_problems(self.domains)

    @property
    def used(self) -> bool:
        """Whether there is one."""
        return self.path is not None or self.steps > 0


@dataclass(frozen=True, kw_only=True)
class ZettConfig(NewVocabularyConfig):
    """Config of one `zett` run."""

    tokenizer: TargetsConfig = setting(TargetsConfig(), help="new tokenizers")
    init: RowsConfig = setting(RowsConfig(), help="rows of new tokens")
    hypernetwork: HypernetworkConfig = setting(HypernetworkConfig(), help="hypernetwork")
    tuned: VariantConfig = setting(VariantConfig(), help="fine-tuned variant")
    save_model: bool = setting(
        True, help="leave the model with its new tokenizer, the first of several, in the run, for `steelyard export`"
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        if self.predicts and self.tuned.rows == VARIANT:
            why = "a hypernetwork reads the rows of the model; leave it out, or type arm=fvt"
            return [*super().check(), ("tuned.rows", why)]
        return super().check()

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        return [*super().describe(), ("new tokenizers", self.tokenizer.description), ("rows", self.init.name)]

    @property
    def predicts(self) -> bool:
        """Whether a hypernetwork is trained."""
        return self.init.name == HYPERNETWORK

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run, though they may in other arms, and why."""
        name, net, variant = self.init.name, self.hypernetwork, self.tuned
        other, trained = f"init.name={name} does without", not self.tokenizer.path
        reads = self.predicts and net.objective == LM
        return unread_keys(
            (f"{OF_NETWORK} {OF_SAMPLED}", self.predicts, other),
            ("hypernetwork.held_out", self.predicts or name == FVT, other),
            (f"{OF_SAMPLED} hypernetwork.length hypernetwork.auxiliary", reads, "the model reads no texts"),
            (
                "hypernetwork.identity_batch hypernetwork.identity_rate",
                net.identity_steps > 0,
                "there are no such steps",
            ),
            ("hypernetwork.sampled.noise_scale hypernetwork.sampled.noise_deviation", net.sampled.noise, "no noise"),
            ("init.words init.neighbours init.tau", name == OFA, other),
            ("init.fallback", name not in (BASE, RANDOM), other),
            ("strings", name in (FOCUS, OFA), other),
            ("init.pad_to save_model", name != BASE, "the model stays as it is"),
            ("tokenizer", name != BASE, other),
            ("tokenizer.targets tokenizer.domains tokenizer.min_frequency", trained, "no tokenizer is trained"),
            (
                "tuned.steps tuned.batch_size tuned.length tuned.learning_rate",
                not variant.path,
                "none is tuned",
            ),
            ("tuned.domains tuned.batch_size tuned.length tuned.learning_rate", variant.used, "no variant"),
            ("tuned.rows", variant.used and name != BASE, "the variant gets no rows"),
        )


CONFIG = ZettConfig


def _claim(
    statement: str, baseline: str, effect: float, published: str, arm: str = HYPERNETWORK, metric: str = BITS
) -> Claim:
    return Claim(statement, metric, arm, baseline, 1 if metric == COSINE else -1, published, effect, unit=EXAMPLE_UNIT)


NO_NUMBER = "not in the material that was at hand; on XNLI FVT and lexical lose several points of accuracy (recalled)"

CARD = Card(
    title="ZeTT: zero-shot tokenizer transfer by a hypernetwork",
    paper="arXiv 2405.07883 (Minixhofer, Ponti, Vulic; NeurIPS 2024)",
    weights="old tokens that spell a new one, by attention of a network that has learned to make its row of theirs",
    summary="A small network is trained once for a model: it reads the rows of the old tokens that spell a new one "
    "and predicts its row, so that the frozen model reads texts through tokenizers that are drawn at random. Any "
    "tokenizer's rows are then one forward away.",
    claim=_claim(
        "Through tokenizers unseen in training predicted rows leave fewer bits per byte than the mean of the pieces",
        FVT,
        0.02,
        NO_NUMBER,
    ),
    claims=(
        _claim("They leave fewer than shared rows alone, the others unknown", LEXICAL, 0.1, NO_NUMBER),
        _claim("They leave fewer than FOCUS", FOCUS, 0.02, "FOCUS is near chance zero-shot on Mistral-7B (recalled)"),
        _claim(
            "Put into a fine-tuned variant of the model, they leave fewer than the mean of the pieces",
            FVT,
            0.02,
            "transfers to fine-tuned variants (no number at hand)",
            metric=f"{VARIANT}/{BITS}",
        ),
        _claim(
            "In the variant predicted rows leave fewer bits than the mean of the pieces, by rows of its own",
            "fvt_variant",
            0.02,
            "transfers to fine-tuned variants (no number at hand)",
            metric=f"{VARIANT}/{BITS}",
        ),
        _claim("Learning the old rows first leaves fewer bits", "no_identity", 0.01, "an ablation, no number at hand"),
        _claim("The auxiliary loss leaves fewer bits", "no_auxiliary", 0.01, "untied models diverge without it"),
        _claim("Noise in the scores leaves fewer bits", "no_noise", 0.01, "an ablation, no number at hand"),
        _claim(
            "Trained on old rows alone, without the model, it predicts unseen rows better than the mean of the pieces",
            FVT,
            0.02,
            "not the paper's: a stand-in for models that are too large to train through",
            arm="supervised",
            metric=COSINE,
        ),
    ),
    cost="one training of the hypernetwork for a model, then cached: a forward and backward of the model a step",
    pair_keys=("arm", "init", "hypernetwork", "tuned"),
    version=1,
    control=LEXICAL,
    headlines=(BITS, f"{VARIANT}/{BITS}", "held_out/"),
    price=(TOKENS,),
    frontiers=((TOKENS, BITS),),
    trains=False,
    metrics=(BITS, f"{BITS}/*", TOKENS, f"{TOKENS}/*", f"{VARIANT}/*", "exact", "vocabulary/*", "held_out/*"),
)
