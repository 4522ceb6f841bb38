"""Config that every recipe shares, as frozen dataclasses. Imports no torch."""

import os
from dataclasses import MISSING, dataclass, field, replace
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Any

from recipes.core.process.cores import usable_cores

DATA_CONTENT, MODEL_CONTENT, TOKENIZER_CONTENT, COVERED = "data", "model", "tokenizer", "covered"

SEED_UNIT, EXAMPLE_UNIT = "seeds", "examples"
SMOKE, SMALL, FULL = "smoke", "small", "full"  # budgets
DIFFERENCE, EQUIVALENCE, EXACT = "difference", "equivalence", "exact"
ORDER, CORRELATION = "order", "correlation"
FEWEST_ARMS = 5  # of a correlation over arms: of four the least permutation p is 1/24 to one side
OF_A_PAIR = (DIFFERENCE, EQUIVALENCE, EXACT)  # kinds of claims that one arm beside one other answers

SEEDS = 2**32  # NumPy takes no larger one


def setting(
    default: Any = MISSING,
    *,
    help: str,
    unit: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: tuple[Any, ...] | None = None,
    refused: dict[str, str] | None = None,
    origin: str = "ours",
    content: str | None = None,
) -> Any:
    """A dataclass field that says what it means and what it allows.

    Args:
        default: Its default; without one the config files must give a value.
        help: One line for `steelyard list` and for error messages.
        unit: Unit of the number ("steps", "tokens").
        ge, gt, le, lt: Bounds of a number (of each element of a tuple).
        choices: The only values allowed.
        refused: Values that people expect among them -> why they are not, and what to type.
        origin: Where the default comes from: "paper", "code" or "ours".
        content: DATA_CONTENT, MODEL_CONTENT or TOKENIZER_CONTENT (a model's folder, or a file) if it names files,
            folders or hub names: what they hold is part of a run's identity, their names are not. COVERED if the
            content of another setting says all that it decides.
    """
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    metadata: dict[str, Any] = {"help": help, "unit": unit, "bounds": bounds, "choices": choices, "origin": origin}
    metadata |= {"content": content, "refused": refused or {}}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


# Optimizers by the names of `transformers`, and the package that each needs besides torch.
TORCH_OPTIMIZERS = ("adamw", "sgd", "adamw_torch", "adamw_torch_fused", "adafactor", "adagrad", "rmsprop")
BNB_OPTIMIZERS = (
    *("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "lion_8bit", "lion_32bit"),
    *("paged_lion_8bit", "paged_lion_32bit", "ademamix", "ademamix_8bit", "paged_ademamix_8bit"),
    *("paged_ademamix_32bit", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"),
)
PACKAGE_OF = dict.fromkeys(BNB_OPTIMIZERS, "bitsandbytes") | {
    "adamw_torch_8bit": "torchao",
    "adamw_torch_4bit": "torchao",
    "grokadamw": "grokadamw",
    "stable_adamw": "torch-optimi",
}
SHARDED_OPTIMIZERS = ("adamw", "adamw_torch", "adamw_torch_fused")  # whose state FSDP's checkpoints hold
WARMUP_TIMES_LINEAR = "warmup_times_linear"
SCHEDULES = ("constant", "cosine", "linear", "inverse_sqrt", "warmup_stable_decay", WARMUP_TIMES_LINEAR)
LONGEST_TAG = 64  # characters that W&B takes
TRACKERS = ("auto", "wandb", "tensorboard", "mlflow", "none")
ATTENTIONS = ("auto", "sdpa", "eager", "flash_attention_2", "flex_attention")
# Trainer settings of a run that models trained beside its own take over: where they are trained, and how exactly.
BESIDE = ("device", "threads", "precision", "micro_batch_size")


@dataclass(frozen=True)
class EarlyStoppingConfig:
    """When a run may end before its steps are done: its model is that of the step at which it ends."""

    metric: str | None = setting(None, help="metric measured during training that must get better; null: all steps")
    patience: int = setting(3, help="measurements in a row without a better value that end it", ge=1)
    min_delta: float = setting(0.0, help="a value is better if it is so by more than this", ge=0)


@dataclass(frozen=True)
class TrainerConfig:
    """The one trainer's settings."""

    max_steps: int = setting(600, help="optimizer steps", unit="steps", ge=1)
    max_flops: float | None = setting(
        None,
        help="floating-point operations of all steps, from which their number follows in place of max_steps; null: "
        "max_steps counts. Not every recipe can count them",
        unit="FLOPs",
        gt=0,
    )
    batch_size: int = setting(32, help="sequences per optimizer step, over all processes", unit="sequences", ge=1)
    micro_batch_size: int | None = setting(
        None, help="sequences per forward; null: the whole batch of the process", unit="sequences", ge=1
    )
    optimizer: str = setting(
        "adamw",
        help="optimizer, by its name in transformers; adamw: adamw_torch_fused; sgd is plain, without momentum",
        choices=(*TORCH_OPTIMIZERS, *PACKAGE_OF),
        refused={
            "muon": "transformers has no such optimizer, and torch's takes matrices only: embeddings, heads and "
            "vectors would need an AdamW of their own beside it; type adamw"
        },
    )
    learning_rate: float = setting(2e-3, help="peak learning rate", gt=0)
    weight_decay: float = setting(0.01, help="weight decay, decoupled in AdamW", ge=0)
    adam_beta1: float = setting(0.9, help="AdamW beta 1", ge=0, lt=1)
    adam_beta2: float = setting(0.95, help="AdamW beta 2", ge=0, lt=1)
    adam_epsilon: float = setting(1e-8, help="AdamW epsilon", gt=0)
    max_grad_norm: float = setting(1.0, help="gradients are clipped to this norm", gt=0)
    warmup_ratio: float = setting(1 / 12, help="share of the steps with linear warm-up", ge=0, lt=1)
    schedule: str = setting(
        "constant",
        help="learning rate after the warm-up; warmup_times_linear falls from the first step, as BERT's and ELECTRA's "
        "code has it",
        choices=SCHEDULES,
    )
    decay_ratio: float = setting(
        0.1, help="warmup_stable_decay: share of the steps, at the end, in which the rate falls to 0", gt=0, lt=1
    )
    save_steps: int = setting(200, help="steps between checkpoints", unit="steps", ge=1)
    log_steps: int = setting(10, help="steps between log lines", unit="steps", ge=1)
    device: str = setting("auto", help="where to train", choices=("auto", "cpu", "cuda"))
    precision: str = setting("auto", help="auto: bf16 on CUDA, fp32 on CPU", choices=("auto", "fp32", "bf16"))
    threads: int | None = setting(None, help="CPU threads of a process; null: the cores, divided by nproc", ge=1)
    nproc: int = setting(
        1, help="processes of one run on each machine; on CUDA each has a device", unit="processes", ge=1
    )
    nodes: int = setting(
        1, help="machines of one run; Slurm or torchrun starts the command on each of them", unit="machines", ge=1
    )
    parallel: str = setting(
        "ddp", help="what processes share: gradients (ddp) or also weights (fsdp)", choices=("ddp", "fsdp")
    )
    gradient_checkpointing: bool = setting(
        False, help="compute activations anew in the backward pass instead of keeping them: less memory, more time"
    )
    attention: str = setting(
        "auto", help="attention of what is trained; auto: what transformers takes for the model", choices=ATTENTIONS
    )
    compile: bool = setting(False, help="compile the layers of what is trained with torch.compile")
    dtype: str = setting(
        "float32",
        help="dtype of the trained language model's weights, and so of gradients and optimizer; adapters stay float32",
        choices=("float32", "bfloat16"),
    )
    workers: int = setting(0, help="processes that make batches ahead of training; 0: none", unit="processes", ge=0)
    check_memory: bool = setting(
        True, help="refuse a run whose weights, gradients and optimizer are more than the memory of this machine"
    )
    group_by_length: bool = setting(False, help="batches of sequences of similar length: less padding")
    early_stopping: EarlyStoppingConfig = setting(EarlyStoppingConfig(), help="early stopping")

    @property
    def processes(self) -> int:
        """Processes of the run on all machines."""
        return self.nodes * self.nproc

    @property
    def processes_key(self) -> str:
        """The key to change first in a run that one process is to do."""
        return "trainer.nodes" if self.nodes > 1 else "trainer.nproc"

    @property
    def process_batch_size(self) -> int:
        """Sequences of an optimizer step that one process takes."""
        return self.batch_size // self.processes

    @property
    def process_threads(self) -> int:
        """CPU threads of each process."""
        return self.threads or max(usable_cores() // self.nproc, 1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings, as (key, message)."""
        problems = []
        shared = f"nodes={self.nodes} x nproc={self.nproc}" if self.nodes > 1 else f"nproc={self.nproc}"
        if self.batch_size % self.processes:
            problems.append(("batch_size", f"{self.batch_size} does not divide by {shared}"))
        elif self.process_batch_size % (self.micro_batch_size or 1):
            share = f" / {shared}" if self.processes > 1 else ""
            message = f"{self.batch_size}{share} does not divide by micro_batch_size={self.micro_batch_size}"
            problems.append(("batch_size", message))
        if self.parallel == "fsdp":
            problems += self._check_sharding()
        if self.schedule == "warmup_stable_decay" and self.warmup_ratio + self.decay_ratio > 1:
            problems.append(("decay_ratio", f"and warmup_ratio={self.warmup_ratio:g} are more than the whole run"))
        return problems

    def _check_sharding(self) -> list[tuple[str, str]]:
        if self.optimizer in SHARDED_OPTIMIZERS:
            return []
        message = f"checkpoints of parallel=fsdp hold the state of AdamW only; type {SHARDED_OPTIMIZERS[0]}, or ddp"
        return [("optimizer", message)]


@dataclass(frozen=True)
class TrackerConfig:
    """Where metrics go besides the run folder."""

    kind: str = setting(
        "auto",
        help="tracker; auto: wandb, but none at budget=smoke unless tracker= or tracker.mode is typed",
        choices=TRACKERS,
    )
    mode: str = setting(
        "auto",
        help="W&B; auto: online when logged in, else offline",
        choices=("auto", "online", "offline", "disabled"),
    )
    project: str = setting("steelyard", help="W&B project, MLflow experiment")
    entity: str | None = setting(None, help="W&B team or user; null: your default")
    group: str | None = setting(None, help="what the run is shown with; null: the recipe, in a trial the trial")
    name: str | None = setting(None, help="name of the run there; null: recipe, arm and folder; a cell adds its own")
    tags: tuple[str, ...] = setting((), help="labels of the run there")
    notes: str | None = setting(None, help="a longer remark about the run there")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings, as (key, message)."""
        if self.name in TRACKERS:
            return [("name", f"is what the run is called there; type tracker={self.name}")]
        long = [tag for tag in self.tags if len(tag) > LONGEST_TAG]
        if long and self.kind in ("auto", "wandb"):
            return [("tags", f"W&B takes tags of at most {LONGEST_TAG} characters, and {long[0]} has {len(long[0])}")]
        if self.kind in ("tensorboard", "mlflow") and find_spec(self.kind) is None:
            return [("kind", f"{self.kind} is not installed: type pip install -e '.[{self.kind}]', or tracker=none")]
        return []


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run has; a recipe's config adds `data`, `model` and its own keys."""

    recipe: str = setting(help="name of the recipe")
    arm: str = setting(help="variant inside the recipe")
    label: str | None = setting(
        None,
        help="name that the run is filed under in place of its arm; required if you override a key that the arm sets",
    )
    seed: int = setting(0, help="initialisation, data order and sampling", ge=0, lt=SEEDS)
    budget: str = setting("small", help="size preset of the whole experiment", choices=(SMOKE, SMALL, FULL))
    outputs: str = setting("outputs", help="folder of runs")
    trainer: TrainerConfig = setting(help="trainer")
    tracker: TrackerConfig = setting(help="tracker")

    def __post_init__(self) -> None:
        # What a shell leaves of `outputs=~/runs`, and what STEELYARD_OUTPUTS may hold.
        object.__setattr__(self, "outputs", os.path.expanduser(self.outputs))

    @property
    def variant(self) -> str:
        """What the run is filed and compared under: its label, else its arm."""
        return self.label or self.arm

    @property
    def steps(self) -> int:
        """Optimizer steps of the run: as many as `trainer.max_flops` pays for, else `trainer.max_steps`.

        0 where its recipe trains nothing, whatever these say.
        """
        if self.parameters() == 0:
            return 0
        price = self.step_flops() if self.trainer.max_flops is not None else None
        return max(int((self.trainer.max_flops or 0) // price), 1) if price else self.trainer.max_steps

    @property
    def counted_trainer(self) -> TrainerConfig:
        """`trainer` with the steps of the run."""
        return (
            self.trainer if self.steps in (0, self.trainer.max_steps) else replace(self.trainer, max_steps=self.steps)
        )

    def step_flops(self) -> float | None:
        """Floating-point operations of one optimizer step, forward and backward; None if its recipe counts none.

        A recipe that says how many trains for `steps`, and not for `trainer.max_steps`.
        """
        return None

    @property
    def needs_torch(self) -> bool:
        """Whether the run computes with torch; one that trains nothing and computes with NumPy says no, and is spared
        its memory and start: its modules import torch nowhere on the way, and `device` is the CPU.
        """
        return True

    @property
    def sequence_tokens(self) -> int | None:
        """Most tokens that a forward sees for one of the batch's sequences; None if only the data know."""
        return None

    @property
    def sequence_limit(self) -> tuple[str, int] | None:
        """The key that says how long the sequences are which the model of `model.path` reads, and its value."""
        return None

    @property
    def trains_model(self) -> bool:
        """Whether the language model of `model` is trained, rather than what reads its states."""
        return True

    @property
    def frozen_models(self) -> tuple[Any, ...]:
        """Configs of the models that stand beside the trained one, one for each."""
        return ()

    def describe(self) -> list[tuple[str, str]]:
        """Rows of (what, value) for `--dry-run`: what data and model resolve to. Loads nothing."""
        return []

    def unread(self) -> list[tuple[str, str]]:
        """(Key, why) of what changes nothing in this run, whatever its value; a key stands for all below it.

        Those of them that are typed are announced, see `unread.py`.
        """
        return []

    def parameters(self) -> int | None:
        """Parameters of what is trained; 0 if nothing is, None if only its files know. Loads nothing."""
        return None


@dataclass(frozen=True, kw_only=True)
class UntrainedConfig(RunConfig):
    """Config of a run that trains nothing itself, whatever models it trains or loads to ask them."""

    def parameters(self) -> int:
        """0: nothing is trained in the run itself."""
        return 0


@dataclass(frozen=True)
class Claim:
    """What a paper says, in a form that a trial can test.

    `direction` is +1 if the arm should have the larger metric, -1 if the smaller; `minimal_effect` is in the metric's
    units. `only` says for which configs the claim is meant, as that of an arm does ("model=minilm"); empty: for all.
    `unit` is what intervals are taken over: seeds, or examples where a method is deterministic. `kind` is "difference";
    "equivalence" for arms that differ by less than the minimal effect; "exact" for arms that differ by no more than
    that (0: not at all) in any example, or seed; "order" for `arms` of which each is better than the next, `arm` the
    first and `baseline` the last; or "correlation" of the ranks of `metric` and of the metric `beside`, at least the
    minimal effect: over the examples of `arm`, or over `arms`, of which every seed has all.
    """

    statement: str
    metric: str
    arm: str
    baseline: str
    direction: int
    published: str
    minimal_effect: float
    only: str = ""
    unit: str = SEED_UNIT
    kind: str = DIFFERENCE
    arms: tuple[str, ...] = ()
    beside: str = ""

    def __post_init__(self) -> None:
        if self.unit not in (SEED_UNIT, EXAMPLE_UNIT) or self.kind not in (*OF_A_PAIR, ORDER, CORRELATION):
            kinds = ", ".join((*OF_A_PAIR, ORDER, CORRELATION))
            what = f"no such unit or kind of a claim: {self.unit}, {self.kind}"
            raise ValueError(f"{what}; units are {SEED_UNIT} and {EXAMPLE_UNIT}, kinds {kinds}")
        if not self.minimal_effect >= 0 or abs(self.direction) != 1:
            raise ValueError("a claim needs a minimal effect of at least 0, and a direction of 1 or -1")
        if len(set(self.arms)) < len(self.arms):
            raise ValueError("a claim names each of its arms once")
        if self.kind == EQUIVALENCE and self.minimal_effect <= 0:
            raise ValueError("a claim of equivalence needs a minimal effect above 0, within which arms are equal")
        ends = (self.arms[0], self.arms[-1]) if len(self.arms) > 2 else None
        if self.kind == ORDER and ends != (self.arm, self.baseline):
            raise ValueError("a claim of order needs at least three arms, the first its arm, the last its baseline")
        if self.kind == CORRELATION and (self.beside in ("", self.metric) or self.minimal_effect > 1):
            raise ValueError("a claim of correlation needs a second metric, `beside`, and an effect of at most 1")
        if self.kind == CORRELATION and self.unit == SEED_UNIT and not {self.arm, self.baseline} <= {*self.arms}:
            raise ValueError("a claim of correlation over seeds needs the arms it is over, its two among them")
        if self.kind == CORRELATION and self.unit == SEED_UNIT and len(self.arms) < FEWEST_ARMS:
            raise ValueError(f"a claim of correlation over seeds needs at least {FEWEST_ARMS} arms")

    @property
    def of_a_pair(self) -> bool:
        """Whether its arm beside its baseline answers it."""
        return self.kind in OF_A_PAIR

    @property
    def needed_arms(self) -> frozenset[str]:
        """The arms without which it cannot be judged."""
        return frozenset((self.arm, self.baseline, *self.arms))


@dataclass(frozen=True)
class System:
    """A published method that a recipe covers: its name, its paper, and the arms that are it.

    A claim is about the system that its arm belongs to; without arms it is about every claim of the recipe.
    """

    name: str
    paper: str
    arms: tuple[str, ...] = ()

    def has(self, claim: Claim) -> bool:
        """Whether a claim is about it."""
        return not self.arms or claim.arm in self.arms


@dataclass(frozen=True)
class Card:
    """What `steelyard list` shows of a recipe.

    `claim` is the recipe's own; `claims` are further ones, judged where they apply (see `statistics.claims.card_for`).
    `pair_keys` are the config keys that arms are free to change; metrics whose names start with one of `headlines`
    are printed when a run ends, all are in its report. Trials and sweeps draw for each (x, y) of `frontiers` metric y
    against metric x. `price` names metrics that the claim's arm may pay with: what it does to them stands beside every
    verdict. `trains` is False if the recipe trains no model of its own. `metrics` are patterns of the names of all
    final metrics ("nll/*"); empty: not known. `watched` are patterns of those that are measured during training; empty:
    not known. `weights` says what the method weights, and by what ("caption tokens, by
    how badly a text-only model predicts them"). `control` is the arm that a short trial runs beside the
    claim's two. `systems` are the published methods that it covers; empty: one, which the title and `paper` name.
    """

    title: str
    paper: str
    summary: str
    claim: Claim
    cost: str
    pair_keys: tuple[str, ...]
    version: int
    headlines: tuple[str, ...] = ("",)
    frontiers: tuple[tuple[str, str], ...] = ()
    claims: tuple[Claim, ...] = ()
    price: tuple[str, ...] = ()
    trains: bool = True
    metrics: tuple[str, ...] = ()
    watched: tuple[str, ...] = ()
    weights: str = ""
    control: str = ""
    systems: tuple[System, ...] = ()

    @property
    def covers(self) -> tuple[System, ...]:
        """The published methods that the recipe covers, at least one."""
        return self.systems or (System(self.title.partition(":")[0], self.paper),)

    def measures(self, metric: str) -> bool:
        """Whether a finished run may have this final metric."""
        return not self.metrics or any(fnmatchcase(metric, pattern) for pattern in self.metrics)

    def watches(self, metric: str) -> bool:
        """Whether a run may measure this metric while it trains."""
        return not self.watched or any(fnmatchcase(metric, pattern) for pattern in self.watched)
