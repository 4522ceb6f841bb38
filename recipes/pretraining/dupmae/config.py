"""Config and card of the recipe `dupmae`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import DATA_CONTENT, Card, Claim, RunConfig, setting
from recipes.core.config.unread import unread_keys
from recipes.core.models.config import SmallEncoderConfig
from recipes.core.search.config import (
    JUDGED,
    RANKING_METRICS,
    CollectionConfig,
    PairsConfig,
    WikiSearchConfig,
    in_batch_problems,
)

NONE, MLM, RETROMAE, OT_ONLY, DUPMAE = "none", "mlm", "retromae", "ot_only", "dupmae"
ENHANCED, PLAIN = "enhanced", "plain"
LAYERNORM, ADD = "layernorm", "add"
LENGTH, UNIT = "length", "none"
BOTH, MEAN = "cls384_ot384", "mean"
CLS, OT = "cls768", "ot768"
# Width of the map of [CLS] (None: h as it is, 0: no dense part), and k terms of mu.
REPRESENTATIONS: dict[str, tuple[int | None, int]] = {
    BOTH: (384, 384),
    "cls384_ot260": (384, 260),
    CLS: (None, 0),
    OT: (0, 768),
    MEAN: (None, 0),
}
ACTIVATIONS = ("relu_log1p", "relu", "none")
BEFORE, AFTER, BM25 = "before", "after", "bm25"
AHEAD, BAG, RECALL = f"{BEFORE}/ot_ahead_of_cls", "bag_nll", "bag_recall"


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """What the encoder learns from text alone; arms choose it."""

    objective: str = setting(
        DUPMAE,
        help="masked words (mlm), with the decoder of [CLS] (retromae), with the bag of words (ot_only), with both; "
        "none: nothing is trained before fine-tuning",
        choices=(NONE, MLM, RETROMAE, OT_ONLY, DUPMAE),
    )
    path: str | None = setting(
        None, help="text to train on: file, folder or hub name; null: the passages of data", content=DATA_CONTENT
    )
    length: int = setting(
        64, help="longer texts are cut into pieces, and of passages that are searched the first is read; CLS and SEP "
        "count", unit="tokens", ge=4,
    )  # fmt: skip
    encoder_mask: float = setting(
        0.3, help="share of a text's tokens that are masked, by whole words", gt=0, lt=1, origin="code"
    )
    decoder_mask: str = setting(
        ENHANCED, help="each row of the decoder of [CLS] has its own mask; or all share one, and masked tokens alone "
        "are predicted (RetroMAE's basic decoding)", choices=(ENHANCED, PLAIN),
    )  # fmt: skip
    decoder_rate: float = setting(
        0.5, help="share of a text's tokens that such a mask hides, by whole words", gt=0, lt=1, origin="code"
    )
    masks: int = setting(256, help="masks that are drawn for a text at most", unit="masks", ge=1, origin="code")
    query_embed: str = setting(
        LAYERNORM, help="what rows ask with: h as embeddings are made, or h + position as in the paper",
        choices=(LAYERNORM, ADD), origin="code",
    )  # fmt: skip
    bow_weight: float = setting(0.1, help="weight of the bag of words; 1 in the paper", ge=0, origin="code")
    bow_norm: str = setting(
        LENGTH, help="whether the loss of a bag is divided by the length of its text; none as in the paper",
        choices=(LENGTH, UNIT), origin="code",
    )  # fmt: skip

    @property
    def decodes(self) -> bool:
        """Whether a decoder rebuilds the text from [CLS]."""
        return self.objective in (RETROMAE, DUPMAE)

    @property
    def has_bag(self) -> bool:
        """Whether the bag of words is predicted."""
        return self.objective in (OT_ONLY, DUPMAE)


@dataclass(frozen=True, kw_only=True)
class FineTuningConfig:
    """Contrastive training on pairs, alike for all arms."""

    representation: str = setting(
        BOTH, help="what is searched by: [CLS] behind a map of width 384, and the 384 (260) largest entries of mu; h "
        "as it is (cls768); 768 of mu alone (ot768); the mean of states", choices=tuple(REPRESENTATIONS),
        origin="paper",
    )  # fmt: skip
    others: tuple[str, ...] = setting(
        (), help="further ones, each fine-tuned by itself from the same weights", choices=tuple(REPRESENTATIONS)
    )
    ot_act: str = setting(
        "relu_log1p", help="what is done to mu on both sides; the paper does not say", choices=ACTIVATIONS
    )
    steps: int = setting(60, help="optimizer steps", unit="steps", ge=1)
    batch_size: int = setting(32, help="queries of a step; passages of the others are negatives", unit="queries", ge=2)
    learning_rate: float = setting(1e-3, help="peak learning rate", gt=0)
    temperature: float = setting(1.0, help="what similarities are divided by", gt=0)
    query_tokens: int = setting(32, help="longer queries are cut; CLS and SEP count", unit="tokens", ge=3)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.representation in self.others or len(set(self.others)) < len(self.others):
            return [("others", f"has representation={self.representation} or a name twice; type others")]
        return []

    @property
    def representations(self) -> tuple[str, ...]:
        """All that are fine-tuned, the judged one first."""
        return (self.representation, *self.others)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and when."""

    passages: int | None = setting(
        None, help="passages that are searched at most: all that answer a query, others drawn; null: all",
        unit="passages", ge=2,
    )  # fmt: skip
    depth: int = setting(1000, help="passages of a ranking that are kept", unit="passages", ge=100)
    terms: int = setting(64, help="largest entries of mu among which the words of a text are looked for", ge=1)
    bags: int = setting(200, help="passages whose bags of words are measured", unit="passages", ge=1)
    watch_every: int = setting(100, help="steps between measurements of bags of words", unit="steps", ge=1)
    batch_tokens: int = setting(
        8192, help="padded tokens of a forward without gradient; changes nothing beyond rounding", unit="tokens", ge=1
    )


@dataclass(frozen=True, kw_only=True)
class DupMAEConfig(RunConfig):
    """Config of one `dupmae` run."""

    data: WikiSearchConfig | CollectionConfig = setting(help="collection")
    model: SmallEncoderConfig = setting(help="encoder, trained from nothing")
    pretraining: PretrainingConfig = setting(PretrainingConfig(), help="pre-training")
    pairs: PairsConfig = setting(PairsConfig(), help="pairs of the fine-tuning")
    fine_tuning: FineTuningConfig = setting(FineTuningConfig(), help="fine-tuning")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), help="what is measured")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the keys."""
        problems, positions = in_batch_problems(self.trainer), self.model.positions
        problems += self.data.depth_problems("evaluation.depth", self.evaluation.depth)
        for key, tokens in (
            ("pretraining.length", self.pretraining.length),
            ("fine_tuning.query_tokens", self.fine_tuning.query_tokens),
        ):
            if tokens > positions:
                problems.append((key, f"is more than the encoder's positions; type model.positions={tokens}"))
        if self.model.embedding not in (None, self.model.width):
            problems.append(("model.embedding", "is that of h, which decoders read beside embeddings; leave it out"))
        return problems

    @property
    def trains(self) -> bool:
        """Whether anything is trained before fine-tuning."""
        return self.pretraining.objective != NONE

    @property
    def sequence_tokens(self) -> int:
        """Tokens of a piece of text."""
        return self.pretraining.length

    def unread(self) -> list[tuple[str, str]]:
        """Keys that change nothing in this run."""
        part, why = self.pretraining, f"pretraining.objective={self.pretraining.objective}"
        enhanced = part.decodes and part.decoder_mask == ENHANCED
        decoder = "decoder_mask decoder_rate"
        return unread_keys(
            ("pretraining.encoder_mask evaluation.watch_every", self.trains, "nothing is pre-trained"),
            (" ".join(f"pretraining.{key}" for key in decoder.split()), part.decodes, f"{why} has no decoder"),
            ("pretraining.masks pretraining.query_embed", enhanced, "no row of a decoder has a mask of its own"),
            ("pretraining.bow_weight pretraining.bow_norm", part.has_bag, f"{why} predicts no bag of words"),
            ("pairs.depth", self.pairs.negatives > 0, "no negatives are drawn"),
        )

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        text = self.pretraining.path or "the passages that are searched"
        tuned = f"{self.fine_tuning.steps:,} steps each of {', '.join(self.fine_tuning.representations)}"
        return [
            ("data", self.data.description),
            ("model", self.model.description),
            ("pre-trained", f"{self.pretraining.objective}, on {text}" if self.trains else "not at all"),
            ("fine-tuned", tuned),
        ]

    def parameters(self) -> int | None:
        """Parameters of the encoder; 0 where nothing is pre-trained."""
        return self.model.parameters if self.trains else 0


CONFIG = DupMAEConfig

CARD = Card(
    title="DupMAE (RetroMAE-2): duplex masked auto-encoding",
    paper="arXiv 2305.02564, 2211.08769 (Xiao, Liu, Shao, Cao; ACL 2023)",
    weights="tokens of a text, by whether their logit is the largest of it; terms of a passage, by whether they are "
    "among the k largest",
    summary="An encoder is trained so that two weak decoders can work with what it says of a text: one rebuilds the "
    "text from the [CLS] vector, each row seeing few tokens; one reads the bag of words from the largest logits of the "
    "other tokens. Both vectors together are searched by.",
    claim=Claim(
        statement="After equal fine-tuning, an encoder pre-trained by DupMAE ranks better than by masked words",
        metric=JUDGED,
        arm=DUPMAE,
        baseline=MLM,
        direction=1,
        published="MRR@10 .410 against .346 (MS MARCO, BERT-base; BERT's vector is [CLS] alone)",
        minimal_effect=0.01,
    ),
    claims=(
        Claim(
            statement="Before fine-tuning its vector of ordinary tokens ranks better than that of an untrained encoder",
            metric=f"{BEFORE}/{OT}/{JUDGED}",
            arm=DUPMAE,
            baseline=NONE,
            direction=1,
            published="not in the paper: pre-training is judged after fine-tuning only",
            minimal_effect=0.05,
        ),
        Claim(
            statement="The bag of words does it: before fine-tuning masked words alone rank lower by ordinary tokens",
            metric=f"{BEFORE}/{OT}/{JUDGED}",
            arm=DUPMAE,
            baseline=MLM,
            direction=1,
            published="not in the paper",
            minimal_effect=0.05,
        ),
        Claim(
            statement="The bag of words adds to the decoder of [CLS] after fine-tuning",
            metric=JUDGED,
            arm=DUPMAE,
            baseline=RETROMAE,
            direction=1,
            published="MRR@10 .4102 against .4008",
            minimal_effect=0.005,
        ),
        Claim(
            statement="The decoder of [CLS] adds to the bag of words after fine-tuning",
            metric=JUDGED,
            arm=DUPMAE,
            baseline=OT_ONLY,
            direction=1,
            published="MRR@10 .4102 against .4002",
            minimal_effect=0.005,
        ),
        Claim(
            statement="A mask for each row trains [CLS] better than one for all",
            metric=JUDGED,
            arm=DUPMAE,
            baseline="plain",
            direction=1,
            published="a claim of RetroMAE (arXiv 2205.12035); no number known to us",
            minimal_effect=0.005,
        ),
    ),
    cost="in pre-training one more layer and two more heads over all tokens; the encoder stays as it is. A passage is "
    "384 numbers and 384 terms with their values: 1.23 times the memory of 768 numbers in fp32",
    pair_keys=("arm", "pretraining"),
    version=2,
    control=NONE,
    headlines=(JUDGED, f"{BEFORE}/{CLS}/{JUDGED}", f"{BEFORE}/{OT}/{JUDGED}", AHEAD, RECALL, f"{BM25}/{JUDGED}"),
    price=(BAG,),
    metrics=(*RANKING_METRICS, f"{BEFORE}/*", f"{AFTER}/*", f"{BM25}/*", BAG, RECALL),
    watched=(BAG, RECALL),
)
