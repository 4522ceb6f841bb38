"""What losses read of the reference at the tokens of answers: kept on disk for all runs, or computed beside a step."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from recipes.alignment.config import ALL_STATES, LAST_STATES, NO_STATES, AlignmentRunConfig, Reads
from recipes.alignment.pairs import TOKENS, PairSet
from recipes.core.models.head import output_head
from recipes.core.scoring.forward import HEAD, Reading, every_layer, read_batch
from recipes.core.scoring.score import LOGPROB, Content, TokenScores, content_of, in_bf16, is_scored, score_once
from recipes.core.scoring.sizes import AUTO, NEVER, check_room, is_worth_keeping, score_bytes
from recipes.core.scoring.statistics import Ask, token_columns
from recipes.core.storage.cache import home
from recipes.core.training.devices import trains_in_bf16
from recipes.core.training.parallel.sharding import frozen_on

LOGPS, STATES = "ref_logps", "states"  # columns


class AnswerScores:
    """The reference's scores of the tokens of all answers: computed when they are read, and only if no run has before,
    with the hidden states of these layers or of more.

    Args:
        model: A frozen `TextModel`, which stays as it is until they are computed.
        pairs: The answers.
        device: Where to compute.
        layers: Whose hidden states there are, as in `layers_of`.
        bf16: Compute as the policy is trained in bf16.
    """

    def __init__(
        self, model: Any, pairs: PairSet, device: str, layers: tuple[int, ...] = (), bf16: bool = False
    ) -> None:
        self.model, self.pairs, self.device, self.layers, self.bf16 = model, pairs, device, layers, bf16

    @property
    def logps(self) -> np.ndarray:
        """float32 [tokens] log-probs in nats, memory-mapped."""
        return self._scores["logprob"]

    @property
    def states(self) -> np.ndarray:
        """[tokens, layers, width] hidden states at the positions that predict the tokens, memory-mapped, in fp32 or as
        the bits of bf16.
        """
        return self._scores["hidden"][:, -len(self.layers) :]

    @property
    def size(self) -> int:
        """Bytes that they take on disk."""
        width = output_head(self.model.language_model).weight.shape[1]
        return score_bytes(int(self.pairs.lengths.sum()), len(self.layers), width, in_bf16(self.model, self.bf16))

    @cached_property
    def stored_ask(self) -> Ask | None:
        """What an earlier run has asked for and stored, with all of this in it; None if none has."""
        sets = dict.fromkeys((self.layers, *(layers_of(self.model, states) for states in (LAST_STATES, ALL_STATES))))
        asks = [Ask(hidden=layers) for layers in sets if len(layers) >= len(self.layers)]
        return next((ask for ask in asks if is_scored(self._content, ask, self.bf16)), None)

    def compute(self) -> None:
        """Compute them from the model as it is now, and let the model go."""
        _ = self._scores
        del self.model

    def columns(self, reads: Reads) -> dict[str, np.ndarray]:
        """What is read of them, by the names that batches have it under."""
        columns = {STATES: self.states} if self.layers else {}
        return columns | ({LOGPS: self.logps} if reads.logps else {})

    @cached_property
    def _content(self) -> Content:
        return content_of(self.model, self.pairs.rows())

    @cached_property
    def _scores(self) -> TokenScores:
        ask, what = self.stored_ask or Ask(hidden=self.layers), "scoring answers with the reference"
        options: Any = {"device": self.device, "what": what, "bf16": self.bf16, "content": self._content}
        return score_once(self.model, self.pairs.rows(), ask, **options)


class StepReference:
    """The reference beside a step: it gives batches what they do not bring along, in one forward.

    Args:
        model: A frozen `TextModel`.
        layers: Whose hidden states a batch gets, as in `hidden_states`.
        bf16: Compute as the policy is trained in bf16; around an objective there is no autocast.
    """

    def __init__(self, model: Any, layers: tuple[int, ...] = (), bf16: bool = False) -> None:
        self.model, self.layers, self.bf16 = model, layers, bf16

    def complete(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with the columns that `AnswerScores` has, of its completion tokens."""
        columns: dict[str, Tensor] = {}

        def read(reading: Reading) -> None:
            scores = token_columns(reading.hidden, reading.head, reading.targets, LOGPROB)
            columns[TOKENS + LOGPS] = scores["logprob"]
            if reading.layers is not None:
                columns[TOKENS + STATES] = reading.layers

        with frozen_on(self.model, batch["labels"].device) as model:
            read_batch(model, batch, read, self.layers, self.bf16)
        return batch | columns


def choose_scores(
    config: AlignmentRunConfig, model: Any, pairs: PairSet, reads: Reads, device: str
) -> tuple[AnswerScores, StepReference | None]:
    """What is kept of a reference, and what gives batches the rest.

    Args:
        config: The run's.
        model: The reference.
        pairs: The answers.
        reads: What is read at their tokens.
        device: Where to compute.

    Returns:
        Scores, not computed yet; and the reference beside the step, if what is read is not worth keeping.

    Raises:
        UserError: it is to be kept, and the disk has no room for it.
    """
    bf16, layers = trains_in_bf16(config.trainer, device), layers_of(model, reads.states)
    scores = AnswerScores(model, pairs, device, layers, bf16)
    if not (reads.logps or layers) or worth_keeping(config, [scores]):
        return scores, None
    return AnswerScores(model, pairs, device, (), bf16), StepReference(model, layers, bf16)


def layers_of(model: Any, states: str) -> tuple[int, ...]:
    """Layers whose hidden states are kept for a loss that reads these, as `Reads.states` says."""
    if states == ALL_STATES and HEAD in (layers := every_layer(model)):
        return layers
    return {NO_STATES: (), LAST_STATES: (HEAD,), ALL_STATES: (HEAD,)}[states]


def worth_keeping(config: AlignmentRunConfig, scores: Sequence[AnswerScores]) -> bool:
    """Whether scores of some pairs under one model or more are kept, as `reference.store` says.

    What the cache or the disk holds decides nothing: a run that is resumed, and all arms, do as the first one did.

    Raises:
        UserError: they are to be kept, and the disk has no room for them.
    """
    store, sizes = config.reference.store, [each.size for each in scores]
    seen = config.trainer.max_steps * config.trainer.batch_size
    if store == NEVER:
        return False
    if store == AUTO and not is_worth_keeping(sum(sizes), config.reference.max_gib, len(scores[0].pairs), seen):
        return False
    missing = sum(size for size, each in zip(sizes, scores, strict=True) if not each.stored_ask)
    check_room(missing, home(), f"reference.store={store}", f"type reference.store={NEVER}")
    return True
