"""Variational EM: guide steps and M-steps take turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field

import torch
from torch import Tensor

from latentvars.inference.algorithm import Problem
from latentvars.inference.guide_steps import GuideSteps
from latentvars.inference.guided import GuidedState, Share, advance, check_guided, ended, guided_batch, share, start
from latentvars.inference.m_step import collapsed
from latentvars.inference.posteriors import PointMass
from latentvars.inference.stopping import Plateau, Status, StopRule
from latentvars.inference.weighed_draws import Draws, average
from latentvars.program import Bound
from latentvars.rows import Batch

LAST = 10
BOUND = Bound(analytic=False, path=True)


@dataclass(frozen=True)
class VariationalEM:
    """Maximise prior(θ) + Σ wₙ ELBOₙ(θ, φ) in turns (Neal & Hinton 1998; Beal 2003, section 2.2).

    ELBOₙ = E_q[log p(xₙ, zₙ | θ) − log q(zₙ | xₙ, φ)], discrete locals summed out of p exactly.

    * **Guide steps**: gradient steps on φ, the globals θ held: reparameterised draws, log q differentiated along their
      path only, so that the noise vanishes as q comes near the posterior (Roeder, Wu & Duvenaud 2017). Weights of other
      networks, as a decoder's, are trained by the same steps.
    * **M-steps**: θ maximises E_q[log p(x, z | θ)] + log prior(θ), an average over draws of the guide, by the rules of
      :class:`latentvars.EM`: closed forms where there are any, L-BFGS for the rest; ``fit.explain()`` lists them.

    Where the guide's family contains the posterior the optimum is that of the marginal likelihood, up to the noise of
    the draws; otherwise spreads of latents, and what depends on them, are biased (Turner & Sahani 2011):
    :class:`latentvars.MonteCarloEM` is not.

    Attributes:
        passes: most passes over the data, those of guide steps included.
        guide_steps: how the guide is trained between M-steps.
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
        return start(problem, self.guide_steps, self.variance_floor, "variational EM")

    def contribution(self, state: GuidedState, batch: Batch, position: int) -> Share:
        """The gradient of the guide on a batch, or expected statistics, as the pass wants."""
        return share(state, batch, self.guide_steps, BOUND, average, self.growing.after(state.m_steps))

    def objective(self, state: GuidedState, total: Share) -> float:
        return total.objective

    def update(self, state: GuidedState, total: Share) -> GuidedState:
        """A step of the guide, or once all rows were met, the M-step.

        Raises:
            NumericalError: a gradient or a global that is not finite.
        """
        return advance(state, total, self.guide_steps)

    def collapsed(self, state: GuidedState) -> tuple[str, ...]:
        """Components whose variance stands at the floor, around a few rows only."""
        return collapsed(state.plan, state.values)

    def posterior(self, state: GuidedState) -> PointMass:
        return PointMass(dict(state.values))
