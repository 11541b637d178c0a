"""The widely applicable information criterion, to be read beside leave-one-out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
import torch

from latentvars.errors import KindError, NumericalError, SettingError, SupportError
from latentvars.posterior.criticism.reading import Fitted, known_of, smoothed, towards_posterior
from latentvars.posterior.datatree import draw_scores
from latentvars.posterior.loo import Unit, check_unit
from latentvars.randomness import derive

TOO_LARGE = 0.4  # variance of log-likelihoods beyond which the approximation fails (Vehtari, Gelman & Gabry 2017)


@dataclass(frozen=True, eq=False)
class Waic:
    """WAIC on the scale of log predictive densities.

    Attributes:
        elpd_i: of each row ``[N]``, nats: log mean density minus ``p_i``.
        p_i: variance of the log-likelihood of each row over the draws ``[N]``.
    """

    elpd_i: np.ndarray = field(repr=False)
    p_i: np.ndarray = field(repr=False)

    @property
    def elpd(self) -> float:
        """Expected log predictive density of new rows, nats; −2 times it is on the scale of AIC."""
        return float(self.elpd_i.sum())

    @property
    def p(self) -> float:
        """Effective number of parameters."""
        return float(self.p_i.sum())

    @property
    def se(self) -> float:
        """Standard error of :attr:`elpd` over rows, nats."""
        return float(np.sqrt(len(self.elpd_i)) * self.elpd_i.std())

    @property
    def unreliable(self) -> np.ndarray:
        """Positions of the rows whose ``p_i`` is above 0.4."""
        return np.flatnonzero(self.p_i > TOO_LARGE)

    def __str__(self) -> str:
        lines = [
            f"WAIC: elpd {self.elpd:.3f} nats (standard error {self.se:.3f}), effective parameters {self.p:.3f}, "
            f"{len(self.elpd_i)} rows",
            "  only for comparison: lv.loo(fit, unit=...) estimates the same and says where it fails",
        ]
        if len(self.unreliable):
            lines.append(f"  {len(self.unreliable)} rows with p above 0.4, where WAIC cannot be trusted")
        return "\n".join(lines)


def waic(fit: Fitted, *, unit: Unit, draws: int | None = None, seed: int | None = None) -> Waic:
    """The widely applicable information criterion (Watanabe 2010; Vehtari, Gelman & Gabry 2017, section 2.2), locals
    removed. It is here to be compared with published values: :func:`latentvars.loo` estimates the same quantity more
    robustly, and its Pareto k says where it fails.

    Args:
        fit: by ``lv.NUTS()``, or by ``lv.SVI()`` with a guide that has a spread, whose draws are weighted towards the
            posterior.
        unit: what a row is, as in :func:`latentvars.loo`.
        draws: of the globals; None: 1,000.
        seed: of the draws; None: that of the fit.

    Raises:
        KindError: a fit whose globals are a point.
        SettingError, DataError, SupportError: as :func:`latentvars.loo`.
        NumericalError: draws with log-likelihoods that are not finite.
    """
    check_unit(fit.rows, unit)
    if draws is not None and draws < 2:
        raise SettingError(f"draws={draws}", "at least two, for a variance", "write draws=1000")
    seed = fit.seed if seed is None else seed
    if not fit.exact:
        raise SupportError(
            given="a model with continuous locals, whose log-likelihoods are lower bounds",
            needed="log-likelihoods of rows without their locals",
            remedy="integrate the locals out in the model",
        )
    known = known_of(fit, draws, seed)
    if known.draws is None:
        raise KindError(
            given="globals that are a point, which no draw can be taken of",
            needed="draws of the globals",
            remedy="fit the model by lv.NUTS(), or by lv.SVI(); of points compare fit.aic or fit.bic",
        )
    prior, scores = draw_scores(known.program, known.rows, known.draws, derive(seed, 0))
    if not bool(scores.isfinite().all()):
        raise NumericalError(
            given=f"{int((~scores.isfinite()).sum())} log-likelihoods of rows that are not finite",
            needed="finite ones at every draw",
            remedy="look at the draws: priors may reach where the density has no value",
        )
    weights = smoothed(towards_posterior(known, prior, scores)[:, None])[0].double()
    scores = scores.double()
    mean = (weights.exp() * scores).sum(0)
    # 1 / (1 − Σ w²) is S / (S − 1) of equal weights
    spread = (weights.exp() * (scores - mean) ** 2).sum(0) / (1 - weights.exp().square().sum())
    found = Waic((torch.logsumexp(weights + scores, 0) - spread).numpy(), spread.numpy())
    if len(found.unreliable):
        warnings.warn(
            f"{len(found.unreliable)} of {len(found.p_i)} rows have a variance of the log-likelihood above 0.4: WAIC "
            "cannot be trusted there, read lv.loo(fit, unit=...) in its place",
            stacklevel=2,
        )
    return found
