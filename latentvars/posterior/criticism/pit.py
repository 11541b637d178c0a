"""Probability integral transforms: where observations lie in the distributions that a model predicts for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from latentvars.errors import KindError, SupportError
from latentvars.posterior.criticism.conditional import row_tails
from latentvars.posterior.criticism.entries import Entries, drawn_entries, exact_entries, observations_of
from latentvars.posterior.criticism.reading import (
    DRAWS,
    Fitted,
    counted_once,
    known_of,
    smoothed,
    towards_posterior,
)
from latentvars.posterior.criticism.uniformity import Uniformity, uniformity
from latentvars.posterior.datatree import Knowledge, draw_scores
from latentvars.posterior.loo import Unit, check_unit
from latentvars.posterior.observations import Observations
from latentvars.randomness import derive

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Pit:
    """Probability integral transforms of the observations.

    Attributes:
        entries: P(X < x) and P(X <= x) of each.
        kind: ``"leave-one-out"``, ``"posterior"``, or ``"plug-in"`` where the globals are a point.
        exact: whether locals were removed and distribution functions evaluated exactly, not by draws of new rows.
        seed: of what is random.
        pareto_k: of each row ``[N]``, leave-one-out only: above .7 a row is not to be trusted.
    """

    entries: Entries = field(repr=False)
    kind: str
    exact: bool
    seed: int
    pareto_k: np.ndarray | None = field(default=None, repr=False)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features: those of the columns, else as ``x[0]``."""
        return tuple(one.name for one in self.entries.features)

    def __getitem__(self, feature: str) -> np.ndarray:
        """u of one feature, ``[N]`` or ``[N, T]``, NaN where it is missing: uniform under the model.

        Of discrete data it is drawn between P(X < x) and P(X <= x) (Czado, Gneiting & Held 2009, section 2).
        """
        below, upto = self.entries[feature]
        own = np.random.default_rng(derive(self.seed, 41, self.features.index(feature)))
        return below + own.random(below.shape) * (upto - below)

    def mid(self, feature: str) -> np.ndarray:
        """(P(X < x) + P(X <= x)) / 2 of one feature: nothing random, but of discrete data not uniform."""
        below, upto = self.entries[feature]
        return (below + upto) / 2

    def uniformity(self, feature: str, level: float = 0.95) -> Uniformity:
        """The test of one feature with the band of its empirical distribution function.

        u of rows whose globals were learnt from them are pulled towards the middle, and those left out hang together a
        little: p-values of small data sets are rough.
        """
        return uniformity(self[feature], level=level, seed=derive(self.seed, 42))

    def summary(self) -> pandas.DataFrame:
        """A line for each feature: number of entries, mean and standard deviation of u (of uniform numbers .5 and
        .289), p-value of :meth:`uniformity`."""
        import pandas

        lines = {}
        for name in self.features:
            u = self[name]
            u = u[~np.isnan(u)]
            test = uniformity(u, seed=derive(self.seed, 42)).p_value if len(u) else np.nan
            mean, spread = (u.mean(), u.std()) if len(u) else (np.nan, np.nan)
            lines[name] = {"n": len(u), "mean": mean, "sd": spread, "p_value": test}
        return pandas.DataFrame.from_dict(lines, orient="index")

    def __str__(self) -> str:
        way = "" if self.exact else ", by draws of new rows"
        lines = [f"Probability integral transforms ({self.kind}{way}):", self.summary().round(4).to_string()]
        if self.pareto_k is not None and bool((self.pareto_k > 0.7).any()):
            lines.append(
                f"{int((self.pareto_k > 0.7).sum())} rows with Pareto k above 0.7, which are not to be trusted"
            )
        return "\n".join(lines)


def pit(
    fit: Fitted, *, loo: bool = False, unit: Unit | None = None, draws: int | None = None, seed: int | None = None
) -> Pit:
    """u = P(X <= x) for each observed entry x: uniform where the model is right (Dawid 1984).

    The locals of a row are integrated out, not learnt from the row itself. Features are taken one by one. Steps of a
    chain are given the steps before them, so that theirs are independent. With draws of the globals, distribution
    functions are averaged over them; of a point they are those at the point. Laws without a known distribution
    function, and continuous locals, are done by draws of new rows.

    Args:
        fit: of any algorithm; with ``loo`` by ``lv.NUTS()`` or ``lv.SVI()`` with a guide that has a spread.
        loo: each row is predicted from the others, by Pareto-smoothed importance sampling (Vehtari, Gelman & Gabry
            2017). Otherwise each is predicted by a model that has seen it, and u of small data sets gather in the
            middle.
        unit: what is left out, as in :func:`latentvars.loo`; needed with ``loo`` alone.
        draws: of the globals, or of new rows; None: 1,000.
        seed: of the draws; None: that of the fit.

    Raises:
        KindError: ``loo`` of a fit whose globals are a point.
        SettingError: a unit that the rows are not.
        DataError: rows with weights; with ``loo`` fewer than two.
        SupportError: ``loo`` with continuous locals; a fit of several processes, or rows that stay in files.
    """
    seed = fit.seed if seed is None else seed
    counted_once(fit.rows, "probability integral transforms")
    known = known_of(fit, draws, seed)
    weights, shape = _left_out(fit, known, unit, seed) if loo else (None, None)
    observations = observations_of(known)
    entries = _exact(known, observations, weights)
    exact = entries is not None
    if entries is None:
        entries = drawn_entries(known, observations, draws or DRAWS, derive(seed, 43), weights)
    kind = "leave-one-out" if loo else "plug-in" if known.draws is None else "posterior"
    return Pit(entries, kind, exact, seed, shape)


def _exact(known: Knowledge, observations: Observations, weights: Tensor | None) -> Any:
    """By distribution functions; None where one of them is not known."""
    if known.program.roles.continuous:
        return None
    try:
        row_tails(known.program, known.point, known.program.sketch, "nothing")
        return exact_entries(known, observations, "nothing", weights)
    except SupportError:
        return None


def _left_out(fit: Fitted, known: Knowledge, unit: str | None, seed: int) -> tuple[Tensor, np.ndarray]:
    """Weights of the draws for each row without it, ``[S, N]``, and the shapes of their tails ``[N]``."""
    check_unit(fit.rows, str(unit))
    if not fit.exact:
        raise SupportError(
            given="a model with continuous locals, whose log-likelihoods are lower bounds",
            needed="log-likelihoods of rows without their locals",
            remedy="write loo=False, or integrate the locals out in the model",
        )
    if known.draws is None:
        raise KindError(
            given="globals that are a point, which no row can be left out of",
            needed="draws of the globals",
            remedy="fit the model by lv.NUTS(), or write loo=False",
        )
    prior, scores = draw_scores(known.program, known.rows, known.draws, derive(seed, 44))
    log_weights, shape = smoothed(towards_posterior(known, prior, scores)[:, None] - scores)
    return log_weights.exp(), shape.numpy()
