"""Config and card of the recipe `lexinvariant`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import Card, Claim, RunConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.data.config import DomainsConfig
from recipes.core.models.config import SmallLMConfig

LEARNED, SEQUENCE, BATCH, FIXED = "learned", "gaussian_per_sequence", "gaussian_per_batch", "gaussian_fixed"
EMBEDDINGS = (SEQUENCE, BATCH, FIXED, LEARNED)
BY_TYPE, BY_POSITION = "type", "position"
LETTERS, ALL = "letters", "all"
LOSS, FALL, CIPHER, RISE = "loss", "fall", "cipher_loss", "cipher_rise"
SEEN, HELD_OUT = "lookup/seen", "lookup/held_out"
KEY_WINDOW, KEY_ALL = "key/window", "key/all"


@dataclass(frozen=True, kw_only=True)
class LexiconConfig:
    """Where the vectors of tokens come from; arms choose it."""

    embedding: str = setting(
        SEQUENCE,
        help="vectors drawn for each sequence, for each step of training, or once; or learned",
        choices=EMBEDDINGS,
        origin="paper",
    )
    permute: float = setting(
        0.0,
        help="probability that a token of a training sequence is exchanged by the sequence's permutation of the "
        "vocabulary (0.2 in the paper)",
        ge=0,
        le=1,
    )
    permute_unit: str = setting(
        BY_TYPE,
        help="whether a token is exchanged throughout, or at each position by itself",
        choices=("type", "position"),
    )


@dataclass(frozen=True, kw_only=True)
class LookupsConfig:
    """Sequences in which values of keys are asked for, in symbols that are no part of the text."""

    share: float = setting(0.5, help="share of the training sequences; the others are text", ge=0, le=1)
    symbols: int = setting(64, help="symbols; training shows the first half", unit="symbols", ge=4)
    fewest_pairs: int = setting(3, help="least number of keys", ge=1)
    most_pairs: int = setting(6, help="largest number of keys", ge=1)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and when."""

    watch_every: int = setting(200, help="steps between measurements", unit="steps", ge=1)
    windows: int = setting(100, help="held-out sequences of each domain", unit="sequences", ge=1)
    buckets: int = setting(4, help="parts of a sequence whose losses are told apart", ge=2)
    lookups: int = setting(400, help="look-ups in seen symbols, and in held-out ones", ge=1)
    num_samples: int = setting(1, help="tables of vectors over which probabilities are averaged", ge=1)
    probe_windows: int = setting(
        100, help="training sequences that the probe of a cipher's key is fitted on", unit="sequences", ge=1
    )
    batch_tokens: int = setting(4096, help="tokens of a forward", unit="tokens", ge=2)


@dataclass(frozen=True, kw_only=True)
class LexinvariantConfig(RunConfig):
    """Config of one `lexinvariant` run."""

    data: DomainsConfig = setting(help="texts")
    model: SmallLMConfig = setting(help="model, trained from nothing")
    alphabet: str = setting(
        LETTERS,
        help="27 tokens, a to z and a blank for all else; or all that the tokenizer has",
        choices=(LETTERS, ALL),
    )
    lexicon: LexiconConfig = setting(LexiconConfig(), help="vectors of tokens")
    lookups: LookupsConfig = setting(LookupsConfig(), help="look-ups")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), help="what is measured")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems, lookups, length = [], self.lookups, self.data.length
        if self.model.architecture != "llama":
            problems.append(("model.architecture", "is built in for rotary positions; type model.architecture=llama"))
        if self.alphabet == LETTERS and self.model.tokenizer != "characters":
            problems.append(("alphabet", "letters is for model.tokenizer=characters; type alphabet=all with pieces"))
        if lookups.most_pairs < lookups.fewest_pairs:
            problems.append(("lookups.most_pairs", f"is less than lookups.fewest_pairs={lookups.fewest_pairs}"))
        if lookups.symbols // 2 < 2 * lookups.most_pairs:
            least = 4 * lookups.most_pairs
            problems.append(
                ("lookups.symbols", f"half of them are fewer than the keys and values; type {least} or more")
            )
        if length < 3 * (lookups.most_pairs + 1):
            message = f"{lookups.most_pairs} pairs and a question are {3 * (lookups.most_pairs + 1)} tokens, more than "
            problems.append(("lookups.most_pairs", f"{message}data.length={length}"))
        if length <= self.evaluation.buckets:
            problems.append(("evaluation.buckets", f"are more than the predicted tokens of data.length={length}"))
        if self.lexicon.permute and self.lexicon.embedding in (SEQUENCE, BATCH):
            problems.append(("lexicon.permute", "adds nothing to vectors that are drawn anew; leave it out"))
        return problems

    @property
    def sequence_tokens(self) -> int:
        """Tokens of a packed sequence."""
        return self.data.length

    @property
    def samples(self) -> int:
        """Tables of vectors that a held-out text is read with."""
        return self.evaluation.num_samples if self.lexicon.embedding in (SEQUENCE, BATCH) else 1

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run."""
        redrawn = self.lexicon.embedding in (SEQUENCE, BATCH)
        return unread_keys(
            ("model.vocabulary", self.alphabet == ALL, "the tokens are 27 letters"),
            ("lexicon.permute_unit", self.lexicon.permute > 0, "nothing is permuted"),
            ("evaluation.num_samples", redrawn, "there is one table of vectors"),
            ("evaluation.probe_windows", self.alphabet == LETTERS, "a key is read of letters alone"),
        )

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        stretch = f"sequences of {self.data.length:,} tokens, {self.lookups.share:.0%} of them look-ups"
        return [("data", f"{self.data.description}: {stretch}"), ("model", self.model.description)]

    def parameters(self) -> int:
        """Parameters of the model, with the largest vocabulary."""
        return self.model.parameters


CONFIG = LexinvariantConfig

CARD = Card(
    title="Lexinvariant language models",
    paper="arXiv 2305.16349 (Huang, Zelikman, Chen, Wu, Valiant, Liang; NeurIPS 2023)",
    weights="no token before another: none has a vector that is known before its sequence",
    summary="Vectors of tokens are drawn anew for every sequence, so that a token can only be known by what stands "
    "around it. Such a model reads text in a cipher as it reads plain text, and copies symbols that it never saw.",
    claim=Claim(
        statement="Of symbols that training never shows, a lexinvariant model looks up more than a standard one",
        metric=HELD_OUT,
        arm="lexinvariant",
        baseline="standard",
        direction=1,
        published="91.80 % against 48.50 % (the Pile, characters; symbols seen in text)",
        minimal_effect=0.1,
    ),
    claims=(
        Claim(
            statement="Enciphered text costs it no more than plain text, where the standard model collapses",
            metric=RISE,
            arm="lexinvariant",
            baseline="standard",
            direction=-1,
            published="none: invariant in distribution by construction",
            minimal_effect=0.5,
        ),
        Claim(
            statement="Its loss falls further with position than that of the standard model",
            metric=FALL,
            arm="lexinvariant",
            baseline="standard",
            direction=1,
            published="perplexity from 9 times that of the standard model to 1.7 times at 511 characters",
            minimal_effect=0.05,
        ),
        Claim(
            statement="Drawing anew is what does it: with one random table for the run fewer are looked up",
            metric=HELD_OUT,
            arm="lexinvariant",
            baseline="gaussian_fixed",
            direction=1,
            published="not in the paper",
            minimal_effect=0.1,
        ),
        Claim(
            statement="Its states tell the plain letters of a cipher: a probe reads more of the key",
            metric=KEY_ALL,
            arm="lexinvariant",
            baseline="standard",
            direction=1,
            published="99.6 % of the key over 1,000 sequences of 512",
            minimal_effect=0.1,
            only="alphabet=letters",
        ),
        Claim(
            statement="A fifth of the tokens exchanged in training softens the collapse on enciphered text",
            metric=RISE,
            arm="regularised",
            baseline="standard",
            direction=-1,
            published="BIG-bench: 25 % more likely to gain than to lose",
            minimal_effect=0.1,
        ),
    ),
    cost="a table of vectors a sequence, and one head each; no parameter of the vocabulary's size",
    pair_keys=("arm", "lexicon"),
    version=1,
    control="gaussian_fixed",
    headlines=(LOSS, FALL, CIPHER, RISE, "lookup/", "key/"),
    price=(LOSS,),
    metrics=(LOSS, f"{LOSS}/*", FALL, CIPHER, RISE, "lookup/*", "key/*"),
    watched=(LOSS, f"{LOSS}/*", FALL, "lookup/*"),
)
