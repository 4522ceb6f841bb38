"""What a run needs before it starts, looked at without loading weights: `--dry-run` refuses what the run would refuse.

What only data or models can tell is refused later, in `prepare`.
"""

from typing import TYPE_CHECKING

from recipes.core.config import registry
from recipes.core.config.settings import RunConfig
from recipes.core.evaluation.extra_config import questions_path
from recipes.core.models.adapter_config import PLAIN
from recipes.core.models.context import check_length, files_context
from recipes.core.training.devices import device_of
from recipes.core.training.requirements import check_quantisation, check_requirements

if TYPE_CHECKING:
    from recipes.core.evaluation.extra import Question


def check_machine(config: RunConfig) -> str:
    """The device of a run. Raises UserError if this machine or install lacks what the run's settings need."""
    device = device_of(config)
    if config.steps:
        check_requirements(config.trainer, device)
    load_in = getattr(getattr(config, "model", None), "load_in", PLAIN)
    if load_in != PLAIN:
        check_quantisation(load_in)
    return device


def check_input(config: RunConfig) -> None:
    """Refuse what can be read of a run's recipe, model and questions by now, wherever it will run.

    Raises:
        UserError: the recipe is outside the checkout and lacks what the contract asks; sequences or questions are
            longer than the model's context; questions cannot be read.
    """
    if registry.source(config.recipe):
        registry.recipe_class(config.recipe)
    path = getattr(getattr(config, "model", None), "path", None)
    longest, limit = files_context(path) if path else None, config.sequence_limit
    if config.steps and longest is not None and limit is not None:
        check_length(limit[1], longest, limit[0])
    if questions := questions_path(config):
        from recipes.core.evaluation.extra import load_questions

        rows = load_questions(questions)
        if path and longest is not None:
            _check_questions(questions, rows, path, longest)


def _check_questions(path: str, rows: "list[Question]", model: str, longest: int) -> None:
    from recipes.core.evaluation import extra
    from recipes.core.models.sources import load_tokenizer

    extra.check_length(extra.read_questions(path, rows, load_tokenizer(model, "model.path")), longest)
