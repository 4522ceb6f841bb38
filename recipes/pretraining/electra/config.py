"""Config and card of the recipe `electra`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.flops import rows_to_draw
from recipes.core.config.settings import ORDER, SHARDED_OPTIMIZERS, Card, Claim, RunConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.data.config import DomainsConfig
from recipes.core.data.tasks.labelled_config import ReviewSentimentConfig, WikiTopicsConfig
from recipes.core.evaluation.probe_config import ProbeConfig
from recipes.core.models.config import SmallEncoderConfig
from recipes.core.models.costs import flops, mlp_macs, training_flops
from recipes.pretraining.generator_config import ALL, MODEL, NOTHING, GeneratorConfig
from recipes.pretraining.masking_config import MaskingConfig
from recipes.pretraining.task_config import TaskTextsConfig
from recipes.pretraining.tuning_config import FineTuningConfig

ELECTRA, ELECTRA_15, BERT = "electra", "electra_15", "bert"
REPLACE_MLM, ALL_TOKENS = "replace_mlm", "all_tokens_mlm"
JOINT, TWO_STAGE, ADVERSARIAL = "joint", "two_stage", "adversarial"
DETECTS = (ELECTRA, ELECTRA_15)
ACCURACY, POSITIONS, SIGNAL = "probe/accuracy", "loss_positions", "gradient_snr"
START = "start"  # of metrics of the encoder before its first step
TUNED = "tuned"  # of metrics of a copy that is fine-tuned


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and when."""

    watches: int = setting(4, help="measurements during training, at equal shares of it", ge=1)
    rows: int = setting(
        64, help="held-out rows of each domain, evenly over its documents, that tokens are judged in", unit="rows", ge=1
    )
    micro_batches: int = setting(16, help="micro-batches whose gradients are compared; 0: none are", ge=0)
    micro_rows: int = setting(8, help="rows of each", unit="rows", ge=1)
    batch_tokens: int = setting(2048, help="tokens of a forward where nothing is trained", unit="tokens", ge=8)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [("micro_batches", "of 1 has no spread; type 2 or more, or 0")] if self.micro_batches == 1 else []


@dataclass(frozen=True, kw_only=True)
class ElectraConfig(RunConfig):
    """Config of one `electra` run."""

    data: DomainsConfig = setting(help="texts to train on")
    model: SmallEncoderConfig = setting(help="encoder, trained from nothing")
    objective: str = setting(
        ELECTRA,
        help="what the encoder learns; arms choose it. electra: which tokens are replaced; electra_15: the same, with "
        "loss at the chosen tokens alone; bert: the masked tokens; replace_mlm: the chosen tokens, where the "
        "generator's stand; all_tokens_mlm: all tokens of the same rows, with a gate that copies",
        choices=(ELECTRA, ELECTRA_15, BERT, REPLACE_MLM, ALL_TOKENS),
    )
    discriminator_weight: float = setting(50.0, help="weight of the loss of detection", gt=0, origin="paper")
    generator: GeneratorConfig = setting(GeneratorConfig(), help="what replaces tokens")
    training: str = setting(
        JOINT,
        help="joint: generator and encoder together; two_stage: first the generator, whose weights the encoder then "
        "begins with; adversarial: the generator is rewarded for what the encoder does not detect",
        choices=(JOINT, TWO_STAGE, ADVERSARIAL),
    )
    first_stage: float = setting(0.5, help="two_stage: share of the steps that train the generator", gt=0, lt=1)
    masking: MaskingConfig = setting(MaskingConfig(masked=0.85, any_token=0.0), help="masks")
    adam_bias_correction: bool = setting(False, help="bias correction of Adam, which the code has not", origin="code")
    task: WikiTopicsConfig | ReviewSentimentConfig | TaskTextsConfig = setting(
        WikiTopicsConfig(), help="texts with a label each, which frozen features are to tell apart"
    )
    probe: ProbeConfig = setting(ProbeConfig(), help="classifier of frozen features")
    fine_tuning: FineTuningConfig = setting(FineTuningConfig(), help="short fine-tuning on the texts of the probe")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), help="what is measured")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems = self.generator.problems() if self.objective != BERT else []
        if self.data.length < 8:
            problems.append(("data.length", "is less than 8 tokens, in which little can be masked; type more"))
        if (longest := max(self.data.length, self.probe.max_tokens)) > self.model.positions:
            message = f"are fewer than data.length or probe.max_tokens; type model.positions={longest}"
            problems.append(("model.positions", message))
        if self.probe.layer > self.model.layers:
            problems.append(("probe.layer", f"is beyond model.layers={self.model.layers}"))
        if not self.adam_bias_correction and self.trainer.optimizer not in SHARDED_OPTIMIZERS:
            message = (
                f"false is for torch's AdamW, and not for {self.trainer.optimizer}; type adam_bias_correction=true"
            )
            problems.append(("adam_bias_correction", message))
        if self.probe.max_tokens > self.data.length:
            message = f"is more than data.length={self.data.length}: positions behind it are never trained; type less"
            problems.append(("probe.max_tokens", message))
        problems += self.fine_tuning.problems(self.trainer, "data.length", self.data.length)
        if self.training == ADVERSARIAL and (self.generator.temperature != 1 or self.generator.disallow_correct):
            message = "adversarial rewards what the generator draws by its own distribution; leave out "
            message += "generator.temperature and generator.disallow_correct"
            problems.append(("training", message))
        if self.training != JOINT and not (self.objective in DETECTS and self.generator.kind == MODEL):
            message = f"{self.training} is for detection with generator.kind=model; type training=joint"
            problems.append(("training", message))
        elif self.training == TWO_STAGE:
            problems += self._check_stages()
        return problems

    def _check_stages(self) -> list[tuple[str, str]]:
        problems = []
        if self.generator.size != 1 or self.generator.shared != NOTHING:
            message = "two_stage copies the generator; type generator.size=1 generator.shared=nothing"
            problems.append(("training", message))
        if self.trainer.processes > 1 or self.trainer.parallel != "ddp":
            key = self.trainer.processes_key
            problems.append((key, f"two_stage leaves weights without gradient; type {key}=1"))
        if not 0 < self.switch < self.steps:
            problems.append(("first_stage", f"leaves one of the stages without one of the {self.steps} steps"))
        return problems

    @property
    def switch(self) -> int:
        """Steps of the first stage."""
        return round(self.first_stage * self.steps)

    @property
    def uses_generator(self) -> bool:
        """Whether a model writes what the encoder reads."""
        return self.objective != BERT and self.generator.kind == MODEL

    @property
    def sequence_tokens(self) -> int:
        """Most tokens of a row."""
        return self.data.length

    @property
    def stream(self) -> int:
        """Rows that are drawn: as many as the cheapest arm could read, so that all arms read the same in one order."""
        return rows_to_draw(self, training_flops(self.model.macs(self.data.length)))

    def row_macs(self) -> tuple[float, float, float]:
        """Multiply-adds of a row: a forward of the generator, of the encoder, and what has no backward."""
        length = self.data.length
        masked, width = self.masking.share * length, self.model.width
        head = {
            BERT: self.model.vocabulary_macs(masked),
            REPLACE_MLM: self.model.vocabulary_macs(masked),
            ALL_TOKENS: self.model.vocabulary_macs(length) + mlp_macs(length, width, 1),
        }.get(self.objective, mlp_macs(length, width, width, 1))
        generator, drawn = (0.0, 0.0) if self.objective == BERT else self.generator.macs(self.model, length, masked)
        return generator, self.model.macs(length) + head, drawn

    def step_flops(self) -> float:
        """Floating-point operations of a step of rows of full length; of two stages the mean over both."""
        generator, encoder, drawn = self.row_macs()
        row = training_flops(generator + encoder) + flops(drawn)
        if self.training == TWO_STAGE:
            second = training_flops(encoder) + flops(generator + drawn)
            row = self.first_stage * training_flops(generator) + (1 - self.first_stage) * second
        return row * self.trainer.batch_size

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run."""
        by_model, replaces = self.generator.kind == MODEL, self.objective != BERT
        return unread_keys(
            ("generator training", replaces, "bert has no generator"),
            ("discriminator_weight", self.objective in DETECTS, f"objective={self.objective} detects nothing"),
            (
                "generator.size generator.shared generator.weight generator.temperature",
                by_model or not replaces,
                "tokens are drawn by no model",
            ),
            ("masking.masked masking.any_token", by_model or not replaces, "no model reads masks"),
            ("generator.weight", self.training != TWO_STAGE, "of two stages each has its own loss"),
            ("evaluation.micro_rows", self.evaluation.micro_batches > 0, "no gradients are compared"),
            ("first_stage", self.training == TWO_STAGE, "there is one stage"),
            ("model.lower_case", self.model.tokenizer is None, "the tokenizer is one that was made before"),
            self.fine_tuning.rule,
        )

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        rows = [("data", self.data.description), ("model", self.model.description), ("task", self.task.described)]
        rows += self.fine_tuning.described
        if self.uses_generator:
            narrow = self.generator.model(self.model)
            larger = ", wider than the encoder" if self.warning else ""
            rows.append(("generator", f"{narrow.layers} layers, width {narrow.width}{larger}"))
        return rows

    @property
    def warning(self) -> str:
        """What is odd about the generator; empty if nothing is."""
        if not self.uses_generator or self.generator.size <= 1:
            return ""
        return (
            f"generator.size={self.generator.size:g}: the generator is larger than the encoder that is kept, and may "
            "leave it nothing to detect; 0.25 to 0.5 are published"
        )

    def parameters(self) -> int:
        """Parameters of encoder and generator, with the largest vocabulary, without heads."""
        encoder = self.model.parameters
        if not self.uses_generator:
            return encoder
        narrow = self.generator.model(self.model)
        table = narrow.embedding or narrow.width
        shared = 0 if self.generator.shared == NOTHING else (narrow.vocabulary + narrow.positions + 4) * table
        return encoder + narrow.parameters - shared if self.generator.shared != ALL else encoder


CONFIG = ElectraConfig

CARD = Card(
    title="ELECTRA: replaced token detection",
    paper="arXiv 2003.10555 (Clark, Luong, Le, Manning; ICLR 2020)",
    weights="tokens of a row: all of them carry loss, not only the 15% that are masked",
    summary="A small masked language model fills masks with likely tokens. The encoder says of every token whether it "
    "is the text's; a token that was guessed right is. Only the encoder is kept.",
    claim=Claim(
        statement="At equal floating-point operations, frozen features of an encoder that detects replaced tokens tell "
        "classes apart better than those of one that predicts masked tokens",
        metric=ACCURACY,
        arm="electra",
        baseline="bert",
        direction=1,
        published="GLUE of the small models: 79.9 against 75.1",
        minimal_effect=0.01,
    ),
    claims=(
        Claim(
            statement="Such an encoder is the better one after short fine-tuning of all its weights, too",
            metric=f"{TUNED}/accuracy",
            arm="electra",
            baseline="bert",
            direction=1,
            published="GLUE of the small models, fine-tuned: 79.9 against 75.1",
            minimal_effect=0.01,
        ),
        Claim(
            statement="The loss over all tokens is what does it: with loss at the chosen tokens alone it is worse",
            metric=ACCURACY,
            arm="electra",
            baseline="electra_15",
            direction=1,
            published="GLUE of the base models: 85.0 against 82.4",
            minimal_effect=0.01,
        ),
        Claim(
            statement="A step has more tokens with loss than one with loss at the chosen tokens alone",
            metric=POSITIONS,
            arm="electra",
            baseline="electra_15",
            direction=1,
            published="all tokens against 15% of them",
            minimal_effect=10,
        ),
        Claim(
            statement="and its gradient stands out of its noise by more, at equal cost of a step",
            metric=SIGNAL,
            arm="electra",
            baseline="electra_15",
            direction=1,
            published="not in the paper: the sheet's check that no downstream noise blurs",
            minimal_effect=0.05,
        ),
        Claim(
            statement="Predicting all tokens lies between: better than the chosen ones, worse than detection",
            metric=ACCURACY,
            arm="electra",
            baseline="replace_mlm",
            direction=1,
            published="85.0, 84.3, 82.4",
            minimal_effect=0.0,
            kind=ORDER,
            arms=("electra", "all_tokens_mlm", "replace_mlm"),
        ),
        Claim(
            statement="A generator a quarter as wide is better than one as wide as the encoder, at equal operations",
            metric=ACCURACY,
            arm="electra",
            baseline="gen_1",
            direction=1,
            published="generators of 1/4 to 1/2 are best (figure 3)",
            minimal_effect=0.005,
        ),
    ),
    cost="a generator beside the encoder, about a tenth of its operations at a quarter of the width; no softmax over "
    "the vocabulary in the encoder",
    pair_keys=("arm", "objective", "generator", "training", "masking", "adam_bias_correction"),
    version=3,
    control="electra_15",
    price=("steps",),  # updates that the same operations pay for
    headlines=(ACCURACY, f"{START}/accuracy", TUNED, POSITIONS, SIGNAL, "disc/", "generator/", "mlm/"),
    metrics=("probe/*", f"{START}/*", f"{TUNED}*", "disc/*", "generator/*", "mlm/*", POSITIONS, SIGNAL, "steps"),
    watched=("disc/*", "generator/*", "mlm/*"),
)
