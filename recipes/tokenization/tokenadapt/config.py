"""Config and card of the recipe `tokenadapt`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import EXAMPLE_UNIT, ORDER, Card, Claim, setting
from recipes.core.config.unread import unread_keys
from recipes.tokenization.config import NewVocabularyConfig, TokenizerConfig

HYBRID, LOCAL, GLOBAL, RETOK, FOCUS = "hybrid", "local", "global", "retok", "focus"
TRANSTOKENIZER, MEAN, RANDOM, BASE = "transtokenizer", "mean", "random", "base"
INITS = (HYBRID, LOCAL, GLOBAL, RETOK, FOCUS, TRANSTOKENIZER, MEAN, RANDOM, BASE)
BOTH, SIMILARITY, LENGTH = "both", "similarity", "length"
BITS, PER_TOKEN, RATIO, TOKENS = "bits_per_byte", "bits_per_token", "perplexity_ratio", "tokens_per_byte"


@dataclass(frozen=True)
class InitConfig:
    """How the row of a token that the old vocabulary lacks is composed."""

    name: str = setting(
        HYBRID,
        help="hybrid: pieces and neighbours; local: the old pieces that spell it, weighted; global: its nearest old "
        "tokens; retok: the mean of its pieces; focus: sparsemax over shared tokens; transtokenizer: old tokens that "
        "stand where it stands in text; mean: of all old rows; random; base: old model and tokenizer; arms choose it",
        choices=INITS,
    )
    factors: str = setting(
        BOTH,
        help="what pieces are weighted by: likeness to the token, their length, or both",
        choices=(BOTH, SIMILARITY, LENGTH),
    )
    tau: float = setting(0.3, help="temperature of the weights", gt=0, origin="code")
    w_glob: float = setting(0.3, help="hybrid: weight of the neighbours", ge=0, le=1, origin="paper")
    k: int = setting(3, help="neighbours", unit="tokens", ge=1, origin="paper")
    threshold: float = setting(0.0, help="neighbours below this cosine are left out", ge=-1, le=1, origin="code")
    fallback: str = setting(
        MEAN,
        help="row of a token that nothing composes: the mean of all old rows, or a random one",
        choices=(MEAN, RANDOM),
    )
    pad_to: int = setting(128, help="rows of the new model are a multiple of it", unit="rows", ge=1, origin="code")
    aligned: int = setting(1_000_000, help="transtokenizer: text that is cut twice", unit="characters", ge=1)


@dataclass(frozen=True, kw_only=True)
class TokenAdaptConfig(NewVocabularyConfig):
    """Config of one `tokenadapt` run."""

    tokenizer: TokenizerConfig = setting(TokenizerConfig(), help="new tokenizer")
    init: InitConfig = setting(InitConfig(), help="rows of new tokens")
    save_model: bool = setting(
        True, help="leave the model with its new tokenizer in the run, for `steelyard export`; as large as its weights"
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems = super().check()
        if self.tokenizer.path and self.tokenizer.supertokens:
            problems.append(("tokenizer.supertokens", "is about a tokenizer that is trained; leave out tokenizer.path"))
        return problems

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        return [*super().describe(), ("new tokenizer", self.tokenizer.description), ("rows", self.init.name)]

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run, though they may in other arms, and why."""
        init, tokenizer = self.init, self.tokenizer
        other = f"init.name={init.name} does without"
        return unread_keys(
            ("init.factors", init.name in (HYBRID, LOCAL), other),
            ("init.tau", init.name in (HYBRID, LOCAL, GLOBAL), other),
            ("init.k init.threshold", init.name in (HYBRID, GLOBAL), other),
            ("init.w_glob", init.name == HYBRID, other),
            ("init.aligned", init.name == TRANSTOKENIZER, other),
            ("init.fallback", init.name not in (MEAN, RANDOM, BASE), other),
            ("init.pad_to save_model", init.name != BASE, "the model stays as it is"),
            ("strings", self.needs_vectors, other),
            ("tokenizer.vocabulary tokenizer.min_frequency", not tokenizer.path, "no tokenizer is trained"),
            ("tokenizer.share", not tokenizer.path or init.name == TRANSTOKENIZER, "no tokenizer is trained"),
            ("tokenizer.longest", tokenizer.supertokens, "only supertokens are bounded"),
        )

    @property
    def needs_vectors(self) -> bool:
        """Whether strings of tokens are encoded."""
        return self.init.name in (HYBRID, LOCAL, GLOBAL, FOCUS)


CONFIG = TokenAdaptConfig

CARD = Card(
    title="TokenAdapt: a new tokenizer for an old model",
    paper="arXiv 2505.09738 (Sharthak, Pahalwan, Kamath, Shirawalmath; 2025)",
    weights="old tokens in the row of a new one, by their likeness to it and their share of its characters",
    summary="Shared tokens keep their rows. A new token's row is a weighted mean of the old tokens that spell it, "
    "mixed with that of its nearest neighbours in a space of strings. Nothing is trained. Supertokens are a BPE whose "
    "tokens may hold several words.",
    claim=Claim(
        statement="Rows of weighted pieces and neighbours leave fewer bits per byte than the plain mean of pieces",
        metric=BITS,
        arm="hybrid",
        baseline="retok",
        direction=-1,
        published="perplexity over that of the old model, mean of five sets: 48.2 against 71.1 (Llama-3.2-3B), 85.8 "
        "against 139.1 (Qwen2.5-3B)",
        minimal_effect=0.02,
        unit=EXAMPLE_UNIT,
    ),
    claims=(
        Claim(
            statement="They halve the perplexity per token that the plain mean of pieces leaves, which is one bit",
            metric=PER_TOKEN,
            arm="hybrid",
            baseline="retok",
            direction=-1,
            published="at least 2-fold in the abstract; 1.5-, 1.6- and 2.0-fold in the tables",
            minimal_effect=1.0,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="Weighted pieces alone leave fewer bits per byte than their plain mean",
            metric=BITS,
            arm="local",
            baseline="retok",
            direction=-1,
            published="64.4 against 71.1 (Llama-3.2-3B), 109.3 against 139.1 (Qwen2.5-3B)",
            minimal_effect=0.01,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="Pieces are better than the mean of all rows, and that is better than random rows",
            metric=BITS,
            arm="retok",
            baseline="random",
            direction=-1,
            published="not in the paper's tables",
            minimal_effect=0.02,
            unit=EXAMPLE_UNIT,
            kind=ORDER,
            arms=("retok", "mean", "random"),
        ),
        Claim(
            statement="At an equal vocabulary supertokens need fewer tokens for the same text",
            metric=TOKENS,
            arm="supertokens",
            baseline="hybrid",
            direction=-1,
            published="283,657 tokens for English, against 338,873 of DeepSeek-R1's tokenizer and 329,308 of Gemma 3's",
            minimal_effect=0.01,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="Supertokens of weighted pieces and neighbours leave fewer bits per byte than of plain means",
            metric=BITS,
            arm="supertokens",
            baseline="supertokens_retok",
            direction=-1,
            published="577.5 against 1174.0 (Llama-3.2-3B)",
            minimal_effect=0.02,
            unit=EXAMPLE_UNIT,
        ),
    ),
    cost="strings of all old and new tokens through a sentence encoder, once; one forward a text",
    pair_keys=("arm", "init", "tokenizer"),
    version=1,
    control="mean",
    headlines=(BITS, RATIO, TOKENS, "vocabulary/"),
    price=(TOKENS, "fertility"),
    frontiers=((TOKENS, BITS),),
    trains=False,
    metrics=(
        BITS,
        f"{BITS}/*",
        PER_TOKEN,
        RATIO,
        f"{RATIO}/*",
        TOKENS,
        "fertility",
        "boundaries",
        "exact",
        "vocabulary/*",
    ),
)
