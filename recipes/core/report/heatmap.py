"""Texts with each token shaded by its weight, on a logarithmic scale around the mean weight 1."""

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.statistics.texts import number_text

OCTAVES = 4  # full shade at 2^4 times the mean weight, or at 1/2^4 of it
PIXELATED_BELOW = 100
# Control characters, which no page may hold, as the pictures that Unicode has of them.
PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
HINT = "Weight in the loss, relative to the mean weight 1."


@dataclass(frozen=True)
class Token:
    """One token: `side` is more, less or mean; `shade` in [0, 1] how strongly it is coloured."""

    text: str
    weight: str
    kind: str | None
    nll: str
    side: str
    shade: float

    @property
    def tooltip(self) -> str:
        """Everything known about the token, in one line."""
        parts = [f"{self.text.strip() or 'space'}: weight {self.weight}"]
        parts += [self.kind] if self.kind else []
        parts += [f"loss {self.nll} nats"] if self.nll else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Example:
    """One text beside its image (a data URI, empty if it has none).

    Attributes:
        tokens: With the weights of the only row, or of the first.
        title: What stands above it; empty: nothing.
        rows: (label, the same tokens with its weights) below each other; empty where there is but one without a name.
    """

    id: str
    image: str
    pixelated: bool
    tokens: list[Token]
    title: str = ""
    rows: Sequence[tuple[str, list[Token]]] = ()

    @property
    def columns(self) -> list[tuple[str, list[Token]]]:
        """Columns of the table of its numbers: those of its rows."""
        return [*self.rows] or [("Weight", self.tokens)]

    @property
    def has_losses(self) -> bool:
        """Whether the loss of a token is known."""
        return any(token.nll for token in self.tokens)


def read_hint(folder: Path) -> str:
    """What the weights of a run's `heatmap.json` are; those of a loss if it does not say."""
    path = folder / "heatmap.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return str(content.get("hint", HINT))


def read_heatmap(folder: Path) -> list[Example]:
    """The examples of a run's `heatmap.json`; empty if it has none."""
    path = folder / "heatmap.json"
    return (
        [_example(entry) for entry in json.loads(path.read_text(encoding="utf-8"))["examples"]] if path.exists() else []
    )


def shade(weight: float) -> float:
    """Signed shade of a weight in [-1, 1]: 0 at the mean weight 1, +-1 at 16 times it and at a 16th or less."""
    return max(-1.0, min(1.0, math.log2(weight) / OCTAVES)) if weight > 0 else -1.0


def legend() -> list[Token]:
    """Swatches from the least to the most weight."""
    texts = {1 / 16: "1/16 or less", 1 / 4: "1/4", 1.0: "1, the mean", 4.0: "4", 16.0: "16 or more"}
    return [_token({"text": text, "weight": weight, "kind": None, "nll": None}) for weight, text in texts.items()]


def _example(entry: dict[str, Any]) -> Example:
    image, tokens = entry.get("image") or "", entry["tokens"]
    rows = [
        (
            row["label"],
            [_token(token | {"weight": weight}) for token, weight in zip(tokens, row["weights"], strict=True)],
        )
        for row in entry.get("rows", ())
    ]
    small = bool(image) and _is_small(image)
    return Example(entry["id"], image, small, [_token(token) for token in tokens], entry.get("title", ""), rows)


def _is_small(image: str) -> bool:
    from PIL import Image

    content = base64.b64decode(image.partition(",")[2])
    with Image.open(io.BytesIO(content)) as picture:
        return max(picture.size) < PIXELATED_BELOW


def _token(entry: dict[str, Any]) -> Token:
    signed = shade(entry["weight"])
    side = "mean" if abs(signed) < 0.01 else "more" if signed > 0 else "less"
    nll = "" if entry["nll"] is None else number_text(entry["nll"])
    return Token(
        entry["text"].translate(PICTURES), number_text(entry["weight"]), entry["kind"], nll, side, round(abs(signed), 3)
    )
