"""Config and card of the recipe `hierarchical-transformer`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import EQUIVALENCE, Card, Claim
from recipes.tokenization.words.config import WordRunConfig
from recipes.tokenization.words.names import METRICS, WATCHED


@dataclass(frozen=True, kw_only=True)
class HierarchicalTransformerConfig(WordRunConfig):
    """Config of one `hierarchical-transformer` run."""


CONFIG = HierarchicalTransformerConfig

CARD = Card(
    title="Hierarchical autoregressive transformers: bytes within words, words within text",
    paper="arXiv 2501.10322 (Neitemeier, Deiseroth, Eichenberg, Balles; ICLR 2025)",
    weights="text, by its words: a large model spends one position on each, whatever its length",
    summary="A small encoder turns the bytes of each word into a vector, a large causal backbone reads words, and a "
    "small decoder spells the next word byte by byte. There is no tokenizer.",
    claim=Claim(
        statement="At an equal loss on clean text, errors in its context cost a hierarchy fewer bits than a BPE model",
        metric="matched/rise",
        arm="hier",
        baseline="bpe",
        direction=-1,
        published="smaller drops under 10% permuted, replaced or deleted characters; about a third under all capitals",
        minimal_effect=0.02,
    ),
    claims=(
        Claim(
            statement="At equal compute it predicts as many words wholly as a BPE model",
            metric="word_accuracy",
            arm="hier",
            baseline="bpe",
            direction=1,
            published="35.5% and 35.3% (1B), 37.8% and 37.7% (3B), 39.0% and 39.2% (7B)",
            minimal_effect=0.02,
            kind=EQUIVALENCE,
        ),
        Claim(
            statement="Trained on at equal compute, a language that is new to it costs fewer bits than a BPE model",
            metric="adapted/bits_per_byte",
            arm="hier",
            baseline="bpe",
            direction=-1,
            published="0.80 against 0.94 bits per byte of Chinese, at 2.3 times the baseline's compute per step saved",
            minimal_effect=0.02,
        ),
        Claim(
            statement="Words are better groups of bytes than any eight bytes",
            metric="bits_per_byte",
            arm="hier",
            baseline="fixed",
            direction=-1,
            published="fixed groups: HellaSwag -2.7, LAMBADA -8.4 points",
            minimal_effect=0.02,
        ),
        Claim(
            statement="On groups of eight bytes an encoder predicts more bytes than embeddings side by side",
            metric="unit_accuracy",
            arm="fixed",
            baseline="megabyte",
            direction=1,
            published="2.6 points of byte accuracy (1B)",
            minimal_effect=0.005,
        ),
    ),
    cost="encoder and decoder over every byte, of a small width; the backbone over words",
    pair_keys=("arm", "model", "words"),
    version=2,
    control="fixed",
    headlines=("bits_per_byte", "word_accuracy", "context_gain", "rise", "matched/", "adapted/bits", "kept/bits"),
    price=("bits_per_byte", "context_gain", "matched/context_gain", "kept/bits_per_byte"),
    metrics=METRICS,
    watched=WATCHED,
)
