"""Whether numbers are uniform on (0, 1), by their empirical distribution function."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from latentvars.errors import DataError, SettingError

POINTS = 200
SIMULATIONS = 4_000


@dataclass(frozen=True, eq=False)
class Uniformity:
    """A simultaneous test (Säilynoja, Bürkner & Vehtari 2022, section 2.2).

    Attributes:
        p_value: chance of an empirical distribution function as far out, of independent uniform numbers.
        size: of the sample.
        points: where the functions are compared, ``[P]``.
        distribution: share of the sample up to each point.
        low, high: band that holds the whole function with the probability ``level``.
        level: of the band.
    """

    p_value: float
    size: int
    points: np.ndarray = field(repr=False)
    distribution: np.ndarray = field(repr=False)
    low: np.ndarray = field(repr=False)
    high: np.ndarray = field(repr=False)
    level: float = 0.95


def uniformity(sample: np.ndarray, *, level: float = 0.95, seed: int = 0, bins: int | None = None) -> Uniformity:
    """Compare a sample with the uniform distribution.

    At each of up to 200 points the count below it is binomial; the statistic is the smallest of the two-sided binomial
    probabilities (eq. 10), and its distribution is simulated from 4,000 uniform samples.

    Args:
        sample: numbers in [0, 1]; NaN is left out.
        level: of the band.
        seed: of the simulation.
        bins: compare at the ends of so many equal intervals; None: by the size of the sample.

    Raises:
        DataError: nothing in the sample.
        SettingError: a level outside (0, 1).
    """
    from scipy.stats import binom

    sample = np.asarray(sample, dtype=np.float64).ravel()
    sample = np.sort(sample[~np.isnan(sample)])
    size = len(sample)
    if not size:
        raise DataError("no number at all", "a sample", "look where everything is missing")
    if not 0 < level < 1:
        raise SettingError(f"level={level}", "a probability between 0 and 1", "write level=0.95")
    bins = min(POINTS, max(2, size)) if bins is None else bins
    points = np.arange(1, bins) / bins
    table = np.minimum(binom.cdf(np.arange(size + 1)[:, None], size, points), 1.0) if size < 10 * POINTS else None
    counts = np.searchsorted(sample, points, side="right")
    simulated = np.random.default_rng(seed).multinomial(size, np.full(bins, 1 / bins), SIMULATIONS)
    simulated = simulated.cumsum(1)[:, :-1]
    least = _least(simulated, size, points, table)
    own = _least(counts[None], size, points, table)[0]
    # of steps of 1 / size equal statistics are common: they count as at least as far out
    p_value = (1 + np.sum(least <= own * (1 + 1e-12))) / (1 + SIMULATIONS)
    limit = np.quantile(least, 1 - level, method="lower")
    low, high = binom.ppf(limit / 2, size, points), binom.ppf(1 - limit / 2, size, points)
    return Uniformity(float(p_value), size, points, counts / size, low / size, high / size, level)


def _least(counts: np.ndarray, size: int, points: np.ndarray, table: np.ndarray | None) -> np.ndarray:
    """Smallest two-sided binomial probability over the points, of counts ``[R, P]``."""
    from scipy.stats import binom

    def upto(count: np.ndarray) -> np.ndarray:
        if table is None:
            return binom.cdf(count, size, points)
        return np.where(count < 0, 0.0, table[np.maximum(count, 0), np.arange(len(points))])

    return 2 * np.minimum(upto(counts), 1 - upto(counts - 1)).min(1)
