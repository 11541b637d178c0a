"""Online EM: an M-step after every batch, on running averages of the expected statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from latentvars.errors import SettingError, SupportError
from latentvars.inference.em.em import check_finite, plan_m_step
from latentvars.inference.em.expected import Expected, expected
from latentvars.inference.em.m_step import collapsed, maximise
from latentvars.inference.em.m_step_plan import Plan
from latentvars.inference.guides.posteriors import PointMass
from latentvars.inference.running.algorithm import Problem
from latentvars.inference.running.settings import check_at_least, check_share
from latentvars.inference.running.stopping import Plateau, Status, StopRule
from latentvars.program import Program
from latentvars.rows import Batch

LAST_PASSES = 10


@dataclass(frozen=True)
class OnlineState:
    """Globals and running statistics.

    Attributes:
        program, plan: the model and its M-step.
        values: constrained globals.
        rows: number of rows, N.
        running: average of the expected statistics, scaled to all rows; None before the first batch.
        updates: how many batches were seen.
    """

    program: Program
    plan: Plan
    values: Mapping[str, Tensor]
    rows: int
    running: Expected | None = None
    updates: int = 0


@dataclass(frozen=True)
class Counted:
    """Expected statistics of some rows, and their number."""

    expected: Expected
    rows: int

    @property
    def objective(self) -> float:
        return self.expected.objective

    def __add__(self, other: Counted) -> Counted:
        return Counted(self.expected + other.expected, self.rows + other.rows)


@dataclass(frozen=True)
class OnlineEM:
    """Stochastic-approximation EM on batches (Cappé & Moulines 2009, eq. 11).

    After batch t the expected statistics are s ← (1 − ρₜ) s + ρₜ (N/B) sₜ with ρₜ = (t + delay)^(−decay), followed by
    an M-step. It converges to an optimum of the batch objective, in far fewer passes over large data.

    Attributes:
        passes: most passes over the data.
        batch_size: rows per batch.
        decay: exponent of the step sizes, in (0.5, 1].
        delay: number of batches by which the first steps are held back, at least 1.
        variance_floor: as in :class:`latentvars.EM`.
        stop: when it has converged; the objective of a pass is a sum over batches at moving parameters.
        restarts: number of starts.
    """

    passes: int = 50
    batch_size: int = 256
    decay: float = 0.6
    delay: float = 2.0
    variance_floor: float = 1e-6
    stop: StopRule = field(default_factory=lambda: Plateau(window=5, per_row=1e-6))
    restarts: int = 1

    def __post_init__(self) -> None:
        check_at_least("passes", self.passes, 0)
        check_at_least("batch_size", self.batch_size, 1)
        check_at_least("restarts", self.restarts, 1)
        check_share("variance_floor", self.variance_floor)
        if not 0.5 < self.decay <= 1:
            raise SettingError(f"decay={self.decay}", "an exponent in (0.5, 1]", "write OnlineEM(decay=0.6)")
        if not self.delay >= 1:
            raise SettingError(f"delay={self.delay}", "at least 1", "write OnlineEM(delay=2)")

    def rows_per_batch(self, rows: Sized) -> int:
        if self.batch_size > len(rows):
            raise SettingError(
                given=f"batch_size={self.batch_size} with {len(rows)} rows",
                needed="batches that are not larger than the data",
                remedy="lower batch_size, or fit with lv.EM()",
            )
        return self.batch_size

    def batches_per_update(self, rows: Sized) -> int:
        return 1

    def shuffles(self) -> bool:
        return True

    def ended(self, state: OnlineState, history: Sequence[float], seconds: float) -> Status | None:
        return self.stop(history, seconds)

    def reached(self, history: Sequence[float]) -> tuple[float, float]:
        last = torch.tensor(history[-LAST_PASSES:], dtype=torch.float64)
        return float(last.mean()), max(1e-4, 2 * float(last.std(correction=0)))

    def screen(self, problem: Problem, starts: Sequence[Mapping[str, Tensor]]) -> None:
        """Every start runs by itself."""

    def init(self, problem: Problem) -> OnlineState:
        """Plan the M-step.

        Raises:
            SupportError: as EM, and factors without sufficient statistics, which cannot be averaged.
        """
        self.rows_per_batch(range(problem.size))
        plan = plan_m_step(problem, self.variance_floor)
        if plan.retained:
            raise SupportError(
                given=f"online EM on a model whose factors {list(plan.retained)} have no sufficient statistics",
                needed="factors of an exponential family whose parameters do not depend on the rows",
                remedy="fit it with lv.EM() or lv.SVI()",
            )
        return OnlineState(problem.program, plan, dict(problem.start), problem.size)

    def contribution(self, state: OnlineState, batch: Batch, position: int) -> Counted:
        """Expected statistics of a batch, with the batch's share of the objective."""
        share = expected(state.program, state.plan, state.values, batch, with_prior=False)
        prior = float(state.program.prior(state.values)) * len(batch) / state.rows
        return Counted(replace(share, objective=share.objective + prior), len(batch))

    def objective(self, state: OnlineState, total: Counted) -> float:
        return total.objective

    def update(self, state: OnlineState, total: Counted) -> OnlineState:
        """Average the statistics, scaled to all rows, then the M-step."""
        step = 1.0 if state.running is None else (state.updates + self.delay) ** -self.decay
        scaled = total.expected.scaled(state.rows / total.rows)
        running = scaled if state.running is None else state.running.scaled(1 - step) + scaled.scaled(step)
        values = maximise(state.program, state.plan, state.values, running)
        check_finite(values)
        return replace(state, values=values, running=running, updates=state.updates + 1)

    def collapsed(self, state: OnlineState) -> tuple[str, ...]:
        """Components whose variance stands at the floor, around a few rows only."""
        return collapsed(state.plan, state.values)

    def posterior(self, state: OnlineState) -> PointMass:
        return PointMass(dict(state.values))

    def log_likelihood(self, state: OnlineState, batch: Batch) -> None:
        """None: rows have to be scored."""
        return None
