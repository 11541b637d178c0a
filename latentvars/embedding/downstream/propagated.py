"""What comes of a downstream estimator that was fitted on draws of the latents, beside the one on their means."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from latentvars.errors import SettingError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Propagated:
    """Coefficients of m fits on draws, combined by Rubin's rules (Rubin 1987, section 3.3), beside the plug-in.

    Attributes:
        draws: estimates of each draw ``[m, P]``.
        within: W, mean of their covariances ``[P, P]``.
        plug_in: estimates of the fit on posterior means ``[P]`` (of a belief; means of the draws otherwise).
        plug_in_covariance: theirs ``[P, P]``.
        names: of the coefficients, P.
        complete: degrees of freedom of one fit, infinite where it did not say.
    """

    draws: np.ndarray = field(repr=False)
    within: np.ndarray = field(repr=False)
    plug_in: np.ndarray
    plug_in_covariance: np.ndarray = field(repr=False)
    names: tuple[str, ...]
    complete: float

    @cached_property
    def params(self) -> np.ndarray:
        """Mean of the estimates ``[P]``."""
        return self.draws.mean(0)

    @cached_property
    def between(self) -> np.ndarray:
        """B, covariance of the estimates between draws ``[P, P]``."""
        return np.atleast_2d(np.cov(self.draws, rowvar=False))

    @cached_property
    def covariance(self) -> np.ndarray:
        """Total: W + (1 + 1/m) B, ``[P, P]``."""
        return self.within + (1 + 1 / len(self.draws)) * self.between

    @cached_property
    def standard_errors(self) -> np.ndarray:
        """``[P]``."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def plug_in_errors(self) -> np.ndarray:
        """Standard errors of the plug-in ``[P]``, which know nothing of the uncertainty of the latents."""
        return np.sqrt(np.diag(self.plug_in_covariance))

    @cached_property
    def share(self) -> np.ndarray:
        """Of the variance due to the latents: (1 + 1/m) B / T, ``[P]``."""
        added = (1 + 1 / len(self.draws)) * np.diag(self.between)
        total = np.diag(self.covariance)
        return np.divide(added, total, out=np.zeros_like(added), where=total > 0)

    @cached_property
    def degrees(self) -> np.ndarray:
        """Degrees of freedom ``[P]``: (m − 1) / share² (Rubin 1987), bounded by ``complete`` (Barnard & Rubin 1999)."""
        with np.errstate(divide="ignore"):
            old = (len(self.draws) - 1) / self.share**2
        if np.isinf(self.complete):
            return old
        observed = (self.complete + 1) / (self.complete + 3) * self.complete * (1 - self.share)
        with np.errstate(divide="ignore"):
            return 1 / (1 / old + 1 / observed)

    @cached_property
    def missing(self) -> np.ndarray:
        """Fraction of the information on each coefficient that is missing, as the latents are not known ``[P]``:
        (r + 2 / (ν + 3)) / (r + 1), r = share / (1 − share) (Rubin 1987, eq. 3.1.10)."""
        return self.share + (1 - self.share) * 2 / (self.degrees + 3)

    def interval(self, level: float = 0.95) -> np.ndarray:
        """Intervals by Student's t ``[P, 2]``.

        Raises:
            SettingError: a level outside (0, 1).
        """
        if not 0 < level < 1:
            raise SettingError(f"level={level}", "a probability between 0 and 1", "write interval(0.95)")
        from scipy.stats import t

        half = t.ppf((1 + level) / 2, self.degrees) * self.standard_errors
        return np.stack([self.params - half, self.params + half], 1)

    @property
    def p_values(self) -> np.ndarray:
        """Two-sided, of each coefficient being zero ``[P]``."""
        from scipy.stats import t

        with np.errstate(divide="ignore", invalid="ignore"):
            return 2 * t.sf(np.abs(self.params / self.standard_errors), self.degrees)

    def table(self, level: float = 0.95) -> pd.DataFrame:
        """Coefficient → estimate, standard error, interval, degrees of freedom, missing information; the plug-in."""
        import pandas as pd

        low, high = self.interval(level).T
        columns = {
            "estimate": self.params,
            "error": self.standard_errors,
            "low": low,
            "high": high,
            "p": self.p_values,
            "degrees": self.degrees,
            "missing": self.missing,
            "plug-in": self.plug_in,
            "plug-in error": self.plug_in_errors,
        }
        return pd.DataFrame(columns, index=pd.Index(self.names, name="coefficient"))

    def __str__(self) -> str:
        return (
            f"Rubin's rules over {len(self.draws)} draws of the latents\n{self.table().to_string(float_format='%.4g')}"
        )


@dataclass(frozen=True, eq=False)
class PropagatedPredictions:
    """Predictions of an estimator that was fitted on each of m draws, beside those of the fit on posterior means.

    Attributes:
        draws: predictions of each draw: probabilities ``[m, N, C]`` of a classifier, values ``[m, N]`` otherwise.
        plug_in: predictions of the fit on means, ``[N, C]`` or ``[N]``.
        classes: C, of a classifier; None otherwise.
    """

    draws: np.ndarray = field(repr=False)
    plug_in: np.ndarray = field(repr=False)
    classes: np.ndarray | None

    @cached_property
    def predictions(self) -> np.ndarray:
        """Mean over the draws: predictive probabilities ``[N, C]``, or values ``[N]``."""
        return self.draws.mean(0)

    @cached_property
    def spread(self) -> np.ndarray:
        """Standard deviation between draws: what the uncertainty of the latents adds, ``[N, C]`` or ``[N]``."""
        return self.draws.std(0, ddof=1)

    @property
    def labels(self) -> np.ndarray:
        """Most probable classes ``[N]`` by the mean probabilities.

        Raises:
            SettingError: no classifier.
        """
        if self.classes is None:
            raise SettingError("predictions of a regression", "a classifier", "read predictions.")
        return self.classes[self.predictions.argmax(1)]

    def __str__(self) -> str:
        what = f"probabilities of {len(self.classes)} classes" if self.classes is not None else "values"
        away = np.abs(self.predictions - self.plug_in).mean()
        return (
            f"{what} of {self.draws.shape[1]} rows, averaged over fits on {len(self.draws)} draws of the latents; "
            f"the plug-in differs by {away:.3g} on average"
        )
