"""Statistics of tokens: worked numbers, brute force over full logits, every kind of head, any chunk."""

import math

import pytest
import torch
from torch import Tensor

from recipes.core.losses.kernels import token_nll
from recipes.core.models.head import OutputHead
from recipes.core.scoring.statistics import Ask, token_columns

ALL = Ask(entropy=True, max_logprob=True, rank=True, mass=True, top_k=3, variance=True)
HEADS = {
    "plain": OutputHead(torch.randn(17, 6, generator=torch.Generator().manual_seed(1))),
    "bias": OutputHead(torch.eye(17, 6), torch.linspace(-1, 1, 17)),
    "scale": OutputHead(torch.randn(17, 6, generator=torch.Generator().manual_seed(2)), scale=0.3),
    "soft-cap": OutputHead(torch.randn(17, 6, generator=torch.Generator().manual_seed(3)) * 4, softcap=5.0),
}


def drawn(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(29, 6, generator=random).to(dtype), torch.randint(0, 17, (29,), generator=random)


@pytest.mark.parametrize(
    ("probabilities", "target", "expected"),
    [
        ([0.5, 0.25, 0.125, 0.125], 1, (-1.386294, 1.213008, -0.693147, 2, 0.75)),
        ([0.1, 0.2, 0.3, 0.4], 0, (-2.302585, 1.279854, -0.916291, 4, 1.0)),
        ([0.25, 0.25, 0.25, 0.25], 2, (-1.386294, 1.386294, -1.386294, 4, 1.0)),  # ties count
    ],
)
def test_worked_numbers(probabilities: list[float], target: int, expected: tuple[float, ...]) -> None:
    # Logits are the log-probs: hidden state 1 on a head whose rows are the logits.
    head = OutputHead(torch.tensor(probabilities).log()[:, None])
    columns = token_columns(torch.ones(1, 1), head, torch.tensor([target]), ALL)
    values = [float(columns[name]) for name in ("logprob", "entropy", "max_logprob", "rank", "mass")]
    assert values == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_columns_equal_brute_force_over_full_logits(name: str) -> None:
    head, (hidden, targets) = HEADS[name], drawn()
    z = head.logits(hidden).double()
    logp = z.log_softmax(1)
    above = z >= z.gather(1, targets[:, None])
    columns = token_columns(hidden, head, targets, ALL, chunk=8)
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(columns["logprob"].double(), logp.gather(1, targets[:, None])[:, 0], **close)
    torch.testing.assert_close(columns["entropy"].double(), -(logp.exp() * logp).sum(1), **close)
    mean = (logp.exp() * logp).sum(1, keepdim=True)
    torch.testing.assert_close(columns["variance"].double(), (logp.exp() * (logp - mean) ** 2).sum(1), **close)
    torch.testing.assert_close(columns["max_logprob"].double(), logp.amax(1), **close)
    torch.testing.assert_close(columns["mass"].double(), (logp.exp() * above).sum(1), **close)
    assert columns["rank"].tolist() == above.sum(1).tolist()
    assert columns["top_ids"].tolist() == z.topk(3, 1).indices.tolist()
    torch.testing.assert_close(columns["top_logits"].double(), z.topk(3, 1).values, **close)


@pytest.mark.parametrize("chunk", [1, 8, 29, 1000])
def test_the_log_prob_is_the_same_to_the_bit_whatever_else_is_asked(chunk: int) -> None:
    hidden, targets = drawn()
    for head in HEADS.values():
        alone = token_columns(hidden, head, targets, Ask(), chunk)["logprob"]
        for ask in (ALL, Ask(rank=True), Ask(top_k=1)):
            assert torch.equal(token_columns(hidden, head, targets, ask, chunk)["logprob"], alone)
        assert torch.equal(alone, -token_nll(hidden, head, targets, chunk))


def test_a_token_that_is_certain_or_impossible_has_finite_columns() -> None:
    head = OutputHead(torch.tensor([[0.0], [-200.0], [-math.inf]]))
    columns = token_columns(torch.ones(2, 1), head, torch.tensor([0, 1]), ALL)
    assert columns["logprob"].tolist() == [0, -200] and columns["entropy"].tolist() == [0, 0]
    assert columns["rank"].tolist() == [1, 2] and columns["mass"].tolist() == [1, 1]


def test_softmaxes_of_half_precision_run_in_fp32_and_those_of_float64_in_it() -> None:
    for dtype, exact in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        hidden, targets = drawn(dtype)
        columns = token_columns(hidden, HEADS["plain"].to(dtype), targets, ALL)
        assert {columns[name].dtype for name in ("logprob", "entropy", "max_logprob", "mass", "top_logits")} == {exact}


def test_no_token_gives_empty_columns() -> None:
    columns = token_columns(torch.zeros(0, 6), HEADS["plain"], torch.zeros(0, dtype=torch.long), ALL)
    assert {name: tuple(values.shape) for name, values in columns.items()} == {
        "logprob": (0,), "rank": (0,), "mass": (0,), "entropy": (0,), "max_logprob": (0,), "variance": (0,),
        "top_ids": (0, 3), "top_logits": (0, 3),
    }  # fmt: skip
