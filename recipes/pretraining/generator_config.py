"""Config of what replaces tokens, for replaced-token detection. Imports no torch."""

from dataclasses import dataclass, replace

from recipes.core.config.settings import setting
from recipes.core.models.config import SmallEncoderConfig

MODEL, UNIFORM, UNIGRAM = "model", "uniform", "unigram"
EMBEDDINGS, ALL, NOTHING = "embeddings", "all", "nothing"
HEAD = 64  # width of a generator's attention head


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Where the tokens come from that stand in the place of masked ones."""

    kind: str = setting(
        MODEL,
        help="model: a masked language model trained beside; uniform: any token; unigram: any, by its frequency",
        choices=(MODEL, UNIFORM, UNIGRAM),
    )
    size: float = setting(
        0.25, help="its width as a share of the encoder's; as many layers", gt=0, le=4, origin="paper"
    )
    shared: str = setting(
        EMBEDDINGS,
        help="what it shares with the encoder: embeddings, all weights (of equal sizes), or nothing",
        choices=(EMBEDDINGS, ALL, NOTHING),
        origin="paper",
    )
    weight: float = setting(1.0, help="weight of its loss", ge=0, origin="paper")
    temperature: float = setting(1.0, help="of the distribution that tokens are drawn from", gt=0, origin="paper")
    disallow_correct: bool = setting(False, help="never draw the text's token, so that every masked one is replaced")

    def problems(self, key: str = "generator") -> list[tuple[str, str]]:
        """Rules between the settings, for the config that holds them under a key."""
        if self.kind == MODEL and self.shared == ALL and self.size != 1:
            return [(f"{key}.shared", f"all needs equal sizes; type {key}.size=1, or {key}.shared=embeddings")]
        return []

    def model(self, encoder: SmallEncoderConfig) -> SmallEncoderConfig:
        """The shape of the generator beside an encoder: width, heads and MLP are smaller, layers as many.

        Source:
            ELECTRA (arXiv 2003.10555), official code: heads = max(1, width / 64).
        """
        if self.size == 1:
            return encoder
        heads = max(1, round(encoder.width * self.size) // HEAD)
        width = max(round(encoder.width * self.size / heads), 4) * heads
        inner = max(round(encoder.shape.ffn * self.size), 4)
        embedding = encoder.embedding or encoder.width
        return replace(encoder, width=width, heads=heads, inner=inner, embedding=embedding)

    def macs(self, encoder: SmallEncoderConfig, tokens: int, masked: float) -> tuple[float, float]:
        """Multiply-adds of a row: a forward with the loss of the masked tokens, and the logits they are drawn by."""
        if self.kind != MODEL:
            return 0.0, 0.0
        model = self.model(encoder)
        return model.macs(tokens) + model.vocabulary_macs(masked), model.output_macs(masked)
