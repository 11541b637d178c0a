"""Pseudo-residuals: observations on the scale of a standard normal, given others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from latentvars.errors import SettingError
from latentvars.posterior.criticism.entries import Entries, exact_entries, observations_of
from latentvars.posterior.criticism.reading import Fitted, counted_once, known_of
from latentvars.posterior.criticism.uniformity import Uniformity, uniformity
from latentvars.randomness import derive

if TYPE_CHECKING:
    import pandas

Kind = Literal["ordinary", "forecast"]


@dataclass(frozen=True, eq=False)
class PseudoResiduals:
    """z = Φ⁻¹(P(X <= x)) of every observation: standard normal under the model.

    Attributes:
        entries: P(X < x) and P(X <= x) of each.
        kind: ``"ordinary"`` or ``"forecast"``.
        seed: of what is random.
    """

    entries: Entries = field(repr=False)
    kind: str
    seed: int

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features: those of the columns, else as ``x[0]``."""
        return tuple(one.name for one in self.entries.features)

    def segment(self, feature: str) -> tuple[np.ndarray, np.ndarray]:
        """[z⁻, z⁺] of one feature, ``[N]`` or ``[N, T]``: of a discrete observation Φ⁻¹ of P(X < x) and of P(X <= x),
        of a continuous one twice the same. NaN where it is missing."""
        from scipy.special import ndtri

        below, upto = self.entries[feature]
        return ndtri(below), ndtri(upto)

    def __getitem__(self, feature: str) -> np.ndarray:
        """z of one feature, ``[N]`` or ``[N, T]``; of discrete data the mid-pseudo-residual
        Φ⁻¹((P(X < x) + P(X <= x)) / 2)."""
        from scipy.special import ndtri

        below, upto = self.entries[feature]
        return ndtri((below + upto) / 2)

    def uniformity(self, feature: str, level: float = 0.95) -> Uniformity:
        """Test of Φ(z) of one feature against the uniform distribution; discrete data are drawn in their segments."""
        below, upto = self.entries[feature]
        own = np.random.default_rng(derive(self.seed, 45, self.features.index(feature)))
        return uniformity(below + own.random(below.shape) * (upto - below), level=level, seed=derive(self.seed, 46))

    def summary(self) -> pandas.DataFrame:
        """A line for each feature: number of entries, mean, standard deviation (0 and 1 under the model), correlation
        of neighbouring steps (of rows that are single observations, of neighbouring rows), number beyond ±2.58, and the
        p-value of :meth:`uniformity`."""
        import pandas

        lines = {}
        for name in self.features:
            z = self[name]
            seen = z[~np.isnan(z)]
            lines[name] = {
                "n": len(seen),
                "mean": seen.mean() if len(seen) else np.nan,
                "sd": seen.std() if len(seen) else np.nan,
                "lag_1": lag_one(z),
                "beyond_2.58": int((np.abs(seen) > 2.58).sum()),
                "p_value": self.uniformity(name).p_value if len(seen) else np.nan,
            }
        return pandas.DataFrame.from_dict(lines, orient="index")

    def __str__(self) -> str:
        given = "all other observations" if self.kind == "ordinary" else "the observations before"
        return f"Pseudo-residuals ({self.kind}: given {given}):\n{self.summary().round(4).to_string()}"


def lag_one(z: np.ndarray) -> float:
    """Correlation of neighbours along the last axis, missing ones left out."""
    first, second = z[..., :-1].ravel(), z[..., 1:].ravel()
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 3:
        return float("nan")
    return float(np.corrcoef(first[both], second[both])[0, 1])


def pseudo_residuals(
    fit: Fitted, *, kind: Kind = "ordinary", draws: int | None = None, seed: int | None = None
) -> PseudoResiduals:
    """Normal pseudo-residuals of every observation (Zucchini & MacDonald 2009, chapter 6).

    Exact: the probability of each state given other steps, times the distribution function of its emission. Features of
    one step are taken one by one. At a point the globals are those of the fit; with draws of them, distribution
    functions are averaged over the draws. Where rows are single observations with one observed site, both kinds are Φ⁻¹
    of :func:`latentvars.pit`; with several sites, each is given the others, or those before it.

    Args:
        fit: of chains, by :class:`latentvars.distributions.HiddenMarkov` or as sites of a loop; or of any other model
            without continuous locals.
        kind: ``"ordinary"``: each step given all other steps, which finds outliers; ``"forecast"``: given the steps
            before, which finds where predictions fail, and whose values are independent under the model.
        draws: of the globals; None: 1,000.
        seed: of the draws; None: that of the fit.

    Raises:
        SettingError: another kind.
        DataError: rows with weights.
        SupportError: continuous locals, or a law without a known distribution function; a fit of several processes, or
            rows that stay in files.
    """
    if kind not in get_args(Kind):
        raise SettingError(f"kind={kind!r}", f"one of {list(get_args(Kind))}", "correct kind=")
    seed = fit.seed if seed is None else seed
    counted_once(fit.rows, "pseudo-residuals")
    known = known_of(fit, draws, seed)
    entries = exact_entries(known, observations_of(known), "others" if kind == "ordinary" else "past")
    return PseudoResiduals(entries, kind, seed)
