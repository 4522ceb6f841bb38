"""Config of models that pool units to words, and of runs that train one of them. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import TOKENIZER_CONTENT, RunConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.data.config import DomainsConfig, WindowsConfig
from recipes.core.models.config import GPT2_POSITIONS, gpt2_parameters, llama_parameters, mlp_width
from recipes.tokenization.config import FEWEST

HIERARCHY, FLAT = "hierarchy", "flat"
BYTES, CHARACTERS, PIECES, CLOSED = "bytes", "characters", "pieces", "words"
MARK, MEAN, LAST, JOINED, CONCATENATED = "mark", "mean", "last", "joined", "concatenated"
WHITESPACE, UNICODE, FIXED = "whitespace", "unicode", "fixed"
IN_BYTES, IN_WORDS, IN_UNITS = "bytes", "words", "units"
PERTURBATIONS = ("permute", "replace", "delete", "upper")
PADDING_SEEN, PADDING_COUNTED = "padding_seen", "padding_counted"
BYTE_IDS = 256


@dataclass(frozen=True, kw_only=True)
class WordModelConfig:
    """A model trained from nothing in the run: a hierarchy over words, or a flat model of units."""

    name: str = setting("word-model", help="model", choices=("word-model",))
    kind: str = setting(
        HIERARCHY, help="encoder of words, backbone over words, decoder of words; or one flat decoder",
        choices=(HIERARCHY, FLAT),
    )  # fmt: skip
    units: str = setting(
        BYTES, help="what words are spelt in: bytes, characters (rare ones by bytes), pieces of a BPE; words: one unit "
        "each, of a closed vocabulary", choices=(BYTES, CHARACTERS, PIECES, CLOSED),
    )  # fmt: skip
    architecture: str = setting("llama", help="kind of all blocks", choices=("llama", "gpt2"))
    layers: int = setting(2, help="blocks of the backbone, or of the flat model", ge=1)
    width: int = setting(96, help="of a word in the backbone, or of a unit in the flat model", ge=4)
    heads: int = setting(4, help="attention heads there", ge=1)
    encoder_layers: int = setting(1, help="blocks of the encoder of words", ge=1)
    decoder_layers: int = setting(1, help="blocks of the decoder of words", ge=1)
    unit_width: int = setting(48, help="of a unit in encoder and decoder", ge=4)
    unit_heads: int = setting(2, help="attention heads there", ge=1)
    slots: int = setting(1, help="vectors of a word, each a position of the backbone", ge=1)
    pooling: str = setting(
        MARK, help="vector of a word: states of marks before it, mean or last state of its units, all marks joined to "
        "one position, or the units' embeddings side by side without an encoder",
        choices=(MARK, MEAN, LAST, JOINED, CONCATENATED),
    )  # fmt: skip

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        pairs = [("heads", "width"), ("unit_heads", "unit_width")]
        problems = [
            (heads, f"{width}={getattr(self, width)} does not divide by 2 x {heads}={getattr(self, heads)}")
            for heads, width in pairs
            if getattr(self, width) % (2 * getattr(self, heads))
        ]
        if self.kind == HIERARCHY and self.units == CLOSED:
            problems.append(("units", "a whole word has nothing to pool; type model.kind=flat"))
        if self.kind == HIERARCHY and self.slots > 1 and self.pooling not in (MARK, JOINED):
            problems.append(("slots", f"pooling={self.pooling} gives one vector; type slots=1, or pooling=mark"))
        return problems

    @property
    def encodes(self) -> bool:
        """Whether there is an encoder of words."""
        return self.kind == HIERARCHY and self.pooling != CONCATENATED

    @property
    def marks(self) -> int:
        """Positions before the units of a word in the encoder."""
        return self.slots if self.pooling in (MARK, JOINED) else 0

    @property
    def positions(self) -> int:
        """Positions of the backbone that a word takes."""
        return self.slots if self.pooling == MARK else 1

    def map_weights(self, group: int) -> int:
        """Parameters of the maps between units and words, at one position of the backbone; 0 if there are none."""
        joined = {JOINED: self.slots, CONCATENATED: group}.get(self.pooling, 1)
        if self.unit_width == self.width and joined == 1:
            return 0
        down = self.slots if self.pooling == JOINED else 1
        return self.width * self.unit_width * (joined + down)

    def block_weights(self, width: int, layers: int) -> int:
        """Parameters of a stack of blocks with its last norm, without embedding."""
        if self.architecture == "gpt2":
            return gpt2_parameters(0, layers, width)
        return llama_parameters(0, layers, width, mlp_width(width))

    def passed_weights(self, width: int, layers: int) -> int:
        """Those of them that every position is multiplied with: all but learned positions."""
        return self.block_weights(width, layers) - (GPT2_POSITIONS * width if self.architecture == "gpt2" else 0)

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        if self.kind == FLAT:
            return f"flat {self.architecture} model of {self.units}, {self.layers} layers, width {self.width}"
        encoder = f"{self.encoder_layers} layers" if self.encodes else "none"
        parts = f"encoder {encoder}, backbone {self.layers} layers, decoder {self.decoder_layers} layers"
        return f"words of {self.units}: {parts}, widths {self.unit_width} and {self.width}"


@dataclass(frozen=True, kw_only=True)
class WordsConfig:
    """How text becomes words, and how much of it a model sees."""

    rule: str = setting(
        WHITESPACE, help="whitespace goes with the word before it; unicode: word boundaries of Unicode, punctuation "
        "and case; fixed: so many bytes", choices=(WHITESPACE, UNICODE, FIXED),
    )  # fmt: skip
    group: int = setting(8, help="fixed: bytes of a group", unit="bytes", ge=1, origin="paper")
    longest: int = setting(32, help="longer words are cut, between characters", unit="bytes", ge=5)
    normalise: bool = setting(
        False, help="text is words with one space behind each, punctuation parted; the end of a word is that space"
    )
    context: str = setting(
        IN_BYTES, help="what `size` counts: bytes, words, or units of whatever model it is (as published: a hierarchy "
        "then sees several times the text of a flat model)", choices=(IN_BYTES, IN_WORDS, IN_UNITS),
    )  # fmt: skip
    size: int = setting(256, help="longest context, that of a training window", ge=2)
    gflops: float | None = setting(
        None, help="forward cost of a training item, in windows; null: one window, so that all models read equal text",
        unit="GFLOP", gt=0,
    )  # fmt: skip
    known: int = setting(256, help="units=characters: most beyond ASCII; units=words: words of the vocabulary", ge=0)

    @property
    def most(self) -> int:
        """Bytes of the longest word."""
        return self.group if self.rule == FIXED else self.longest

    @property
    def ends_are_spaces(self) -> bool:
        """Whether the end of a word stands for the space behind it."""
        return self.normalise and self.rule == WHITESPACE


@dataclass(frozen=True)
class PiecesConfig:
    """The BPE of arms that read pieces."""

    path: str | None = setting(
        None, help="tokenizer.json, folder or hub name; null: one is trained on the training documents",
        content=TOKENIZER_CONTENT,
    )  # fmt: skip
    vocabulary: int = setting(2048, help="tokens of the trained one", unit="tokens", ge=FEWEST)


@dataclass(frozen=True)
class AdaptationConfig:
    """The end of training, on another language, each step at the cost of a step before."""

    domain: str | None = setting(None, help="domain of that language; null: none, all domains are trained on")
    share: float = setting(0.2, help="of the steps", gt=0, lt=1)


@dataclass(frozen=True)
class ReadingConfig(WindowsConfig):
    """What is measured of held-out text."""

    watch_every: int = setting(10, help="steps between measurements during training", unit="steps", ge=1)
    target: float = setting(
        2.5, help="models are perturbed where their own loss on clean text is this, in training", unit="bits per byte",
        gt=0,
    )  # fmt: skip
    perturbations: tuple[str, ...] = setting(
        PERTURBATIONS, help="errors in context and text; upper: all capitals", choices=PERTURBATIONS
    )
    tolerance: float = setting(0.025, help="that loss may differ by it", unit="bits per byte", gt=0)
    share: float = setting(0.1, help="characters of each word that are perturbed", gt=0, le=1, origin="paper")
    rare: int = setting(20, help="words are rare that the training text has at most so often", ge=0)
    continued: int = setting(8, help="words with which a model goes on, for people", unit="words", ge=0)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        twice = len(set(self.perturbations)) < len(self.perturbations)
        return [("perturbations", "names a kind twice")] if twice else []


@dataclass(frozen=True, kw_only=True)
class WordRunConfig(RunConfig):
    """Config of a run that trains one of these models."""

    data: DomainsConfig = setting(help="text")
    model: WordModelConfig = setting(help="model")
    words: WordsConfig = setting(WordsConfig(), help="words and context")
    tokenizer: PiecesConfig = setting(PiecesConfig(), help="pieces")
    adaptation: AdaptationConfig = setting(AdaptationConfig(), help="a language that is new to the model")
    evaluation: ReadingConfig = setting(ReadingConfig(), help="what is measured")

    @property
    def faults(self) -> tuple[str, ...]:
        """Faults of a release that the run repeats."""
        return ()

    @property
    def base_steps(self) -> int:
        """Steps before adaptation."""
        steps = self.trainer.max_steps
        return steps if self.adaptation.domain is None else max(steps - round(self.adaptation.share * steps), 1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems, model, words = [], self.model, self.words
        if model.units == PIECES and words.rule == FIXED and model.kind == HIERARCHY:
            problems.append(("words.rule", "groups of bytes cut characters, which pieces cannot spell"))
        if model.pooling == CONCATENATED and model.kind == HIERARCHY and model.units != BYTES:
            problems.append(("model.units", "embeddings side by side are of bytes; type model.units=bytes"))
        if model.pooling == CONCATENATED and model.kind == HIERARCHY and words.rule != FIXED:
            problems.append(("words.rule", "embeddings side by side are of fixed groups; type words.rule=fixed"))
        if words.normalise and words.rule == UNICODE:
            problems.append(
                ("words.rule", "normalised text has one space behind each word; type words.rule=whitespace")
            )
        # A run of one step, which only tries things, adapts to nothing.
        if self.adaptation.domain is not None and 1 < self.trainer.max_steps <= self.base_steps:
            problems.append(("adaptation.share", "leaves no step for it; type a larger one, or more steps"))
        if self.adaptation.domain is not None and self.data.domains == (self.adaptation.domain,):
            problems.append(("adaptation.domain", "is all there is; name another domain in data.domains too"))
        return problems

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        words, rows = self.words, [("data", self.data.description), ("model", self.model.description)]
        rows.append(("words", f"{words.rule}, {words.size:,} {words.context} of context"))
        if self.adaptation.domain is not None:
            rows.append(("adaptation", f"{self.adaptation.domain}, from step {self.base_steps:,}"))
        return rows

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run, though they may in other arms, and why."""
        model, words = self.model, self.words
        flat = model.kind == FLAT
        return unread_keys(
            ("model.encoder_layers", model.encodes, "no word is encoded"),
            ("model.decoder_layers model.unit_width model.unit_heads model.slots model.pooling", not flat,
             "a flat model has no words"),
            ("tokenizer", model.units == PIECES, f"model.units={model.units} has no pieces"),
            ("tokenizer.vocabulary", self.tokenizer.path is None, "that of tokenizer.path has its size"),
            ("words.longest", words.rule != FIXED or words.normalise, "groups have words.group bytes"),
            ("words.group", words.rule == FIXED, f"words.rule={words.rule} has no groups"),
            ("words.known", model.units in (CHARACTERS, CLOSED), f"model.units={model.units} has all it needs"),
            ("adaptation.share", self.adaptation.domain is not None, "no language is adapted to"),
            ("evaluation.target evaluation.tolerance evaluation.share", bool(self.evaluation.perturbations),
             "nothing is perturbed"),
            ("evaluation.continued", not flat, "a flat model leaves no such file"),
        )  # fmt: skip

    def parameters(self) -> int | None:
        """Parameters of the model; None where its vocabulary is that of the user's tokenizer."""
        model = self.model
        if model.units == PIECES and self.tokenizer.path:
            return None
        sizes = {BYTES: BYTE_IDS, CHARACTERS: BYTE_IDS + self.words.known, PIECES: self.tokenizer.vocabulary,
                 CLOSED: self.words.known}  # fmt: skip
        return model_parameters(model, sizes[model.units], self.words.group)


def model_parameters(model: WordModelConfig, vocabulary: int, group: int) -> int:
    """Parameters of a model: those of its parts, embeddings, maps, marks and first hint."""
    if model.kind == FLAT:
        return vocabulary * model.width + model.block_weights(model.width, model.layers)
    unit, slots = model.unit_width, model.slots
    parts = model.block_weights(model.width, model.layers) + model.block_weights(unit, model.decoder_layers)
    parts += model.block_weights(unit, model.encoder_layers) if model.encodes else 0
    return 2 * vocabulary * unit + parts + (model.marks + slots) * unit + model.map_weights(group)
