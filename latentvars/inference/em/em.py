"""Expectation–maximisation for any model whose locals are discrete."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentvars.errors import NumericalError, SupportError
from latentvars.inference.em.acceleration import Trial
from latentvars.inference.em.expected import Expected, expected
from latentvars.inference.em.fixed_statistics import FixedStatistics, Together
from latentvars.inference.em.lifted import Lifted
from latentvars.inference.em.m_step import collapsed, lowering, maximise
from latentvars.inference.em.m_step_plan import Plan, make_plan
from latentvars.inference.em.screening import cannot_screen, screen, short_runs, tabulated_step
from latentvars.inference.em.summed import SummedExpected, SummedPlan, make_summed_plan
from latentvars.inference.em.tabulated import Tabulated
from latentvars.inference.guides.posteriors import PointMass
from latentvars.inference.running.algorithm import OneByOne, Problem, Screened
from latentvars.inference.running.degenerate import Degenerate, Keep
from latentvars.inference.running.settings import check_at_least, check_share
from latentvars.inference.running.stopping import Never, Status, StopRule, Tolerance
from latentvars.program import Program, model_parameters
from latentvars.rows import Batch

PLAN_ROWS = 1_000
SAME_OPTIMUM = 1e-5
SHORT_RUN = 100
SHORT_TOLERANCE = 1e-8
DECREASE = 1e-8  # relative fall of the objective that rounding explains


@dataclass(frozen=True)
class Steps:
    """E- and M-steps of a model without discrete globals, by its plan; :class:`SummedPlan` has those of one with."""

    program: Program
    plan: Plan

    def expected(self, values: Mapping[str, Tensor], batch: Batch, *, with_prior: bool) -> Expected:
        return expected(self.program, self.plan, values, batch, with_prior=with_prior)

    def maximise(self, values: Mapping[str, Tensor], total: Expected) -> dict[str, Tensor]:
        return maximise(self.program, self.plan, values, total)

    def lowering(self, values: Mapping[str, Tensor], total: Expected) -> list[str]:
        return lowering(self.program, self.plan, values, total)

    def collapsed(self, values: Mapping[str, Tensor]) -> tuple[str, ...]:
        return collapsed(self.plan, values)


@dataclass(frozen=True)
class EMState:
    """Globals after some updates.

    Attributes:
        program, plan: the model and its M-step.
        values: constrained globals.
        objective: highest objective seen, nats.
        updates: how many M-steps were done.
        change: largest relative change of a global in the last update, where a tolerance asks for it; infinite where an
            extrapolation was taken back.
        last: the globals before the last update and its expected statistics, to tell who lowered the objective.
        trial: progress of the acceleration; None where there is none.
        table: the E-step by products, or of statistics that stay; None where it goes the general way.
        closed: the M-step that goes with it; None where it is the general one.
    """

    program: Program
    plan: Plan | SummedPlan
    values: Mapping[str, Tensor]
    objective: float = -math.inf
    updates: int = 0
    change: float = math.inf
    last: tuple[Mapping[str, Tensor], Any] | None = None
    trial: Trial | None = None
    table: Tabulated | FixedStatistics | None = None
    closed: Lifted | Together | None = None

    @property
    def judged(self) -> Mapping[str, Tensor]:
        """The globals, or the update before them where they are an extrapolation of which nothing is known yet."""
        return self.trial.fallback if self.trial is not None and self.trial.extrapolated else self.values

    @property
    def steps(self) -> Any:
        """What does the E- and M-steps: :class:`Steps`, or a plan over the discrete globals."""
        return self.plan if isinstance(self.plan, SummedPlan) else Steps(self.program, self.plan)


@dataclass(frozen=True)
class EM:
    """Maximise prior(θ) + Σ wₙ log p(xₙ | θ), the discrete locals summed out exactly (Dempster, Laird & Rubin 1977).

    With flat priors that is maximum likelihood, otherwise the posterior mode in the constrained parametrisation.
    Discrete globals, which all rows share, are summed out over their joint values as well: the objective is then
    log Σ_g p(θ, g) Π p(xₙ | θ, g)^{wₙ}, and ``fit.shared`` is their posterior. A pass costs as many E-steps.
    Each M-step is a sequence of conditional maximisations (Meng & Rubin 1993); ``fit.explain()`` lists its rules.

    Attributes:
        passes: most passes over the data.
        stop: when it has converged.
        parameter_tolerance: also wait until no global changes by more than this share in an update; None: do not.
        batch_size: rows in memory at a time; the result does not depend on it. None: all.
        memory: bytes that the work on a batch may take: batches are as large as that allows, by a measurement before
            the first pass. None: no limit, and 256 MB for rows that stay in files.
        variance_floor: least variance of a normal in the closed-form M-steps, as a share of the variance of the data;
            without one the likelihood of a mixture is unbounded (Day 1969). 0: none.
        accelerate: SQUAREM extrapolation (Varadhan & Roland 2008, scheme S3): the same optimum in fewer passes.
        restarts: number of starts; the best end is the fit, ``fit.optima`` tells where the others ended.
        degenerate: what becomes of ends with collapsed or empty components: ``lv.Keep()``, ``lv.Refuse()`` or
            ``lv.Restart(times)``.
    """

    passes: int = 5_000
    stop: StopRule = field(default_factory=Tolerance)
    parameter_tolerance: float | None = None
    batch_size: int | None = None
    variance_floor: float = 1e-6
    accelerate: bool = False
    restarts: int = 1
    degenerate: Degenerate = field(default_factory=Keep)
    memory: int | None = None

    def __post_init__(self) -> None:
        check_at_least("passes", self.passes, 0)
        check_at_least("restarts", self.restarts, 1)
        if self.batch_size is not None:
            check_at_least("batch_size", self.batch_size, 1)
        check_share("variance_floor", self.variance_floor)
        if self.memory is not None:
            check_at_least("memory", self.memory, 1)

    def in_batches(self, most: int, wanted: int) -> EM:
        """The same with ``most`` rows at a time in the place of ``wanted``."""
        return replace(self, batch_size=most)

    def rows_per_batch(self, rows: Sized) -> int | None:
        return self.batch_size

    def batches_per_update(self, rows: Sized) -> int:
        return math.ceil(len(rows) / (self.batch_size or len(rows)))

    def shuffles(self) -> bool:
        return False

    def ended(self, state: EMState, history: Sequence[float], seconds: float) -> Status | None:
        if math.isinf(state.change):  # an extrapolation was taken back: nothing moved, nothing converged
            return None
        if self.parameter_tolerance is not None and state.change > self.parameter_tolerance:
            return None
        return self.stop(history, seconds)

    def reached(self, history: Sequence[float]) -> tuple[float, float]:
        return history[-1], SAME_OPTIMUM * max(1.0, abs(history[-1]))

    def screen(self, problem: Problem, starts: Sequence[Mapping[str, Tensor]]) -> list[Screened] | OneByOne:
        """Up to 100 steps of all starts together, where the M-step is closed; its long runs go on from there."""
        if problem.program.roles.choices:
            return OneByOne("its discrete globals are summed out start by start")
        state = self.init(problem)
        assert isinstance(state.plan, Plan)
        if self.accelerate:
            return OneByOne("each is accelerated by itself")
        passes = min(SHORT_RUN, self.passes)
        per_row = 0.0 if isinstance(self.stop, Never) else SHORT_TOLERANCE
        found = by_table(problem, state, starts, passes, per_row)
        if found is None:
            alone = cannot_screen(problem, state.plan, len(starts))
            if alone is not None:
                return alone
            found = screen(problem, state.plan, starts, passes, per_row)
        return [replace(short, state=replace(state, values=short.values)) for short in found]

    def init(self, problem: Problem) -> EMState:
        """Plan the M-step.

        Raises:
            SupportError: continuous locals or network weights, for which there is no exact E- or M-step.
        """
        plan = (plan_summed if problem.program.roles.choices else plan_m_step)(problem, self.variance_floor)
        trial = Trial() if self.accelerate else None
        table = None
        if isinstance(plan, Plan):
            table = _table(problem, plan)
        closed = None if table is None else table.lifted(1)
        return EMState(problem.program, plan, dict(problem.start), trial=trial, table=table, closed=closed)

    def contribution(self, state: EMState, batch: Batch, position: int) -> Expected | SummedExpected:
        """Expected sufficient statistics of a batch; the log prior is the share of the first batch."""
        found = None
        if state.table is not None and batch.observed is None and not batch.known:
            found = state.table.expected(state.values, batch, with_prior=position == 0)
        return found or state.steps.expected(state.values, batch, with_prior=position == 0)

    def objective(self, state: EMState, total: Expected | SummedExpected) -> float:
        """The objective before the update; an extrapolation that lowers it is not counted: it will be taken back."""
        if state.trial is not None and state.trial.extrapolated:
            return max(total.objective, state.objective)
        return total.objective

    def update(self, state: EMState, total: Expected | SummedExpected) -> EMState:
        """The M-step.

        Raises:
            NumericalError: a global became non-finite, or the objective fell.
        """
        trial = state.trial
        if trial is not None and trial.extrapolated and not total.objective >= state.objective:
            return replace(state, values=trial.fallback, trial=trial.rejected(), change=math.inf, last=None)
        slack = DECREASE * max(1.0, abs(state.objective))
        if total.objective < state.objective - slack:
            raise _decrease(state, total)
        values = _maximised(state, total)
        check_finite(values)
        change = 0.0 if self.parameter_tolerance is None else largest_change(state.values, values)
        if trial is not None:
            updated = values
            trial, values = trial.step(state.program.space, state.values, updated)
            if trial.extrapolated and state.steps.collapsed(values):  # beyond what the floor allows
                trial, values = trial.rejected(), updated
        return replace(
            state,
            values=values,
            objective=total.objective,
            updates=state.updates + 1,
            change=change,
            last=(state.values, total) if trial is None or not trial.extrapolated else None,
            trial=trial,
        )

    def collapsed(self, state: EMState) -> tuple[str, ...]:
        """Components whose variance stands at the floor, around a few rows only."""
        return state.steps.collapsed(state.judged)

    def posterior(self, state: EMState) -> PointMass:
        return PointMass(dict(state.judged))

    def log_likelihood(self, state: EMState, batch: Batch) -> float | None:
        """By the E-step of a table or of fixed statistics, where there is one."""
        if state.table is None or batch.observed is not None or batch.known:
            return None
        found = state.table.expected(state.judged, batch, with_prior=False)
        return None if found is None else found.objective


def _table(problem: Problem, plan: Plan) -> Tabulated | FixedStatistics | None:
    """The E-step by products, or of statistics that stay; None where it goes the general way."""
    program, start = problem.program, problem.start
    if problem.rows.observed is not None or problem.rows.known or plan.retained or program.roles.choices:
        return None
    with torch.no_grad():
        run = program.trace(start, program.sketch)
    return Tabulated.of(program, plan, start, run) or FixedStatistics.of(program, plan, run)


def _maximised(state: EMState, total: Expected | SummedExpected) -> dict[str, Tensor]:
    found = None
    if state.closed is not None and isinstance(total, Expected):
        found = state.closed.one(state.values, total)
    return found or state.steps.maximise(state.values, total)


def by_table(
    problem: Problem, state: EMState, starts: Sequence[Mapping[str, Tensor]], passes: int, per_row: float
) -> list[Screened] | None:
    """Short runs of all starts by products; None where there are none."""
    step = None if not isinstance(state.table, Tabulated) else tabulated_step(problem, state.table, len(starts))
    if step is None:
        return None
    assert isinstance(state.plan, Plan)
    return short_runs(step, state.plan, starts, passes, per_row, float(problem.rows.weights.sum()))


def plan_m_step(problem: Problem, floor: float) -> Plan:
    """The M-step of a model whose locals are discrete.

    Raises:
        SupportError: continuous locals or network weights, for which there is no exact E- or M-step.
    """
    _check_exact(problem.program)
    return plan_of(problem, floor)


def plan_summed(problem: Problem, floor: float) -> SummedPlan:
    """The M-step of a model with discrete globals; errors as :func:`plan_m_step`."""
    _check_exact(problem.program)
    return make_summed_plan(problem, _planning_rows(problem), floor)


def _check_exact(program: Program) -> None:
    if program.roles.continuous:
        raise SupportError(
            given=f"EM on a model with the continuous locals {list(program.roles.continuous)}",
            needed="discrete locals, which can be summed out exactly",
            remedy="fit it with lv.VariationalEM(), with lv.MonteCarloEM(), or with lv.SVI()",
        )
    weights = model_parameters(program.model)
    if weights:
        raise SupportError(
            given=f"EM on a model with network weights ({next(iter(weights))}, ...)",
            needed="globals as pyro.sample sites",
            remedy="fit it with lv.SVI(...)",
        )


def plan_of(problem: Problem, floor: float) -> Plan:
    """The M-step of a model, continuous locals where its guide draws them."""
    return make_plan(problem.program, _planning_rows(problem), problem.start, floor)


def _planning_rows(problem: Problem) -> Batch:
    first = problem.all.first
    used = first.weights.nonzero().flatten()[:PLAN_ROWS]
    return first.batch(used, dtype=problem.program.dtype)


def check_finite(values: Mapping[str, Tensor]) -> None:
    """The M-step must not leave NaN behind."""
    for name, value in values.items():
        if not np.isfinite(value.cpu().numpy()).all():
            raise NumericalError(
                given=f"the M-step of global {name!r} gave {value.flatten()[:5].tolist()}",
                needed="finite values",
                remedy="remove duplicate or constant columns, use fewer components, or put a prior on it",
            )


def largest_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """The largest change of a global, relative to its largest entry."""
    shares = [0.0]
    for name, old in before.items():
        if old.numel():
            was, now = old.cpu().numpy(), after[name].cpu().numpy()
            shares.append(float(np.abs(now - was).max()) / max(float(np.abs(was).max()), 1e-12))
    return max(shares)


def _decrease(state: EMState, total: Expected | SummedExpected) -> NumericalError:
    """Name the global whose part of the last M-step lowered Q."""
    culprit = "unknown (no statistics were kept)"
    if state.last is not None:
        culprit = ", ".join(state.steps.lowering(*state.last)) or "none alone"
    return NumericalError(
        given=f"EM lowered its objective from {state.objective:.10g} to {total.objective:.10g} nats at update "
        f"{state.updates}; globals whose M-step lowered Q: {culprit}",
        needed="an objective that never falls",
        remedy="check the prior of that global and that the model's density does not depend on hidden state",
    )
