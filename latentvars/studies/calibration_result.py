"""Calibration: ranks of the truth among draws of the posterior, and whether they are uniform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas

NULL = 4_000  # simulations of uniform ranks
LEVEL = 0.01


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of the globals that data were simulated from among draws of the posterior given these data.

    Attributes:
        ranks: quantity, as ``loc[0]`` → how many of the L draws are below the truth, of each simulation ``[M]``.
        draws: L.
        failures: what went wrong in each simulation that has no ranks.
        warned: in how many simulations the algorithm gave a warning.
        seed: that decided all data.
        interrupted: whether Ctrl-C ended the simulations early.
    """

    ranks: Mapping[str, np.ndarray] = field(repr=False)
    draws: int
    failures: tuple[str, ...] = ()
    warned: int = 0
    seed: int = 0
    interrupted: bool = False

    @property
    def simulations(self) -> int:
        """Those that have ranks, M."""
        return len(next(iter(self.ranks.values())))

    @property
    def p_values(self) -> dict[str, float]:
        """Of the test that the ranks of one quantity are uniform: the largest departure of their distribution function
        from that of uniform ranks, each point in units of its own binomial law (Säilynoja, Bürkner & Vehtari 2022)."""
        null = _null(self.simulations, self.draws)
        return {
            name: float((1 + (null <= _gamma(ranks[None], self.draws)[0] * (1 + 1e-12)).sum()) / (1 + NULL))
            for name, ranks in self.ranks.items()
        }

    @property
    def p_value(self) -> float:
        """Of the test that all ranks are uniform: the least of :attr:`p_values`, times their number (Bonferroni)."""
        found = self.p_values
        return min(1.0, len(found) * min(found.values()))

    def holds(self, level: float = LEVEL) -> bool:
        """Whether uniform ranks are not rejected at this level."""
        return self.p_value > level

    def table(self) -> pandas.DataFrame:
        """A line for each quantity: ``p_value``; ``shift``, mean of z = Φ⁻¹((rank + ½) / (L + 1)), positive where the
        posterior is too low; ``spread``, standard deviation of z, above 1 where the posterior is too narrow."""
        import pandas
        from scipy.stats import norm

        found = self.p_values
        lines = {}
        for name, ranks in self.ranks.items():
            z = norm.ppf((ranks + 0.5) / (self.draws + 1))
            lines[name] = {"p_value": found[name], "shift": z.mean(), "spread": z.std(ddof=1)}
        return pandas.DataFrame.from_dict(lines, orient="index")

    def band(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the distribution function of uniform ranks stays with this probability, everywhere at once.

        Returns:
            Points ``[L]``, and the lower and upper bound ``[L]`` of the share of ranks below each.
        """
        from scipy.stats import binom

        points = np.arange(1, self.draws + 1) / (self.draws + 1)
        gamma = np.quantile(_null(self.simulations, self.draws), 1 - level)
        low = binom.ppf(gamma / 2, self.simulations, points)
        high = binom.ppf(1 - gamma / 2, self.simulations, points)
        return points, low / self.simulations, high / self.simulations

    def shares(self, name: str) -> np.ndarray:
        """Share of the ranks of a quantity below each of 1, ..., L, ``[L]``."""
        return _counts(self.ranks[name][None], self.draws)[0] / self.simulations

    def __str__(self) -> str:
        table, found = self.table(), self.p_value
        verdict = "uniform ranks are not rejected" if found > LEVEL else "the ranks are not uniform"
        lines = [
            f"calibration over {self.simulations} simulations, ranks among {self.draws} draws: {verdict} "
            f"(p = {found:.3g})",
            f"  {'quantity':<28} {'p':>8} {'shift':>8} {'spread':>8}",
        ]
        for name, line in table.iterrows():
            lines.append(f"  {name!s:<28} {line['p_value']:>8.3g} {line['shift']:>8.2f} {line['spread']:>8.2f}")
        if self.failures:
            lines.append(f"  {len(self.failures)} simulations without ranks, the first: {self.failures[0]}")
        if self.warned:
            lines.append(f"  the algorithm warned in {self.warned} simulations")
        if self.interrupted:
            lines.append("  interrupted: simulations that were done")
        return "\n".join(lines)


def _counts(ranks: np.ndarray, draws: int) -> np.ndarray:
    """How many ranks ``[S, M]`` are below 1, ..., L: ``[S, L]``."""
    return np.stack([np.bincount(one, minlength=draws + 1)[:draws].cumsum() for one in ranks])


def _gamma(ranks: np.ndarray, draws: int) -> np.ndarray:
    """Of each row of ranks ``[S, M]`` the least two-sided binomial probability over all points, ``[S]``."""
    return _least(_counts(ranks, draws), ranks.shape[1])


def _least(counts: np.ndarray, simulations: int) -> np.ndarray:
    from scipy.stats import binom

    points = np.arange(1, counts.shape[1] + 1) / (counts.shape[1] + 1)
    below = binom.cdf(np.arange(-1, simulations + 1)[:, None], simulations, points)  # [M + 2, L]
    at = np.arange(counts.shape[1])
    both = np.minimum(below[counts + 1, at], 1 - below[counts, at])
    return 2 * both.min(1)


@cache
def _null(simulations: int, draws: int) -> np.ndarray:
    """The same of uniform ranks, ``[NULL]``."""
    noise = np.random.default_rng(0)
    counts = noise.multinomial(simulations, np.full(draws + 1, 1 / (draws + 1)), size=NULL)
    return _least(counts.cumsum(1)[:, :draws], simulations)
