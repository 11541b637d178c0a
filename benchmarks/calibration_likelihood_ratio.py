"""The level and the power of the bootstrap likelihood-ratio test of one component against two."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from calibration_check import Check, Settings
from scipy import stats

import latentvars as lv
from latentvars.randomness import derive
from latentvars.studies.parallel import spread

ROWS, REPLICATES = 60, 19
ALGORITHM = lv.EM(restarts=3, stop=lv.Tolerance(1e-6))


def mixture(components: int) -> lv.models.GaussianMixture:
    return lv.models.GaussianMixture(components, 1, "tied")


def p_values(seed: int, apart: float, numbers: Sequence[int]) -> list[float]:
    """Of data from two halves whose means are ``apart`` standard deviations from one another."""
    found = []
    for number in numbers:
        own = derive(seed, number, int(10 * apart))
        x = np.random.default_rng(own).normal(size=ROWS) + apart * (np.arange(ROWS) % 2)
        small = lv.fit(mixture(1), x, progress=False)
        large = lv.fit(mixture(2), x, ALGORITHM, progress=False)
        test = lv.likelihood_ratio(
            small, large, replicates=REPLICATES, restarts=3, seed=own, workers=1, progress=False
        )  # fmt: skip
        found.append(test.p_value)
    return found


def simulated(settings: Settings, apart: float, size: int) -> np.ndarray:
    parts = spread(partial(p_values, settings.seed, apart), range(size), settings.workers)
    return np.array([p for part in parts for p in part])


def checks(settings: Settings) -> list[Check]:
    """Under one component p is uniform over its twenty values; under two that lie four deviations apart it is small."""
    size = max(20, settings.simulations // 4)
    nulls = simulated(settings, 0.0, size)
    others = simulated(settings, 4.0, max(10, size // 5))
    counts = np.bincount(np.ceil(nulls * 5 - 1e-9).astype(int) - 1, minlength=5)
    rejected = float((nulls <= 0.1).mean())
    error = float(np.sqrt(0.1 * 0.9 / size))
    return [
        Check("one component: rejected at 10 %", rejected, 0.1 - 4 * error, 0.1 + 4 * error, f"{size} data sets"),
        Check("one component: p uniform over five parts, χ²", float(stats.chisquare(counts).pvalue), 0.001),
        Check("two components: rejected at 5 %", float((others <= 0.05).mean()), 0.8),
    ]
