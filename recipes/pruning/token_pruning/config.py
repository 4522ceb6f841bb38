"""Config and card of the recipe `token-pruning`. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from recipes.core.config import compose
from recipes.core.config.settings import (
    COVERED,
    DATA_CONTENT,
    MODEL_CONTENT,
    SEEDS,
    Card,
    Claim,
    System,
    UntrainedConfig,
    setting,
)
from recipes.core.config.unread import unread_keys
from recipes.core.data.config import DigitCaptionsConfig, EasyVqaConfig
from recipes.core.data.images.canvas_config import CanvasDataConfig, QuestionCanvasDataConfig
from recipes.core.models.config import LlavaConfig, MiniLMConfig
from recipes.core.spelling import did_you_mean
from recipes.core.storage.places import model_config
from recipes.core.training.toys.config import ToyViTConfig, ToyVLMConfig
from recipes.pruning.options import PrunerOptions

# Where each pruner acts, apart from `full`, which acts nowhere, and `random`, which is told where.
BEHIND_ENCODER = (
    "grid", "pool", "cls_topk", "divprune", "recoverable", "visionzip", "prumerge", "prumerge_plus", "trim",
)  # fmt: skip
IN_ENCODER = ("flowcut", "zero_tprune", "tome", "ats", "evit")
IN_LANGUAGE_MODEL = ("fastv", "sparsevlm", "pyramiddrop", "vtw")
MODEL_DATA = {
    "toy-vlm": ("digit-canvases", "question-canvases"),
    "toy-vit": ("digit-canvases",),
    "llava": ("vqa", "easy-vqa"),
    "prior-vlm": ("prior-captions", "easy-vqa", "digit-captions"),
    "minilm": ("passages",),
}
WHOLE = f"{1.0:g}"  # the label of the unpruned model
CLIP_MODELS = ("llava", "llava_next")  # types of models whose encoder is that of a CLIP
PRIOR_DATA = "easy-vqa"  # what a model of `prior` is trained on in the run
# Models that are an encoder only, and why nothing is pruned behind it.
ENCODERS = {"toy-vit": "its classifier has read everything", "minilm": "nothing is left to save"}


@dataclass(frozen=True)
class VqaConfig:
    """Your own questions about images: JSON, JSONL, Parquet or CSV with a column each, or LLaVA's conversations."""

    name: str = setting("vqa", help="data set", choices=("vqa",))
    path: str | None = setting(
        None,
        help="JSON, JSONL, Parquet or CSV file of questions, a folder of them, or a datasets name",
        content=DATA_CONTENT,
    )
    format: str = setting("auto", help="auto: from the path", choices=("auto", "jsonl", "parquet", "csv", "datasets"))
    split: str | None = setting(None, help="published split to ask about; null: test, else validation, else train")
    images: str | None = setting(
        None, help="folder that image paths start from; null: that of the file", content=COVERED
    )
    image_column: str | None = setting(None, help="column of image paths or bytes; null: image or file_name")
    question_column: str | None = setting(None, help="column of questions; null: question, text or conversations")
    answer_column: str | None = setting(None, help="column of an answer or a list of right ones; null: answer(s)")
    on_error: str = setting(
        "fail", help="a record that cannot be used stops the run, or is left out and counted", choices=("fail", "skip")
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.path else [("path", "is missing; type data.path=FILE")]


@dataclass(frozen=True)
class PriorDataConfig:
    """What the model of `prior` was trained on: words of test captions that only the image can tell."""

    name: str = setting("prior-captions", help="data set", choices=("prior-captions",))

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"test captions of what the model was trained on ({PRIOR_DATA} if that is in the run)"


@dataclass(frozen=True)
class PriorVLMConfig:
    """The vision-language model that recipe `prior` trains with setting=H."""

    name: str = setting("prior-vlm", help="model", choices=("prior-vlm",))
    path: str | None = setting(
        None,
        help="folder of a finished run of prior with setting=H; null: trained in the run, once for each seed",
        content=MODEL_CONTENT,
    )
    arm: str = setting("prior", help="arm of prior that trains it")
    layers: int = setting(4, help="layers of its language model; published schedules need four", ge=1)
    encoder_layers: int = setting(4, help="blocks of its vision transformer", ge=1)
    steps: int | None = setting(None, help="steps of its training; null: those of prior at this budget", ge=1)
    seed: int | None = setting(None, help="its own, one model for all seeds; null: that of the run", ge=0, lt=SEEDS)


@dataclass(frozen=True)
class PassagesConfig:
    """Long texts to compare: leads of English Wikipedia, or your own."""

    name: str = setting("passages", help="data set", choices=("passages",))
    path: str | None = setting(
        None,
        help="JSON, JSONL, Parquet, CSV or text file, a folder of them, or a datasets name; null: Wikipedia's leads",
        content=DATA_CONTENT,
    )
    split: str = setting("train", help="published split to read, or all; data without splits is train")
    text_column: str | None = setting(None, help="column of texts; null: text, content or document")
    min_tokens: int = setting(64, help="shorter texts are left out; CLS and SEP count", unit="tokens", ge=3)
    max_tokens: int = setting(128, help="longer texts are cut", unit="tokens", ge=3)
    texts: int = setting(400, help="texts that the run's seed draws, at most", unit="texts", ge=3)
    on_error: str = setting(
        "fail", help="a text that cannot be used stops the run, or is left out and counted", choices=("fail", "skip")
    )

    @property
    def description(self) -> str:
        """What a dry run announces."""
        source = self.path or "leads of English Wikipedia (asset wiki-leads)"
        return f"{self.texts} texts of {self.min_tokens} to {self.max_tokens} tokens from {source}"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.max_tokens < self.min_tokens:
            return [("max_tokens", f"{self.max_tokens} is less than min_tokens={self.min_tokens}")]
        return []


@dataclass(frozen=True)
class GuideConfig:
    """The question as text-guided pruners see it."""

    path: str | None = setting(
        None,
        help="CLIP checkpoint whose text tower reads the question (model=llava); its vision tower is the model's",
        content=MODEL_CONTENT,
    )
    text: str = setting(
        "question",
        help="what the pruner is told: the question, or another one",
        choices=("question", "other"),
    )


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, on how much."""

    batch_size: int = setting(100, help="examples at once", ge=1)
    examples: int | None = setting(None, help="use only the first questions; null: all", unit="questions", ge=1)
    mac_ratios: tuple[float, ...] = setting(
        (0.75,), help="accuracy is also read off at these shares of the unpruned model's MACs", gt=0, le=1
    )
    llm_mac_ratios: tuple[float, ...] = setting(
        (0.5, 0.25), help="the same for shares of the language model's MACs, as papers count", gt=0, le=1
    )
    pictures: int = setting(6, help="examples that the report shows", ge=0)
    picture_keep: float = setting(0.125, help="at which of the shares kept a trial shows them", gt=0, le=1)
    timed_batches: int = setting(3, help="batches whose prefill is timed", ge=1)
    max_new_tokens: int = setting(16, help="longest answer of a user's model", unit="tokens", ge=1)


@dataclass(frozen=True, kw_only=True)
class TokenPruningConfig(UntrainedConfig):
    """Config of one `token-pruning` run."""

    data: (
        CanvasDataConfig
        | QuestionCanvasDataConfig
        | VqaConfig
        | EasyVqaConfig
        | DigitCaptionsConfig
        | PriorDataConfig
        | PassagesConfig
    ) = setting(help="images and questions, or texts")
    model: ToyVLMConfig | ToyViTConfig | LlavaConfig | PriorVLMConfig | MiniLMConfig = setting(
        help="model that is pruned"
    )
    pruner: PrunerOptions = setting(help="pruner; arms choose it")
    keep: tuple[float, ...] = setting(
        (0.5, 0.25, 0.125, 0.0625), help="shares of the tokens to keep, each measured on its own", gt=0, le=1
    )
    keep_tokens: tuple[int, ...] = setting((), help="numbers of tokens to keep, instead of shares", unit="tokens", ge=1)
    positions: str | None = setting(
        None, help="rotary positions of what is kept; null: the pruner's own", choices=("compact", "original")
    )
    selection_seeds: int = setting(1, help="draws of a pruner that draws, averaged", ge=1)
    guide: GuideConfig = setting(GuideConfig(), help="text that guides pruners")
    evaluation: EvaluationConfig = setting(help="evaluation")

    @property
    def budgets(self) -> tuple[tuple[str, float | int], ...]:
        """(label in the names of metrics, share or number of tokens) of every budget, the largest first."""
        if self.keep_tokens:
            return tuple((f"{number}t", number) for number in sorted(self.keep_tokens, reverse=True))
        return tuple((f"{share:g}", share) for share in sorted(self.keep, reverse=True) if share < 1)

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run."""
        return unread_keys(
            ("keep", not self.keep_tokens, "keep_tokens gives numbers in its place"),
            ("guide.text", needs_text(self.pruner), f"{self.pruner.name} reads no question"),
            ("evaluation.max_new_tokens", isinstance(self.model, LlavaConfig), f"{self.model.name} writes no answers"),
            ("evaluation.picture_keep", self.evaluation.pictures > 0, "no picture is drawn"),
        )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings, as (key, message)."""
        problems = _model_problems(self)
        for key, values in (("keep", self.keep), ("keep_tokens", self.keep_tokens)):
            if len(set(values)) < len(values):
                problems.append((key, "names a budget twice"))
                return problems
        labels = [WHOLE, *(label for label, _ in self.budgets)]
        if same := next((label for label in labels if labels.count(label) > 1), None):
            what = "1 that is not 1, which stands for unpruned" if same == WHOLE else f"{same} twice"
            problems.append(("keep", f"names {what}: metrics name a share by six digits; type fewer digits"))
        return problems

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        budgets = ", ".join(f"{budget:g}" for _, budget in self.budgets)
        unit = "numbers of tokens" if self.keep_tokens else "shares of the tokens"
        measured = f"{budgets} ({unit}), and unpruned" if budgets else "none: only the unpruned model is measured"
        return [
            ("data", _data_words(self)),
            ("model", _model_words(self)),
            ("pruner", self.pruner.name),
            ("budgets", measured),
        ]


def _data_words(config: TokenPruningConfig) -> str:
    data = config.data
    if isinstance(data, VqaConfig):
        return f"{data.path}, answers generated and compared"
    return getattr(data, "description", data.name)


def _model_words(config: TokenPruningConfig) -> str:
    model = config.model
    if isinstance(model, PriorVLMConfig) and model.path:
        return f"the model of the run of prior in {model.path}"
    if isinstance(model, ToyVLMConfig | ToyViTConfig | PriorVLMConfig):
        return f"{model.name}, trained for this seed if no run has done so before"
    if isinstance(model, MiniLMConfig):
        return f"sentence encoder {model.path}" if model.path else "all-MiniLM-L6-v2 (asset)"
    return f"vision-language checkpoint {Path(str(model.path))}"


def _model_problems(config: TokenPruningConfig) -> list[tuple[str, str]]:
    """What the model has no use for."""
    model, data, pruner = config.model.name, config.data.name, config.pruner.name
    problems: list[tuple[str, str]] = []
    if data not in MODEL_DATA[model]:
        problems.append(("data", f"{data} is not for model={model}; type data={' or data='.join(MODEL_DATA[model])}"))
    elif isinstance(config.model, PriorVLMConfig):
        problems += _prior_problems(config.model, data)
    place = getattr(config.pruner, "place", "")
    if model in ENCODERS:
        if pruner in IN_LANGUAGE_MODEL:
            problems.append(("pruner", f"{pruner} prunes in a language model, which {model} lacks; type model=toy-vlm"))
        elif pruner in BEHIND_ENCODER or place in ("encoder", "projector"):
            problems.append(
                ("pruner", f"{pruner} prunes behind the encoder, where {ENCODERS[model]}; "
                 f"type pruner={' or pruner='.join(IN_ENCODER)}")
            )  # fmt: skip
    if needs_text(config.pruner) and model == "toy-vlm" and data == "digit-canvases":
        problems.append(
            ("pruner", f"{pruner} compares patches with what is asked for, and digit-canvases asks for a side only; "
             "type data=question-canvases")
        )  # fmt: skip
    if needs_text(config.pruner) and model == "prior-vlm":
        problems.append(
            ("pruner", f"{pruner} compares patches with the question, and this model has no text in their space; "
             "type pruner=divprune, or data=question-canvases with model=toy-vlm")
        )  # fmt: skip
    if needs_text(config.pruner) and isinstance(config.model, LlavaConfig):
        problems += _guide_problems(pruner, config.model.path or "", config.guide.path)
    return problems


def _guide_problems(pruner: str, model: str, guide: str | None) -> list[tuple[str, str]]:
    """What keeps a pruner that reads the question from reading it beside a user's model."""
    kind = str(model_config(model).get("model_type", CLIP_MODELS[0]))
    if kind not in CLIP_MODELS:
        return [
            ("pruner", f"{pruner} compares patches with the question in the space of a CLIP, from which the encoder of "
             f"{kind} does not come; type pruner=divprune, or fastv or sparsevlm, which read the question elsewhere")
        ]  # fmt: skip
    if guide is None:
        return [
            ("guide.path", f"is missing: {pruner} compares patches with the question, and a LLaVA has no text tower; "
             "type guide.path=CLIP, the checkpoint its vision tower comes from")
        ]  # fmt: skip
    return []


def _prior_problems(model: PriorVLMConfig, data: str) -> list[tuple[str, str]]:
    """What a model of `prior` cannot be trained as, or asked."""
    problems, arms = [], list(compose.every_arm("prior"))
    if model.path and data != "prior-captions":
        problems.append(
            ("data", f"{data} is for a model trained in the run; a run of prior brings its own: leave data out")
        )
    if model.arm not in arms:
        problems.append(("model.arm", f"{model.arm} is no arm of prior; {did_you_mean(model.arm, arms)}"))
    return problems


def needs_text(pruner: PrunerOptions) -> bool:
    """Whether a pruner compares patches with the question."""
    return pruner.name == "trim" or (pruner.name == "recoverable" and bool(getattr(pruner, "text", False)))


CONFIG = TokenPruningConfig

CARD = Card(
    title="Token pruning: which visual tokens a model can do without",
    paper="DivPrune, arXiv 2503.02175 (CVPR 2025); FlowCut, arXiv 2505.19536; Zero-TPrune, arXiv 2305.17328; "
    "Recoverable Compression, arXiv 2409.01179; and their baselines",
    weights="visual tokens of a trained model, by what pruners keep of them",
    summary="Pruners keep some of the visual tokens of a model that is trained already; all are measured on identical "
    "weights, at equal numbers of tokens and at equal MACs.",
    claim=Claim(
        statement="At an eighth of the visual tokens, DivPrune answers more questions right than random pruning",
        metric="accuracy@0.125",
        arm="divprune",
        baseline="random",
        direction=1,
        published="GQA 56.85 against 38.73 of FastV and 52.39 of FitPrune, LLaVA-1.5-7B at 15.6% of the TFLOPs "
        "(61.96 unpruned); no number against random pruning",
        minimal_effect=0.02,
    ),
    cost="the toy model of a seed once, cached; then seconds a pruner, forward passes only",
    pair_keys=("arm", "pruner", "keep", "guide", "positions", "selection_seeds"),
    version=1,
    control="full",
    headlines=("accuracy", "agreement", "spearman", "macs_ratio@", "tokens@", "selection_ms@"),
    price=("macs_ratio@0.125", "selection_ms@0.125"),
    systems=(
        System("DivPrune", "arXiv 2503.02175 (CVPR 2025)", ("divprune",)),
        System("FlowCut", "arXiv 2505.19536 (NeurIPS 2025)", ("flowcut",)),
        System("Zero-TPrune", "arXiv 2305.17328 (CVPR 2024)", ("zero_tprune",)),
        System("Recoverable Compression", "arXiv 2409.01179 (AAAI 2025)", ("recoverable",)),
    ),
    trains=False,
    metrics=("*@*",),
    frontiers=(
        ("macs_ratio", "accuracy"),
        ("tokens", "accuracy"),
        ("macs_ratio", "agreement"),
        ("tokens", "agreement"),
    ),  # fmt: skip
    claims=(
        Claim(
            statement="Zero-TPrune's ranking of tokens keeps more answers than random pruning does",
            metric="accuracy@0.125",
            arm="zero_tprune",
            baseline="random",
            direction=1,
            published="ImageNet-1k, DeiT-S at 3.08 GFLOPS: 79.4 against 76.8 of random pruning (79.8 unpruned)",
            minimal_effect=0.02,
            only=" or ".join(f"model={name}" for name in MODEL_DATA if name != "minilm"),
        ),
        Claim(
            statement="FlowCut, step by step with a running score, keeps more answers than CLS attention of one layer",
            metric="accuracy@0.125",
            arm="flowcut",
            baseline="cls_topk",
            direction=1,
            published="LLaVA-1.5-7B at 64 of 576 tokens: 96.0% of the unpruned scores against 94.4% of VisionZip; "
            "no number against CLS attention alone",
            minimal_effect=0.02,
        ),
        Claim(
            statement="Tokens that the question picks out keep answers that visual saliency alone loses",
            metric="accuracy@0.125",
            arm="recoverable",
            baseline="recoverable_visual",
            direction=1,
            published="LLaVA-1.5-7B at about 10% of the tokens, TextVQA: 55.51 against 53.51 of PruMerge "
            "(58.20 unpruned); no number without the text alone",
            minimal_effect=0.02,
        ),
        Claim(
            statement="Words that Zero-TPrune keeps hold similarities between texts better than words drawn by chance",
            metric="agreement@0.125",
            arm="zero_tprune",
            baseline="zero_tprune_random",
            direction=1,
            published="none for texts",
            minimal_effect=0.02,
            only="model=minilm",
        ),
    ),
)
