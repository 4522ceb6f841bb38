"""Config of canvases of handwritten digits. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import setting

SCAN = 8  # pixels of a side of a digit
BACKGROUNDS = ("noise", "flat", "textured")
CELLS = 4  # on a side of a question canvas, four to a quadrant


@dataclass(frozen=True, kw_only=True)
class _Canvas:
    """What all canvases have."""

    size: int = setting(32, help="side of a canvas", unit="pixels", ge=16)
    patch: int = setting(4, help="side of a patch; digits stand on this grid", unit="pixels", choices=(2, 4, 8))
    background: str = setting(
        "noise",
        help="what digits stand on: noise, nothing, or gratings (each with the noise but flat)",
        choices=BACKGROUNDS,
    )
    noise: float = setting(0.15, help="standard deviation of the noise", ge=0)
    intensity: float = setting(2.0, help="value of full ink", gt=0)
    clutter: float = setting(0.8, help="height of the gratings (background=textured)", ge=0)
    train: int = setting(12000, help="training canvases", unit="canvases", ge=1)
    test: int = setting(2000, help="test canvases, of digits that no training canvas shows", unit="canvases", ge=1)

    @property
    def grid(self) -> int:
        """Patches on a side."""
        return self.size // self.patch

    @property
    def patches(self) -> int:
        """Patches of a canvas."""
        return self.grid**2

    def _parts(self, parts: int) -> list[tuple[str, str]]:
        """Whether the canvas falls into `parts` x `parts` areas that can hold a digit on the grid."""
        unit, least = parts * self.patch, parts * SCAN
        if self.size % unit or self.size < least:
            up = max(-(-self.size // unit) * unit, -(-least // unit) * unit)
            return [("size", f"must be a multiple of {unit} and at least {least}; type {up}")]
        return []


@dataclass(frozen=True, kw_only=True)
class CanvasDataConfig(_Canvas):
    """Handwritten digits, one in each half or quarter of a canvas: which digit is left, which is right?"""

    name: str = setting("digit-canvases", help="data set", choices=("digit-canvases",))
    digits: int = setting(
        2, help="digits of a canvas: left and right, or one in each quarter", unit="digits", choices=(2, 4)
    )

    @property
    def slots(self) -> int:
        """What a canvas has heads for: places of digits."""
        return self.digits

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"{self.digits} digits on {self.size}x{self.size} pixels, background {self.background}"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return self._parts(2)


@dataclass(frozen=True, kw_only=True)
class QuestionCanvasDataConfig(_Canvas):
    """Several handwritten digits on a canvas: in which quadrant is the seven?"""

    name: str = setting("question-canvases", help="data set", choices=("question-canvases",))
    size: int = setting(48, help="side of a canvas", unit="pixels", ge=16)
    fewest: int = setting(4, help="fewest digits of a canvas", unit="digits", ge=1)
    most: int = setting(6, help="most digits of a canvas", unit="digits", le=CELLS**2)
    questions: int = setting(4, help="questions to a canvas, each for a digit that it shows once", ge=1, le=9)

    @property
    def slots(self) -> int:
        """What a canvas has heads for: which digits it shows is one answer."""
        return 1

    @property
    def description(self) -> str:
        """What a dry run announces."""
        return f"{self.fewest} to {self.most} digits on {self.size}x{self.size} pixels, background {self.background}"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = self._parts(CELLS)
        if self.most < self.fewest:
            problems.append(("most", f"{self.most} is less than fewest={self.fewest}"))
        if self.questions > self.fewest:
            problems.append(("questions", f"{self.questions} cannot be asked of fewest={self.fewest} digits"))
        return problems


CanvasConfig = CanvasDataConfig | QuestionCanvasDataConfig
