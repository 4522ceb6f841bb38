"""An encoder whose tokens have vectors of length 1, and the losses that train it."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from recipes.core.models.build import local_seed
from recipes.core.models.padded import pool
from recipes.core.models.precision import exact
from recipes.core.search.pairs import Encoded, InBatchLoss
from recipes.retrieval.xtr.config import ObjectiveConfig
from recipes.retrieval.xtr.method import retrieved_max, similarities, sum_of_max


class TokenEncoder(nn.Module):
    """An encoder, and a linear map of its states.

    Args:
        encoder: A `BertModel`.
        width: Of the vectors; None: no map, and the width of the encoder.
        seed: Of the first weights of the map, whose rows are orthonormal.
    """

    def __init__(self, encoder: Any, width: int | None, seed: int) -> None:
        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        self.projection: nn.Module = nn.Identity()
        if width is not None:
            with local_seed(seed):
                self.projection = nn.Linear(encoder.config.hidden_size, width, bias=False)
                nn.init.orthogonal_(self.projection.weight)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, T] ids and mask to vectors [B, T, d] of length 1; those of padding mean nothing."""
        return normalize(exact(self._states(ids, mask)), dim=-1)

    def pooled(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, d] the mean of the tokens' states behind the map, of length 1."""
        return normalize(pool(self._states(ids, mask), mask.bool()), dim=-1)

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.projection(self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state)
        return states


class PassageLoss(InBatchLoss):
    """Cross-entropy of a query's passage among all passages of the step.

    Args:
        config: Which score, and its temperature.
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        super().__init__()
        self.config = config

    def encode_batch(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Vectors [rows, T, d] with masks [rows, T], or [rows, d] where a text has one vector."""
        parts: dict[str, Tensor] = {}
        # What wraps a model for several processes knows its `forward` alone; training takes one process.
        for name in ("query", "passage"):
            ids, mask = batch[f"{name}_ids"], batch[f"{name}_mask"]
            if self.config.train_score == "pooled":
                parts[name] = model.pooled(ids, mask)
            else:
                parts |= {name: model(ids, mask), f"{name}_mask": mask}
        return parts

    def scores(self, encoded: Encoded) -> Tensor:
        """[B, C] training scores / temperature."""
        return self._scores(encoded) / self.config.temperature

    def _scores(self, encoded: Encoded) -> Tensor:
        queries, passages = exact(encoded["query"]), exact(encoded["passage"])
        if self.config.train_score == "pooled":
            return queries @ passages.T
        masks = encoded["query_mask"].bool(), encoded["passage_mask"].bool()
        values = similarities(queries, passages)
        if self.config.train_score == "colbert":
            return sum_of_max(values, *masks)
        return retrieved_max(values, *masks, self.config.k_train, over_all=self.config.train_score == "xtr_norm_n")
