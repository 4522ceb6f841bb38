"""Config and card of the recipe `retro`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import EQUIVALENCE, Card, Claim, RunConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.data.config import DomainsConfig
from recipes.core.models.config import SmallLMConfig, llama_parameters, mlp_width
from recipes.core.scoring.neighbours_config import MINILM, TFIDF, KeysConfig
from recipes.core.training.stage_plan import Stage, stage_problem

NEAREST, RANDOM, NONE = "nearest", "random", "none"
LOSS, ANSWER, SHARE = "loss", "answer", "share"
DECODER, READING = "decoder", "cross-attention and encoder"  # groups of parameters
LOW, MIDDLE, HIGH, FIRST = "low", "middle", "high", "first"
LONG, MODERATE = 8, 4  # tokens of a shared run from which an overlap is high, or middle
EPSILON = 1e-6  # of RMS norms
MARGIN = 0.03  # nats per token within which arms are equal where neighbours share nothing


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """What the model reads of neighbours; arms choose it."""

    neighbours: str = setting(
        NEAREST,
        help="chunks of the training documents: those nearest to a chunk, random ones, or none",
        choices=(NEAREST, RANDOM, NONE),
    )
    chunk: int = setting(16, help="m, tokens of a chunk (64 in the paper)", unit="tokens", ge=2)
    k: int = setting(2, help="neighbours of a chunk, each read with its continuation", ge=1, origin="paper")
    layers: tuple[int, ...] = setting((2,), help="decoder layers with cross-attention, counted from 1", ge=1)
    encoder_layers: int = setting(1, help="layers of the encoder of neighbours (2 in the paper)", ge=1)
    dropout: float = setting(0.1, help="probability that a training chunk's neighbours are hidden", ge=0, lt=1)
    exclude_same_document: bool = setting(
        True, help="leave out chunks of the documents that a training sequence holds", origin="paper"
    )
    gate: float = setting(1.0, help="what cross-attention is multiplied by where it is measured; 0: it is left out")
    plain_share: float = setting(
        0.0,
        help="RETRO-fitting: share of the steps in which the decoder alone is trained; then all is, with a fresh "
        "optimizer and warm-up",
        ge=0,
        lt=1,
    )
    passages: int = setting(
        0, help="nearest chunks that stand as text behind a sequence's first chunk (1 in RETRO++)", ge=0, le=1
    )
    keys: KeysConfig = setting(KeysConfig(), help="vectors by which chunks are near")

    @property
    def is_read(self) -> bool:
        """Whether the model has cross-attention."""
        return self.neighbours != NONE


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and when."""

    watch_every: int = setting(400, help="steps between measurements", unit="steps", ge=1)
    windows: int = setting(100, help="held-out sequences of each domain", unit="sequences", ge=1)
    questions: int = setting(200, help="questions about the database", unit="questions", ge=1)
    bin_neighbours: int = setting(2, help="neighbours whose overlap sorts chunks into bins, in all arms", ge=1)
    shown: int = setting(20, help="chunks in `neighbours.jsonl`", unit="chunks", ge=0)
    batch_tokens: int = setting(4096, help="tokens of a forward, neighbours not counted", unit="tokens", ge=2)


@dataclass(frozen=True, kw_only=True)
class RetroConfig(RunConfig):
    """Config of one `retro` run."""

    data: DomainsConfig = setting(help="texts")
    model: SmallLMConfig = setting(help="decoder, trained from nothing")
    retrieval: RetrievalConfig = setting(RetrievalConfig(), help="neighbours")
    match_parameters: bool = setting(
        False, help="widen the MLPs of a decoder without retrieval until it has RETRO's parameters"
    )
    evaluation: EvaluationConfig = setting(EvaluationConfig(), help="what is measured")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems, retrieval, layers = [], self.retrieval, self.retrieval.layers
        if self.model.architecture != "llama":
            problems.append(
                ("model.architecture", "is built in for a Llama-type decoder; type model.architecture=llama")
            )
        if retrieval.chunk >= self.data.length:
            longest = self.data.length - 1
            problems.append(
                ("retrieval.chunk", f"leaves no second chunk in data.length={self.data.length}; type {longest} or less")
            )
        if not layers or list(layers) != sorted({*layers}) or layers[-1] > self.model.layers:
            problems.append(("retrieval.layers", f"are some of 1 to model.layers={self.model.layers}, in order"))
        if self.match_parameters and retrieval.is_read:
            problems.append(("match_parameters", "is for a decoder without retrieval; type retrieval.neighbours=none"))
        return problems + self._trainer_problems()

    def _trainer_problems(self) -> list[tuple[str, str]]:
        """What the trainer cannot do here: cross-attention stands inside the layers, whose parts are called one by one.

        Eager attention takes a missing mask for tokens that see all.
        """
        trainer, processes = self.trainer, self.trainer.processes_key.removeprefix("trainer.")
        whole = "changes whole layers of a decoder, and cross-attention stands inside them; leave it out"
        cannot = (
            ("gradient_checkpointing", trainer.gradient_checkpointing, whole),
            ("compile", trainer.compile, whole),
            ("dtype", trainer.dtype != "float32", whole),
            ("attention", trainer.attention != "auto", "is fixed, as layers are called without masks; leave it out"),
            ("parallel", trainer.parallel == "fsdp", "fsdp shares out what is read outside of its layer; type ddp"),
            (processes, trainer.processes > 1 and self.stages, "RETRO-fitting freezes weights in one process; type 1"),
        )
        problems = [(f"trainer.{key}", reason) for key, is_asked, reason in cannot if is_asked]
        if self.stages and (problem := stage_problem(self.stages, trainer.max_steps)):
            problems.append(("retrieval.plain_share", problem))
        return problems

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of RETRO-fitting: the decoder alone, then all of the model; none where all is trained from the first step."""
        share, rate = self.retrieval.plain_share, self.trainer.learning_rate
        if not self.retrieval.is_read or not share:
            return ()
        return (Stage("plain", (DECODER,), share, rate), Stage("fitting", (DECODER, READING), 1 - share, rate))

    @property
    def sequence_tokens(self) -> int:
        """Tokens of a packed sequence, its passages with it."""
        return self.data.length + 2 * self.retrieval.passages * self.retrieval.chunk

    @property
    def inner(self) -> int:
        """Width inside the decoder's MLPs."""
        usual = mlp_width(self.model.width)
        if not self.match_parameters:
            return usual
        return usual + round(self.retrieval_parameters / (3 * self.model.width * self.model.layers))

    @property
    def retrieval_parameters(self) -> int:
        """Parameters of cross-attention and encoder: attentions of 4 d^2 + d, MLPs of 3 d inner."""
        width, layers = self.model.width, self.retrieval.encoder_layers
        attention = 4 * width**2 + width
        encoder = layers * (attention + 3 * width * mlp_width(width) + width) + attention + width
        return encoder + len(self.retrieval.layers) * attention

    @property
    def depth(self) -> int:
        """Neighbours that are looked for, the same in all arms: one may become a passage."""
        return max(self.retrieval.k + 1, self.evaluation.bin_neighbours)

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run."""
        retrieval, plain = self.retrieval, "the model has no cross-attention"
        measured = "retrieval.gate retrieval.dropout retrieval.plain_share"
        shape = "retrieval.layers retrieval.encoder_layers"
        return unread_keys(
            (measured, retrieval.is_read, plain),
            (shape, retrieval.is_read or self.match_parameters, plain),
            ("retrieval.keys.buckets", retrieval.keys.kind == TFIDF, "keys are vectors of a sentence encoder"),
            ("retrieval.keys.path", retrieval.keys.kind == MINILM, "keys are hashed"),
            ("model.vocabulary", self.model.tokenizer == "bpe", "a token is a character"),
        )

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        chunks = f"sequences of {self.data.length:,} tokens, chunks of {self.retrieval.chunk}"
        return [("data", f"{self.data.description}: {chunks}"), ("model", self.model.description)]

    def parameters(self) -> int:
        """Parameters of the model, with the largest vocabulary."""
        model = self.model
        decoder = llama_parameters(model.vocabulary, model.layers, model.width, self.inner)
        return decoder + self.retrieval_parameters * self.retrieval.is_read


CONFIG = RetroConfig

CARD = Card(
    title="RETRO, RETRO++",
    paper="arXiv 2304.06762 (Wang, Ping, Xu, McAfee, Liu, Shoeybi and others; EMNLP 2023); architecture: arXiv "
    "2112.04426 (Borgeaud and others; ICML 2022)",
    weights="tokens of other documents, by attention to the chunks nearest to what was read last",
    summary="For every chunk of a text its nearest chunks in other training documents are looked up, and the decoder "
    "attends to them and to what follows them while it predicts the next chunk.",
    claim=Claim(
        statement="Where the next chunk shares a long run of words with what was looked up, RETRO loses less than GPT",
        metric=f"{LOSS}/{HIGH}",
        arm="retro",
        baseline="gpt",
        direction=-1,
        published="perplexity 12.99 against 17.76 over all text, at 148 and 126 million parameters",
        minimal_effect=0.1,
    ),
    claims=(
        Claim(
            statement="Where they share next to nothing, neighbours gain nothing",
            metric=f"{LOSS}/{LOW}",
            arm="retro",
            baseline="gpt",
            direction=-1,
            published="most of RETRO's gain is overlap (Norlund and others 2023)",
            minimal_effect=MARGIN,
            kind=EQUIVALENCE,
        ),
        Claim(
            statement="It is what the neighbours say, not the parameters: a GPT as large loses more there",
            metric=f"{LOSS}/{HIGH}",
            arm="retro",
            baseline="gpt_wide",
            direction=-1,
            published="not in the paper: its RETRO has 9 to 17 % more parameters than its GPT",
            minimal_effect=0.1,
        ),
        Claim(
            statement="Random neighbours do not do it",
            metric=f"{LOSS}/{HIGH}",
            arm="retro",
            baseline="retro_random",
            direction=-1,
            published="not in the paper",
            minimal_effect=0.1,
        ),
        Claim(
            statement="Over all held-out text RETRO loses less than GPT",
            metric=LOSS,
            arm="retro",
            baseline="gpt",
            direction=-1,
            published="12.99 against 17.76 (0.31 nats)",
            minimal_effect=0.03,
        ),
        Claim(
            statement="Of facts of the database, RETRO++ with its passage in the prompt says more than RETRO",
            metric=ANSWER,
            arm="retro_pp",
            baseline="retro",
            direction=-1,
            published="exact match on Natural Questions 54.1 against 45.5",
            minimal_effect=0.1,
        ),
    ),
    cost="per chunk an encoder reads k neighbours of 2 m tokens: 4 times the decoder's tokens at k = 2",
    pair_keys=("arm", "retrieval", "match_parameters"),
    version=2,
    control="retro_random",
    headlines=(LOSS, ANSWER),
    price=(f"{LOSS}/{LOW}",),
    metrics=(LOSS, f"{LOSS}/*", ANSWER, f"{SHARE}/*"),
    watched=(LOSS, f"{LOSS}/*"),
)
