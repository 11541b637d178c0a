"""The scan of logarithmic depth against the recursion step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentvars.distributions import chain, chain_scan
from latentvars.distributions.chain_operators import filtered_by_scan, filtering
from latentvars.distributions.log_space import log_probs

F64 = torch.float64
LAWS = ("mixing", "sticky", "left to right", "contradicting", "own moves")


def given(law: str, steps: int, states: int = 4, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    noise = torch.Generator().manual_seed(steps)
    initial = torch.rand(states, generator=noise, dtype=F64).softmax(-1)
    moves = (batch, steps - 1) if law == "own moves" else (1,)
    transition = torch.randn(*moves, states, states, generator=noise, dtype=F64).softmax(-1)
    if law == "sticky":
        transition = 1e-4 * transition + (1 - 1e-4) * torch.eye(states, dtype=F64)
    if law == "left to right":
        initial = torch.eye(states, dtype=F64)[0]
        transition = torch.triu(transition) / torch.triu(transition).sum(-1, keepdim=True)
    emission = torch.randn(batch, steps, states, generator=noise, dtype=F64)
    return log_probs(initial), log_probs(transition), emission * (500.0 if law == "contradicting" else 1.0)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 61])
@pytest.mark.parametrize("law", LAWS)
def test_filter_and_smoother_equal_the_recursion(law: str, steps: int, ragged: bool) -> None:
    if law == "own moves" and steps == 1:
        pytest.skip("a single step has no moves")
    initial, transition, emission = given(law, steps)
    valid = chain.step_mask(torch.tensor([steps, 1, (steps + 1) // 2]), steps) if ragged else None
    one, other = (way.forward(initial, transition, emission, valid) for way in (chain, chain_scan))
    np.testing.assert_allclose(other.total, one.total, rtol=1e-13)
    np.testing.assert_allclose(other.steps, one.steps, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(other.states.exp(), one.states.exp(), atol=1e-12)
    smooth, scanned = (
        way.backward(filtered, transition, emission, valid) for way, filtered in ((chain, one), (chain_scan, other))
    )
    np.testing.assert_allclose(scanned.marginals, smooth.marginals, atol=1e-11)
    real = smooth.log_ahead > -1e200
    np.testing.assert_allclose(scanned.log_ahead[real], smooth.log_ahead[real], rtol=1e-9, atol=1e-9)


def test_a_long_chain_keeps_its_digits() -> None:
    initial, transition, emission = given("mixing", 20_000, batch=1)
    one, other = (way.forward(initial, transition, emission, None) for way in (chain, chain_scan))
    np.testing.assert_allclose(other.total, one.total, rtol=1e-13)
    np.testing.assert_allclose(other.states.exp(), one.states.exp(), atol=1e-12)


@pytest.mark.parametrize("possible", [True, False])
def test_an_impossible_chain_is_left_to_the_recursion(possible: bool) -> None:
    initial, transition, emission = given("left to right", 9)
    if not possible:
        emission[1, 0] = torch.tensor([-torch.inf, 0.0, 0.0, 0.0])  # the chain begins in the first state
    found, way = filtered_by_scan(initial.exp(), transition.exp(), emission, None)
    assert way is (chain_scan if possible else chain)
    exact = filtering(initial.exp(), transition.exp(), emission, None)
    np.testing.assert_allclose(found.total, exact[2], rtol=1e-12)
