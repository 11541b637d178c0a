"""Monte-Carlo EM: importance weights of draws from the guide stand for the posterior of continuous locals."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import ClassVar, final

from latentvars.inference.guided_em.settings import GuidedEM
from latentvars.inference.guided_em.steps import GuidedState, Share, advance, share
from latentvars.inference.guided_em.weighed_draws import by_importance
from latentvars.program import Bound
from latentvars.rows import Batch

BOUND = Bound(analytic=False, importance=True)
FEWEST = 5  # effective draws of a row below which its weights have degenerated
GRACE = 10  # M-steps in which the guide may come near the posterior, or the draws become more


@final
@dataclass(frozen=True)
class MonteCarloEM(GuidedEM):
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

    Settings as in :class:`latentvars.inference.guided_em.settings.GuidedEM`.
    """

    name: ClassVar[str] = "Monte-Carlo EM"

    def contribution(self, state: GuidedState, batch: Batch, position: int) -> Share:
        """The gradient of the guide on a batch, or expected statistics, as the pass wants."""
        bound = BOUND if self.guide_steps.particles > 1 else replace(BOUND, importance=False)
        return share(state, batch, self.guide_steps, bound, by_importance, self.growing.after(state.m_steps))

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
