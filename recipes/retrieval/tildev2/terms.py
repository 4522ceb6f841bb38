"""What gives terms their weights: an encoder with one number a token behind it, trained on pairs."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertForTokenClassification

from recipes.core.errors import UserError
from recipes.core.models.sources import check_tokenizer_fits, load_config, load_model, load_tokenizer
from recipes.core.search.pairs import Encoded, InBatchLoss
from recipes.retrieval.tildev2.method import score_matrix

KEY = "terms.model"


class TermWeights(nn.Module):
    """w_j = ReLU(u . H_j + b) of each token. u begins at 0 and b at 1: all terms weigh the same, and none is dead.

    Args:
        body: A `BertModel`.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body
        self.body.pooler = None  # never read
        with torch.random.fork_rng(devices=[]):
            self.head = nn.Linear(body.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.ones_(self.head.bias)

    @classmethod
    def load(cls, path: str) -> tuple["TermWeights", Any]:
        """Those of a run, or of a user's folder, and their tokenizer; they are not trained.

        Raises:
            UserError: they cannot be loaded, or are no token classifier of type BERT with one label.
        """
        where, kind = f"{KEY}={path}", load_config(path, KEY)
        if kind.model_type != "bert" or kind.num_labels != 1:
            what = f"is a {kind.model_type} model with {kind.num_labels} labels, and weighs no terms"
            raise UserError(what, where, "give a run of tildev2, or a BertForTokenClassification with one label")
        loaded = load_model(BertForTokenClassification, path, KEY, dtype=torch.float32)
        tokenizer = load_tokenizer(path, KEY, padding_side="right")
        check_tokenizer_fits(tokenizer, loaded, where)
        model = cls(loaded.bert)
        model.head = loaded.classifier
        return model.eval().requires_grad_(False), tokenizer

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask [B, T] to weights [B, T, 1]; 0 for padding."""
        states = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        weights: Tensor = torch.relu(self.head(states)) * mask[..., None]
        return weights


class TermLoss(InBatchLoss):
    """A query's passage among all of the step, by the weights of shared terms.

    Args:
        stop: bool [V] the ids that are no terms.
        queries: Whether terms of queries get weights too (uniCOIL), or count 1 each.
    """

    def __init__(self, stop: Tensor, queries: bool) -> None:
        super().__init__()
        self.stop, self.queries = stop, queries

    def encode_batch(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Ids of queries and passages, and the weights of their tokens."""
        self.stop = self.stop.to(batch["query_ids"].device)
        counted = (~self.stop[batch["query_ids"]]).float() * batch["query_mask"]
        if self.queries:
            counted = counted * model(batch["query_ids"], batch["query_mask"])[..., 0]
        weights = model(batch["passage_ids"], batch["passage_mask"])[..., 0]
        return {
            "query_ids": batch["query_ids"],
            "counted": counted.float(),
            "passage_ids": batch["passage_ids"],
            "weights": weights.float(),
        }

    def scores(self, encoded: Encoded) -> Tensor:
        """[B, C] sums over the terms of queries."""
        return score_matrix(encoded["query_ids"], encoded["counted"], encoded["passage_ids"], encoded["weights"])


def token_classifier(config: Any) -> Any:
    """`TermWeights` as a class of `transformers` has it: the ReLU of its one logit a token is the token's weight."""
    with torch.device("meta"):
        return BertForTokenClassification(type(config)(**config.to_dict() | {"num_labels": 1}))
