"""Whether the metric of early stopping is one that a run measures while it trains, as far as its recipe's card says."""

from recipes.core.config.schema import Problem
from recipes.core.config.settings import Card, RunConfig
from recipes.core.spelling import nearest

KEY = "trainer.early_stopping.metric"


def stopping_problems(config: RunConfig, card: Card) -> list[Problem]:
    """What is wrong with the metric of early stopping; nothing if none is set.

    Names that a pattern of the card allows are compared with what is measured when the run starts.
    """
    metric = config.trainer.early_stopping.metric
    if metric is None:
        return []
    if config.steps == 0:
        return [Problem(KEY, metric, "nothing is trained, so nothing stops early; leave it out")]
    if card.watches(metric) and card.measures(metric):
        return []
    known = card.watched or card.metrics
    close = nearest(metric, [name for name in known if "*" not in name])
    hint = f"did you mean {close}? " if close else ""
    return [Problem(KEY, metric, f"is not measured while this recipe trains; {hint}measured are {', '.join(known)}")]
