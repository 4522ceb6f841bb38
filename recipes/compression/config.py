"""Texts that a model is calibrated on, and texts that it is measured on. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import setting


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Sequences that say which weights matter: drawn by the run's seed from training documents."""

    sequences: int = setting(128, help="sequences", unit="sequences", ge=1)
    length: int = setting(256, help="tokens of each, whole and without padding", unit="tokens", ge=2)
    batch: int = setting(8, help="sequences of a forward", unit="sequences", ge=1)
    offload: bool = setting(
        False,
        help="keep the model on the CPU, and on the device one block at a time: for models larger than its memory",
    )
    damp: float = setting(0.01, help="damping of a Hessian, as share of its mean diagonal", gt=0, origin="code")

    def rest(self, device: str) -> str:
        """Where the model is while nothing is computed."""
        return "cpu" if self.offload else device

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.sequences * self.length


@dataclass(frozen=True, kw_only=True)
class HeldOutConfig:
    """Sequences of held-out documents on which a model is measured: the same for all seeds and arms."""

    sequences: int = setting(64, help="sequences of each domain", unit="sequences", ge=1)
    length: int = setting(256, help="tokens of each", unit="tokens", ge=2)
    batch_tokens: int = setting(2048, help="tokens of a forward", unit="tokens", ge=2)
