"""`rho-1`: what is selected, on worked numbers, and what is refused."""

import pytest
import torch

from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.text_recipe.objective import TokenStatistics
from recipes.pretraining.rho_1.method import select
from recipes.pretraining.rho_1.recipe import Rho1Recipe

SCORES = torch.tensor([[0.5, -1.0, 9.0], [2.0, 0.5, 0.1]])
MASK = torch.tensor([[True, True, False], [True, True, True]])


@pytest.mark.parametrize(
    ("share", "chosen"),
    [
        (0.2, [[0, 0, 0], [1, 0, 0]]),
        (0.4, [[1, 0, 0], [1, 0, 0]]),  # of two equal scores the first
        (0.6, [[1, 0, 0], [1, 1, 0]]),
        (1.0, [[1, 1, 0], [1, 1, 1]]),
        (0.01, [[0, 0, 0], [1, 0, 0]]),  # at least one
    ],
)
def test_the_highest_scores_of_the_batch_are_selected(share, chosen):
    assert select(SCORES, MASK, share).int().tolist() == chosen


@pytest.mark.parametrize(
    ("arm", "weights"),
    [
        ("rho1", [[1, 0, 0], [1, 0, 0]]),  # the model's loss is 1 and 2 nats above the reference's
        ("uniform", [[1, 1, 1], [1, 1, 1]]),
        ("random", [[0, 1, 0], [0, 1, 0]]),
        ("top_loss", [[0, 1, 0], [1, 0, 0]]),
        ("oracle", [[1, 0, 1], [1, 1, 1]]),
    ],
)
def test_what_each_arm_weighs(arm, weights):
    config = compose.compose("rho-1", ["arm=" + arm, "select.share=0.4"])
    nll = torch.tensor([[3.0, 9.0, 0.0], [7.0, 2.0, 1.0]])
    reference = torch.tensor([[2.0, 9.5, 0.0], [5.0, 2.0, 1.5]])
    planted = torch.tensor([[False, True, False], [False, False, False]])
    random = torch.tensor([[0.1, 0.9, 0.0], [0.2, 0.8, 0.3]])
    statistics = TokenStatistics(nll, MASK, reference)
    token_weights = Rho1Recipe().weigh(config, statistics, {"planted": planted, "random": random})
    assert (token_weights * MASK).tolist() == (torch.tensor(weights) * MASK).tolist()


def test_noise_is_planted_in_what_ships_and_not_in_the_users_text():
    assert compose.compose("rho-1", []).noise.share == 0.2
    assert compose.compose("rho-1", ["data.path=mine.jsonl"]).noise.share == 0
    assert "oracle" not in compose.arms("rho-1", ["data.path=mine.jsonl"])


def test_the_oracle_needs_planted_noise():
    with pytest.raises(UserError) as refused:
        compose.compose("rho-1", ["arm=oracle", "noise.share=0"])
    assert "noise.share: is 0: the oracle leaves planted tokens out, and none is planted" in refused.value.hint
