"""Expectation–maximisation for any model whose locals are discrete."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from latentvars.errors import NumericalError, SettingError, SupportError
from latentvars.inference.algorithm import Problem
from latentvars.inference.m_step import Expected, Plan, expected, make_plan, maximise
from latentvars.inference.posteriors import PointMass
from latentvars.inference.stopping import Status, StopRule, Tolerance
from latentvars.program import Program, model_parameters
from latentvars.rows import Batch, Rows

PLAN_ROWS = 1_000
SAME_OPTIMUM = 1e-6


@dataclass(frozen=True)
class EMState:
    """Globals after some updates.

    Attributes:
        program, plan: the model and its M-step.
        values: constrained globals.
        updates: how many M-steps were done.
    """

    program: Program
    plan: Plan
    values: Mapping[str, Tensor]
    updates: int = 0


@dataclass(frozen=True)
class EM:
    """Maximise prior(θ) + Σ wₙ log p(xₙ | θ), the discrete locals summed out exactly (Dempster, Laird & Rubin 1977).

    With flat priors that is maximum likelihood, otherwise the posterior mode in the constrained parametrisation.
    Each M-step is a sequence of conditional maximisations (Meng & Rubin 1993); ``fit.explain()`` lists its rules.

    Attributes:
        passes: most passes over the data.
        stop: when it has converged.
        batch_size: rows in memory at a time; the result does not depend on it. None: all.
        variance_floor: least variance of a normal in the closed-form M-steps, as a share of the variance of the data;
            without one the likelihood of a mixture is unbounded (Day 1969). 0: none.
        restarts: number of starts; the best end is the fit, ``fit.optima`` tells where the others ended.
    """

    passes: int = 5_000
    stop: StopRule = field(default_factory=Tolerance)
    batch_size: int | None = None
    variance_floor: float = 1e-6
    restarts: int = 1

    def __post_init__(self) -> None:
        if self.passes < 0:
            raise SettingError(f"passes={self.passes}", "0 or more passes", "write EM(passes=1000)")
        if self.restarts < 1:
            raise SettingError(f"restarts={self.restarts}", "at least 1 start", "write EM(restarts=20)")
        if self.batch_size is not None and self.batch_size < 1:
            raise SettingError(f"batch_size={self.batch_size}", "at least 1 row", "write EM(batch_size=10_000)")

        if not 0 <= self.variance_floor < 1:
            raise SettingError(
                f"variance_floor={self.variance_floor}", "a share in [0, 1)", "write EM(variance_floor=1e-6)"
            )

    def rows_per_batch(self, rows: Rows) -> int | None:
        return self.batch_size

    def batches_per_update(self, rows: Rows) -> int:
        return math.ceil(len(rows) / (self.batch_size or len(rows)))

    def shuffles(self) -> bool:
        return False

    def ended(self, history: Sequence[float], seconds: float) -> Status | None:
        return self.stop(history, seconds)

    def reached(self, history: Sequence[float]) -> tuple[float, float]:
        return history[-1], SAME_OPTIMUM * max(1.0, abs(history[-1]))

    def init(self, problem: Problem) -> EMState:
        """Plan the M-step.

        Raises:
            SupportError: continuous locals or network weights, for which there is no exact E- or M-step.
        """
        program = problem.program
        if program.roles.continuous:
            raise SupportError(
                given=f"EM on a model with the continuous locals {list(program.roles.continuous)}",
                needed="discrete locals, which can be summed out exactly",
                remedy="fit it with lv.SVI(...)",
            )
        weights = model_parameters(program.model)
        if weights:
            raise SupportError(
                given=f"EM on a model with network weights ({next(iter(weights))}, ...)",
                needed="globals as pyro.sample sites",
                remedy="fit it with lv.SVI(...)",
            )
        first = problem.rows.batch(range(min(PLAN_ROWS, len(problem.rows))), dtype=program.dtype)
        plan = make_plan(program, first, problem.start, self.variance_floor)
        return EMState(program, plan, dict(problem.start))

    def contribution(self, state: EMState, batch: Batch, position: int) -> Expected:
        """Expected sufficient statistics of a batch; the log prior is the share of the first batch."""
        return expected(state.program, state.plan, state.values, batch, with_prior=position == 0)

    def update(self, state: EMState, total: Expected) -> EMState:
        """The M-step.

        Raises:
            NumericalError: a global became non-finite.
        """
        values = maximise(state.program, state.plan, state.values, total)
        for name, value in values.items():
            if not bool(value.isfinite().all()):
                raise NumericalError(
                    given=f"the M-step of global {name!r} gave {value.flatten()[:5].tolist()}",
                    needed="finite values",
                    remedy="remove duplicate or constant columns, use fewer components, or put a prior on it",
                )
        return replace(state, values=values, updates=state.updates + 1)

    def posterior(self, state: EMState) -> PointMass:
        return PointMass(dict(state.values))
