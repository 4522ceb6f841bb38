"""Config and card of the recipe `kl3m`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import (
    DATA_CONTENT,
    EXAMPLE_UNIT,
    ORDER,
    TOKENIZER_CONTENT,
    Card,
    Claim,
    RunConfig,
    setting,
)
from recipes.core.config.unread import unread_keys
from recipes.core.data.config import DomainsConfig, WindowsConfig
from recipes.core.models.config import SmallLMConfig, gpt2_parameters, llama_parameters, mlp_width
from recipes.tokenization.config import NoiseConfig

DOMAIN, GENERAL, MIXED = "domain", "general", "mixed"
CORPORA = (DOMAIN, GENERAL, MIXED)
BPE, SMOLLM2, MINILM = "bpe", "smollm2", "minilm"
WHITESPACE, MARKUP, HTML, JSON, XML = "whitespace", "markup", "html", "json", "xml"
YEARS, NUMBERS, ENUMERATIONS = "years", "numbers", "enumerations"
GROUP_NAMES = (WHITESPACE, MARKUP, HTML, JSON, XML, YEARS, NUMBERS, ENUMERATIONS)
WHOLE = (YEARS, NUMBERS)
TOKENS, BYTES = "tokens_per_character", "tokens_per_byte"
BOUNDARIES, EDITS, TOKEN_EDITS = "boundaries/substitutions", "boundaries/edits", "token_edits"
ERRORS, NOISY, RIGHT, BITS = "correction/errors", "correction/noisy", "correction/right", "correction/bits_per_byte"
FEWEST = 270  # special tokens and bytes


@dataclass(frozen=True)
class VocabularyConfig:
    """The tokenizer that is measured."""

    kind: str = setting(
        BPE, help="bpe: trained in the run; or a public one, of SmolLM2 or of MiniLM (WordPiece, small letters only)",
        choices=(BPE, SMOLLM2, MINILM),
    )  # fmt: skip
    path: str | None = setting(
        None, help="tokenizer.json, folder or hub name of yours, in place of what is trained on the domain",
        content=TOKENIZER_CONTENT,
    )  # fmt: skip
    corpus: str = setting(
        DOMAIN, help="text that it is trained on: of the domain, general, or half of each", choices=CORPORA
    )
    characters: int = setting(500_000, help="training text at most, the same for all corpora", unit="characters", ge=1)
    share: float = setting(
        0.8, help="share of the training documents, drawn by the seed, that it may be from", gt=0, le=1
    )
    size: int = setting(8192, help="tokens, special and added ones included", unit="tokens", ge=FEWEST)
    min_frequency: int = setting(1, help="pairs that are rarer are not merged", ge=1, origin="code")
    max_chars: int | None = setting(
        None, help="longest token, in bytes, the space before a word included; null: any", unit="bytes", ge=1
    )
    custom: tuple[str, ...] = setting(GROUP_NAMES, help="groups of tokens that are added by hand", choices=GROUP_NAMES)
    custom_file: str | None = setting(None, help="file with more tokens to add, one a line", content=DATA_CONTENT)
    whole_words: bool = setting(
        False, help="added numbers and years match whole words only; else 1995 may be 199 and 5"
    )
    space_prefix: bool = setting(True, help="a word and the space before it may be one token")
    normaliser: str = setting(
        "nfkc", help="normal form that texts are brought to", choices=("nfkc", "none"), origin="code"
    )
    lowercase: bool = setting(False, help="texts are read in small letters")
    pad2: bool = setting(
        True, help="fill the vocabulary up to a power of two with spaces and line breaks", origin="code"
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [("custom", "names a group twice")] if len(set(self.custom)) < len(self.custom) else []

    @property
    def is_given(self) -> bool:
        """Whether the user's tokenizer stands in for one that is trained on the domain."""
        return self.path is not None and self.kind == BPE and self.corpus == DOMAIN

    @property
    def is_trained(self) -> bool:
        """Whether the run trains it."""
        return self.kind == BPE and not self.is_given

    @property
    def description(self) -> str:
        """What it resolves to, for people."""
        if not self.is_trained:
            return str(self.path) if self.is_given else {SMOLLM2: "of SmolLM2", MINILM: "of MiniLM"}[self.kind]
        short = "" if self.max_chars is None else f" of at most {self.max_chars} bytes"
        return f"BPE of {self.size:,} tokens{short}, trained on {self.corpus} text"


@dataclass(frozen=True)
class TextsConfig:
    """Which domains of the data stand for what."""

    domain: str | None = setting(None, help="the domain that tokenizers are made for; null: the first of the data")
    general: str | None = setting(None, help="general text; null: the second of the data")


@dataclass(frozen=True)
class CorrectionConfig:
    """A language model that is trained to write the clean line behind its noisy copy."""

    trains: bool = setting(False, help="whether the run trains it; arms choose it")
    characters: int = setting(32, help="of a line at most; it ends behind a word", unit="characters", ge=8)
    lines: int = setting(100, help="held-out lines that are corrected", unit="lines", ge=1)
    watch_every: int = setting(200, help="steps between measurements", unit="steps", ge=1)


@dataclass(frozen=True, kw_only=True)
class KL3MConfig(RunConfig):
    """Config of one `kl3m` run."""

    data: DomainsConfig = setting(help="texts: training documents, held-out ones to measure on")
    texts: TextsConfig = setting(TextsConfig(), help="domains")
    tokenizer: VocabularyConfig = setting(VocabularyConfig(), help="tokenizer")
    noise: NoiseConfig = setting(NoiseConfig(), help="noise")
    evaluation: WindowsConfig = setting(WindowsConfig(), help="what is measured")
    correction: CorrectionConfig = setting(CorrectionConfig(), help="correction of noisy lines")
    model: SmallLMConfig = setting(help="language model that corrects")

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        rows = [("data", self.data.description), ("tokenizer", self.tokenizer.description)]
        return [*rows, ("correction", self.model.description if self.correction.trains else "none")]

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run, though they may in other arms, and why."""
        tokenizer, trains = self.tokenizer, self.correction.trains
        trained = "corpus characters share size min_frequency max_chars custom custom_file whole_words space_prefix"
        options = " ".join(f"tokenizer.{name}" for name in f"{trained} normaliser lowercase pad2".split())
        return unread_keys(
            ("correction.characters correction.lines correction.watch_every model", trains, "nothing is corrected"),
            ("evaluation.batch_tokens", False, "tokens are counted, no model reads them"),
            ("model.tokenizer model.vocabulary", False, "the tokenizer is that of tokenizer.*"),
            (
                "tokenizer.path",
                tokenizer.path is None or tokenizer.is_given,
                "it stands in for one of the domain alone",
            ),
            (options, tokenizer.is_trained, "no tokenizer is trained"),
            ("tokenizer.whole_words", not set(WHOLE).isdisjoint(tokenizer.custom), "no numbers are added"),
        )

    def parameters(self) -> int | None:
        """Those of the model that corrects, with the largest vocabulary."""
        if not self.correction.trains:
            return 0
        if not self.tokenizer.is_trained:
            return None
        model, size = self.model, self.tokenizer.size
        if model.architecture == "gpt2":
            return gpt2_parameters(size, model.layers, model.width)
        return llama_parameters(size, model.layers, model.width, mlp_width(model.width))


CONFIG = KL3MConfig

CARD = Card(
    title="KL3M: tokenizers of a domain, and of short tokens",
    paper="arXiv 2503.17247 (M. Bommarito, Katz, J. Bommarito; 2025)",
    weights="strings, by whether they get a token: those that are frequent in the domain, added by hand, or short",
    summary="A byte-level BPE of legal text with hand-added tokens (white space, markup, years, numbers, "
    "enumerations), and one whose tokens are at most three bytes long, for the correction of misread text. The "
    "baseline is a BPE of the same size with the same added tokens, trained on general text.",
    claim=Claim(
        statement="Trained on legal text, a tokenizer needs fewer tokens for legal text than one of the same size "
        "trained on general text",
        metric=f"{DOMAIN}/{TOKENS}",
        arm="domain",
        baseline="general",
        direction=-1,
        published="no tokenizer of the same size; court documents .274 against .297 (GPT-4o), US Code .318 against "
        ".372, mean of five sets .242 against .264",
        minimal_effect=0.02,
        unit=EXAMPLE_UNIT,
    ),
    claims=(
        Claim(
            statement="On general text it is no better: the general one needs fewer",
            metric=f"{GENERAL}/{TOKENS}",
            arm="general",
            baseline="domain",
            direction=-1,
            published="general text .206 against .203 (GPT-4o), .207 (LLaMA 3): no gain",
            minimal_effect=0.02,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="Legal terms are fewer tokens",
            metric="terms/legal",
            arm="domain",
            baseline="general",
            direction=-1,
            published="4.2 tokens a term against 6.5 (GPT-4o) and 6.7 (LLaMA 3 without its begin of text)",
            minimal_effect=0.5,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="Half of each is better on legal text than general text, and worse than legal text",
            metric=f"{DOMAIN}/{TOKENS}",
            arm="domain",
            baseline="general",
            direction=-1,
            published="not in the paper",
            minimal_effect=0.005,
            unit=EXAMPLE_UNIT,
            kind=ORDER,
            arms=("domain", "mixed", "general"),
        ),
        Claim(
            statement="Where letters are misread, boundaries of short tokens stay where they are more often",
            metric=BOUNDARIES,
            arm="char_8k",
            baseline="bare",
            direction=1,
            published="by example: 24 and 20 tokens with errors and without (4K), GPT-4o 21 and 11",
            minimal_effect=0.02,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="A model with short tokens leaves fewer errors in misread lines than with a BPE of the same size",
            metric=ERRORS,
            arm="correct_char",
            baseline="correct_bpe",
            direction=-1,
            published="said to be better suited; no model was trained",
            minimal_effect=0.01,
        ),
    ),
    cost="a BPE of half a million characters takes seconds; correction trains a small model",
    pair_keys=("arm", "tokenizer", "correction"),
    version=1,
    control="mixed",
    headlines=(f"{DOMAIN}/", f"{GENERAL}/{TOKENS}", "terms/", "boundaries/", "correction/"),
    price=(f"{GENERAL}/{TOKENS}",),
    frontiers=((f"{GENERAL}/{TOKENS}", f"{DOMAIN}/{TOKENS}"),),
    metrics=(
        *(f"{kind}/{metric}" for kind in (DOMAIN, GENERAL) for metric in (TOKENS, BYTES)),
        *(f"mean/{TOKENS}", "exact", "terms/*", "boundaries/*", TOKEN_EDITS),
        *("vocabulary/*", "coverage/*", "lost/*", "correction/*"),
    ),
    watched=(BITS,),
)
