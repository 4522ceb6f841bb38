"""The plan generator: a small transformer over frozen vectors of EDUs that points at the next one, or stops.

Source: arXiv 2305.17779, section 4. There EDU vectors are means of BART's states of a tagged document; here a frozen
sentence encoder reads each EDU by itself.
"""

from typing import Any

import torch
from torch import Tensor, nn

from recipes.retrieval.edu_rerank.config import PlannerConfig
from recipes.retrieval.edu_rerank.method import mask_scores


class Planner(nn.Module):
    """Encoder over [document; EDUs; STOP], decoder over the plan so far, and a pointer.

    Args:
        vector: Width of the EDU vectors.
        positions: EDUs of a document, at most.
        config: Its size.
    """

    def __init__(self, vector: int, positions: int, config: PlannerConfig) -> None:
        super().__init__()
        d = config.width
        shape: dict[str, Any] = {"dropout": config.dropout, "batch_first": True, "norm_first": True}
        self.project = nn.Linear(vector, d)
        self.position = nn.Embedding(positions + 2, d)
        self.stop, self.start = nn.Parameter(torch.randn(d) * 0.02), nn.Parameter(torch.randn(d) * 0.02)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(d, config.heads, 4 * d, **shape),
            config.layers,
            nn.LayerNorm(d),
            enable_nested_tensor=False,
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(d, config.heads, 4 * d, **shape), config.layers, nn.LayerNorm(d)
        )
        self.drop = nn.Dropout(config.dropout)
        self.pointer, self.point = nn.Linear(2 * d, d), nn.Linear(d, 1)
        self.salience = nn.Linear(d, 1)

    def encode(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """States of units and STOP.

        Args:
            vectors: [batch, units, vector], padded on the right.
            lengths: [batch] units of each document.

        Returns:
            [batch, units + 1, width] z, STOP last; bool of the same shape without width, what is no padding.
        """
        batch, units, _ = vectors.shape
        places = torch.arange(units, device=vectors.device)
        is_unit = places < lengths[:, None]
        mean = (vectors * is_unit[..., None]).sum(1, keepdim=True) / lengths[:, None, None]
        rows = self.project(torch.cat([mean, vectors], 1)) + self.position.weight[: units + 1]
        stop = (self.stop + self.position.weight[-1]).expand(batch, 1, -1)
        ones = torch.ones(batch, 1, dtype=torch.bool, device=vectors.device)
        hidden = ~torch.cat([ones, is_unit, ones], 1)
        states = self.encoder(self.drop(torch.cat([rows, stop], 1)), src_key_padding_mask=hidden)
        return states[:, 1:], ~hidden[:, 1:]

    def score(self, states: Tensor, known: Tensor, plans: Tensor, lengths: Tensor) -> Tensor:
        """Masked scores of what follows each step of a plan.

        Args:
            states: [batch, units + 1, width] from `encode`.
            known: bool [batch, units + 1] from `encode`.
            plans: [batch, steps] units that were taken; what is behind the end of a plan counts for nothing before it.
            lengths: [batch] units of each document.

        Returns:
            [batch, steps + 1, units + 1]
        """
        batch, steps = plans.shape
        taken = states.gather(1, plans[..., None].expand(-1, -1, states.shape[-1]))
        inputs = torch.cat([self.start.expand(batch, 1, -1), taken], 1)
        causal = torch.ones(steps + 1, steps + 1, dtype=torch.bool, device=states.device).triu(1)
        outputs = self.decoder(inputs, states, tgt_mask=causal, memory_key_padding_mask=~known)
        of_units, of_steps = self.pointer.weight.split(states.shape[-1], dim=1)  # W [z_i ; o_t] = W_z z_i + W_o o_t
        pairs = (self.drop(states) @ of_units.T)[:, None] + (self.drop(outputs) @ of_steps.T)[:, :, None]
        scores = self.point(self.drop(torch.tanh(pairs + self.pointer.bias))).squeeze(-1)
        previous = torch.cat([plans.new_full((batch, 1), -1), plans], 1)
        return mask_scores(scores, previous, lengths)

    def forward(self, vectors: Tensor, lengths: Tensor, plans: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [batch, steps + 1, units + 1] of all steps of given plans, and salience [batch, units]."""
        states, known = self.encode(vectors, lengths)
        return self.score(states, known, plans, lengths), self.salience(states[:, :-1]).squeeze(-1)
