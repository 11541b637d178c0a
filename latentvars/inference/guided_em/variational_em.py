"""Variational EM: guide steps and M-steps take turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from latentvars.inference.guided_em.settings import GuidedEM
from latentvars.inference.guided_em.steps import GuidedState, Share, advance, share
from latentvars.inference.guided_em.weighed_draws import average
from latentvars.program import Bound
from latentvars.rows import Batch

BOUND = Bound(analytic=False, path=True)


@final
@dataclass(frozen=True)
class VariationalEM(GuidedEM):
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

    Settings as in :class:`latentvars.inference.guided_em.settings.GuidedEM`.
    """

    name: ClassVar[str] = "variational EM"

    def contribution(self, state: GuidedState, batch: Batch, position: int) -> Share:
        """The gradient of the guide on a batch, or expected statistics, as the pass wants."""
        return share(state, batch, self.guide_steps, BOUND, average, self.growing.after(state.m_steps))

    def update(self, state: GuidedState, total: Share) -> GuidedState:
        """A step of the guide, or once all rows were met, the M-step.

        Raises:
            NumericalError: a gradient or a global that is not finite.
        """
        return advance(state, total, self.guide_steps)
