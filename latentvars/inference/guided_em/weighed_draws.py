"""E-steps by draws of the guide: expected statistics over weighed draws of the continuous locals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor

from latentvars.errors import SettingError
from latentvars.inference.em.expected import Expected, reduced
from latentvars.inference.em.m_step_plan import Plan
from latentvars.inference.guided_em.guide_steps import evaluating, expanded
from latentvars.inference.running.settings import check_at_least
from latentvars.program import Program
from latentvars.randomness import derive
from latentvars.rows import Batch

DRAWN_AT_ONCE = 100_000  # rows times draws in one run of the model


class Weighed(NamedTuple):
    """Draws of some rows.

    Attributes:
        rows: ``[B]`` estimate of, or bound on, the log marginal of each row, nats.
        shares: ``[B, draws]``, which add up to 1 on each row.
    """

    rows: Tensor
    shares: Tensor


Weigh = Callable[[Tensor], Weighed]
"""From log p(x, z) − log q(z | x) of draws ``[B, draws]``, nats."""


def average(log_ratios: Tensor) -> Weighed:
    """All draws count alike: the ELBO."""
    return Weighed(log_ratios.mean(1), torch.full_like(log_ratios, 1 / log_ratios.shape[1]))


def by_importance(log_ratios: Tensor) -> Weighed:
    """Self-normalised importance weights: a bound on the log marginal that is tight for many draws."""
    draws = log_ratios.shape[1]
    return Weighed(log_ratios.logsumexp(1) - math.log(draws), log_ratios.softmax(1))


@dataclass(frozen=True)
class Draws:
    """How many draws of each row an E-step takes: ``first · growthᵗ`` after t M-steps, at most ``most``.

    What the draws add to the error of the globals falls with the square root of their number.
    """

    first: int
    growth: float
    most: int

    def __post_init__(self) -> None:
        check_at_least("draws", self.first, 2)
        check_at_least("most_draws", self.most, self.first)
        if not 1 <= self.growth < math.inf:
            raise SettingError(f"growth={self.growth}", "a factor of at least 1", "write growth=1.2")

    def after(self, m_steps: int) -> int:
        """The number for the E-step that follows."""
        steps = math.log(self.most / self.first) / math.log(self.growth) if self.growth > 1 else math.inf
        return self.most if m_steps >= steps else math.ceil(self.first * self.growth**m_steps)


def expected_by_draws(
    program: Program, plan: Plan, values: Mapping[str, Tensor], batch: Batch, draws: int, weigh: Weigh, seed: int
) -> tuple[Expected, Tensor]:
    """The E-step of a batch, discrete locals exact given the draws, the log prior of the globals shared out.

    Returns:
        What the M-step needs, and ``[B]`` the effective sample size of each row's draws as a share of their number,
        1 / (S Σ r²) (Kong, Liu & Wong 1994).
    """
    parts, effective = [], []
    with evaluating(program):
        for number, at in enumerate(torch.arange(len(batch)).split(max(1, DRAWN_AT_ONCE // draws))):
            found, shares = _drawn(program, plan, values, batch.select(at), draws, weigh, derive(seed, number))
            parts.append(found)
            effective.append(1 / (draws * shares.double().square().sum(1)))
    return reduce(add, parts), torch.cat(effective)


def _drawn(
    program: Program, plan: Plan, values: Mapping[str, Tensor], batch: Batch, draws: int, weigh: Weigh, seed: int
) -> tuple[Expected, Tensor]:
    copies = expanded(batch, draws)
    guide = program.guided(copies, seed)
    assert guide is not None
    log_q = program.guide_log_prob(guide).detach()
    kept: list[Weighed] = []

    def weights(log_joint: Tensor) -> Tensor:
        kept.append(weigh((log_joint - log_q).reshape(len(batch), draws)))
        return (batch.weights[:, None] * kept[0].shares).reshape(-1)

    expectation = program.expectation(values, copies, guide, weights)
    of_prior = float(expectation.score.prior) * len(batch) / batch.total
    objective = float((kept[0].rows * batch.weights).sum()) + of_prior
    return reduced(plan, expectation, copies, objective, guide), kept[0].shares
