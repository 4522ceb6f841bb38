"""Config and card of the recipe `budgetlongformer`. Imports no torch."""

from dataclasses import dataclass, fields

from recipes.core.config.flops import rows_to_draw
from recipes.core.config.settings import (
    BESIDE,
    EQUIVALENCE,
    Card,
    Claim,
    RunConfig,
    TrainerConfig,
    setting,
)
from recipes.core.config.unread import unread_keys
from recipes.core.data.config import DOMAINS
from recipes.core.evaluation.probe_config import ProbeConfig
from recipes.core.models.config import SmallEncoderConfig
from recipes.core.models.costs import flops, mlp_macs, training_flops
from recipes.pretraining.budgetlongformer.data_config import LabelledDocumentsConfig, LicenceCategoriesConfig
from recipes.pretraining.generator_config import GeneratorConfig
from recipes.pretraining.masking_config import MaskingConfig
from recipes.pretraining.tuning_config import FineTuningConfig

RTD, RTD_CHOSEN, MLM, NOTHING = "rtd", "rtd_15", "mlm", "nothing"
WINDOW, FULL = "window", "full"
IN_DOMAIN, GENERAL, MIXED = "in_domain", "general", "mixed"
F1, BAG, READ = "probe_macro_f1", "bag_of_words", "bag_read"
LOSS, CUT = "rtd/loss", "cut"
TUNED = "tuned"  # of metrics of a copy that is fine-tuned
PRETRAINING_ONLY = " ".join(f"trainer.{each.name}" for each in fields(TrainerConfig) if each.name not in BESIDE)


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """What a token attends to, in the generator too."""

    kind: str = setting(WINDOW, help="a window around it, or the whole text", choices=(WINDOW, FULL))
    window: int = setting(64, help="tokens of the window, half of them on each side; even", unit="tokens", ge=2)
    first: bool = setting(
        False, help="whether the first token sees all and is seen by all, with projections of its own"
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.window % 2 and self.kind == WINDOW:
            message = f"{self.window} is odd, and half of it lies on each side; type {self.window + 1}"
            return [("window", message)]
        return []


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """What is predicted, of which text."""

    objective: str = setting(
        RTD, help="rtd: which tokens a generator replaced, of all; rtd_15: of those that it wrote; mlm: masked tokens "
        "by the same encoder; nothing: it stays as it was drawn; arms choose it",
        choices=(RTD, RTD_CHOSEN, MLM, NOTHING),
    )  # fmt: skip
    generator: float = setting(0.5, help="width of the generator, as a share of the encoder's", gt=0, le=1)
    weight: float = setting(50.0, help="of the encoder's loss beside the generator's", gt=0)
    corpus: str = setting(
        IN_DOMAIN, help="the texts that are not tested on, other domains, or both", choices=(IN_DOMAIN, GENERAL, MIXED)
    )
    general: tuple[str, ...] = setting(("sotu-modern", "wiki-en"), help="other domains that ship", choices=DOMAINS)
    held_out: int = setting(64, help="held-out rows that are measured, evenly over documents", unit="rows", ge=1)
    watch_every: int = setting(100, help="steps between these measurements", unit="steps", ge=1)


@dataclass(frozen=True, kw_only=True)
class BudgetLongformerConfig(RunConfig):
    """Config of one `budgetlongformer` run."""

    data: LicenceCategoriesConfig | LabelledDocumentsConfig = setting(help="long texts with a label each")
    model: SmallEncoderConfig = setting(help="encoder, trained from nothing")
    attention: AttentionConfig = setting(AttentionConfig(), help="attention")
    pretraining: PretrainingConfig = setting(PretrainingConfig(), help="pretraining")
    masking: MaskingConfig = setting(MaskingConfig(), help="which tokens are masked")
    probe: ProbeConfig = setting(ProbeConfig(), help="linear classifier on frozen features")
    fine_tuning: FineTuningConfig = setting(FineTuningConfig(), help="fine-tuning on the texts of the probe")

    @property
    def sequence_tokens(self) -> int:
        """Tokens of a row."""
        return self.model.positions

    @property
    def sequence_limit(self) -> tuple[str, int]:
        """The key that says how long rows are."""
        return "model.positions", self.model.positions

    @property
    def window(self) -> int | None:
        """Tokens of the window; None: all are seen."""
        return self.attention.window if self.attention.kind == WINDOW else None

    @property
    def generator(self) -> SmallEncoderConfig:
        """The shape of the generator: narrower, of as many layers, with the same embeddings."""
        return GeneratorConfig(size=self.pretraining.generator).model(self.model)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems, positions = [], self.model.positions
        if self.window is not None and self.window > positions:
            message = f"{self.window} is wider than a row of {positions} tokens (model.positions), which it would see "
            problems.append(("attention.window", f"{message}whole: type attention.kind=full, or a smaller window"))
        if self.probe.max_tokens > positions:
            problems.append(("probe.max_tokens", f"is more than the encoder's positions; type {positions} or less"))
        problems += self.fine_tuning.problems(self.trainer, "model.positions", positions)
        if self.probe.layer > self.model.layers:
            problems.append(("probe.layer", f"is beyond model.layers={self.model.layers}"))
        if self.pretraining.corpus != IN_DOMAIN and not self.pretraining.general:
            problems.append(("pretraining.general", "is empty; type domains, or pretraining.corpus=in_domain"))
        return problems

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run."""
        objective, windowed = self.pretraining.objective, self.attention.kind == WINDOW
        trained, replaces = objective != NOTHING, objective in (RTD, RTD_CHOSEN)
        keys = PRETRAINING_ONLY if self.fine_tuning.steps else "trainer"
        return unread_keys(
            ("attention.window attention.first", windowed, "every token sees all"),
            ("pretraining.generator pretraining.weight", replaces, "no token is replaced"),
            (
                f"{keys} masking pretraining.corpus pretraining.held_out pretraining.watch_every",
                trained,
                "nothing is trained",
            ),
            ("pretraining.general", self.pretraining.corpus != IN_DOMAIN, "only texts of the domain are read"),
            ("model.lower_case", self.model.tokenizer is None, "the tokenizer is yours"),
            self.fine_tuning.rule,
        )

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        sees = "the whole row" if self.window is None else f"a window of {self.window} tokens"
        return [
            ("data", self.data.described),
            ("model", f"{self.model.description}; rows of {self.model.positions} tokens, each sees {sees}"),
            *self.fine_tuning.described,
        ]

    def parameters(self) -> int:
        """Parameters of the encoder; 0 where nothing is trained."""
        return 0 if self.pretraining.objective == NOTHING else self.model.parameters

    def step_flops(self) -> float:
        """FLOPs of a step over rows of full length: encoders, the vocabulary at masked places, detection."""
        model, generator, length = self.model, self.generator, self.model.positions
        masked = self.masking.share * length
        if self.pretraining.objective in (RTD, RTD_CHOSEN):
            macs = self.encoder_macs(model) + mlp_macs(length, model.width, model.width, 1)
            macs += self.encoder_macs(generator) + generator.vocabulary_macs(masked)
            drawn = generator.output_macs(masked)  # logits once more, without a backward
        else:
            macs, drawn = self.encoder_macs(model) + model.vocabulary_macs(masked), 0.0
        return (training_flops(macs) + flops(drawn)) * self.trainer.batch_size

    @property
    def stream(self) -> int:
        """Rows that are drawn: as many as the cheapest arm could read, so that all arms read the same in one order."""
        model = self.model
        least = model.layers * 4 * mlp_macs(model.positions, model.width, model.width)  # projections alone
        return rows_to_draw(self, training_flops(least))

    def encoder_macs(self, model: SmallEncoderConfig) -> float:
        """Multiply-adds of a forward of an encoder over a row: in a window a query has three blocks of half of it.

        A first token that sees all adds a column, a query over all tokens, and keys and values of its own of them.
        """
        length, width = model.positions, model.width
        if self.window is None:
            return model.macs(length)
        columns = min(3 * self.window // 2, length)
        first = 2 * length * width + (2 * length + 1) * width**2 + 2 * length * width if self.attention.first else 0
        return model.macs(length) - model.layers * (2 * length * (length - columns) * width - first)


CONFIG = BudgetLongformerConfig

CARD = Card(
    title="BudgetLongformer",
    paper="arXiv 2211.17135 (Niklaus, Giofre; ENLSP 2022)",
    weights="all tokens of a text, by whether a generator replaced them, in place of the masked 15%",
    summary="Encoders of long texts pretrained by telling replaced tokens from original ones, with attention in a "
    "window: more signal a step, and a price that grows with the length alone.",
    claim=Claim(
        statement="At equal FLOPs the states of an encoder that detects replaced tokens tell the category of a licence "
        "better than those of one that predicts masked tokens",
        metric=F1,
        arm=RTD,
        baseline=MLM,
        direction=1,
        published="small and base beat their baselines in summaries of bills; no such probe",
        minimal_effect=0.02,
    ),
    claims=(
        Claim(
            statement="Such an encoder is the better one after short fine-tuning of all its weights, too",
            metric=f"{TUNED}_macro_f1",
            arm=RTD,
            baseline=MLM,
            direction=1,
            published="not measured; ELECTRA: 79.9 against 75.1 (GLUE of the small models, fine-tuned)",
            minimal_effect=0.02,
        ),
        Claim(
            statement="The loss on all tokens is what does it: on the replaced places alone it is worse",
            metric=F1,
            arm=RTD,
            baseline=RTD_CHOSEN,
            direction=1,
            published="ELECTRA: 85.0 against 82.4 (GLUE)",
            minimal_effect=0.02,
        ),
        Claim(
            statement="At equal FLOPs, where it has more steps, a window of 64 is as good as full attention over 512",
            metric=F1,
            arm=RTD,
            baseline="rtd_full",
            direction=1,
            published="not measured; Longformer: no loss",
            minimal_effect=0.05,
            kind=EQUIVALENCE,
        ),
        Claim(
            statement="The long context is used: rows of 512 tokens do better than rows of 128",
            metric=F1,
            arm=RTD,
            baseline="rtd_128",
            direction=1,
            published="not measured",
            minimal_effect=0.02,
        ),
    ),
    cost="a generator of half the width beside the encoder; time and memory of attention grow with L w, not with L^2",
    pair_keys=("arm", "attention", "pretraining", "masking", "model", "trainer", "probe"),
    version=3,
    control=RTD_CHOSEN,
    price=("probe_accuracy",),  # of all texts, most of which are of the frequent categories
    headlines=("probe_", f"{TUNED}_", "rtd/", "generator/", "mlm/", BAG),
    metrics=("probe_*", f"{TUNED}_*", f"{BAG}_*", f"{READ}_*", "rtd/*", "generator/*", "mlm/*", CUT),
    watched=("rtd/*", "generator/*", "mlm/*"),
)
