"""What a recipe is: four steps that the runner calls in order, and what they hand to each other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from recipes.core.evaluation.cuts import Cuts
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.evaluation.strips import Strip

if TYPE_CHECKING:  # a recipe that trains nothing may do without torch
    from torch import nn

    from recipes.core.training.task import Training


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` hands to the run folder, the tracker and the report.

    Attributes:
        metrics: Final value of each metric.
        scores: The same per example, for paired comparison.
        heatmap: Content of `heatmap.json`: examples with one weight per token, or several rows of them
            (`importance_heatmap`), and a hint that says what it is unless it is that of a loss; None if the method has
            none.
        plots: What the report draws besides curves and comparisons.
        strips: Examples as images.
        cuts: Texts as several tokenizers cut them.
        files: File name -> what writes it to a path, for results that users take away (a selection of documents).
        model: Writes, into an empty folder, the model that a method leaves which trains nothing, or which leaves
            another than it trained, as `from_pretrained` takes it; None if it leaves none, or the one it trained.
    """

    metrics: dict[str, float]
    scores: Scores
    heatmap: dict[str, Any] | None = None
    plots: Sequence[Plot] = ()
    strips: Sequence[Strip] = ()
    cuts: Cuts | None = None
    files: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    model: Callable[[Path], None] | None = None


class Recipe(Protocol):
    """One published method as a runnable experiment. `Prepared` is the recipe's own type."""

    def prepare(self, config: Any, device: str) -> Any:
        """Load data, train or load references, score: everything cached by content. Raises UserError on bad data."""

    def build(self, config: Any, prepared: Any) -> "Training | None":
        """Model, objective and batches, all derived from `config.seed`; None if there is nothing to train."""

    def watch(self, config: Any, prepared: Any, model: "nn.Module") -> Scores:
        """Cheap scores of the model in training, for learning curves."""

    def evaluate(self, config: Any, prepared: Any, model: "nn.Module | None", curve: dict[int, Scores]) -> Evaluation:
        """Everything that is measured at the end; `curve` holds what `watch` returned, by step.

        `model` is None exactly if `build` returned None.
        """


class AnswersText(Protocol):
    """What a recipe with the key `evaluation.extra` (see `QuestionsConfig`) has besides: a model that reads text."""

    def answering(self, prepared: Any, model: Any) -> tuple[Any, Any]:
        """The `TextModel` in what is trained, None where that is None, and its tokenizer."""


class Untrained:
    """The steps of a recipe that trains nothing: there is nothing to build and nothing to watch."""

    def build(self, config: Any, prepared: Any) -> None:
        """Nothing is trained."""

    def watch(self, config: Any, prepared: Any, model: object) -> Scores:
        """Never called: nothing is trained."""
        raise AssertionError("nothing is trained")
