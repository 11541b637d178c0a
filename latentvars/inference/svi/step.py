"""A step of SVI as a value: what is drawn and on what; and its objective and gradient by the model's own code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from latentvars.capture import flat
from latentvars.inference.guides.guides import GlobalDraw, GlobalGuide
from latentvars.program import Bound, Program
from latentvars.randomness import seeded
from latentvars.rows import Batch

Shape = tuple[Any, ...]


class Found(NamedTuple):
    """Objective of a step, nats, and its gradient (per row, if asked) in each parameter, None where it has no part.

    ``finite`` says that all gradients are known to be finite.
    """

    objective: float
    gradients: tuple[Tensor | None, ...]
    finite: bool = False

    @property
    def sound(self) -> bool:
        return math.isfinite(self.objective)

    def equals(self, other: Found, rtol: float = 0.0) -> bool:
        """Whether all is the same: to the bit, or to ``rtol`` of the largest entry."""
        if not abs(self.objective - other.objective) <= rtol * abs(other.objective):
            return False
        return all(_equal(a, b, rtol) for a, b in zip(self.gradients, other.gradients, strict=True))


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        batch: the rows.
        parameters: what is trained.
        guide: of the globals.
        seeds: of the globals' noise and of the locals' noise, for each draw.
        bound: how rows are bounded.
        warming: whether the bound's ``kl_weight`` changes in the course of the run.
        share: of all rows, with which the prior counts.
        per_row: whether gradients are divided by the number of rows.
    """

    batch: Batch
    parameters: Mapping[str, nn.Parameter]
    guide: GlobalGuide
    seeds: Sequence[tuple[int, int]]
    bound: Bound
    warming: bool
    share: float
    per_row: bool = False

    @property
    def shape(self) -> Shape:
        """What a graph holds for."""
        return tuple((value.shape, value.dtype) for value in flat(self.batch))


def by_model(step: Step, program: Program) -> Found:
    """The step by the model's own code."""
    draws = []
    for of_globals, _ in step.seeds:
        with seeded(of_globals):
            draws.append(step.guide.draw())
    objective = objective_of(step, program, draws)
    gradients = gradients_of(step, objective, list(step.parameters.values()))
    return Found(float(objective.detach()), gradients)


def objective_of(step: Step, program: Program, draws: Sequence[GlobalDraw]) -> Tensor:
    """Σ wₙ rows[n] + (n/N)(log prior − log q), averaged over draws of the globals, nats."""
    parts = []
    for drawn, (_, seed) in zip(draws, step.seeds, strict=True):
        score = program.score(drawn.values, step.batch, seed, step.bound)
        parts.append((step.batch.weights * score.rows).sum() + step.share * (score.prior - drawn.log_q))
    return torch.stack(parts).mean()


def gradients_of(step: Step, objective: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradient in each parameter, None where it has no part."""
    seed = torch.full_like(objective, 1 / len(step.batch) if step.per_row else 1.0)
    return torch.autograd.grad(objective, parameters, seed, allow_unused=True)


def _equal(one: Tensor | None, other: Tensor | None, rtol: float) -> bool:
    if one is None or other is None:
        return one is other
    if not rtol:
        return torch.equal(one, other)
    return bool((one - other).abs().max() <= rtol * other.abs().max())
