"""Config of probes on frozen features. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import setting


@dataclass(frozen=True)
class ProbeConfig:
    """A linear classifier on frozen features."""

    layer: int = setting(-1, help="whose states are read: 0 the embeddings, i behind block i, -1 the output", ge=-1)
    pooling: str = setting(
        "mean", help="mean of the tokens, the first (CLS) or the last one", choices=("mean", "first", "last")
    )
    max_tokens: int = setting(128, help="longer texts are cut", unit="tokens", ge=3)
    strengths: tuple[float, ...] = setting(
        (0.001, 0.01, 0.1, 1.0, 10.0), help="inverse strengths of the L2 penalty that are tried", gt=0
    )
    folds: int = setting(5, help="folds of the cross-validation that chooses among them", ge=2)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings, as (key, message)."""
        if not self.strengths:
            return [("strengths", "is empty; type at least one")]
        if len(set(self.strengths)) < len(self.strengths):
            return [("strengths", "names a strength twice")]
        return []
