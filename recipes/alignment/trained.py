"""A policy that is trained in the run before its own, with a preference loss, once for all arms and seeds."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from recipes.alignment.config import PreferenceConfig, TuningConfig
from recipes.alignment.data import Ground
from recipes.alignment.objectives import Preference, PreferenceModel, scores_of
from recipes.alignment.pairs import LazyPairs, Pair, PairItems, PairSet, pair_collate
from recipes.alignment.reference import pad_id
from recipes.alignment.reference_scores import StepReference
from recipes.core.config.settings import TrainerConfig
from recipes.core.models.from_config import load_text_model
from recipes.core.models.head import output_head
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.storage.files import sha256_text
from recipes.core.training.models import train_reference
from recipes.core.training.task import Training

VERSION = 1


def train_policy(
    ground: Ground,
    items: "PairItems | SwappedItems",
    loss: PreferenceConfig,
    tuning: TuningConfig,
    trainer: TrainerConfig,
    swap: bool = False,
    beside: StepReference | None = None,
) -> Callable[[], Any]:
    """Train a policy from the reference, or find the one trained before.

    Args:
        ground: Reference and tokenizer.
        items: Training pairs with the columns that the loss reads.
        loss: What it is trained with.
        tuning: Its steps, batch, learning rate and seed.
        trainer: Everything else, taken from the run.
        swap: Whether rejected answers count as chosen, and chosen ones as rejected.
        beside: The reference, where the pairs have no columns of it.

    Returns:
        Makes a new `TextModel` with the policy's weights.
    """
    used = SwappedItems(items) if swap else items
    pads = pad_id(ground.tokenizer)
    key = {
        "reference": weights_hash(ground.frozen),
        "pairs": used.pairs.fingerprint,
        "scores": [pair.scores for pair in used.pairs.pairs] if loss.loss == "odpo" else [],
        "loss": dataclasses.asdict(loss),
        "pad": pads,
        "version": VERSION,
    }

    def training() -> Training:
        head = output_head(ground.frozen.language_model).detach()
        objective = Preference(loss, scores_of(loss, head, beside))
        rows: Any = used
        before = objective.before_step
        return Training(PreferenceModel(ground.reference()), objective, rows, pair_collate(pads), before_step=before)

    settings = dataclasses.replace(
        trainer, max_steps=tuning.steps, batch_size=tuning.batch_size, learning_rate=tuning.learning_rate
    )
    what = f"{len(used):,} pairs ({loss.loss}{', swapped' if swap else ''})"
    folder = train_reference(key, settings, tuning.seed, training, what, name="a policy")
    return lambda: load_text_model(str(folder))


class SwappedItems:
    """The same pairs with chosen and rejected answers exchanged, and the columns of an item likewise.

    It is no `PairItems`: columns of all tokens in another order would be a copy of what may not fit into memory.

    Args:
        items: The pairs.
    """

    def __init__(self, items: "PairItems | SwappedItems") -> None:
        self.pairs: PairSet = PairSet(_SwappedPairs(items.pairs))
        self._items = items

    @property
    def sequence_lengths(self) -> np.ndarray:
        """int64 [pairs] tokens of the prompt and the longer answer."""
        return self._items.sequence_lengths

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        columns = {name: sides[::-1] for name, sides in self._items[index]["columns"].items()}
        return {"pair": self.pairs.pairs[index], "columns": columns}


class _SwappedPairs(LazyPairs):
    """Pairs with their answers exchanged, made when they are asked for."""

    def __init__(self, pairs: PairSet) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def item(self, index: int) -> Pair:
        pair = self._pairs.pairs[index]
        return dataclasses.replace(
            pair,
            chosen=pair.rejected,
            rejected=pair.chosen,
            scores=pair.scores and (pair.scores[1], pair.scores[0]),
            important=pair.important and (pair.important[1], pair.important[0]),
        )

    def lengths(self) -> np.ndarray:
        return self._pairs.part_lengths[:, [0, 2, 1]]

    @property
    def fingerprint(self) -> str:
        return sha256_text(f"swapped {self._pairs.fingerprint}")
