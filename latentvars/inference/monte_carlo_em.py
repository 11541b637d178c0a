"""Monte-Carlo EM: importance weights of draws from the guide stand for the posterior of continuous locals."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from latentvars.inference.algorithm import Problem
from latentvars.inference.guide_steps import GuideSteps
from latentvars.inference.guided import GuidedState, Share, advance, check_guided, ended, guided_batch, share, start
from latentvars.inference.m_step import collapsed
from latentvars.inference.posteriors import PointMass
from latentvars.inference.stopping import Plateau, Status, StopRule
from latentvars.inference.weighed_draws import Draws, by_importance
from latentvars.program import Bound
from latentvars.rows import Batch

LAST = 10
BOUND = Bound(analytic=False, importance=True)
FEWEST = 5  # effective draws of a row below which its weights have degenerated
GRACE = 10  # M-steps in which the guide may come near the posterior, or the draws become more


@dataclass(frozen=True)
class MonteCarloEM:
    """Maximise prior(θ) + Σ wₙ log p(xₙ | θ) where continuous locals have no exact E-step (Wei & Tanner 1990).

    The E-step draws z₁ … z_S from the guide and weighs them by r_s ∝ p(xₙ, z_s | θ) / q(z_s | xₙ), discrete locals
    summed out of p exactly (Levine & Casella 2001, eq. 5; Booth & Hobert 1999, section 4); the M-step maximises
    Σ wₙ Σ r_s log p(xₙ, z_s | θ) + log prior(θ) by the rules of :class:`latentvars.EM`, which ``fit.explain()`` lists.
    New draws are taken for each E-step, and more and more of them. The optimum is that of the marginal likelihood
    whatever the guide is, up to the noise of the draws, as long as q is nowhere much thinner than the posterior:
    effective sample sizes are watched, ``print(fit)`` reports them, and a warning says where they degenerate.

    Between M-steps the guide is trained by gradient steps on the importance-weighted bound (Burda, Grosse &
    Salakhutdinov 2016), the globals held; weights of other networks, as a decoder's, are trained by the same steps.
    The history has that bound in passes of guide steps, and Σ wₙ log mean_s p(xₙ, z_s | θ) / q(z_s | xₙ), a much
    tighter one, in passes with an M-step; ``fit.log_likelihood`` is the ELBO, as for every model with a guide.

    Attributes:
        passes: most passes over the data, those of guide steps included.
        guide_steps: how the guide is trained between M-steps; ``GuideSteps(passes=0, warmup=0)``: not at all.
        draws: draws of each row in the first E-step.
        growth: factor by which they grow with each M-step.
        most_draws: most draws of a row. For globals without closed forms every draw of every row is in memory in an
            M-step, and read again at each step of L-BFGS.
        batch_size: rows per guide step, and in memory at a time; None: all rows up to 1,024, else 256.
        variance_floor: as in :class:`latentvars.EM`.
        stop: when it has converged; sees the objective of the passes with an M-step.
        drift: also wait until no global moved, between the last two windows of ten M-steps, by more than this many of
            its standard deviations within one; None: do not.
        restarts: number of starts.
    """

    passes: int = 10_000
    guide_steps: GuideSteps = field(default_factory=GuideSteps)
    draws: int = 20
    growth: float = 1.2
    most_draws: int = 500
    batch_size: int | None = None
    variance_floor: float = 1e-6
    stop: StopRule = field(default_factory=lambda: Plateau(window=15, per_row=1e-6))
    drift: float | None = 1.0
    restarts: int = 1

    def __post_init__(self) -> None:
        check_guided(self)

    @property
    def growing(self) -> Draws:
        """How many draws an E-step takes."""
        return Draws(self.draws, self.growth, self.most_draws)

    def rows_per_batch(self, rows: Sized) -> int | None:
        return guided_batch(self.batch_size, rows)

    def batches_per_update(self, rows: Sized) -> int:
        return 1

    def shuffles(self) -> bool:
        return True

    def ended(self, state: GuidedState, history: Sequence[float], seconds: float) -> Status | None:
        return ended(state, history, seconds, self)

    def reached(self, history: Sequence[float]) -> tuple[float, float]:
        """The mean of the last passes; ends within their noise count as alike."""
        last = torch.tensor(history[-LAST:], dtype=torch.float64)
        return float(last.mean()), max(1e-3, 2 * float(last.std(correction=0)))

    def screen(self, problem: Problem, starts: Sequence[Mapping[str, Tensor]]) -> None:
        """Every start runs by itself."""

    def init(self, problem: Problem) -> GuidedState:
        """Plan the M-step and build the optimiser.

        Raises:
            SupportError: no continuous locals, or no globals.
        """
        return start(problem, self.guide_steps, self.variance_floor, "Monte-Carlo EM")

    def contribution(self, state: GuidedState, batch: Batch, position: int) -> Share:
        """The gradient of the guide on a batch, or expected statistics, as the pass wants."""
        bound = BOUND if self.guide_steps.particles > 1 else replace(BOUND, importance=False)
        return share(state, batch, self.guide_steps, bound, by_importance, self.growing.after(state.m_steps))

    def objective(self, state: GuidedState, total: Share) -> float:
        return total.objective

    def update(self, state: GuidedState, total: Share) -> GuidedState:
        """A step of the guide, or once all rows were met, the M-step.

        Raises:
            NumericalError: a gradient or a global that is not finite.
        """
        after = advance(state, total, self.guide_steps)
        grown = not after.parameters and self.growing.after(after.m_steps) == self.growing.after(after.m_steps - 1)
        if after.rested and not after.warned and (after.m_steps >= GRACE or grown):
            return replace(after, warned=self._warned(after))
        return after

    def collapsed(self, state: GuidedState) -> tuple[str, ...]:
        """Components whose variance stands at the floor, around a few rows only."""
        return collapsed(state.plan, state.values)

    def posterior(self, state: GuidedState) -> PointMass:
        return PointMass(dict(state.values))

    def notes(self, state: GuidedState) -> list[str]:
        """What a report of the fit adds: how well the guide proposed at the last E-step."""
        if not state.m_steps:
            return []
        draws, effective = self.growing.after(state.m_steps - 1), state.effective
        return [
            f"draws {draws} of each row, effective {draws * float(effective.median()):.0f} in the median row, "
            f"{draws * float(effective.min()):.1f} in row {int(effective.argmin())}"
        ]

    def _warned(self, state: GuidedState) -> bool:
        """Whether the weights of some row have degenerated; then a warning says so."""
        draws = self.growing.after(state.m_steps - 1)
        counts = draws * state.effective
        poor = int((counts < min(FEWEST, draws / 2)).sum())
        if poor:
            warnings.warn(
                f"the importance weights of {poor} of {len(counts)} rows have degenerated: of {draws} draws in M-step "
                f"{state.m_steps} row {int(counts.argmin())} has {float(counts.min()):.1f} effective ones. Train the "
                "guide for longer (guide_steps=), give it a wider family (Student t), or raise draws=",
                RuntimeWarning,
                stacklevel=2,
            )
        return poor > 0
